# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a store for plotting: which members are there, on which mesh, and their fields.

Dimension names: T times, M members, H x W the fine (or, for ``*_lowres``, the coarse) mesh.
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

from earth2_corrdiff.errors import DamageError, InputError, first_line
from earth2_corrdiff.times import TimeLike, time_text, to_times

Array = NDArray[np.float64]

COARSE = "_lowres"
SEEDS, UNWRITTEN = "member_seed", -1
"""Seed of each member, written last; and what it is where the member is not complete."""
OPTIONAL = ("refc_lowres",)
"""Coarse input that a source may lack at some times, since the model does not take it."""
MEND = "the run's command with --resume --check computes it again"


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
        Where there is no such folder, it is no Zarr, or no output of CorrDiff is in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no store {path}: give the folder that run-corrdiff wrote")
    if not any((path / marker).is_file() for marker in ("zarr.json", ".zgroup")):
        raise InputError(f"{path} is not a Zarr store: give the folder that run-corrdiff wrote")
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
            f"{path} cannot be read as a Zarr store, it is damaged ({first_line(error)}); {MEND}"
        ) from error


def _checked(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """`ds` with its lat and lon as coordinates, if it is a store of CorrDiff's output."""
    missing = {"time", "sample", "lat", "lon"} - set(ds.variables)
    if missing:
        raise InputError(f"{path} is no store of run-corrdiff: it has no {', '.join(sorted(missing))}")
    if ds["time"].dtype.kind != "M":
        raise InputError(f"{path} is no store of run-corrdiff: its times are {ds['time'].dtype}, not dates")
    for axis in {"time", "sample", "lead_time", "ensemble"} & set(ds.dims):
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
    """Whether a variable is real and has exactly these dimensions, others of length one aside."""
    array = ds[name]
    long = {str(dim) for dim in array.dims if array.sizes[dim] > 1}
    return array.dtype.kind == "f" and long <= dims <= {str(dim) for dim in array.dims}


def output_variables(ds: xr.Dataset) -> list[str]:
    """Fine variables ``(time, sample, y, x)``, in the store's order."""
    dims = {"time", "sample", *horizontal_dims(ds)}
    return [str(name) for name in ds.data_vars if _spans(ds, str(name), dims)]


def coarse_variables(ds: xr.Dataset) -> list[str]:
    """Variables of the coarse input, without their ``_lowres``."""
    if "lat" + COARSE not in ds or "lon" + COARSE not in ds:
        return []
    dims = {"time", *horizontal_dims(ds, COARSE)}
    names = [str(name) for name in ds.data_vars]
    return [n.removesuffix(COARSE) for n in names if n.endswith(COARSE) and _spans(ds, n, dims)]


def time_index(ds: xr.Dataset, time: int | TimeLike) -> int:
    """Position of a time that is given by its position or its value (UTC).

    Raises
    ------
    InputError
        Where the store has no such time.
    """
    times = ds["time"].values
    if isinstance(time, int | np.integer):
        found = [int(time)] if 0 <= time < len(times) else []
    else:
        found = np.flatnonzero(times == to_times(time)[0]).tolist()
    if not found:
        has = ", ".join(map(time_text, times)) or "none"
        raise InputError(f"the store has no time {time}: it has {has}")
    return int(found[0])


def time_label(time: np.datetime64) -> str:
    """``2024-07-24T1200``, as in file names; seconds only where they are not zero."""
    return time_text(time).replace(":", "")


def field(ds: xr.Dataset, name: str, time: int, sample: int | None = None) -> Array:
    """One field ``[H, W]`` in the store's units, NaN where unwritten.

    `time` is a position, `sample` a member's number (``None`` for the coarse input). `DamageError`
    where it cannot be read, or is lost though the rest of what is complete is there.
    """
    values = _field(ds, name, time, sample)
    if not np.isfinite(values).any() and _is_lost(ds, name, time, sample):
        what, when = "the input" if sample is None else f"sample {sample}", time_text(ds["time"].values[time])
        raise DamageError(f"{name} of {what} at {when} is lost, the store is damaged; {MEND}")
    return values


def _field(ds: xr.Dataset, name: str, time: int, sample: int | None) -> Array:
    """The field as it is."""
    end = COARSE if name.endswith(COARSE) else ""
    array = ds[name].isel(time=time)
    if sample is not None:
        array = array.isel(sample=sample_numbers(ds).index(sample))
    y, x = horizontal_dims(ds, end)
    array = array.squeeze([dim for dim in array.dims if dim not in (y, x)]).transpose(y, x)
    return np.asarray(read_values(array, name), dtype=np.float64)


def _is_lost(ds: xr.Dataset, name: str, time: int, sample: int | None) -> bool:
    """Whether the store's record says that a field without any number was written: a chunk is one field."""
    if SEEDS not in ds or name in OPTIONAL:
        return False
    seeds = ds[SEEDS].isel(time=time)
    if sample is not None:
        seeds = seeds.isel(sample=sample_numbers(ds).index(sample))
    if not (read_values(seeds, SEEDS) != UNWRITTEN).any():
        return False
    if sample is None:
        return True
    others = (other for other in output_variables(ds) if other != name)
    return any(np.isfinite(_field(ds, other, time, sample)).any() for other in others)


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


def sample_numbers(ds: xr.Dataset) -> list[int]:
    """The members that the store has room for, written or not."""
    return [int(number) for number in ds["sample"].values]


def is_written(ds: xr.Dataset, index: int, sample: int) -> bool:
    """Whether no variable of a member is all NaN at a time (a position)."""
    return all(np.isfinite(field(ds, name, index, sample)).any() for name in output_variables(ds))


def written_members(ds: xr.Dataset, time: int | TimeLike = 0) -> list[int]:
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
        when = time_text(ds["time"].values[index])
        raise InputError(f"no {which} has been written at {when}: finish the run with run-corrdiff --resume")
    return found
