# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The output: one Zarr store through Earth2Studio's ``ZarrBackend``, resumable after any interruption.

A member of a time is an address in the store. Its fields are written first and its seed last, so a seed
that is there says that the member is complete: what is done is a property of the store.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from earth2studio.io import ZarrBackend
from earth2studio.utils.coords import split_coords
from earth2studio.utils.type import CoordSystem
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.metadata import LAT, LON, cf_attributes

SEED = "member_seed"
UNWRITTEN = -1
# What must not change between the runs that fill one store.
IDENTITY = (
    "package_sha256",
    "source",
    "solver",
    "number_of_steps",
    "sigma_min",
    "sigma_max",
    "seed",
    "precision",
)


@dataclass(frozen=True)
class Layout:
    """What a store shall hold.

    Attributes
    ----------
    times : np.ndarray
        ``[T]`` datetime64[ns]
    seeds : np.ndarray
        ``[T, M]`` int64: of each member
    outputs, lowres : tuple[str, ...]
        Variables of the output, and of the coarse input that is kept beside it
    output_grid, input_grid : Grid
        Their grids
    attributes : dict
        Provenance, with all of ``IDENTITY``
    static : dict
        Fields of the output grid that do not change: the package's invariants
    """

    times: NDArray[np.datetime64]
    seeds: NDArray[np.int64]
    outputs: tuple[str, ...]
    lowres: tuple[str, ...]
    output_grid: Grid
    input_grid: Grid
    attributes: dict[str, Any]
    static: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def output_coords(self) -> CoordSystem:
        """Coordinates of the output arrays."""
        return OrderedDict(
            time=self.times,
            sample=np.arange(self.seeds.shape[1]),
            lat=self.output_grid.lat,
            lon=self.output_grid.lon,
        )

    def lowres_coords(self) -> CoordSystem:
        """Coordinates of the coarse input."""
        return OrderedDict(time=self.times, lat_lowres=self.input_grid.lat, lon_lowres=self.input_grid.lon)


