# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A store of forecasts as one over valid times and members, so that it is plotted like any other."""

from __future__ import annotations

import numpy as np
import xarray as xr


def over_valid_times(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with ``time`` for its valid times and ``sample`` for all members; as it is, of analyses.

    Of several forecasts for one valid time the latest is taken. The members of all coarse members are
    numbered through, those of the first one first; the coarse input is that of the first one.

    Parameters
    ----------
    ds : xr.Dataset
        Over (time, lead_time, sample) or (time, lead_time, ensemble, sample); stays lazy

    Returns
    -------
    xr.Dataset
        Over (time, sample)
    """
    if "lead_time" not in ds.dims:
        return ds
    valid = ds["time"].values[:, None] + ds["lead_time"].values
    latest = {
        valid[where]: where for where in np.ndindex(valid.shape)
    }  # rising reference times: the last wins
    times = sorted(latest)
    reference, lead = np.transpose([latest[time] for time in times])
    at = {"time": ("state", reference), "lead_time": ("state", lead)}
    flat = ds.isel({name: xr.DataArray(i, dims=dim) for name, (dim, i) in at.items()})
    flat = flat.drop_vars(["time", "lead_time", "valid_time"], errors="ignore").rename(state="time")
    flat = flat.assign_coords(time=np.array(times))
    return _all_members(flat) if "ensemble" in ds.dims else flat


def _all_members(ds: xr.Dataset) -> xr.Dataset:
    """Coarse members and members as one axis."""
    shape = ds.sizes["ensemble"], ds.sizes["sample"]
    coarse, member = np.unravel_index(np.arange(shape[0] * shape[1]), shape)
    at = {"ensemble": xr.DataArray(coarse, dims="member"), "sample": xr.DataArray(member, dims="member")}
    every = [name for name, array in ds.data_vars.items() if {"ensemble", "sample"} <= set(array.dims)]
    flat = ds[every].isel(at).drop_vars(["ensemble", "sample"]).rename(member="sample")
    others = ds.drop_vars([*every, "sample"]).isel(ensemble=0, drop=True)
    return others.assign(flat.assign_coords(sample=np.arange(len(member))).data_vars)
