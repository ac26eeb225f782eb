# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of forecasts: the demo's weather as forecasts of several members, in memory and in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from run_kit import NAMES, Weather

from earth2_corrdiff.base.times import to_leads, to_times

TIMES = ("2024-07-24T00", "2024-07-24T06")
LEADS = "0/12/6h"
HOUR = np.timedelta64(1, "h")


class Forecasts:
    """Somebody's own forecast source: the demo's weather at the valid time, warmer by a degree per member.

    Parameters
    ----------
    member : int
        Number of the member
    spoil : Callable, optional
        Changes the fields of a time and lead time (hours) before they are handed out
    """

    def __init__(self, member: int = 0, spoil: Callable[[xr.DataArray, str, int], Any] | None = None) -> None:
        self.member, self.spoil, self.asked = member, spoil, []

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        (reference,), (lead,) = to_times(np.atleast_1d(time)), to_leads(lead_time)
        self.asked.append((reference, lead))
        array = Weather()(np.array([reference + lead]), variable).assign_coords(time=[reference])
        if "t2m" in array["variable"]:
            array.loc[{"variable": "t2m"}] += self.member
        if self.spoil is not None:
            self.spoil(array, str(reference)[:13], int(lead / HOUR))
        return array.expand_dims(lead_time=[lead], axis=1)


def forecast_dataset(members: tuple[int, ...] | None = None, leads: str = LEADS) -> xr.Dataset:
    """All of it as one dataset over time, lead_time, maybe ensemble, lat, lon."""
    reference, hours = to_times(TIMES), to_leads(leads)
    arrays = [
        xr.concat(
            [
                xr.concat([Forecasts(m)([time], [lead], list(NAMES)) for lead in hours], "lead_time")
                for time in reference
            ],
            "time",
        )
        for m in members or (0,)
    ]
    array = arrays[0] if members is None else xr.concat(arrays, xr.DataArray(list(members), dims="ensemble"))
    data = array.to_dataset("variable")
    return data if members is None else data.assign_coords(ensemble=list(members))


def forecast_file(path: Path, members: tuple[int, ...] | None = None) -> Path:
    """The dataset as a NetCDF."""
    forecast_dataset(members).to_netcdf(path)
    return path
