# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The reader of a store, finished or not: its cases, its members, its grids and its fields.

A store of forecasts has further axes: ``lead_time``, and ``ensemble`` for coarse members. Its times are here
the pairs of start and lead time (`cases`), numbered with the lead times fastest; the members of all coarse
members are numbered through, those of the first coarse member first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.errors import DamageError, InputError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import AnyPath, as_path, check_reached
from earth2_corrdiff.base.times import TimeLike, time_text, to_times
from earth2_corrdiff.sources.formats import open_lazily
from earth2_corrdiff.store.paths import SEED, UNWRITTEN, is_headless, metadata_fault, recorded

Array = NDArray[np.float64]

COARSE = "_lowres"
LEAD, ENSEMBLE = "lead_time", "ensemble"
OPTIONAL = ("refc_lowres",)
"""Coarse input that a source may lack at some times: the model does not take it."""
REPAIR = "the run's command with --resume --check computes it again"
"""The remedy for damaged fields and coordinates."""
REMAKE = "the run's command with --overwrite makes it anew"
"""The remedy for damaged metadata, without which fields cannot be identified."""
Time = int | TimeLike | Case
"""A position in `cases`, a valid time (UTC), or a case of `cases`."""


def open_store(path: str | AnyPath, fields: bool = True) -> xr.Dataset:
    """Open a store that ``run-corrdiff`` wrote, by its path or URL, lazily.

    With ``fields=False`` it may lack members: see ``--keep``.

    Raises
    ------
    InputError
        If there is no such folder, it is not a Zarr store, or it holds no output of CorrDiff
    DamageError
        If it is damaged
    """
    path = as_path(path)
    if not path.exists():
        raise InputError(f"there is no store {path}: give the folder that run-corrdiff wrote")
    if not is_headless(path) and not any((path / marker).is_file() for marker in ("zarr.json", ".zgroup")):
        raise InputError(f"{path} is not a Zarr store: give the folder that run-corrdiff wrote")
    _check_metadata(path)
    try:
        return _checked(open_lazily(path), path, fields)
    except InputError:
        raise
    except Exception as error:  # codecs and stores have no common class for damage
        check_reached(error, path)
        raise DamageError(
            f"{path} cannot be read as a Zarr store, it is damaged ({first_line(error)}); {REPAIR}, or with "
            "--overwrite everything"
        ) from error


def _check_metadata(path: AnyPath) -> None:
    """Refuse a store with damaged metadata, even where Zarr's copy of them is enough for reading."""
    fault = None if (path / ".zgroup").is_file() else metadata_fault(path)
    if fault is None:
        return
    if is_headless(path) or recorded(path) is not None:
        raise DamageError(f"the store {path} is damaged ({fault}); {REMAKE}")
    raise InputError(
        f"{path} cannot be read as a Zarr store ({fault}): give the folder that run-corrdiff wrote"
    )


def _checked(ds: xr.Dataset, path: AnyPath, fields: bool = True) -> xr.Dataset:
    """`ds` with its lat and lon as coordinates, if it is a store of CorrDiff's output."""
    fault = _fault(ds, fields)
    if fault is not None:
        raise InputError(f"{path} is not a store of run-corrdiff: {fault}")
    for axis in {"time", "sample", LEAD, ENSEMBLE} & set(ds.dims):
        if axis in ds.variables and not _is_axis(read_values(ds[axis], axis)):
            raise DamageError(f"{axis} is lost, the store is damaged; {REPAIR}")
    return with_coordinates(ds)


def with_coordinates(ds: xr.Dataset) -> xr.Dataset:
    """A dataset with its latitudes and longitudes as coordinates."""
    return ds.set_coords([name + end for end in ("", COARSE) for name in ("lat", "lon") if name + end in ds])


