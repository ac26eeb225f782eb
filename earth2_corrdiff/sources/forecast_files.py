# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecasts from a file: one variable per Earth2Studio name over time, lead time, maybe coarse members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.sources.files import is_grib, open_data, standard
from earth2_corrdiff.times import Leads, Times, to_leads, to_times

ALIASES = {
    **{"step": "lead_time", "prediction_timedelta": "lead_time"},
    **{"number": "ensemble", "member": "ensemble", "realization": "ensemble"},
}


class ForecastFile:
    """A NetCDF or Zarr with the dimensions time, lead_time, lat, lon, and maybe ensemble.

    Parameters
    ----------
    path : Path
        The file

    Raises
    ------
    InputError
        If it cannot be opened, or is not laid out so
    """

    times: Times
    leads: Leads
    coarse: tuple[int, ...] | None
    variables: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        if path.is_file() and is_grib(path):
            raise InputError(f"the GRIB file {path} is read by valid time; leave out --lead")
        data = open_data(path)
        new = {old: name for old, name in ALIASES.items() if old in data.variables and name not in data}
        data = standard(data.rename(new), path, also=("lead_time", "ensemble"))
        for axis, kind in (("time", "M"), ("lead_time", "m")):
            if axis not in data.coords or data[axis].dtype.kind != kind:
                raise InputError(f"{path} holds no forecasts: it needs the coordinates time and lead_time")
        data = data.expand_dims([axis for axis in ("time", "lead_time") if axis not in data.dims])
        self._path, self._data = path, data
        self.times = data["time"].to_numpy().astype("datetime64[ns]")
        self.leads = data["lead_time"].to_numpy().astype("timedelta64[ns]")
        self.coarse = tuple(map(int, data["ensemble"].to_numpy())) if "ensemble" in data.dims else None
        self.variables = tuple(map(str, data.data_vars))

    def member(self, coarse: int | None) -> _Member:
        """The forecasts of one coarse member, or of all there is (None)."""
        if coarse is None:
            if self.coarse is not None and len(self.coarse) > 1:
                has = f"{self._path} has the coarse members {self.coarse[0]} to {self.coarse[-1]}"
                raise InputError(f"{has}; say which, as --coarse-members 0-4")
            return _Member(self._data.squeeze("ensemble") if self.coarse is not None else self._data)
        return _Member(self._data.sel(ensemble=coarse))


class _Member:
    """Forecasts in Earth2Studio's protocol."""

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        names = [str(name) for name in np.atleast_1d(variable)]
        data = self._data[names].sel(time=to_times(time), lead_time=to_leads(lead_time))
        return data.to_dataarray("variable").transpose("time", "lead_time", "variable", "lat", "lon").load()
