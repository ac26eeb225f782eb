# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of Earth2Studio's ``CorrDiff`` that are fixed here: they can be read, but not set.

Without this, a program written for that class could set them and get the same fields as before, in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.downscaler import Downscaler

_NETWORKS = "networks belong to their package; load another package"
_PACKAGE = "it is the package's, as the networks were trained with it; load another package"
_SAMPLER = "set solver, number_of_steps, sigma_min and sigma_max"
# Attribute → its value, and what to do instead of setting it
_FIXED: dict[str, tuple[Callable[[Downscaler], Any], str]] = {
    "residual_model": (lambda d: d.denoiser, _NETWORKS),
    "regression_model": (lambda d: d.regression, _NETWORKS),
    "sampler_type": (lambda d: "deterministic" if d.spec.sampling.double else "stochastic", _SAMPLER),
    "hr_mean_conditioning": (lambda d: d.spec.hr_mean_conditioning, _PACKAGE),
    "grid_bounds_margin": (lambda d: d.spec.grid_bounds_margin, _PACKAGE),
    "input_variables": (lambda d: list(d.spec.inputs.names), _PACKAGE),
    "output_variables": (lambda d: list(d.spec.outputs.names), _PACKAGE),
    "invariant_variables": (lambda d: list(d.spec.invariants.names), _PACKAGE),
    "invariants": (lambda d: d.conditioning.invariants[0] if d.spec.invariants.names else None, _PACKAGE),
    "in_center": (lambda d: d.conditioning.center, _PACKAGE),
    "in_scale": (lambda d: d.conditioning.scale, _PACKAGE),
    "out_center": (lambda d: d.center_out, _PACKAGE),
    "out_scale": (lambda d: d.scale_out, _PACKAGE),
    "img_shape": (lambda d: d.spec.output_grid.shape, _PACKAGE),
    "lat_input_grid": (lambda d: _tensor(d, d.spec.input_grid, "lat"), _PACKAGE),
    "lon_input_grid": (lambda d: _tensor(d, d.spec.input_grid, "lon"), _PACKAGE),
    "lat_output_grid": (lambda d: _tensor(d, d.spec.output_grid, "lat"), _PACKAGE),
    "lon_output_grid": (lambda d: _tensor(d, d.spec.output_grid, "lon"), _PACKAGE),
    "lat_input_numpy": (lambda d: d.spec.input_grid.lat, _PACKAGE),
    "lon_input_numpy": (lambda d: d.spec.input_grid.lon, _PACKAGE),
    "lat_output_numpy": (lambda d: d.spec.output_grid.lat, _PACKAGE),
    "lon_output_numpy": (lambda d: d.spec.output_grid.lon, _PACKAGE),
    "out_lat": (lambda d: _tensor(d, d.spec.output_grid, "lat"), _PACKAGE),
    "out_lon": (lambda d: _tensor(d, d.spec.output_grid, "lon"), _PACKAGE),
}
# Attributes without a counterpart here, and what to do instead
_ABSENT = {
    "sampler": _SAMPLER,
    "invariants_dict": _PACKAGE,
    "invariant_center": _PACKAGE,
    "invariant_scale": _PACKAGE,
    "out_lat_full": _PACKAGE,
    "out_lon_full": _PACKAGE,
    "grid_spacing_tolerance": "the input grid may have any spacing here; leave it out",
}


def _tensor(downscaler: Downscaler, grid: Grid, axis: str) -> torch.Tensor:
    return torch.tensor(getattr(grid, axis), device=downscaler.device)


class StockAttributes(torch.nn.Module):
    """A model with a ``downscaler`` that answers for the attributes of the stock class.

    Raises
    ------
    InputError
        If one of them is set that is fixed
    """

    downscaler: Downscaler

    def __getattr__(self, name: str) -> Any:
        if name in _FIXED:
            return _FIXED[name][0](self.downscaler)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        advice = _FIXED[name][1] if name in _FIXED else _ABSENT.get(name)
        if advice is not None:
            raise InputError(f"{name} cannot be set: {advice}")
        super().__setattr__(name, value)