def _fault(ds: xr.Dataset, fields: bool = True) -> str | None:
    """What distinguishes a dataset from a store of CorrDiff's output; None if it is one."""
    missing = {"time", "sample", "lat", "lon"} - set(ds.variables)
    if missing:
        return f"it has no {', '.join(sorted(missing))}"
    if ds["time"].dtype.kind != "M":
        return f"its times are {ds['time'].dtype}, not dates"
    if LEAD in ds.dims and ds[LEAD].dtype.kind != "m":
        return f"its lead times are {ds[LEAD].dtype}"
    if not fields or output_variables(ds):
        return None
    if ds.attrs.get("keep", "all") != "all":
        return f"it was made with --keep {ds.attrs['keep']} and has no members"
    return "it has no variable over time, sample, lat, lon"


def _is_axis(values: Any) -> bool:
    """True if all values differ: a lost chunk reads as Zarr's fill value."""
    return len(np.unique(values)) == len(values) and not (
        values.dtype.kind in "mM" and np.isnat(values).any()
    )


def horizontal_dims(ds: xr.Dataset, end: str = "") -> tuple[str, str]:
    """Names of the two dimensions of the fine grid or, with ``end="_lowres"``, of the coarse one."""
    lat, lon = ds["lat" + end], ds["lon" + end]
    names = lat.dims if lat.ndim == 2 else (lat.dims[0], lon.dims[0])
    return str(names[0]), str(names[1])


def grid_of(ds: xr.Dataset, end: str = "") -> Grid:
    """The fine grid or, with ``end="_lowres"``, the coarse one; `DamageError` where it cannot be read."""
    return Grid(read_axis(ds, "lat" + end), read_axis(ds, "lon" + end))


def _has_dims(ds: xr.Dataset, name: str, dims: set[str]) -> bool:
    """True if a variable is real with these dimensions, apart from those of forecasts and of length one."""
    array = ds[name]
    long = {str(dim) for dim in array.dims if array.sizes[dim] > 1} - {LEAD, ENSEMBLE}
    return array.dtype.kind == "f" and long <= dims <= {str(dim) for dim in array.dims}


def output_variables(ds: xr.Dataset) -> list[str]:
    """Fine variables ``(time[, lead_time][, ensemble], sample, y, x)``, in the store's order."""
    dims = {"time", "sample", *horizontal_dims(ds)}
    return [str(name) for name in ds.data_vars if _has_dims(ds, str(name), dims)]


def coarse_variables(ds: xr.Dataset) -> list[str]:
    """Variables of the coarse input, without their ``_lowres``."""
    if "lat" + COARSE not in ds or "lon" + COARSE not in ds:
        return []
    dims = {"time", *horizontal_dims(ds, COARSE)}
    names = [str(name) for name in ds.data_vars]
    return [n.removesuffix(COARSE) for n in names if n.endswith(COARSE) and _has_dims(ds, n, dims)]


def cases(ds: xr.Dataset) -> Cases:
    """Times of analyses, or starts and lead times of forecasts, without the coarse members."""
    times = ds["time"].to_numpy().astype("datetime64[ns]")
    leads = ds[LEAD].to_numpy().astype("timedelta64[ns]") if LEAD in ds.dims else None
    return Cases(times, leads)


def at_lead(ds: xr.Dataset, number: int) -> xr.Dataset:
    """One lead time of a store of forecasts, by its position: like a store of analyses at its valid times."""
    lead = ds[LEAD].to_numpy()[number]
    one = ds.isel(lead_time=number, drop=True).drop_vars("valid_time", errors="ignore")
    return one.assign_coords(time=one["time"] + lead)


