# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Hours of the demo's synthetic weather for training, validation and tests of the embedded model."""

from __future__ import annotations

import numpy as np

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.demo.weather import TRAINING_YEARS, DemoWeather

VALIDATION_YEARS = range(2022, 2023)
HELD_OUT_YEARS = range(2023, 2026)


def training_times(count: int, seed: int = 0) -> Times:
    """Random hours of the storm years that the demo is trained on."""
    return _random_hours(TRAINING_YEARS, count, seed)


def validation_times(count: int, seed: int = 0) -> Times:
    """Random hours of the next storm year, for validation losses."""
    return _random_hours(VALIDATION_YEARS, count, seed)


def held_out_times(count: int, seed: int = 1) -> Times:
    """Random hours of the storm years after those: used for neither training nor choices."""
    return _random_hours(HELD_OUT_YEARS, count, seed)


def _random_hours(years: range, count: int, seed: int) -> Times:
    hours = np.arange(np.datetime64(f"{years.start}-01-01T00"), np.datetime64(f"{years.stop}-01-01T00"))
    order = np.random.default_rng(seed).permutation(len(hours))
    kept = [time for time in hours[order] if DemoWeather.storm_year(time) in years][:count]
    if len(kept) < count:
        span = f"{years.start} to {years.stop - 1}"
        raise InputError(f"the demo's years {span} have {len(kept)} hours, not {count}")
    return np.array(kept, dtype="datetime64[ns]")
