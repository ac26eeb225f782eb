# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of two data sources to pairs: the coarse one around the fine one, time by time into a Zarr."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earth2_corrdiff.base.background import prefetched
from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import TimeLike, distinct, to_times
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.sources import Source, check_input, fetch
from earth2_corrdiff.sources.checks import warn_of_missing
from earth2_corrdiff.sources.fine import FineFields, analyses_of, grid_of, open_fine
from earth2_corrdiff.sources.formats import open_dataset
from earth2_corrdiff.sources.windows import Box, Window, around, fine_window
from earth2_corrdiff.training.pair_writer import Fields, PairPlan, PairWriter, fill
from earth2_corrdiff.training.pairs import Channels


@dataclass(frozen=True)
class Area:
    """Domain of the pairs.

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


class NoValuesError(InputError):
    """A field of a time has no values at all."""


@dataclass(eq=False)
class Conversion(ABC):
    """Pairs that are being made; iterate over it to make them.

    Attributes
    ----------
    path : Path
        Of the Zarr; times that it has already are kept
    fine : FineFields
        Of the outputs
    plan : PairPlan
        Contents of the Zarr
    notes : tuple[str, ...]
        What was cut and trimmed, for the user
    window : Window
        What is cut out of the fine source
    failed : dict[str, str]
        Times that could not be made so far, and the reasons
    empty : list[str]
        Times without values, which are left out
    append : bool
        True if the times are added to pairs that exist
    """

    path: Path
    fine: FineFields
    plan: PairPlan
    notes: tuple[str, ...]
    window: Window
    failed: dict[str, str] = field(default_factory=dict, kw_only=True)
    empty: list[str] = field(default_factory=list, kw_only=True)
    append: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        if not self.append and not self.path.exists():
            return len(self.plan.times)
        return len(self._writer().missing())

    def _writer(self) -> PairWriter:
        return PairWriter(self.path, self.plan, self.append)

    @property
    def complete(self) -> int:
        """How many pairs there are in all."""
        return self._writer().complete

    def __iter__(self) -> Iterator[int]:
        """Make what is missing, the next time fetched while one is written; yield how many are left.

        Times that cannot be fetched, or whose fields are implausible, are left out and noted in ``failed``.
        Where none could be made, a path that did not exist before does not exist afterwards.
        """
        with nothing_left(self.path) as keep:
            for left in fill(self._writer(), self._make):
                if left + len(self.failed) + len(self.empty) < len(self.plan.times):
                    keep()
                yield left

    def _make(self, cases: Iterable[Case]) -> Iterator[Fields | None]:
        return prefetched(self._fields_or_none(case) for case in cases)

    def _fields_or_none(self, case: Case) -> Fields | None:
        try:
            return self.fields(case)
        except NoValuesError:
            self.empty.append(str(case))
        except InputError as error:
            self.failed[str(case)] = str(error)
        return None

    @abstractmethod
    def fields(self, case: Case) -> Fields:
        """Coarse ``[C, h, w]`` and fine ``[Co, H, W]`` of a case.

        Raises
        ------
        InputError
            If they cannot be fetched, a variable is missing, or values are not finite or impossible
        NoValuesError
            If they have no values, and pairs may have gaps
        """

    def read(self, case: Case, names: tuple[str, ...]) -> NDArray[np.float32]:
        """Fields ``[C, H, W]`` of the window of the fine source; values that are missing are NaN."""
        part = self.window.cut(self.fine.read_case(case, names)[0])
        fields = self.fine.cleaned(part, names, case.valid).astype(np.float32)
        for name, count in self.fine.missing(case.valid).items():
            warn_of_missing(self.fine.name, name, case.valid, count, fields[0].size)
        return fields


@dataclass(eq=False)
class TwoSources(Conversion):
    """Pairs of a coarse and a fine source.

    Attributes
    ----------
    coarse : Source
        Of the inputs
    regrid : Regridder | None
        Of the fine source to the grid of the pairs; None where it stays on its own
    """

    coarse: Source
    regrid: Regridder | None

    def fields(self, case: Case) -> Fields:
        time, grid, names = case.valid, self.plan.coarse_grid, self.plan.channels
        low, _ = fetch(self.coarse, time, names.inputs, grid.lat, grid.lon)
        check_input(low, names.inputs, self.coarse, np.array([time]))
        high = self.read(case, names.outputs)
        if self.regrid is not None:
            high = self.regrid(torch.from_numpy(high)).float().numpy()
        check_input(high[None], names.outputs, self.fine.name, np.array([time]))
        return low[0].numpy(), high


@contextmanager
def nothing_left(path: Path) -> Iterator[Callable[[], None]]:
    """Remove at the end what was made at a path, with new folders above it, unless it is to be kept.

    Yields
    ------
    Callable[[], None]
        Call it once there is something to keep; a path that existed before is kept in any case
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


