# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""How good the demo model is on storms that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.cli.demo_recipe import INPUTS, OUTPUTS
from earth2_corrdiff.demo import DemoWeather
from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.times import to_times
from earth2_corrdiff.verification import Bootstrap, Result, Settings, Verification
from earth2_corrdiff.verification.forecasts import (
    COARSE_TWINS,
    Climatology,
    Drawn,
    Forecast,
    Interpolation,
    Regression,
)
from earth2_corrdiff.verification.scoring import Domain
from earth2_corrdiff.verification.truth import open_truth

CELLS = {
    "no skill: RMSE": ("rmse", "climatology"),
    "interpolation: RMSE": ("rmse", "interpolation"),
    "regression: RMSE": ("rmse", "regression"),
    "ensemble mean: RMSE": ("rmse", "ensemble"),
    "interpolation: MAE": ("mae", "interpolation"),
    "ensemble: fair CRPS": ("crps", "ensemble"),
    "spread / skill": ("spread_skill", "ensemble"),
}
SCORES = tuple(CELLS)


def evaluate(model: Downscaler, times: Sequence[np.datetime64], members: int) -> str:
    """Scores of interpolation, regression and ensemble as a Markdown table.

    Parameters
    ----------
    model : Downscaler
        The demo model
    times : Sequence[np.datetime64]
        Valid times to score
    members : int
        Members per time, two or more

    Notes
    -----
    "No skill" is the mean of the training set. The interpolated reflectivity is that of the coarse
    source (``refc``), which the model is not given.
    """
    result = _verified(model, times, members)
    lines = ["| | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for target in result.targets:
        if not target.derived:
            values = [result.score(score, forecast, target).value for score, forecast in CELLS.values()]
            lines.append(f"| `{target.name}` | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def _verified(model: Downscaler, times: Sequence[np.datetime64], members: int) -> Result:
    weather = DemoWeather()

    def coarse(time: np.datetime64) -> Tensor:
        return torch.from_numpy(weather(time, list(INPUTS)).to_numpy()[0])

    def read(time: np.datetime64, name: str) -> Tensor:
        return torch.from_numpy(weather(time, name).to_numpy()[0, 0])

    twins = {name: COARSE_TWINS.get(name, name) for name in OUTPUTS}
    forecasts: list[Forecast] = [
        Drawn(model, coarse, members),
        Regression(model, coarse),
        Interpolation(read, twins, model.regrid),
        Climatology(model),
    ]
    grid, settings = model.spec.output_grid, Settings(bootstrap=Bootstrap(0))
    truth = open_truth("demo", grid)
    verification = Verification(forecasts, truth, to_times(times), Domain.of(grid), settings)
    for _ in verification:
        pass
    return verification.result()
