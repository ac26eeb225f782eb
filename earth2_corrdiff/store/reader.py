# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a store for plotting: which members are there, on which mesh, and their fields.

Dimension names: T times, M members, H x W the fine (or, for ``*_lowres``, the coarse) mesh.

A store of forecasts has further axes: ``lead_time``, and ``ensemble`` for coarse members. Its times are here
the pairs of start and lead time (`cases`), numbered with the lead times fastest; the members of all coarse
members are numbered through, those of the first coarse member first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.errors import DamageError, InputError, first_line
from earth2_corrdiff.base.times import TimeLike, time_text, to_times
from earth2_corrdiff.base.zarr_members import check_codecs
from earth2_corrdiff.store.paths import is_headless, metadata_fault, recorded

Array = NDArray[np.float64]

COARSE = "_lowres"
LEAD, ENSEMBLE = "lead_time", "ensemble"
SEEDS, UNWRITTEN = "member_seed", -1
"""Seed of each member, written last; and what it is where the member is not complete."""
OPTIONAL = ("refc_lowres",)
"""Coarse input that a source may lack at some times, since the model does not take it."""
MEND = "the run's command with --resume --check computes it again"
"""What helps where fields or coordinates are damaged."""
REMAKE = "the run's command with --overwrite makes it anew"
"""What helps where metadata are damaged: the fields cannot be told without them."""
Time = int | TimeLike | Case
"""A position in `cases`, a valid time (UTC), or a case of `cases`."""


@dataclass(frozen=True)
class Mesh:
    """Cell centres in degrees, both ``[H, W]``; longitudes are unwrapped, so they never jump."""

    lat: Array
    lon: Array


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store that ``run-corrdiff`` wrote, lazily.

    Raises
    ------
    InputError
        Where there is no such folder, it is no Zarr, no output of CorrDiff is in it, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no store {path}: give the folder that run-corrdiff wrote")
    if not is_headless(path) and not any((path / marker).is_file() for marker in ("zarr.json", ".zgroup")):
        raise InputError(f"{path} is not a Zarr store: give the folder that run-corrdiff wrote")
    _check_metadata(path)
    check_codecs(path)
    try:
        with warnings.catch_warnings():  # a store without consolidated metadata is read all the same
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
            ds = xr.open_zarr(path, chunks=None)
        return _checked(ds, path)
    except InputError:
        raise
    except Exception as error:  # codecs and stores have no class in common for what is damaged
        raise DamageError(
            f"{path} cannot be read as a Zarr store, it is damaged ({first_line(error)}); {MEND}, or with "
            "--overwrite everything"
        ) from error


def _check_metadata(path: Path) -> None:
    """Refuse a store whose metadata are damaged, though Zarr's copy of them may do for reading."""
    fault = None if (path / ".zgroup").is_file() else metadata_fault(path)
    if fault is None:
        return
    if is_headless(path) or recorded(path) is not None:
        raise DamageError(f"the store {path} is damaged ({fault}); {REMAKE}")
    raise InputError(
        f"{path} cannot be read as a Zarr store ({fault}): give the folder that run-corrdiff wrote"
    )