def time_index(ds: xr.Dataset, time: Time) -> int:
    """Position in `cases` of a time; of several forecasts for one valid time that of the latest start.

    Raises
    ------
    InputError
        If the store has no such time
    """
    every = cases(ds)
    if isinstance(time, int | np.integer):
        found = [int(time)] if 0 <= time < len(every) else []
    elif isinstance(time, Case):
        found = [i for i, case in enumerate(every) if (case.time, case.lead) == (time.time, time.lead)]
    else:
        valid = np.flatnonzero(every.valid_times.ravel() == to_times(time)[0]).tolist()
        found = sorted(valid, key=lambda i: every[i].time)
    if not found:
        texts = [str(case) for case in every]
        ends = f"{texts[0]} to {texts[-1]} ({len(texts)} in all)" if len(texts) > 6 else ", ".join(texts)
        raise InputError(f"the store has no time {time}: it has {ends or 'none'}")
    return int(found[-1])


def time_label(time: np.datetime64) -> str:
    """``2024-07-24T1200``, as in file names; seconds only where they are not zero."""
    return time_text(time).replace(":", "")


def case_label(case: Case) -> str:
    """The time as in file names; for forecasts start and lead time like ``2024-07-24T0000+006h``."""
    if case.lead is None:
        return time_label(case.time)
    minutes = int(case.lead / np.timedelta64(1, "m"))
    rest = f"{minutes % 60:02d}" if minutes % 60 else ""
    return f"{time_label(case.time)}+{minutes // 60:03d}h{rest}"


def field(ds: xr.Dataset, name: str, time: int, sample: int | None = None, coarse: int = 0) -> Array:
    """One field ``[H, W]`` in the store's units, NaN where it is not written.

    Parameters
    ----------
    ds : xr.Dataset
        From `open_store`
    name : str
        Variable of the store
    time : int
        Position in `cases`
    sample : int | None, optional
        Number of a member; None for the coarse input
    coarse : int, optional
        Position of the coarse member, for the coarse input

    Raises
    ------
    DamageError
        If it cannot be read, or is lost though its member is complete
    """
    where = _case_position(ds, time)
    where |= {ENSEMBLE: coarse} if sample is None else _member_position(ds, sample)
    values = _field(ds, name, where)
    if not np.isfinite(values).any() and _is_lost(ds, name, where):
        what = "the input" if sample is None else f"sample {sample}"
        raise DamageError(f"{name} of {what} at {cases(ds)[time]} is lost, the store is damaged; {REPAIR}")
    return values


def _field(ds: xr.Dataset, name: str, where: dict[str, int]) -> Array:
    """The field at a position along the leading axes, unchecked."""
    array = ds[name].isel(where, missing_dims="ignore")
    y, x = horizontal_dims(ds, COARSE if name.endswith(COARSE) else "")
    array = array.squeeze([dim for dim in array.dims if dim not in (y, x)]).transpose(y, x)
    return np.asarray(read_values(array, name), dtype=np.float64)


def _is_lost(ds: xr.Dataset, name: str, where: dict[str, int]) -> bool:
    """True if a field without any number was written, by its member's seed: a chunk is one field."""
    if SEED not in ds or name in OPTIONAL:
        return False
    if not (read_values(ds[SEED].isel(where, missing_dims="ignore"), SEED) != UNWRITTEN).any():
        return False
    if name.endswith(COARSE):
        return True
    others = (other for other in output_variables(ds) if other != name)
    return any(np.isfinite(_field(ds, other, where)).any() for other in others)


def read_axis(ds: xr.Dataset, name: str) -> Any:
    """Latitudes or longitudes of a store; `DamageError` where they cannot be read, or are lost."""
    values = read_values(ds[name], name)
    along = 0 if name.startswith("lat") or values.ndim == 1 else 1
    if values.shape[along] > 1 and values.min() == values.max():  # Zarr's fill value
        raise DamageError(f"{name} is lost, the store is damaged; {REPAIR}")
    return values


def read_values(array: xr.DataArray, name: str) -> Any:
    """The values of an array of a store; `DamageError` where they cannot be read."""
    try:
        return array.values
    except Exception as error:  # codecs and stores have no common class for damage
        check_reached(error)
        raise DamageError(
            f"{name} cannot be read, the store is damaged ({first_line(error)}); {REPAIR}"
        ) from error


