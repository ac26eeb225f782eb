# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of coarse weather: named data sources of analyses and forecasts, and checks of their fields.

    source = make_source("gfs")                      # or arco, ncar, wb2, cds, demo, gfs:DIR, file:PATH
    source.check_times(times)                        # before anything heavy
    source.check_variables(variables)
    x, coords = fetch(source, times, variables, lat, lon)
    check_input(x, variables, source.name)

Forecasts have a lead time and maybe coarse members; each case has a source:

    source = make_forecast("gefs_fx", "0-4")         # or gfs_fx, ifs_fx, ifs_ens_fx, demo_fx, file:PATH, …
    cases = source.cases(times, "0/48/6h")
    x, coords = fetch(source.at(cases[0]), cases[0].time, variables, lat, lon)

Every refusal is an ``InputError`` of one sentence. Earth2Studio, xarray and PyTorch are imported when a
source is first used, not with this package.
"""

from __future__ import annotations

from earth2_corrdiff.sources.checks import check_input
from earth2_corrdiff.sources.cutout import cut_out
from earth2_corrdiff.sources.fetch import fetch
from earth2_corrdiff.sources.forecasts import Forecast
from earth2_corrdiff.sources.inputs import Inputs
from earth2_corrdiff.sources.names import parse_rename
from earth2_corrdiff.sources.registry import NAMES, as_source, make_forecast, make_source
from earth2_corrdiff.sources.source import Source

__all__ = [
    "NAMES",
    "Forecast",
    "Inputs",
    "Source",
    "as_source",
    "check_input",
    "cut_out",
    "fetch",
    "make_forecast",
    "make_source",
    "parse_rename",
]
