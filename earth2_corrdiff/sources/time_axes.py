# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Valid times and lead times of a dataset, whatever the names and encodings of its coordinates.

CF, cfgrib, Earth2Studio and the CDS call the valid time ``time`` or ``valid_time``, and the start of a
forecast ``forecast_reference_time``, ``init_time`` or, again, ``time``; lead times are durations or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, Times, lead_text, outside_years, time_text

VALID = ("valid_time", "validity_time", "verification_time")
REFERENCE = (
    *("forecast_reference_time", "reference_time", "reftime", "init_time", "initial_time", "init"),
    *("run", "run_time", "analysis_time", "base_time", "forecast_base_time"),
)
LEAD = (
    *("lead_time", "step", "prediction_timedelta", "forecast_period", "leadtime", "lead"),
    *("forecast_hour", "fhour", "lead_hours"),
)
STANDARD = {"forecast_reference_time": "reference", "forecast_period": "lead"}
SECONDS = {
    **dict.fromkeys(("", "h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
}
"""Seconds of a unit of lead times; numbers without one are hours."""
LONGEST = 10_000.0
"""Hours that a lead time without a unit may have."""
NO_LEAD = np.timedelta64("NaT", "ns")


@dataclass(frozen=True, eq=False)
class TimeRows:
    """The fields of a dataset along its dimensions of time, flattened in the order of ``dims``.

    Attributes
    ----------
    dims : dict[str, int]
        Dimensions of time, and their lengths; none for a dataset of one time
    valid : np.ndarray
        [N] datetime64[ns]: valid times
    lead : np.ndarray
        [N] timedelta64[ns]: lead times, NaT where the dataset has none
    index : np.ndarray
        [N]: positions along all of ``dims``, flattened: a run may lack a lead time
    """

    dims: dict[str, int]
    valid: Times
    lead: Leads
    index: NDArray[np.intp]

    def along(self, rows: Any) -> dict[str, Any]:
        """Position of a row, or of several, along each dimension."""
        where = np.unravel_index(self.index[rows], tuple(self.dims.values())) if self.dims else ()
        return dict(zip(self.dims, where, strict=True))


def time_rows(data: xr.Dataset, name: str) -> TimeRows:
    """Valid times and lead times of all fields of a dataset.

    Parameters
    ----------
    data : xr.Dataset
        As opened
    name : str
        Of the file, for messages

    Raises
    ------
    InputError
        If it has no time, or one that is missing, has no units, or is not of the standard calendar
    """
    reference, lead, valid = _roles(data)
    if valid is None and reference is None:
        raise InputError(
            f"{name} needs a coordinate time (or valid_time) with dates that xarray can decode; "
            f"it has the coordinates {', '.join(map(str, data.coords)) or 'none'}"
        )
    start = None if reference is None else _dates(data[reference], name)
    step = None if lead is None else _durations(data[lead], name)
    if valid is not None:
        when = _dates(data[valid], name)
    elif start is not None:
        when = start if step is None else start + step
    length = when - start if start is not None else step
    if length is None:
        length = xr.full_like(when, NO_LEAD, dtype="timedelta64[ns]")
    when, length = xr.broadcast(when, length)
    sizes = {str(dim): size for dim, size in when.sizes.items()}
    stamps, leads = when.to_numpy().reshape(-1), length.to_numpy().reshape(-1)
    if not stamps.size:
        raise InputError(f"{name} has no times: its dimensions {', '.join(sizes)} are empty")
    index = np.flatnonzero(~np.isnat(stamps))
    if index.size < stamps.size and (len(sizes) < 2 or not index.size):
        raise InputError(
            f"{name} has {stamps.size - index.size} missing values among its times; give each field its time"
        )
    if index.size < stamps.size:
        logger.info("{}: {} forecasts without a valid time are left out", name, stamps.size - index.size)
    return TimeRows(sizes, stamps[index], leads[index], index)


def time_names(data: xr.Dataset) -> set[str]:
    """Names of the variables of a dataset that hold times or lead times."""
    return {name for name in _roles(data) if name is not None}


def by_valid_time(data: xr.Dataset, name: str) -> xr.Dataset:
    """A dataset with the valid time as its dimension ``time``, for truth and training pairs.

    Forecasts of several runs or lead times are laid out along it: where several have one valid time, the one
    with the shortest lead time is taken, and this is logged.

    Parameters
    ----------
    data : xr.Dataset
        Over time, or over runs and lead times, and any other dimensions
    name : str
        Of the file, for messages

    Returns
    -------
    xr.Dataset
        Over ``time``, in rising order where it had to be laid out, read when it is used

    Raises
    ------
    InputError
        As ``time_rows``, or if a valid time occurs twice
    """
    rows = time_rows(data, name)
    spare = [key for key in time_names(data) if key in data.variables]
    if len(rows.dims) <= 1:
        refuse_repeated(rows.valid, rows.lead, name)
    keep = shortest(rows.valid, rows.lead, name)
    if len(rows.dims) == 1 and len(keep) == rows.valid.size:
        keep = np.arange(rows.valid.size)  # in the order of the file
        if _is_plain(data, rows):
            return data
    data = data.drop_vars([*spare, *(dim for dim in rows.dims if dim in data.variables and dim not in spare)])
    if not rows.dims:
        return data.expand_dims(time=rows.valid)
    if len(rows.dims) == 1:
        (dim,) = rows.dims
        data = data.isel({dim: keep}).rename({dim: "time"} if dim != "time" else {})
    else:
        data = data.isel({dim: xr.DataArray(i, dims="time") for dim, i in rows.along(keep).items()})
    return data.assign_coords(time=rows.valid[keep])


def by_run(data: xr.Dataset, name: str, least: np.timedelta64) -> tuple[xr.Dataset, Leads]:
    """A dataset with the forecasts of all runs along ``time``, their valid times, and their lead times.

    Parameters
    ----------
    data, name
        As for :func:`by_valid_time`
    least : np.timedelta64
        Forecasts with a shorter lead time are left out

    Raises
    ------
    InputError
        As ``time_rows``, if there are no lead times, or none as long
    """
    rows = time_rows(data, name)
    refuse_repeated(rows.valid, rows.lead, name)
    known = ~np.isnat(rows.lead)
    if not known.any():
        raise InputError(f"{name} has no lead times; leave out the shortest lead time")
    keep = np.flatnonzero(known & (rows.lead >= least))
    if not keep.size:
        raise InputError(f"{name} has no lead time of {lead_text(least)} or more")
    keep = keep[np.lexsort((rows.lead[keep], rows.valid[keep]))]
    spare = {*time_names(data), *rows.dims} & set(data.variables)
    data = data.drop_vars(spare).isel({d: xr.DataArray(i, dims="time") for d, i in rows.along(keep).items()})
    return data.assign_coords(time=rows.valid[keep]), rows.lead[keep]


def _is_plain(data: xr.Dataset, rows: TimeRows) -> bool:
    """True if the valid times are the dimension ``time`` already."""
    own = data.variables.get("time")
    if own is None or own.dims != ("time",) or list(rows.dims) != ["time"] or own.dtype.kind != "M":
        return False
    return np.array_equal(rows.valid, own.to_numpy().astype("datetime64[ns]"))


def shortest(valid: Times, lead: Leads, name: str) -> NDArray[np.intp]:
    """Rows of the shortest lead time for each valid time, in rising order of valid time.

    Raises
    ------
    InputError
        If a valid time occurs twice and the lead times do not decide between them
    """
    order = np.lexsort((lead, valid))  # NaT comes last
    first = np.ones(order.size, dtype=bool)
    first[1:] = valid[order][1:] != valid[order][:-1]
    refuse_repeated(valid, lead, name)
    if not first.all():
        logger.info(
            "{}: {} of {} valid times are forecast by several runs; the shortest lead time is taken",
            *(name, np.unique(valid[order][~first]).size, int(first.sum())),
        )
    return order[first]


def refuse_repeated(valid: Times, lead: Leads, name: str) -> None:
    """Raise InputError if two rows have one valid time and no different lead times."""
    order = np.lexsort((lead, valid))
    when, length = valid[order], lead[order]
    same = when[1:] == when[:-1]
    known = ~np.isnat(length[1:]) & ~np.isnat(length[:-1])
    alike = same & ~(known & (length[1:] != length[:-1]))
    if alike.any():
        at = int(np.flatnonzero(alike)[0])
        after = "" if np.isnat(length[at]) else f" with the lead time {lead_text(length[at])}"
        raise InputError(
            f"{name} has the time {time_text(when[at])} {int((when == when[at]).sum())} times{after}; "
            "keep one of them, for example with data.drop_duplicates('time')"
        )


def _roles(data: xr.Dataset) -> tuple[str | None, str | None, str | None]:
    """Names of the reference time, the lead time and the valid time."""
    small = [str(key) for key, variable in data.variables.items() if not {"lat", "lon"} & set(variable.dims)]
    standard = {STANDARD.get(data[key].attrs.get("standard_name", "")): key for key in small if key != "time"}
    reference = next((key for key in REFERENCE if key in small), standard.get("reference"))
    lead = next((key for key in LEAD if key in small), standard.get("lead"))
    valid = next((key for key in VALID if key in small), None)
    if "time" not in small:
        return reference, lead, valid
    own = data["time"].attrs.get("standard_name")
    if own == "forecast_reference_time":
        return "time", lead, valid
    if reference is not None and valid is None:
        return reference, lead, "time"
    if reference is not None:
        return reference, lead, valid
    if valid is None and (lead is None or _already_valid(data, lead, own)):
        return None, lead, "time"
    return "time", lead, valid


def _already_valid(data: xr.Dataset, lead: str, standard_name: Any) -> bool:
    """True if time is the valid time beside a lead time, as CF has it."""
    beside = set(data[lead].dims) <= set(data["time"].dims)
    return beside and standard_name == "time" and data[lead].attrs.get("standard_name") == "forecast_period"


def _dates(times: xr.DataArray, name: str) -> xr.DataArray:
    """Dates as datetime64[ns], those that were written as real numbers to the minute."""
    times = times.reset_coords(drop=True)
    times = times.drop_vars(list(times.coords))
    kind = times.dtype.kind
    if kind in "OUS":
        times = _without_leap_days(times, name)
        _refuse_calendar(times, name)
        try:
            times = times.astype("datetime64[ns]")
        except (ValueError, TypeError):
            raise InputError(
                f"{name} has the times {str(times.to_numpy().flat[0])!r}, …, which are not dates"
            ) from None
    elif kind != "M":
        raise InputError(
            f"{name} has numbers as its coordinate {times.name} without a unit, or with {_units(times)!r}; "
            "use one like 'hours since 1970-01-01'"
        )
    values = times.to_numpy().astype("datetime64[ns]")
    if np.dtype(times.encoding.get("dtype", "i8")).kind == "f":
        minute = np.timedelta64(60_000_000_000, "ns")
        since = values - np.datetime64(0, "ns")
        rounded = np.datetime64(0, "ns") + np.round(since / minute) * minute
        values = np.where(np.isnat(values), values, rounded)
    return xr.DataArray(values, dims=times.dims)


def _units(array: xr.DataArray) -> str:
    return str(array.attrs.get("units", ""))


def _refuse_calendar(times: xr.DataArray, name: str) -> None:
    calendar = getattr(times.to_numpy().flat[0], "calendar", None) if times.size else None
    if calendar in ("standard", "gregorian", "proleptic_gregorian"):
        raise outside_years(times.to_numpy().flat[0], name)
    if calendar is not None:
        raise InputError(
            f"{name} has times of the calendar {calendar}, which has other days than the standard one; "
            "convert it: data.convert_calendar('standard', align_on='date')"
        )


def _without_leap_days(times: xr.DataArray, name: str) -> xr.DataArray:
    """Dates of the calendar noleap of climate models under their own names: only 29 February lacks."""
    if not times.size or getattr(times.to_numpy().flat[0], "calendar", "") not in ("noleap", "365_day"):
        return times
    logger.info(
        "{}: its calendar has no leap days; each date is taken for that of the standard calendar", name
    )
    return times.copy(
        data=np.array([date.isoformat() for date in times.to_numpy().flat], dtype=str).reshape(times.shape)
    )


def _durations(leads: xr.DataArray, name: str) -> xr.DataArray:
    """Lead times as timedelta64[ns]: durations, or numbers in their units; without units, hours."""
    values = leads.to_numpy()
    if values.dtype.kind == "m":
        return xr.DataArray(values.astype("timedelta64[ns]"), dims=leads.dims)
    unit = _units(leads).strip().casefold()
    if values.dtype.kind not in "iuf" or unit not in SECONDS:
        raise InputError(
            f"{name} has the lead times {leads.name} in {_units(leads)!r}; use hours, or durations that "
            "xarray can decode"
        )
    if not np.isfinite(values).all() or (not unit and np.abs(values).max(initial=0) > LONGEST):
        raise InputError(
            f"{name} has the lead times {leads.name} up to {values.max()} without a unit; give one"
        )
    nanoseconds = np.round(values.astype(np.float64) * SECONDS[unit] * 1e9)
    return xr.DataArray(nanoseconds.astype("timedelta64[ns]"), dims=leads.dims)
