# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of an ensemble against a truth, with baselines and confidence intervals.

    result = verify("out.zarr", truth="truth.zarr")           # or truth="demo", "arco", "file:PATH", …
    result.score("crps", "ensemble", result.targets[0])       # value, low, high

=================================  ============================================================
`from_store`, `comparison`         a store with its baselines; forecasts against a truth
`forecasts`                        a store's ensemble, regression, interpolation, climatology
`baselines`                        what is fitted on training pairs: climatology, ridge regression, noise
`nearest`                          members against their nearest training field
`truth`                            the truth: a file, the demo, a data source
`calibration_runs`, `…_fit`        a correction of members, fitted on stores and their truth
`stations`, `reports`              scores at weather stations, and what these report
`targets`, `case_statistics`       quantities and events; statistics of a quantity at one time
`pointwise`, `spectrum`            CRPS and ranks; radially averaged spectra
`fractions`, `distribution`        fractions skill score; histograms of a stream
`scores`, `bootstrap`, `result`    functions of means over times; their intervals; both together
`tables`, `files`                  text; CSV and Zarr
`figures`, `captions`, `report`    the HTML report
=================================  ============================================================
"""

from earth2_corrdiff.verification.baselines import Training
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.comparison import Settings, Verification
from earth2_corrdiff.verification.from_store import (
    VerificationByLead,
    nearest_in_training,
    open_verification,
    verify,
    verify_at_stations,
)
from earth2_corrdiff.verification.result import Estimate, Result

__all__ = [
    "Bootstrap",
    "Estimate",
    "Result",
    "Settings",
    "Training",
    "Verification",
    "VerificationByLead",
    "nearest_in_training",
    "open_verification",
    "verify",
    "verify_at_stations",
]
