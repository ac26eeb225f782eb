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

from earth2_corrdiff.base.block_means import Blocks, block_means, mean_grid
from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import TimeLike, distinct, lead_text, to_times
from earth2_corrdiff.sources.fine import open_fine
from earth2_corrdiff.sources.windows import fine_window
from earth2_corrdiff.training.convert import Area, Conversion, NoValuesError, invariants_of, text_of, trimming
from earth2_corrdiff.training.pair_writer import Fields, PairPlan
from earth2_corrdiff.training.pairs import Channels

WHOLE = Area()


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
    if blocks.fine > 1:
        about["fine_means"] = blocks.fine
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
