# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from two data sources: the coarse one around the fine one, time by time into a Zarr."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earth2_corrdiff.base.background import ahead
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import TimeLike, distinct, time_text, to_times
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.sources import Source, as_source, check_input, fetch, make_source
from earth2_corrdiff.sources.fine import FineSource, coordinates, fine_source
from earth2_corrdiff.sources.formats import open_dataset
from earth2_corrdiff.sources.windows import Box, Window, around, fine_window
from earth2_corrdiff.training.pair_writer import Fields, PairPlan, PairWriter, fill
from earth2_corrdiff.training.pairs import Channels

SAME = 1e-4
"""Points nearer than this are the same, degrees."""


@dataclass(frozen=True)
class Area:
    """Where pairs are made.

    Attributes
    ----------
    box : Box | None
        South, north, west, east of the fine grid in degrees; by default all of it
    multiple : int
        Height and width become multiples of this: every level of a U-Net halves them
    margin : float | None
        Degrees of coarse grid beyond the fine one, by default two of its cells
    grid : Path | None
        A NetCDF or Zarr with lat and lon to which the fine source, then with 1-D ones, is interpolated; by
        default it stays on its own grid
    invariants : Path | None
        A NetCDF or Zarr of fields without time on the fine grid, or on the whole grid of its source
    """

    box: Box | None = None
    multiple: int = 16
    margin: float | None = None
    grid: Path | None = None
    invariants: Path | None = None


@dataclass(eq=False)
class Conversion:
    """Pairs that are being made; iterate over it to make them.

    Attributes
    ----------
    path : Path
        Of the Zarr; what it has already is kept
    coarse : Source
        Of the inputs
    fine : FineSource
        Of the outputs
    plan : PairPlan
        What the Zarr shall hold
    said : tuple[str, ...]
        What was cut and trimmed, to be shown
    failed : dict[str, str]
        Times that could not be made so far, and why
    """

    path: Path
    coarse: Source
    fine: FineSource
    plan: PairPlan
    said: tuple[str, ...]
    window: Window
    regrid: Regridder | None
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        if not self.path.exists():
            return len(self.plan.times)
        return len(PairWriter(self.path, self.plan).missing())

    def __iter__(self) -> Iterator[int]:
        """Make what is missing, the next time fetched while one is written; yield how many are left.

        Times that cannot be fetched, or whose fields are no weather, are left out and noted in ``failed``.
        Where none could be made, nothing is left at a place where there was nothing before.
        """
        with nothing_left(self.path) as keep:
            for left in fill(PairWriter(self.path, self.plan), self._make):
                if left + len(self.failed) < len(self.plan.times):
                    keep()
                yield left

    def _make(self, times: Iterable[np.datetime64]) -> Iterator[Fields | None]:
        return ahead(self._fields_or_none(time) for time in times)

    def _fields_or_none(self, time: np.datetime64) -> Fields | None:
        try:
            return self.fields(time)
        except InputError as error:
            self.failed[time_text(time)] = str(error)
            return None

    def fields(self, time: np.datetime64) -> Fields:
        """Coarse ``[C, h, w]`` and fine ``[Co, H, W]`` of a time.

        Raises
        ------
        InputError
            If they cannot be fetched, a variable is missing, or values are not finite or impossible
        """
        grid, names = self.plan.coarse_grid, self.plan.channels
        low, _ = fetch(self.coarse, time, names.inputs, grid.lat, grid.lon)
        _check(low[0].numpy(), names.inputs, self.coarse, time)
        high = fine_fields(self.fine, time, names.outputs, self.window, self.regrid)
        _check(high, names.outputs, self.fine.name, time)
        return low[0].numpy(), high


def _check(fields: NDArray[np.float32], names: Sequence[str], source: Any, time: np.datetime64) -> None:
    """`check_input` of ``[C, h, w]``, which also counts missing values."""
    try:
        check_input(fields[None], names, source, np.array([time]))
    except InputError as error:
        gaps = int(fields.size - np.isfinite(fields).sum())
        if not gaps:
            raise
        raise InputError(f"{error} ({gaps} of {fields.size} are missing values)") from error


@contextmanager
def nothing_left(path: Path) -> Iterator[Callable[[], None]]:
    """Remove at the end what was made at a path, with new folders above it, unless it shall be kept.

    Yields
    ------
    Callable[[], None]
        Call it once there is something to keep; a path that was there before is kept in any case
    """
    kept = [path.exists()]
    above = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        yield lambda: kept.append(True)
    finally:
        if not any(kept):
            shutil.rmtree(path, ignore_errors=True)
            for folder in above:  # the deepest one first
                with suppress(OSError):
                    folder.rmdir()


def fine_fields(
    source: FineSource,
    time: np.datetime64,
    names: Sequence[str],
    window: Window,
    regrid: Regridder | None,
) -> NDArray[np.float32]:
    """Fields ``[Co, H, W]`` of a window, interpolated where that is asked for."""
    fields = window.cut(source.fields(time, names)[0])
    if regrid is None:
        return fields
    made: NDArray[np.float32] = regrid(torch.from_numpy(fields)).float().numpy()
    return made