def _checked(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """`ds` with its lat and lon as coordinates, if it is a store of CorrDiff's output."""
    missing = {"time", "sample", "lat", "lon"} - set(ds.variables)
    if missing:
        raise InputError(f"{path} is no store of run-corrdiff: it has no {', '.join(sorted(missing))}")
    if ds["time"].dtype.kind != "M":
        raise InputError(f"{path} is no store of run-corrdiff: its times are {ds['time'].dtype}, not dates")
    if LEAD in ds.dims and ds[LEAD].dtype.kind != "m":
        raise InputError(f"{path} is no store of run-corrdiff: its lead times are {ds[LEAD].dtype}")
    for axis in {"time", "sample", LEAD, ENSEMBLE} & set(ds.dims):
        if axis in ds.variables and not _is_axis(read_values(ds[axis], axis)):
            raise DamageError(f"{axis} is lost, the store is damaged; {MEND}")
    grids = [name + end for end in ("", COARSE) for name in ("lat", "lon") if name + end in ds]
    ds = ds.set_coords(grids)
    if not output_variables(ds):
        raise InputError(
            f"{path} is no store of run-corrdiff: it has no variable over time, sample, lat, lon"
        )
    return ds


def _is_axis(values: Any) -> bool:
    """Whether each value is there, once: what is lost reads as Zarr's fill value."""
    return len(np.unique(values)) == len(values) and not (
        values.dtype.kind in "mM" and np.isnat(values).any()
    )


def horizontal_dims(ds: xr.Dataset, end: str = "") -> tuple[str, str]:
    """Names of the mesh's two dimensions; ``end="_lowres"`` asks for the coarse mesh."""
    lat, lon = ds["lat" + end], ds["lon" + end]
    names = lat.dims if lat.ndim == 2 else (lat.dims[0], lon.dims[0])
    return str(names[0]), str(names[1])


def mesh(ds: xr.Dataset, end: str = "") -> Mesh:
    """Cell centres of the fine mesh or, with ``end="_lowres"``, of the coarse one."""
    lat, lon = (np.asarray(read_axis(ds, name + end), dtype=np.float64) for name in ("lat", "lon"))
    if lat.ndim == 1:
        lat, lon = np.broadcast_arrays(lat[:, None], lon[None, :])
    lon = np.unwrap(np.unwrap(lon, period=360.0, axis=1), period=360.0, axis=0)
    return Mesh(np.array(lat), lon)


def _spans(ds: xr.Dataset, name: str, dims: set[str]) -> bool:
    """Whether a variable is real and has these dimensions, those of forecasts and of length one aside."""
    array = ds[name]
    long = {str(dim) for dim in array.dims if array.sizes[dim] > 1} - {LEAD, ENSEMBLE}
    return array.dtype.kind == "f" and long <= dims <= {str(dim) for dim in array.dims}


def output_variables(ds: xr.Dataset) -> list[str]:
    """Fine variables ``(time[, lead_time][, ensemble], sample, y, x)``, in the store's order."""
    dims = {"time", "sample", *horizontal_dims(ds)}
    return [str(name) for name in ds.data_vars if _spans(ds, str(name), dims)]


def coarse_variables(ds: xr.Dataset) -> list[str]:
    """Variables of the coarse input, without their ``_lowres``."""
    if "lat" + COARSE not in ds or "lon" + COARSE not in ds:
        return []
    dims = {"time", *horizontal_dims(ds, COARSE)}
    names = [str(name) for name in ds.data_vars]
    return [n.removesuffix(COARSE) for n in names if n.endswith(COARSE) and _spans(ds, n, dims)]


def cases(ds: xr.Dataset) -> Cases:
    """Times of analyses, or starts and lead times of forecasts; coarse members are no part of them."""
    times = ds["time"].to_numpy().astype("datetime64[ns]")
    leads = ds[LEAD].to_numpy().astype("timedelta64[ns]") if LEAD in ds.dims else None
    return Cases(times, leads)


def time_index(ds: xr.Dataset, time: Time) -> int:
    """Position in `cases` of a time; of several forecasts for one valid time that of the latest start.

    Raises
    ------
    InputError
        Where the store has no such time.
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
        raise InputError(f"the store has no time {time}: it has {_listed(every)}")
    return int(found[-1])


def _listed(every: Cases) -> str:
    """All cases, of many the ends."""
    texts = [str(case) for case in every]
    if len(texts) > 6:
        return f"{texts[0]} to {texts[-1]} ({len(texts)} in all)"
    return ", ".join(texts) or "none"


def time_label(time: np.datetime64) -> str:
    """``2024-07-24T1200``, as in file names; seconds only where they are not zero."""
    return time_text(time).replace(":", "")


def case_label(case: Case) -> str:
    """As in file names: the time, for forecasts start and lead time like ``2024-07-24T0000+006h``."""
    if case.lead is None:
        return time_label(case.time)
    minutes = int(case.lead / np.timedelta64(1, "m"))
    rest = f"{minutes % 60:02d}" if minutes % 60 else ""
    return f"{time_label(case.time)}+{minutes // 60:03d}h{rest}"


def field(ds: xr.Dataset, name: str, time: int, sample: int | None = None, coarse: int = 0) -> Array:
    """One field ``[H, W]`` in the store's units, NaN where unwritten.

    `time` is a position, `sample` a member's number (``None`` for the coarse input, of which `coarse` is the
    position of the coarse member). `DamageError` where it cannot be read, or is lost though the rest of what
    is complete is there.
    """
    where = _time_place(ds, time) | ({ENSEMBLE: coarse} if sample is None else _member_place(ds, sample))
    values = _field(ds, name, where)
    if not np.isfinite(values).any() and _is_lost(ds, name, where):
        what = "the input" if sample is None else f"sample {sample}"
        raise DamageError(f"{name} of {what} at {cases(ds)[time]} is lost, the store is damaged; {MEND}")
    return values


def _field(ds: xr.Dataset, name: str, where: dict[str, int]) -> Array:
    """The field at a position along the axes, as it is."""
    array = ds[name]
    array = array.isel({dim: i for dim, i in where.items() if dim in array.dims})
    y, x = horizontal_dims(ds, COARSE if name.endswith(COARSE) else "")
    array = array.squeeze([dim for dim in array.dims if dim not in (y, x)]).transpose(y, x)
    return np.asarray(read_values(array, name), dtype=np.float64)


def _is_lost(ds: xr.Dataset, name: str, where: dict[str, int]) -> bool:
    """Whether the store's record says that a field without any number was written: a chunk is one field."""
    if SEEDS not in ds or name in OPTIONAL:
        return False
    seeds = ds[SEEDS].isel({dim: i for dim, i in where.items() if dim in ds[SEEDS].dims})
    if not (read_values(seeds, SEEDS) != UNWRITTEN).any():
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
        raise DamageError(f"{name} is lost, the store is damaged; {MEND}")
    return values