def _case_position(ds: xr.Dataset, index: int) -> dict[str, int]:
    """Position of a case along the axes."""
    every = cases(ds)
    return dict(zip(every.axes, every.index(index), strict=True))


def _member_position(ds: xr.Dataset, number: int) -> dict[str, int]:
    """Position of a member along the axes."""
    if ENSEMBLE not in ds.dims:
        return {"sample": ds["sample"].values.tolist().index(number)}
    coarse, sample = divmod(number, ds.sizes["sample"])
    return {ENSEMBLE: coarse, "sample": sample}


def sample_numbers(ds: xr.Dataset) -> list[int]:
    """Numbers of all members, written or not; those of coarse members are numbered through."""
    if ENSEMBLE in ds.dims:
        return list(range(ds.sizes[ENSEMBLE] * ds.sizes["sample"]))
    return [int(number) for number in ds["sample"].values]


def coarse_numbers(ds: xr.Dataset) -> list[int] | None:
    """Numbers of the coarse members; None where there is one coarse input without a number."""
    return [int(number) for number in ds[ENSEMBLE].values] if ENSEMBLE in ds.dims else None


def coarse_count(ds: xr.Dataset) -> int:
    """Number of coarse inputs of a time: 1 without coarse members."""
    return int(ds.sizes.get(ENSEMBLE, 1))


def member_names(ds: xr.Dataset, number: int) -> tuple[int | None, int]:
    """Coarse member (None where there is one coarse input) and sample of a member's number."""
    where = _member_position(ds, number)
    coarse = coarse_numbers(ds)
    return None if coarse is None else coarse[where[ENSEMBLE]], int(ds["sample"].values[where["sample"]])


def member_text(ds: xr.Dataset, number: int) -> str:
    """``member 2``, or ``member 2 of coarse member 1``."""
    coarse, sample = member_names(ds, number)
    return f"member {sample}" + ("" if coarse is None else f" of coarse member {coarse}")


def member_seed(ds: xr.Dataset, index: int, number: int) -> int | None:
    """Seed of a member at a time (a position), ``UNWRITTEN`` if it is not complete; None of other stores."""
    if SEED not in ds:
        return None
    where = _case_position(ds, index) | _member_position(ds, number)
    return int(read_values(ds[SEED].isel(where), SEED))


def is_written(ds: xr.Dataset, index: int, sample: int) -> bool:
    """True if a member is complete at a time (a position): it has a seed and is not all NaN."""
    if member_seed(ds, index, sample) == UNWRITTEN:
        return False
    return all(np.isfinite(field(ds, name, index, sample)).any() for name in output_variables(ds))


def written_members(ds: xr.Dataset, time: Time = 0) -> list[int]:
    """Numbers of the members that are complete at a time."""
    index = time_index(ds, time)
    return [sample for sample in sample_numbers(ds) if is_written(ds, index, sample)]


def checked_samples(ds: xr.Dataset, samples: Iterable[int] | None = None) -> list[int]:
    """`samples` (all, if ``None``); `InputError` if the store has no such member."""
    known = sample_numbers(ds)
    wanted = known if samples is None else list(samples)
    for sample in wanted:
        if sample not in known:
            raise InputError(
                f"the store has no sample {sample}: it has {', '.join(map(str, known)) or 'none'}"
            )
    return wanted


def require_members(ds: xr.Dataset, index: int, samples: Iterable[int] | None = None) -> list[int]:
    """The complete ones of `samples` (of all, if ``None``) at a time (a position).

    Raises
    ------
    InputError
        If the store has no such member, or none is complete
    """
    wanted = checked_samples(ds, samples)
    found = [sample for sample in wanted if is_written(ds, index, sample)]
    if not found:
        which = "sample " + ", ".join(map(str, wanted)) if samples is not None else "sample"
        when = cases(ds)[index]
        raise InputError(f"no {which} has been written at {when}: finish the run with run-corrdiff --resume")
    return found
