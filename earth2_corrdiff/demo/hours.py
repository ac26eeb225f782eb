# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Hours of the demo's synthetic weather for training, validation and tests of the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.demo.weather import DemoWeather

VALIDATION_YEARS = range(2022, 2023)
HELD_OUT_YEARS = range(2023, 2026)


def training_times(count: int, seed: int = 0) -> Times:
    """Random hours of the storm years that the demo is trained on."""
    return _random_hours("2012", "2022", count, seed, DemoWeather.is_training_time)


def validation_times(count: int, seed: int = 0) -> Times:
    """Random hours of the next storm year, for validation losses."""
    return _random_hours("2022", "2023", count, seed, partial(_of, VALIDATION_YEARS))


def held_out_times(count: int, seed: int = 1) -> Times:
    """Random hours of the storm years after those: used for neither training nor choices."""
    return _random_hours("2023", "2026", count, seed, partial(_of, HELD_OUT_YEARS))


def _of(years: range, time: np.datetime64) -> bool:
    return DemoWeather.storm_year(time) in years


def _random_hours(
    first: str, end: str, count: int, seed: int, keep: Callable[[np.datetime64], bool]
) -> Times:
    hours = np.arange(np.datetime64(f"{first}-01-01T00"), np.datetime64(f"{end}-01-01T00"))
    order = np.random.default_rng(seed).permutation(len(hours))
    kept = [time for time in hours[order] if keep(time)][:count]
    if len(kept) < count:
        raise InputError(f"the demo's years {first} to {int(end) - 1} have {len(kept)} hours, not {count}")
    return np.array(kept, dtype="datetime64[ns]")
