# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Where the coarse weather comes from: named data sources, and the checks that they can serve.

    source = make_source("gfs")                      # or arco, ncar, wb2, cds, demo, gfs:DIR, file:PATH
    source.check_times(times)                        # before anything heavy
    source.check_variables(variables)
    x, coords = fetch(source, times, variables, lat, lon)
    check_input(x, variables, source.name)

Forecasts have a lead time and maybe coarse members; each case is a source of its own:

    source = make_forecast("gefs_fx", "0-4")         # or gfs_fx, ifs_fx, ifs_ens_fx, demo_fx, file:PATH, …
    cases = source.cases(times, "0/48/6h")
    x, coords = fetch(source.at(cases[0]), cases[0].time, variables, lat, lon)

Every refusal is an ``InputError`` of one sentence. Importing this package costs next to nothing:
Earth2Studio, xarray and PyTorch are imported when a source first works.
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
