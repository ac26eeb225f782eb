# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The output: one Zarr store through Earth2Studio's ``ZarrBackend``, resumable after any interruption.

A member of a time is an address in the store. Its fields are written first and its seed last, so a seed
that is there says that the member is complete: what is done is a property of the store.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from earth2studio.io import ZarrBackend
from earth2studio.utils.coords import split_coords
from loguru import logger
from torch import Tensor, from_numpy

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.layout import SEED, Layout
from earth2_corrdiff.metadata import LAT, LON, cf_attributes

UNWRITTEN = -1


class Store:
    """One store, laid out and ready to be filled.

    Parameters
    ----------
    io : ZarrBackend
        Holding nothing, or, to resume it, what an earlier run of the same layout left
    layout : Layout
        What it shall hold
    resume : bool, optional
        Go on with what is there, by default refuse it
    place : Path | None, optional
        Its path, for messages

    Raises
    ------
    InputError
        If the backend holds something else, or was filled for other times, members, grids or settings: the
        message names them
    """

    def __init__(
        self, io: ZarrBackend, layout: Layout, resume: bool = False, place: Path | None = None
    ) -> None:
        self.io, self.layout, self.place = io, layout, place or io.root.store
        if SEED in io.root and resume:
            kept = tuple(name for name in layout.lowres if f"{name}_lowres" in io.root)
            self.layout = replace(layout, lowres=kept)
            _check_same(io, layout, self.place)
        elif len(io.root):
            raise InputError(f"{self.place} is not empty; give an empty backend, or ask to resume its run")
        else:
            with writing(self.place, kept=False):
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
        real, fresh, old = _places(path)
        try:
            with writing(path, kept=False):
                real.parent.mkdir(parents=True, exist_ok=True)
                for left in (fresh, old):
                    shutil.rmtree(left, ignore_errors=True)
                cls(ZarrBackend(str(fresh)), layout, place=path)
                if real.exists():
                    real.rename(old)
                fresh.rename(real)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            _undo(path)
        return cls.resume(path, layout)

    @classmethod
    def resume(cls, path: Path, layout: Layout) -> Store:
        """Open the store of an interrupted run.

        Raises
        ------
        InputError
            If it was made for other times, members, grids or settings: the message names them
        """
        try:
            io = ZarrBackend(str(path))
            # not the consolidated copy of the metadata: that one cannot be changed
            io.root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
            store = cls(io, layout, resume=True, place=path)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"the store {path} is damaged ({error}); use --overwrite") from error
        for partial in path.rglob("*.partial"):
            partial.unlink()  # what a killed write left behind
        for left in _places(path)[1:]:
            shutil.rmtree(left, ignore_errors=True)
        return store

    def missing(self, time: int) -> list[int]:
        """Members of a time that are not written yet."""
        return [int(i) for i in np.flatnonzero(self.io.root[SEED][time] == UNWRITTEN)]

    def write_lowres(self, time: int, x: Tensor) -> None:
        """Write the coarse input ``[C, h, w]`` of a time."""
        with writing(self.place):
            coords = self.layout.lowres_coords()
            coords["time"] = self.layout.times[time : time + 1]
            names = [f"{name}_lowres" for name in self.layout.lowres]
            self.io.write([field[None].cpu() for field in x], coords, names)

    def write_members(self, time: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a time: ``[m, Co, H, W]``; their seeds last."""
        coords = self.layout.output_coords()
        coords["time"] = self.layout.times[time : time + 1]
        with writing(self.place):
            for i, fields in enumerate(block, first):
                coords["sample"] = np.array([i])
                variable = OrderedDict(variable=np.array(self.layout.outputs), **coords)
                self.io.write(*split_coords(fields[:, None, None].cpu(), variable))
                self.io.root[SEED][time, i] = self.layout.seeds[time, i]


class Plain:
    """Any other Earth2Studio backend: the fields alone, without provenance, and not resumable."""

    def __init__(self, io: Any, layout: Layout) -> None:
        self.io, self.layout = io, layout
        io.add_array(layout.output_coords(), list(layout.outputs))

    def missing(self, time: int) -> list[int]:
        """All members."""
        return list(range(self.layout.seeds.shape[1]))

    def write_lowres(self, time: int, x: Tensor) -> None:
        """Kept by Zarr stores only."""

    def write_members(self, time: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a time: ``[m, Co, H, W]``."""
        coords = self.layout.output_coords()
        coords["time"] = self.layout.times[time : time + 1]
        coords["sample"] = np.arange(first, first + len(block))
        variable = OrderedDict(variable=np.array(self.layout.outputs), **coords)
        self.io.write(*split_coords(block.transpose(0, 1)[:, None].cpu(), variable))


@contextmanager
def writing(place: object, kept: bool = True) -> Iterator[None]:
    """Turn an error of the file system into one line; what is written stays, and can be resumed."""
    try:
        yield
    except OSError as error:
        hint = "; what is written is kept, go on with --resume" if kept else ""
        raise InputError(f"cannot write {place}: {error.strerror or error}{hint}") from error


def check_target(path: Path, overwrite: bool, resume: bool) -> None:
    """Refuse a place that is taken or cannot be written, before anything is computed.

    Raises
    ------
    InputError
        If the store exists and neither ``overwrite`` nor ``resume`` is asked for, or something else is there
    """
    with writing(path, kept=False):
        _undo(path)
        if path.exists():
            if recorded(path) is None:
                raise InputError(f"the output {path} exists and is no store of a run; give another --output")
            if not overwrite and not resume:
                raise InputError(f"the output {path} exists; use --resume to go on with it, or --overwrite")
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir():
            raise InputError(f"cannot write {path}: {parent} is no directory")
        with tempfile.TemporaryFile(dir=parent):
            pass  # permissions do not tell about read-only and special file systems: try


def recorded(path: Path) -> dict[str, Any] | None:
    """Attributes of the store that a run left at a path; None if there is no such store."""
    try:
        about = json.loads((path / "zarr.json").read_text()).get("attributes", {})
    except (OSError, ValueError, AttributeError):
        return None
    return about if isinstance(about, dict) and "package_sha256" in about else None


def _places(path: Path) -> tuple[Path, Path, Path]:
    """Where a store is behind links, where it is made, and where the one that it replaces waits."""
    real = path.resolve()
    return real, real.with_name(f".{real.name}.new"), real.with_name(f".{real.name}.old")


def _undo(path: Path) -> None:
    """Put the old store back where its replacement ended between the two moves."""
    if path.resolve().name:
        real, _, old = _places(path)
        if old.exists() and not real.exists():
            old.rename(real)


def _lay_out(io: ZarrBackend, layout: Layout) -> None:
    """Add all arrays with their attributes; fields hold NaN until they are written.

    The metadata are complete then, so they are consolidated here: readers open an unfinished store, too.
    """
    io.chunks.update(time=1, sample=1)
    coords, lowres = layout.output_coords(), layout.lowres_coords()
    for each in (coords, lowres):
        io.add_array(each, [])
    empty = {"fill_value": np.nan}
    for name in layout.outputs:
        io.add_array(coords, name, attributes=_about(name), **empty)
    for name in layout.lowres:
        io.add_array(lowres, f"{name}_lowres", attributes=_about(name, "_lowres"), **empty)
    plane = OrderedDict(lat=coords["lat"], lon=coords["lon"])
    for name, values in layout.static.items():
        io.add_array(plane, name, from_numpy(values), attributes=_about(name), **empty)
    io.root.create_array(
        SEED,
        shape=layout.seeds.shape,
        chunks=(1, 1),
        dtype="int64",
        dimension_names=["time", "sample"],
        fill_value=UNWRITTEN,
        attributes={"long_name": "seed of the member's noise; -1 where it is not written"},
    )
    _describe(io.root, layout.attributes)
    with warnings.catch_warnings():  # that other readers of Zarr 3 may ignore the consolidated copy
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(io.root.store)


def _about(name: str, suffix: str = "") -> dict[str, str]:
    """Attributes of a field; ``coordinates`` makes latitude and longitude coordinates for xarray."""
    about = cf_attributes(name)
    about["long_name"] += ", coarse input" if suffix else ""
    return about | {"coordinates": f"lat{suffix} lon{suffix}"}


def _describe(root: zarr.Group, provenance: dict[str, Any]) -> None:
    """Attributes of the coordinates and of the store."""
    for suffix in ("", "_lowres"):
        root[f"lat{suffix}"].attrs.update(LAT)
        root[f"lon{suffix}"].attrs.update(LON)
    root["time"].attrs.update({"standard_name": "time", "long_name": "valid time (UTC)"})
    root["sample"].attrs.update({"standard_name": "realization", "long_name": "ensemble member"})
    root.attrs.update({"Conventions": "CF-1.11", **provenance})


def _check_same(io: ZarrBackend, layout: Layout, place: object) -> None:
    """Compare everything that makes two runs the same before one goes on with the other's store."""
    attributes = dict(io.root.attrs)
    other = layout.differences(attributes, {name: io.root[name] for name in io.root})
    if other:
        raise InputError(
            f"{place} belongs to another run, it has {'; '.join(other)}; use --overwrite or another --output"
        )
    if attributes.get("versions") != layout.attributes.get("versions"):
        logger.warning(
            "{} was begun with other software versions: members may differ in the last bits", place
        )
