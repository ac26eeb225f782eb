# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of the demo's synthetic weather, made in any number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.demo import DemoWeather
from earth2_corrdiff.demo.hours import training_times, validation_times
from earth2_corrdiff.training.pair_writer import Fields, PairPlan
from earth2_corrdiff.training.pairs import Channels

INPUTS = DemoWeather.VARIABLES[:-1]  # all but refc, the coarse reflectivity
OUTPUTS = DemoWeather.TRUTH_VARIABLES


def demo_plan(train: int, validation: int, seed: int) -> PairPlan:
    """A generated set: so many hours to learn from and to watch."""
    times = np.concatenate([training_times(train, seed), validation_times(validation, seed)])
    coarse, fine = (
        Grid(lat.astype(np.float32), lon.astype(np.float32))
        for lat, lon in (DemoWeather.coarse_grid(), DemoWeather.fine_grid())
    )
    static = DemoWeather.static()
    return PairPlan(
        times=np.sort(times),
        channels=Channels(INPUTS, OUTPUTS, tuple(static)),
        coarse_grid=coarse,
        fine_grid=fine,
        invariants=dict(static),
        attributes={"source": "DemoWeather", "synthetic": 1, "version": DemoWeather.VERSION},
    )


def _one(time: np.datetime64) -> Fields:
    fields = DemoWeather().fields(time)
    return fields.coarse[: len(INPUTS)], fields.fine


def make_demo_fields(cases: Iterable[Case]) -> Iterator[Fields]:
    """Fields of many times in their order, made in one process per core."""
    with ProcessPoolExecutor() as pool:
        yield from pool.map(_one, (case.valid for case in cases), chunksize=8)