class Store:
    """One store, laid out and ready to be filled.

    Parameters
    ----------
    io : ZarrBackend
        Holding nothing, or what an earlier run of the same layout left
    layout : Layout
        What it shall hold
    """

    def __init__(self, io: ZarrBackend, layout: Layout) -> None:
        self.io, self.layout = io, layout
        if SEED not in io.root:
            _lay_out(io, layout)

    @classmethod
    def create(cls, path: Path, layout: Layout, overwrite: bool = False) -> Store:
        """Make a store beside its place and move it there, so that there is a whole one or none.

        Raises
        ------
        InputError
            If it exists and may not be overwritten, or the place cannot be written
        """
        check_target(path, overwrite=overwrite, resume=False)
        fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in (fresh, old):
                shutil.rmtree(left, ignore_errors=True)
            cls(ZarrBackend(str(fresh)), layout)
            if path.exists():
                path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            return cls(ZarrBackend(str(path)), layout)

    @classmethod
    def resume(cls, path: Path, layout: Layout) -> Store:
        """Open the store of an interrupted run.

        Raises
        ------
        InputError
            If it was made for other times, members, grids or settings: the message names them
        """
        for partial in path.rglob("*.partial"):
            partial.unlink()  # what a killed write left behind
        try:
            io = ZarrBackend(str(path))
            # an array cannot be written while its metadata come from the consolidated copy
            io.root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is no store of this program ({error}); use --overwrite") from error
        _check_same(io, layout, path)
        return cls(io, layout)

    def missing(self, time: int) -> list[int]:
        """Members of a time that are not written yet."""
        return [int(i) for i in np.flatnonzero(self.io.root[SEED][time] == UNWRITTEN)]

    def write_lowres(self, time: int, x: Tensor) -> None:
        """Write the coarse input ``[C, h, w]`` of a time."""
        with writing(self.io.root.store):
            coords = self.layout.lowres_coords()
            coords["time"] = self.layout.times[time : time + 1]
            names = [f"{name}_lowres" for name in self.layout.lowres]
            self.io.write([field[None].cpu() for field in x], coords, names)

    def write_members(self, time: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a time: ``[m, Co, H, W]``; their seeds last."""
        coords = self.layout.output_coords()
        coords["time"] = self.layout.times[time : time + 1]
        with writing(self.io.root.store):
            for i, fields in enumerate(block, first):
                coords["sample"] = np.array([i])
                variable = OrderedDict(variable=np.array(self.layout.outputs), **coords)
                self.io.write(*split_coords(fields[:, None, None].cpu(), variable))
                self.io.root[SEED][time, i] = self.layout.seeds[time, i]

    def finish(self) -> None:
        """Consolidate the metadata, so that readers open the store without being told how."""
        with writing(self.io.root.store):
            zarr.consolidate_metadata(self.io.root.store)


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn an error of the file system into one line; what is written stays, and can be resumed."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {place}: {reason}; what is written is kept, go on with --resume"
        ) from error


def check_target(path: Path, overwrite: bool, resume: bool) -> None:
    """Refuse a place that is taken or cannot be written, before anything is computed.

    Raises
    ------
    InputError
        If the store exists and neither ``overwrite`` nor ``resume`` is asked for, or something else is there
    """
    if path.exists() and not overwrite and not resume:
        raise InputError(f"the output {path} exists; use --resume to go on with it, or --overwrite")
    if path.exists() and not ((path / "zarr.json").is_file() or (path / ".zgroup").is_file()):
        raise InputError(f"the output {path} exists and is no Zarr store; give another --output")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: {parent} is no directory")


def _lay_out(io: ZarrBackend, layout: Layout) -> None:
    """Add all arrays with their attributes; fields hold NaN until they are written."""
    io.chunks.update(time=1, sample=1)
    coords, lowres = layout.output_coords(), layout.lowres_coords()
    for each in (coords, lowres):
        io.add_array(each, [])
    io.add_array(coords, list(layout.outputs), fill_value=np.nan)
    io.add_array(lowres, [f"{name}_lowres" for name in layout.lowres], fill_value=np.nan)
    plane = OrderedDict(lat=coords["lat"], lon=coords["lon"])
    for name, values in layout.static.items():
        io.add_array(plane, name, from_numpy(values), fill_value=np.nan)
        io.root[name].attrs["coordinates"] = "lat lon"
    io.root.create_array(
        SEED,
        shape=layout.seeds.shape,
        chunks=(1, 1),
        dtype="int64",
        dimension_names=["time", "sample"],
        fill_value=UNWRITTEN,
    )
    _describe(io, layout)


def _describe(io: ZarrBackend, layout: Layout) -> None:
    root = io.root
    for name in layout.outputs:
        root[name].attrs.update({**cf_attributes(name), "coordinates": "lat lon"})
    for name in layout.lowres:
        about = cf_attributes(name)
        about["long_name"] += ", coarse input"
        root[f"{name}_lowres"].attrs.update({**about, "coordinates": "lat_lowres lon_lowres"})
    for suffix in ("", "_lowres"):
        root[f"lat{suffix}"].attrs.update(LAT)
        root[f"lon{suffix}"].attrs.update(LON)
    root["time"].attrs.update({"standard_name": "time", "long_name": "valid time (UTC)"})
    root["sample"].attrs.update({"standard_name": "realization", "long_name": "ensemble member"})
    root[SEED].attrs.update({"long_name": "seed of the member's noise; -1 where it is not written"})
    root.attrs.update({"Conventions": "CF-1.11", **layout.attributes})


def _check_same(io: ZarrBackend, layout: Layout, path: Path) -> None:
    """Compare everything that makes two runs the same before one goes on with the other's store."""
    attributes = dict(io.root.attrs)
    wanted = layout.attributes
    other = [
        f"{key} {attributes.get(key)!r} instead of {wanted[key]!r}"
        for key in IDENTITY
        if attributes.get(key) != wanted[key]
    ]
    arrays = {
        "times": ("time", layout.times),
        "samples": ("sample", np.arange(layout.seeds.shape[1])),
        "latitudes": ("lat", layout.output_grid.lat),
        "longitudes": ("lon", layout.output_grid.lon),
    }
    for what, (name, want) in arrays.items():
        have = io.root[name][:] if name in io.root else None
        if have is None or have.shape != want.shape or not np.array_equal(have, want):
            other.append(f"other {what}")
    lacking = [name for name in (*layout.outputs, SEED) if name not in io.root]
    other += [f"no {name}" for name in lacking]
    if other:
        raise InputError(
            f"{path} belongs to another run, it has {'; '.join(other)}; use --overwrite or --output"
        )
    if attributes.get("versions") != wanted.get("versions"):
        logger.warning("{} was begun with other software versions: members may differ in the last bits", path)
