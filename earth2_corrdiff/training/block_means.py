# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from a fine source alone: the coarse fields are block means of the fine ones (perfect prognosis).

A package of such pairs learns the fine structure within coarse cells, and nothing of a model's errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import TimeLike, distinct, lead_text, to_times
from earth2_corrdiff.model.spec import check_count
from earth2_corrdiff.sources.fine import open_fine
from earth2_corrdiff.sources.windows import fine_window
from earth2_corrdiff.training.convert import Area, Conversion, NoValuesError, invariants_of, text_of, trimming
from earth2_corrdiff.training.pair_writer import Fields, PairPlan
from earth2_corrdiff.training.pairs import Channels

WHOLE = Area()
LEAST = 0.5
"""Part of a block that must have values for a mean."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks of grid points that are averaged.

    Attributes
    ----------
    coarse : int
        Fine points along each side of a coarse cell
    fine : int
        Points of the source along each side of a fine cell
    """

    coarse: int
    fine: int = 1

    def __post_init__(self) -> None:
        check_count("the points of a fine cell", self.fine)
        if check_count("the fine points of a coarse cell", self.coarse) < 2:
            raise InputError("a coarse cell must have 2 or more fine points along each side")


def block_means(fields: NDArray[Any], size: int) -> NDArray[Any]:
    """Means of blocks of ``size`` x ``size`` points: ``[..., H, W] → [..., H / size, W / size]``.

    Of the values that are not NaN where these are at least half of a block, else NaN.
    """
    if size == 1:
        return fields
    H, W = fields.shape[-2:]
    blocks = fields.reshape(*fields.shape[:-2], H // size, size, W // size, size).astype(np.float64)
    there = np.isfinite(blocks)
    count = there.sum((-3, -1))
    total = np.where(there, blocks, 0).sum((-3, -1))
    means = np.where(count >= LEAST * size**2, total / np.maximum(count, 1), np.nan)
    return means.astype(fields.dtype)


def mean_grid(grid: Grid, size: int) -> Grid:
    """The grid of block means: means of the coordinates, float32; longitudes as they run on."""
    if size == 1:
        return grid
    if grid.curvilinear:
        lon = np.unwrap(np.unwrap(grid.lon.astype(np.float64), period=360, axis=0), period=360, axis=1)
        return Grid(*(block_means(part, size).astype(np.float32) for part in (grid.lat, lon)))
    axes = (axis.astype(np.float64).reshape(-1, size).mean(1) for axis in (grid.lat, grid.lon))
    return Grid(*(axis.astype(np.float32) for axis in axes))


@dataclass(eq=False)
class OneSource(Conversion):
    """Pairs of a fine source and its block means.

    Attributes
    ----------
    blocks : Blocks
        Sizes of the blocks
    """

    blocks: Blocks

    def fields(self, case: Case) -> Fields:
        names = self.plan.channels
        every = tuple(dict.fromkeys((*names.inputs, *names.outputs)))
        fine = block_means(self.read(case, every), self.blocks.fine)
        gaps = [name for name, field in zip(every, fine, strict=True) if np.isnan(field).all()]
        if gaps:
            raise NoValuesError(f"{self.fine.title} has no values of {gaps[0]} at {case}")
        coarse = block_means(fine, self.blocks.coarse)
        low, high = ([every.index(name) for name in part] for part in (names.inputs, names.outputs))
        return coarse[low], fine[high]


def make_own_pairs(
    fine: Any,
    times: TimeLike | Iterable[TimeLike],
    channels: Channels,
    path: str | Path,
    blocks: Blocks,
    area: Area = WHOLE,
    least_lead: np.timedelta64 | None = None,
) -> OneSource:
    """Prepare a conversion of one source; checks all that can be checked, and reads the first field.

    Parameters
    ----------
    fine : str | Path | DataSource
        A file on any grid, or the name of a source, or an Earth2Studio data source (see ``open_fine``)
    times : times and periods
        As ``"2012-01-01/2020-12-31T18/6h"``; ``"all"`` for all times of a file
    channels : Channels
        Inputs and outputs, both of the fine source (``tp=qpe1h`` for another name in the file); invariants
        as in :func:`make_pairs`
    path : str | Path
        The Zarr to make, or to continue
    blocks : Blocks
        Sizes of the blocks; the grid is trimmed to whole ones, in multiples of ``area.multiple`` fine cells
    area : Area, optional
        Box, trimming, invariants
    least_lead : np.timedelta64 | None, optional
        A pair for every run with this lead time or a longer one, instead of one for each valid time

    Raises
    ------
    InputError
        If the source lacks times or variables, or its grid is too small
    """
    if area.grid is not None or area.margin is not None:
        raise InputError(
            "block means stay on the grid of the fine source; leave out the other grid and margin"
        )
    if least_lead is not None and least_lead < np.timedelta64(0):
        raise InputError(f"a least lead time of {lead_text(least_lead)} is not valid; use 0 h or more")
    own = dict(name.split("=", 1) for name in (*channels.inputs, *channels.outputs) if "=" in name)
    names = Channels(_plain(channels.inputs), _plain(channels.outputs), channels.invariants)
    high = open_fine(fine, own, least_lead)
    high.check_variables((*names.inputs, *names.outputs))
    cases = high.cases(None if times == "all" else np.sort(distinct(to_times(times))))
    _, whole = high.read_case(cases[0], names.outputs[:1])
    box = fine_window(whole, area.box)
    # whole blocks, whose fine cells are multiples of what networks need
    window = box.trimmed(blocks.fine * int(np.lcm(area.multiple, blocks.coarse)))
    fine_grid = mean_grid(window.grid, blocks.fine)
    still = {
        name: block_means(field, blocks.fine)
        for name, field in invariants_of(area, high, whole, window, fine_grid).items()
    }
    coarse_grid = mean_grid(fine_grid, blocks.coarse)
    about: dict[str, Any] = {"source": high.name, "coarse_from_fine": blocks.coarse}
    if high.synthetic:
        about["synthetic"] = 1
    chosen = Channels(names.inputs, names.outputs, names.invariants or tuple(still))
    plan = PairPlan(
        np.array([case.valid for case in cases]),
        chosen,
        coarse_grid,
        fine_grid,
        {name: still[name] for name in chosen.invariants},
        about,
        None if least_lead is None else np.array([case.lead for case in cases]),
    )
    notes = (trimming(box, window, area.multiple), f"fine grid of the pairs: {text_of(fine_grid)}")
    return OneSource(Path(path), high, plan, (*notes, f"coarse grid: {text_of(coarse_grid)}"), window, blocks)


def _plain(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.split("=", 1)[0] for name in names)
