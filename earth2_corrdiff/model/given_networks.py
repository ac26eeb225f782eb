# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline of networks and tensors in memory: what the stock class is constructed from, without a package.

The networks are called as they are, ``net(x, img_lr, sigma)``: without acceleration, in float32, on the whole
domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.diffusion.solvers import check_solver
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.metadata import read_sampling
from earth2_corrdiff.model.spec import CorrDiffSpec, Statistics
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression


class GivenRegression(Regression):
    """``net(x, img_lr)`` with a zero latent as the regression."""

    def forward(self, cond: Tensor, position: Tensor | None = None) -> Tensor:
        B, _, H, W = cond.shape
        mean: Tensor = self.model(x=cond.new_zeros(B, self.out_channels, H, W), img_lr=cond)
        return mean.float()


class GivenDenoiser(Denoiser):
    """``net(x, img_lr, sigma)`` as the denoiser."""

    def forward(
        self, x: Tensor, sigma: float | Tensor, cond: Tensor, position: Tensor | None = None
    ) -> Tensor:
        clean: Tensor = self.model(x, cond, torch.as_tensor(sigma, device=x.device), None)
        return clean.float()


def given_downscaler(
    input_variables: Sequence[str],
    output_variables: Sequence[str],
    residual_model: nn.Module,
    regression_model: nn.Module,
    lat_input_grid: Tensor,
    lon_input_grid: Tensor,
    lat_output_grid: Tensor,
    lon_output_grid: Tensor,
    in_center: Tensor,
    in_scale: Tensor,
    out_center: Tensor,
    out_scale: Tensor,
    invariants: Mapping[str, Tensor] | None = None,
    invariant_center: Tensor | None = None,
    invariant_scale: Tensor | None = None,
    number_of_steps: int = 18,
    solver: str = "euler",
    sampler_type: str = "stochastic",
    inference_mode: str = "both",
    hr_mean_conditioning: bool = True,
    grid_bounds_margin: float = 0.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Downscaler:
    """A pipeline of the stock class's arguments, with its names and defaults.

    Raises
    ------
    InputError
        If they do not fit together
    """

    def statistics(names: Sequence[str], center: Tensor | None, scale: Tensor | None) -> Statistics:
        values = ([] if part is None else part.flatten().tolist() for part in (center, scale))
        return Statistics(tuple(names), *map(tuple, values))

    check_solver(solver)  # the stochastic sampler is Heun's, whatever it is
    sampler = {"number_of_steps": number_of_steps, "solver": solver, "sampler_type": sampler_type}
    fields = invariants or {}
    spec = CorrDiffSpec(
        inputs=statistics(input_variables, in_center, in_scale),
        outputs=statistics(output_variables, out_center, out_scale),
        invariants=statistics(list(fields), invariant_center, invariant_scale),
        invariant_fields=torch.stack(list(fields.values())).float().cpu().numpy() if fields else None,
        input_grid=Grid(lat_input_grid.cpu().numpy(), lon_input_grid.cpu().numpy()),
        output_grid=Grid(lat_output_grid.cpu().numpy(), lon_output_grid.cpu().numpy()),
        sampling=read_sampling(sampler | {"sigma_min": sigma_min, "sigma_max": sigma_max}),
        grid_bounds_margin=grid_bounds_margin,
        hr_mean_conditioning=hr_mean_conditioning,
        inference_mode=inference_mode,
        name="networks in memory",
    )
    low, high = (float(getattr(residual_model, name)) for name in ("sigma_min", "sigma_max"))
    regression = GivenRegression(regression_model, len(output_variables))
    denoiser = GivenDenoiser(residual_model, sigma_min=low, sigma_max=high)
    seen = len(output_variables) if hr_mean_conditioning else 0
    for net, more in ((regression, 0), (denoiser, seen)):
        args: dict[str, Any] = {"model_type": "SongUNet", "img_resolution": list(spec.output_grid.shape)}
        args |= {"img_in_channels": spec.condition_channels + more, "img_out_channels": len(output_variables)}
        net.origin = Checkpoint(type(net.model).__name__, args, {}, spec.name)
    return Downscaler(spec, regression.eval(), denoiser.eval(), "fp32", accelerated=False)
