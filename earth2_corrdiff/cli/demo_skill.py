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
from earth2_corrdiff.noise import member_seed

SCORES = (
    "no skill: RMSE",
    "interpolation: RMSE",
    "regression: RMSE",
    "ensemble mean: RMSE",
    "interpolation: MAE",
    "ensemble: fair CRPS",
    "spread / skill",
)


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
    sums = sum(_scores(model, time, members) for time in times)
    assert isinstance(sums, Tensor)  # noqa: S101
    scores = sums / len(times)
    scores[:, 0:4] = scores[:, 0:4].sqrt()
    lines = ["| | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for name, row in zip(OUTPUTS, scores.tolist(), strict=True):
        *errors, spread, error = row
        values = [*errors, (spread / error * (members + 1) / members) ** 0.5]
        lines.append(f"| `{name}` | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def _scores(model: Downscaler, time: np.datetime64, members: int) -> Tensor:
    """``[Co, 8]`` of one time: four squared errors, MAE, CRPS, variance, squared error of the mean."""
    fields = DemoWeather().fields(time)
    state, truth = torch.from_numpy(fields.coarse)[None, : len(INPUTS)], torch.from_numpy(fields.fine)
    coarse_twins = [len(INPUTS), *(INPUTS.index(name) for name in OUTPUTS[1:])]
    interpolated = model.regrid(torch.from_numpy(fields.coarse)[coarse_twins])
    ensemble = model(state, [member_seed(0, time, i) for i in range(members)])[0]
    regression, mean = model.mean(state)[0], ensemble.mean(0)
    guesses = (model.center_out[0].expand_as(truth), interpolated, regression, mean)
    squared = [(guess - truth).square().mean((-2, -1)) for guess in guesses]
    apart = (ensemble[:, None] - ensemble[None]).abs().sum((0, 1)) / (2 * members * (members - 1))
    crps = (ensemble - truth).abs().mean(0) - apart
    rest = [(interpolated - truth).abs(), crps, ensemble.var(0)]
    return torch.stack([*squared, *(field.mean((-2, -1)) for field in rest), squared[-1]], dim=1)
