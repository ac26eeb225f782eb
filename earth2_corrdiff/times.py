# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Valid times: from text and back, always UTC, always ``datetime64[ns]``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.errors import InputError

Times: TypeAlias = NDArray[np.datetime64]
TimeLike: TypeAlias = str | datetime | np.datetime64

YEARS = (1678, 2261)
"""Whole years that a 64-bit count of nanoseconds since 1970 can hold."""


def parse_time(text: str) -> np.datetime64:
    """One valid time from ISO 8601 text; without an offset it is UTC, with one it is converted.

    Parameters
    ----------
    text : str
        ``2024-07-24T12:00``, ``2024-07-24 12:00Z``, ``2024-07-24T14:00+02:00``, ``2024-07-24`` (midnight)

    Returns
    -------
    np.datetime64
        UTC, in nanoseconds as xarray and Earth2Studio's stores hold times

    Raises
    ------
    InputError
        If the text is no time, or lies outside the years 1678 to 2261
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is no time; give one as 2024-07-24T12:00 (UTC)") from None
    return _from_datetime(time)


def to_times(times: TimeLike | Iterable[TimeLike]) -> Times:
    """Any mixture of texts, datetimes and datetime64s as ``datetime64[ns]`` of shape [T], UTC.

    Raises
    ------
    InputError
        If one of them is no time, or there is none
    """
    several = [times] if isinstance(times, str | datetime | np.datetime64) else list(times)
    if not several:
        raise InputError("no time was given; give at least one, as 2024-07-24T12:00")
    return np.array([_to_time(time) for time in several], dtype="datetime64[ns]")


def distinct(times: Times) -> Times:
    """The times; InputError if one of them is there twice."""
    if len(np.unique(times)) != len(times):
        twice = next(t for t in times if (times == t).sum() > 1)
        raise InputError(f"the time {time_text(twice)} is given twice")
    return times


def time_text(time: np.datetime64) -> str:
    """``2024-07-24T12:00``, with seconds only where there are any."""
    text = str(np.datetime_as_string(time, unit="s"))
    return text.removesuffix(":00")


def _to_time(time: TimeLike) -> np.datetime64:
    if isinstance(time, str):
        return parse_time(time)
    if isinstance(time, datetime):
        return _from_datetime(time)
    if not isinstance(time, np.datetime64) or np.isnat(time):
        raise InputError(f"{time!r} is no time; give one as 2024-07-24T12:00 (UTC)")
    return np.datetime64(str(time), "ns")


def _from_datetime(time: datetime) -> np.datetime64:
    inside = YEARS[0] <= time.year <= YEARS[1]  # before the conversion, which fails for the year 1
    if time.tzinfo is not None and inside:
        time = time.astimezone(UTC).replace(tzinfo=None)
    if not YEARS[0] <= time.year <= YEARS[1]:
        raise InputError(f"the year must lie within {YEARS[0]} and {YEARS[1]}; got {time.isoformat()}")
    return np.datetime64(time, "ns")