def make_pairs(
    coarse: Any,
    fine: Any,
    times: TimeLike | Iterable[TimeLike],
    channels: Channels,
    path: str | Path,
    area: Area = Area(),
) -> Conversion:
    """Prepare a conversion; checks all that can be checked, and reads the first time.

    Parameters
    ----------
    coarse : str | DataSource
        The name of a source (see ``make_source``), or an Earth2Studio data source with 1-D lat and lon
    fine : str | Path | DataSource
        Likewise, or a file on any grid (see ``open_fine``)
    times : times and periods
        As ``"2012-01-01/2020-12-31T18/6h"``
    channels : Channels
        Inputs and outputs; invariants are those of ``area.invariants``, all of them where none are named
    path : str | Path
        The Zarr to make, or to continue
    area : Area, optional
        Box, trimming, margin, invariants

    Raises
    ------
    InputError
        If a source lacks times or variables, or its grid cannot be used
    """
    valid = np.sort(distinct(to_times(times)))
    low = analyses_of(coarse, "from which no pairs can be made; give analyses")
    high = open_fine(fine)
    low.check_times(valid)
    low.check_variables(channels.inputs)
    high.check_variables(channels.outputs)
    high.check_times(valid)
    _, whole = high.read(valid[0], channels.outputs[:1])
    window, regrid, grid, notes = _place(whole, area)
    still = invariants_of(area, high, whole, window if regrid is None else None, grid)
    chosen = channels.invariants or tuple(still)
    if lacking := [name for name in chosen if name not in still]:
        raise InputError(f"there is no invariant {', '.join(lacking)}; there is {', '.join(still) or 'none'}")
    coarse_grid, _ = grid_of(low(valid[:1], [channels.inputs[0]]), low.name)
    if coarse_grid.curvilinear:
        raise InputError(f"the coarse source {low.name} has 2-D lat and lon; a package's input has 1-D ones")
    own = around(grid, coarse_grid, area.margin).grid.astype(np.float32)
    Regridder(own, grid)  # raises where the coarse grid does not cover the fine one
    about: dict[str, Any] = {"source": high.name, "coarse_source": low.name}
    if low.synthetic or high.synthetic:
        about["synthetic"] = 1
    names = Channels(tuple(channels.inputs), tuple(channels.outputs), chosen)
    plan = PairPlan(valid, names, own, grid, {name: still[name] for name in chosen}, about)
    notes = (*notes, f"coarse grid: {text_of(own)}")
    return TwoSources(Path(path), high, plan, notes, window, low, regrid)


def _place(whole: Grid, area: Area) -> tuple[Window, Regridder | None, Grid, tuple[str, ...]]:
    """What is cut out of the fine source, how it is interpolated, and the grid of the pairs."""
    if area.grid is None:
        box = fine_window(whole, area.box)
        window = box.trimmed(area.multiple)
        return window, None, window.grid, (trimming(box, window, area.multiple),)
    box = fine_window(grid_of(open_dataset(area.grid), str(area.grid))[0], area.box)
    target = box.trimmed(area.multiple)
    if whole.curvilinear:
        raise InputError("a fine source with 2-D lat and lon stays on its own grid; leave out the other one")
    window = around(target.grid, whole)
    note = f"interpolated to {area.grid}; {trimming(box, target, area.multiple)}"
    return window, Regridder(window.grid.astype(np.float32), target.grid), target.grid, (note,)


def trimming(whole: Window, window: Window, multiple: int) -> str:
    text = f"fine grid: {text_of(window.grid)}"
    if whole.grid.shape == window.grid.shape:
        return text
    h, w = whole.grid.shape
    return f"{text}; trimmed from {h} x {w} to multiples of {multiple}"


def text_of(grid: Grid) -> str:
    H, W = grid.shape
    return f"{H} x {W}, {grid.extent()}"


def invariants_of(
    area: Area, source: FineFields, whole: Grid, window: Window | None, grid: Grid
) -> dict[str, NDArray[np.float32]]:
    """Invariants on the grid of the pairs: of the file, else those that come with the source."""
    if area.invariants is None:
        return {} if window is None else {n: window.cut(f) for n, f in source.static.items()}
    path = area.invariants
    data = open_dataset(path)
    there, dims = grid_of(data, str(path))
    names = [str(n) for n in data.data_vars if set(data[n].dims) == set(dims) and n not in ("lat", "lon")]
    arrays = {name: data[name].transpose(*dims) for name in names}
    fields = {
        name: conversion(array.attrs.get("units"), name, str(path))(array.to_numpy()).astype(np.float32)
        for name, array in arrays.items()
    }
    if window is not None and there.matches(whole):
        fields = {name: window.cut(field) for name, field in fields.items()}
    elif not there.matches(grid):
        raise InputError(f"the invariants {path} are not on the fine grid of {text_of(grid)}")
    for name, values in fields.items():
        if not np.isfinite(values).all():
            raise InputError(f"the invariant {name} of {path} is not finite")
    return fields
