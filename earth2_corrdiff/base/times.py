# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Times, periods and lead times as text and arrays: always UTC, always in nanoseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError

Times: TypeAlias = NDArray[np.datetime64]
TimeLike: TypeAlias = str | datetime | np.datetime64
Leads: TypeAlias = NDArray[np.timedelta64]
LeadLike: TypeAlias = str | int | timedelta | np.timedelta64

YEARS = (1678, 2261)
"""Whole years that a 64-bit count of nanoseconds since 1970 can hold."""
MINUTE = np.timedelta64(60, "s")
MOST = 1_000_000
"""Times that one period may have: more than the hours since the first analyses of any archive."""
UNITS: dict[str, Literal["h", "m", "D"]] = {"": "h", "h": "h", "min": "m", "d": "D"}
PERIOD = "2024-07-20T00/2024-07-25T18/6h (first, last, step)"
LEADS = "48h or 0/48/6h (first, last, step)"


def parse_time(text: str) -> np.datetime64:
    """One time from ISO 8601 text; without an offset it is UTC, with one it is converted.

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
        If the text is not a valid time, or lies outside the years 1678 to 2261
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is not a valid time; use a format like 2024-07-24T12:00 (UTC)") from None
    return _from_datetime(time)


def parse_period(text: str) -> Times:
    """The times of ``FIRST/LAST/STEP``, both ends included: ``2024-07-20T00/2024-07-25T18/6h``.

    Raises
    ------
    InputError
        If one of the three is missing or cannot be read, the last time comes before the first, or the
        steps do not end on it
    """
    parts = text.split("/")
    if len(parts) != 3:
        raise InputError(f"{text!r} is not a valid period; use a format like {PERIOD}")
    first, last = (parse_time(part) for part in parts[:2])
    span = last.astype("datetime64[us]") - first.astype("datetime64[us]")  # 500 years are too long for ns
    step = _duration(parts[2], text, PERIOD)
    return first + np.arange(_count(text, span, step)) * step


def to_times(times: TimeLike | Iterable[TimeLike]) -> Times:
    """Any mixture of texts, periods, datetimes and datetime64s as ``datetime64[ns]`` of shape [T], UTC.

    Raises
    ------
    InputError
        If one of them is not a valid time or period, or there is none
    """
    several = [times] if isinstance(times, str | datetime | np.datetime64) else list(times)
    if not several:
        raise InputError("no time was given; use at least one, like 2024-07-24T12:00")
    parts = [parse_period(t) if isinstance(t, str) and "/" in t else [_to_time(t)] for t in several]
    return np.array([time for part in parts for time in part], dtype="datetime64[ns]")


def to_leads(leads: LeadLike | Iterable[LeadLike]) -> Leads:
    """Lead times as ``timedelta64[ns]`` of shape [L].

    Parameters
    ----------
    leads : lead time, or several
        Timedeltas; numbers of hours; texts like ``6``, ``6h``, ``90min``, ``2d``, ``0/48/6h`` (first, last,
        step; both ends included), or several of them with commas between

    Raises
    ------
    InputError
        If one of them is not a valid lead time, is negative, or is given twice, or there is none
    """
    several = [leads] if isinstance(leads, str | int | timedelta | np.timedelta64) else list(leads)
    parts = [part for lead in several for part in (lead.split(",") if isinstance(lead, str) else [lead])]
    found = np.array([lead for part in parts for lead in _to_leads(part)], dtype="timedelta64[ns]")
    if not found.size:
        raise InputError(f"no lead time was given; use at least one, like {LEADS}")
    negative = found[found < np.timedelta64(0)]
    if negative.size:
        raise InputError(f"a lead time must not be negative, got {lead_text(negative[0])}")
    _, which, counts = np.unique(found, return_inverse=True, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"the lead time {lead_text(found[counts[which] > 1][0])} is given twice")
    return found


def chosen_leads(leads: LeadLike | Iterable[LeadLike], there: Leads | None) -> Leads:
    """The requested lead times (see `to_leads`) of a store, ``timedelta64[ns]``.

    Raises
    ------
    InputError
        If they cannot be read, or the store lacks one of them or has none at all
    """
    wanted = to_leads(leads)
    if there is None:
        raise InputError("the store has no lead times, it is of analyses; leave out --lead")
    for lead in wanted:
        if lead not in there:
            has = ", ".join(map(lead_text, there if len(there) <= 8 else there[[0, 1, -1]]))
            raise InputError(f"the store has no lead time {lead_text(lead)}; it has {has}")
    return wanted


def distinct(times: Times) -> Times:
    """The times; InputError if one of them is there twice."""
    values, counts = np.unique(times, return_counts=True)
    if counts.max(initial=1) > 1:
        raise InputError(f"the time {time_text(values[counts > 1][0])} is given twice")
    return times


def positions(have: NDArray[Any], want: NDArray[Any]) -> NDArray[np.intp]:
    """Position of each wanted time among others, at most a minute off; -1 where it is not there.

    Files may store times as real numbers, which are then a little off.

    Parameters
    ----------
    have, want : np.ndarray
        [N] and [M], times or lead times in any order

    Returns
    -------
    np.ndarray
        [M] indices: of the nearest, of the first where several are as near
    """
    if have.size == 0:
        return np.full(want.shape, -1, dtype=np.intp)
    order = np.argsort(have, kind="stable")
    after = np.clip(np.searchsorted(have[order], want), 1, max(have.size - 1, 1))
    around = np.stack([order[after - 1], order[np.minimum(after, have.size - 1)]])
    nearest = np.abs(have[around] - want).argmin(axis=0)
    found = np.take_along_axis(around, nearest[None], axis=0)[0]
    return np.where(np.abs(have[found] - want) <= MINUTE, found, -1)


def time_text(time: np.datetime64) -> str:
    """``2024-07-24T12:00``, with seconds only where there are any."""
    text = str(np.datetime_as_string(time, unit="s"))
    return text.removesuffix(":00")


def lead_text(lead: np.timedelta64) -> str:
    """``6 h``; in minutes where it is not a whole number of hours."""
    minutes = lead / np.timedelta64(1, "m")
    return f"{minutes / 60:g} h" if minutes % 60 == 0 else f"{minutes:g} min"


def _count(text: str, span: np.timedelta64, step: np.timedelta64) -> int:
    """How many values, both ends included, lie on a span."""
    if step <= np.timedelta64(0):
        raise InputError(f"the step of {text!r} must be positive")
    if span < np.timedelta64(0):
        raise InputError(f"{text!r} ends before it begins")
    step = step.astype("timedelta64[us]")
    if span % step:
        raise InputError(f"the steps of {text!r} end {lead_text(span % step)} before its last value")
    count = int(span // step) + 1
    if count > MOST:
        raise InputError(f"{text!r} has {count} steps; use at most {MOST}")
    return count


def _duration(text: str, whole: str, example: str) -> np.timedelta64:
    found = re.fullmatch(r"(-?\d{1,5})\s*(h|min|d|)", text.strip())  # five digits of days fit nanoseconds
    if not found:
        where = "" if text == whole else f" in {whole!r}"
        raise InputError(f"{text!r}{where} is not a valid duration like 6h, 30min or 1d; use {example}")
    duration: np.timedelta64 = np.timedelta64(int(found[1]), UNITS[found[2]]).astype("timedelta64[ns]")
    return duration


def _to_leads(lead: LeadLike) -> Leads:
    if isinstance(lead, timedelta | np.timedelta64) and not np.isnat(np.timedelta64(lead)):
        return np.array([lead], dtype="timedelta64[ns]")
    if isinstance(lead, int):
        lead = str(lead)
    if not isinstance(lead, str):
        raise InputError(f"{lead!r} is not a valid lead time; use {LEADS}")
    parts = [_duration(part, lead, LEADS) for part in lead.split("/")]
    if len(parts) == 1:
        return np.array(parts)
    if len(parts) != 3:
        raise InputError(f"{lead!r} is not a valid range of lead times; use {LEADS}")
    return parts[0] + np.arange(_count(lead, parts[1] - parts[0], parts[2])) * parts[2]


def _to_time(time: TimeLike) -> np.datetime64:
    if isinstance(time, str):
        return parse_time(time)
    if isinstance(time, datetime):
        return _from_datetime(time)
    if not isinstance(time, np.datetime64) or np.isnat(time):
        raise InputError(f"{time!r} is not a valid time; use a format like 2024-07-24T12:00 (UTC)")
    return np.datetime64(str(time), "ns")


def _from_datetime(time: datetime) -> np.datetime64:
    inside = YEARS[0] <= time.year <= YEARS[1]  # before the conversion, which fails for the year 1
    if time.tzinfo is not None and inside:
        time = time.astimezone(UTC).replace(tzinfo=None)
    if not YEARS[0] <= time.year <= YEARS[1]:
        raise outside_years(time.isoformat())
    return np.datetime64(time, "ns")


def outside_years(time: object, name: str = "") -> InputError:
    """The error of a time, in the file or source of a name, that nanoseconds in 64 bits cannot hold."""
    where = f"{name}: " if name else ""
    return InputError(f"{where}the year must lie within {YEARS[0]} and {YEARS[1]}; got {time}")
