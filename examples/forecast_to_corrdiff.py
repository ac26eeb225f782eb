# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A forecast model of Earth2Studio with CorrDiff behind it, in Earth2Studio's own forecast loop.

``DiagnosticWrapper`` couples any prognostic model that forecasts CorrDiff's inputs. Here it is the simplest
one, persistence, on the embedded demo: synthetic weather, no network, no GPU. With a real model, say
``FCN3.load_model(...)``, only ``forecast_model`` and the source change.

    python examples/forecast_to_corrdiff.py 2024-07-24T12:00
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import xarray as xr
from earth2studio import run
from earth2studio.io import ZarrBackend
from earth2studio.models.px import DiagnosticWrapper, Persistence

from earth2_corrdiff import CorrDiff, demo

STEPS = 2  # of six hours


def forecast_model(corrdiff: CorrDiff) -> Persistence:
    """Tomorrow's weather is today's: a forecast of CorrDiff's inputs on CorrDiff's coarse grid."""
    wanted = corrdiff.input_coords()
    domain = OrderedDict(lat=wanted["lat"], lon=wanted["lon"])
    return Persistence(list(wanted["variable"]), domain)


def main(time: str = "2024-07-24T12:00", output: str = "outputs/forecast.zarr", members: int = 2) -> None:
    """Forecast twelve hours, downscale every lead time into an ensemble, and compare with the truth."""
    source = demo.DemoWeather()
    corrdiff = CorrDiff.load_model(demo.package())
    corrdiff.number_of_samples = members
    corrdiff.seed = 0

    # The wrapper is a prognostic model itself: each step forecasts, then downscales.
    coupled = DiagnosticWrapper(forecast_model(corrdiff), corrdiff)

    Path(output).parent.mkdir(parents=True, exist_ok=True)
    io = ZarrBackend(output, chunks={"lead_time": 1, "sample": 1}, backend_kwargs={"overwrite": True})
    run.deterministic([time], STEPS, coupled, source, io, verbose=False)

    ds = xr.open_zarr(output, consolidated=False)
    print(f"wrote {output}: t2m {dict(ds.t2m.sizes)}")
    for lead in ds.lead_time.values:
        truth = source.truth(np.datetime64(time) + lead, "t2m").values[0, 0]
        error = abs(ds.t2m.sel(lead_time=lead).isel(time=0).mean("sample").values - truth).mean()
        print(f"+{lead / np.timedelta64(1, 'h'):2.0f} h: mean absolute error of t2m {error:.2f} K")


if __name__ == "__main__":
    main(*sys.argv[1:3])
