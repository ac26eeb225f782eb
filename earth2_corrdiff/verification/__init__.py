# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Is the ensemble any good? Scores against a truth, with baselines and confidence intervals.

    result = verify("out.zarr", truth="truth.zarr")           # or truth="demo", "arco", "file:PATH", …
    result.score("crps", "ensemble", result.targets[0])       # value, low, high

=============================  ================================================================
`from_store`, `comparison`     a store with its baselines; forecasts and a truth, time after time
`forecasts`                    what is compared: a store, drawn members, regression, interpolation
`truth`, `truth_file`          with what: a file, the demo, a data source
`targets`, `scoring`           quantities and events; all statistics of one quantity at one time
`pointwise`, `spectrum`        CRPS and ranks; radially averaged spectra
`fractions`, `distribution`    fractions skill score; histograms of a stream
`scores`, `bootstrap`          functions of means over times; intervals
`result`                       both together
`metrics`                      the estimators in the shape of ``earth2studio.statistics``
`tables`, `files`, `dataset`   text; CSV; Zarr
`figures`, `words`, `report`   the HTML report
`acceptance`                   criteria that a model has to meet, with their numbers
`solvers`, `advice`            settings of the sampler, measured and compared
=============================  ================================================================
"""

from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.comparison import Settings, Verification
from earth2_corrdiff.verification.from_store import VerificationByLead, open_verification, verify
from earth2_corrdiff.verification.result import Estimate, Result

__all__ = [
    "Bootstrap",
    "Estimate",
    "Result",
    "Settings",
    "Verification",
    "VerificationByLead",
    "open_verification",
    "verify",
]