def make_pairs(
    coarse: Any,
    fine: Any,
    times: TimeLike | Iterable[TimeLike],
    channels: Channels,
    path: str | Path,
    area: Area = Area(),
) -> Conversion:
    """Prepare the making of pairs; checks all that can be checked, and reads the first time.

    Parameters
    ----------
    coarse : str | DataSource
        The name of a source (see ``make_source``), or an Earth2Studio data source with 1-D lat and lon
    fine : str | Path | DataSource
        Likewise, or a file on any grid (see ``fine_source``)
    times : times and periods
        As ``"2012-01-01/2020-12-31T18/6h"``
    channels : Channels
        Inputs and outputs; invariants are those of ``area.invariants``, all of them where none are named
    path : str | Path
        The Zarr to make, or to go on with
    area : Area, optional
        Box, trimming, margin, invariants

    Raises
    ------
    InputError
        If a source lacks times or variables, or its grid will not do
    """
    valid = np.sort(distinct(to_times(times)))
    low = make_source(coarse) if isinstance(coarse, str) else as_source(coarse)
    if not isinstance(low, Source):
        raise InputError(f"{low.name} has forecasts, from which no pairs can be made; give analyses")
    high = fine_source(fine)
    low.check_times(valid)
    low.check_variables(channels.inputs)
    high.check(valid, list(channels.outputs))
    _, lat, lon = high.fields(valid[0], channels.outputs[:1])
    window, regrid, grid, said = _fine(lat, lon, area)
    still = _invariants(area, high, (lat, lon), window if regrid is None else None, grid)
    chosen = channels.invariants or tuple(still)
    if lacking := [name for name in chosen if name not in still]:
        raise InputError(f"there is no invariant {', '.join(lacking)}; there is {', '.join(still) or 'none'}")
    first = low(valid[:1], [channels.inputs[0]])
    if first["lat"].ndim != 1 or first["lon"].ndim != 1:
        raise InputError(f"the coarse source {low.name} has 2-D lat and lon; a package's input has 1-D ones")
    own = around(grid, first["lat"].to_numpy(), first["lon"].to_numpy(), area.margin)
    Regridder(own, grid)  # raises where the coarse grid does not cover the fine one
    about: dict[str, Any] = {"source": high.name, "coarse_source": low.name}
    if low.synthetic or high.synthetic:
        about["synthetic"] = 1
    names = Channels(tuple(channels.inputs), tuple(channels.outputs), chosen)
    plan = PairPlan(valid, names, own, grid, {name: still[name] for name in chosen}, about)
    said = (*said, f"coarse grid: {_text(own)}")
    return Conversion(Path(path), low, high, plan, said, window, regrid)


def _fine(lat: Any, lon: Any, area: Area) -> tuple[Window, Regridder | None, Grid, tuple[str, ...]]:
    """What is cut out of the fine source, how it is interpolated, and the grid of the pairs."""
    if area.grid is None:
        whole = fine_window(lat, lon, area.box)
        window = whole.trimmed(area.multiple)
        return window, None, window.grid, (_trimming(whole, window, area.multiple),)
    wanted = fine_window(*_grid_of(area.grid), area.box)
    target = wanted.trimmed(area.multiple)
    if lat.ndim != 1:
        raise InputError("a fine source with 2-D lat and lon stays on its own grid; leave out the other one")
    own = around(target.grid, lat, lon)
    rows, columns = (_places(axis, part) for axis, part in ((lat, own.lat), (lon, own.lon)))
    said = f"interpolated to {area.grid}; {_trimming(wanted, target, area.multiple)}"
    return Window(rows, columns, own), Regridder(own, target.grid), target.grid, (said,)


def _places(axis: Any, wanted: Any) -> NDArray[np.intp]:
    """Where on an axis in degrees these values are, whatever their turn."""
    apart = np.abs((axis[None] - wanted[:, None].astype(np.float64) + 180) % 360 - 180)
    return np.asarray(apart.argmin(1), dtype=np.intp)


def _grid_of(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    lat, lon = coordinates(open_dataset(path), str(path))
    return lat.to_numpy(), lon.to_numpy()


def _trimming(whole: Window, window: Window, multiple: int) -> str:
    text = f"fine grid: {_text(window.grid)}"
    if whole.grid.shape == window.grid.shape:
        return text
    h, w = whole.grid.shape
    return f"{text}; trimmed from {h} x {w} to multiples of {multiple}"


def _text(grid: Grid) -> str:
    H, W = grid.shape
    return f"{H} x {W}, {grid.extent()}"


def _invariants(
    area: Area, source: FineSource, own: tuple[Any, Any], window: Window | None, grid: Grid
) -> dict[str, NDArray[np.float32]]:
    """Invariants on the grid of the pairs: of the file, else those that the source brings along."""
    if area.invariants is None:
        return {} if window is None else {n: window.cut(f) for n, f in (source.static or {}).items()}
    data = open_dataset(area.invariants)
    lat, lon = coordinates(data, str(area.invariants))
    dims = lat.dims if lat.ndim == 2 else (*lat.dims, *lon.dims)
    names = [str(n) for n in data.data_vars if set(data[n].dims) == set(dims) and n not in ("lat", "lon")]
    fields = {
        name: conversion(data[name].attrs.get("units"), name, str(area.invariants))(
            data[name].transpose(*dims).to_numpy()
        ).astype(np.float32)
        for name in names
    }
    there = (lat.to_numpy(), lon.to_numpy())
    if window is not None and _same(there, own):
        fields = {name: window.cut(field) for name, field in fields.items()}
    elif not _same(there, (grid.lat, grid.lon)):
        raise InputError(f"the invariants {area.invariants} are not on the fine grid of {_text(grid)}")
    for name, values in fields.items():
        if not np.isfinite(values).all():
            raise InputError(f"the invariant {name} of {area.invariants} is not finite")
    return fields


def _same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    shapes = [a.shape == b.shape for a, b in zip(one, other, strict=True)]
    if not all(shapes):
        return False
    lat, lon = (a - b for a, b in zip(one, other, strict=True))
    return bool(np.abs(lat).max() < SAME and np.abs((lon + 180) % 360 - 180).max() < SAME)