def read_values(array: xr.DataArray, name: str) -> Any:
    """The values of an array of a store; `DamageError` where they cannot be read."""
    try:
        return array.values
    except Exception as error:  # codecs and stores have no class in common for what is damaged
        raise DamageError(
            f"{name} cannot be read, the store is damaged ({first_line(error)}); {MEND}"
        ) from error


def _time_place(ds: xr.Dataset, index: int) -> dict[str, int]:
    """Position of a case along the axes."""
    every = cases(ds)
    return dict(zip(every.axes, every.index(index), strict=True))


def _member_place(ds: xr.Dataset, number: int) -> dict[str, int]:
    """Position of a member along the axes."""
    if ENSEMBLE not in ds.dims:
        return {"sample": ds["sample"].values.tolist().index(number)}
    coarse, sample = divmod(number, ds.sizes["sample"])
    return {ENSEMBLE: coarse, "sample": sample}


def sample_numbers(ds: xr.Dataset) -> list[int]:
    """The members that the store has room for, written or not; of coarse members numbered through."""
    if ENSEMBLE in ds.dims:
        return list(range(ds.sizes[ENSEMBLE] * ds.sizes["sample"]))
    return [int(number) for number in ds["sample"].values]


def coarse_numbers(ds: xr.Dataset) -> list[int] | None:
    """Numbers of the coarse members; None where there is but one coarse input."""
    return [int(number) for number in ds[ENSEMBLE].values] if ENSEMBLE in ds.dims else None


def member_names(ds: xr.Dataset, number: int) -> tuple[int | None, int]:
    """The coarse member (None where there is but one) and the sample that a member's number stands for."""
    place = _member_place(ds, number)
    coarse = coarse_numbers(ds)
    return None if coarse is None else coarse[place[ENSEMBLE]], int(ds["sample"].values[place["sample"]])


def member_text(ds: xr.Dataset, number: int) -> str:
    """``member 2``, or ``member 2 of coarse member 1``."""
    coarse, sample = member_names(ds, number)
    return f"member {sample}" + ("" if coarse is None else f" of coarse member {coarse}")


def member_seed(ds: xr.Dataset, index: int, number: int) -> int | None:
    """Seed of a member at a time (a position), ``UNWRITTEN`` where it is not there; None of other stores."""
    if "member_seed" not in ds:
        return None
    array = ds["member_seed"].isel(_time_place(ds, index) | _member_place(ds, number))
    return int(array.values)


def is_written(ds: xr.Dataset, index: int, sample: int) -> bool:
    """Whether a member is there at a time (a position): by the store's record, and not all NaN."""
    if member_seed(ds, index, sample) == UNWRITTEN:
        return False
    return all(np.isfinite(field(ds, name, index, sample)).any() for name in output_variables(ds))


def written_members(ds: xr.Dataset, time: Time = 0) -> list[int]:
    """Members that have been written completely at a time."""
    index = time_index(ds, time)
    return [sample for sample in sample_numbers(ds) if is_written(ds, index, sample)]


def checked_samples(ds: xr.Dataset, samples: Iterable[int] | None = None) -> list[int]:
    """`samples` (all, where ``None``), if the store has room for each of them; else `InputError`."""
    known = sample_numbers(ds)
    wanted = known if samples is None else list(samples)
    for sample in wanted:
        if sample not in known:
            raise InputError(
                f"the store has no sample {sample}: it has {', '.join(map(str, known)) or 'none'}"
            )
    return wanted


def require_members(ds: xr.Dataset, index: int, samples: Iterable[int] | None = None) -> list[int]:
    """The written ones of `samples` (of all, where ``None``) at a time (a position).

    Raises
    ------
    InputError
        Where a sample is none of the store's, or none has been written.
    """
    wanted = checked_samples(ds, samples)
    found = [sample for sample in wanted if is_written(ds, index, sample)]
    if not found:
        which = "sample " + ", ".join(map(str, wanted)) if samples is not None else "sample"
        when = cases(ds)[index]
        raise InputError(f"no {which} has been written at {when}: finish the run with run-corrdiff --resume")
    return found
