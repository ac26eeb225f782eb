# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Split of the times of pairs into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, parse_time, time_text
from earth2_corrdiff.demo.hours import VALIDATION_YEARS
from earth2_corrdiff.training.config import Split


@dataclass(frozen=True)
class Splits:
    """Numbers of times, ascending."""

    train: list[int]
    validation: list[int]
    test: list[int]


def split_times(times: Times, periods: Split) -> Splits:
    """Split by periods, or where there are none in three parts in the order of time.

    Raises
    ------
    InputError
        If a period cannot be read, periods overlap, or none of the times is for training
    """
    if periods == Split():
        first, second = (len(times) * 8 + 9) // 10, (len(times) * 9 + 9) // 10
        numbers = list(range(len(times)))
        return Splits(numbers[:first], numbers[first:second], numbers[second:])
    if not periods.train:
        raise InputError(
            "data.split needs periods for train where it has any, like [2012-01-01/2020-12-31T23]"
        )
    masks = {name: inside(times, f"data.split.{name}", some) for name, some in vars(periods).items()}
    shared = np.sum(list(masks.values()), axis=0) > 1
    if shared.any():
        when = time_text(times[shared][0])
        raise InputError(f"the periods of data.split overlap: {when} is in two of them; set them apart")
    if not masks["train"].any():
        raise InputError("no time of the pairs lies in data.split.train")
    return Splits(*(np.flatnonzero(mask).tolist() for mask in masks.values()))


def split_demo(times: Times) -> Splits:
    """The demo's: storm years for training, and the year after them for validation."""
    years = times.astype("datetime64[Y]").astype(int) + 1970
    later = np.isin(years, VALIDATION_YEARS)
    return Splits(np.flatnonzero(~later).tolist(), np.flatnonzero(later).tolist(), [])


def inside(times: Times, what: str, periods: Sequence[str]) -> NDArray[np.bool_]:
    """Which times lie in one of the periods of ``what``; InputError for one that is not valid."""
    found = np.zeros(len(times), bool)
    for period in periods:
        ends = period.split("/")
        if len(ends) != 2:
            raise InputError(f"{what}: {period!r} is not a valid period; use FIRST/LAST")
        first, last = (parse_time(end) for end in ends)
        found |= (times >= first) & (times <= last)
    return found
