# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecasts of the demo's synthetic weather, to try lead times and coarse members without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from earth2_corrdiff.base.times import to_leads, to_times

from .weather import DemoWeather

MEMBERS = 31
"""Coarse members, the control included: as many as GEFS has."""
DRIFT = 0.02
"""How much faster, of the lead time, the weather of member 1 moves than the demo's; slower for member 2."""


class DemoForecast:
    """The demo's weather at the valid time; the coarse members are ahead of it or lag behind.

    Member 0, the control, is a perfect forecast. The others get the speed of the weather wrong, to either
    side in turn, so that they spread with the lead time. They are synthetic.

    Parameters
    ----------
    member : int
        Number of the coarse member, from 0
    """

    synthetic = True

    def __init__(self, member: int = 0) -> None:
        self._weather = DemoWeather()
        self._drift = DRIFT * ((member + 1) // 2) * (1 if member % 2 else -1)

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        """Forecast fields, in Earth2Studio's protocol: ``DataArray(time, lead_time, variable, lat, lon)``."""
        times, leads = to_times(time), to_leads(lead_time)
        minutes = np.round(leads / np.timedelta64(1, "m") * (1 + self._drift)).astype(int)
        fields = [self._weather(times + np.timedelta64(shift, "m"), variable) for shift in minutes.tolist()]
        fields = [field.assign_coords(time=times) for field in fields]
        return (
            xr.concat(fields, "lead_time").assign_coords(lead_time=leads).transpose("time", "lead_time", ...)
        )
