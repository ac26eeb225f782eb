# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""ERA5 to COSMO-REA6 or COSMO-REA2 over Europe, as Earth2Studio's ``CorrDiffCosmoEra5``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.studio import Package
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.earth2studio import _sampled
from earth2_corrdiff.model.packages.cosmo import Variant, read_cosmo
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.model.region import Box, cut
from earth2_corrdiff.model.timed import TimedCorrDiff, published

# Attributes of the stock class that are fixed here, which nothing would use if they could be set
_FIXED: tuple[str, ...] = ("era5_variables", "output_variables", "background_variables", "static_invariants")
_FIXED += ("pre_invariant_variables", "post_invariant_variables", "era5_center", "era5_scale")
_FIXED += ("mode", "resolution", "diffusion_model", "amp")
# Its methods without a counterpart here
_NOT_CALLED: tuple[str, ...] = (
    "_denoise",
    "_regression_forward",
    "_rebind_latent",
    "_cos_zenith",
    "_position_channels",
)
_NOT_CALLED += ("_static_background", "_apply_constraints", "_derive_hub_wind", "_check_bounds")
PACKAGE = "hf://nvidia/corrdiff-cosmo-era5@44064f304158f863f6ae02948b1b8e08d523458e"


class CorrDiffCosmoEra5(TimedCorrDiff):
    """Downscaling of ERA5 to COSMO-REA with the interface of Earth2Studio's class of the same name.

    Parameters
    ----------
    downscaler : Downscaler
        The pipeline, with its network
    variant : Variant
        Which network it is
    number_of_samples, seed : int | None, optional
        As for :class:`CorrDiff`

    Attributes
    ----------
    physical_clamp : bool
        False to leave out bounds and solar gates
    check_inputs : bool
        True to log a warning about input that is not finite
    rho : float
        Exponent of the noise levels

    Source: ``earth2studio.models.dx.CorrDiffCosmoEra5``.
    """

    not_called = (*TimedCorrDiff.not_called, *_NOT_CALLED)

    def __init__(
        self,
        downscaler: Downscaler,
        variant: Variant,
        number_of_samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(downscaler, number_of_samples, seed)
        self.variant, self.check_inputs = variant, True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            advice = 'precision="bf16"' if name == "amp" else "another package, mode or resolution"
            raise InputError(f"{name} cannot be set: load the model again, with {advice}")
        super().__setattr__(name, value)

    rho: float = _sampled("rho", "Exponent of the noise levels.")

    @property
    def mode(self) -> str:
        """``mean`` or ``diffusion``."""
        return self.variant.mode

    @property
    def resolution(self) -> str:
        """``rea6`` or ``rea2``."""
        return self.variant.resolution

    @property
    def physical_clamp(self) -> bool:
        """True if bounds and solar gates are applied."""
        return self.downscaler.fields.clamp

    @physical_clamp.setter
    def physical_clamp(self, value: bool) -> None:
        self.downscaler.fields.clamp = value

    @property
    def amp(self) -> bool:
        """True if the network computes in bfloat16: see ``precision`` of :meth:`load_model`."""
        return self.downscaler.precision == "bf16"

    @property
    def regression_model(self) -> torch.nn.Module | None:
        """The network of the mean; None in the mode ``diffusion``."""
        return self.downscaler.regression if self.mode == "mean" else None

    @property
    def diffusion_model(self) -> torch.nn.Module | None:
        """The network of samples; None in the mode ``mean``."""
        return self.downscaler.denoiser if self.mode == "diffusion" else None

    @property
    def era5_variables(self) -> list[str]:
        """Names of the input."""
        return list(self.spec.inputs.names)

    @property
    def output_variables(self) -> list[str]:
        """COSMO's names of the output, without winds at hub heights."""
        return [rule.name for rule in self.spec.rules]

    def check_fields(self, x: Tensor) -> None:
        """Log a warning about input that is not finite, where ``check_inputs`` asks for it."""
        if self.check_inputs and not bool(x.isfinite().all()):
            logger.warning("the input has values that are not finite, and so will the output")

    def set_domain(
        self,
        lat_min: float,
        lat_max: float,
        lon_min: float,
        lon_max: float,
        margin_deg: float = 1.0,
        halo: int = 0,
    ) -> Self:
        """A new model with the same network for the part of the grid that covers a box.

        Parameters
        ----------
        lat_min, lat_max, lon_min, lon_max : float
            The box in degrees; it may reach into the margin around the domain that the package has
        margin_deg : float, optional
            Degrees of input around it, by default 1
        halo : int, optional
            Cells around the box that the network sees and that are left out of the output, by default 0

        Raises
        ------
        InputError
            If the box is not inside the grid, or smaller than the network's attention
        """
        spec = cut(self.spec, Box(lat_min, lat_max, lon_min, lon_max), margin_deg, halo)
        made = type(self)(self.downscaler.on(spec), self.variant, self.number_of_samples, self.seed)
        made.max_batch, made.check_inputs = self.max_batch, self.check_inputs
        return made

    # loading

    @classmethod
    def load_default_package(cls) -> Package:
        """The published weights of both resolutions, cached by Earth2Studio."""
        return published(PACKAGE, "corrdiff_cosmo_era5")

    @classmethod
    def load_model(  # type: ignore[override]
        cls,
        package: Files,
        device: str | torch.device | None = None,
        mode: str = "mean",
        resolution: str = "rea6",
        hub_heights: Sequence[float] | None = None,
        hub_interp: str = "linear",
        precision: str = "auto",
        accelerated: bool = True,
    ) -> Self:
        """Load one network of a package.

        Parameters
        ----------
        package : Package
            Earth2Studio's package
        device : str | torch.device | None, optional
            Where to put the model, by default the CPU
        mode : {"mean", "diffusion"}, optional
            The conditional mean, by default, or samples
        resolution : {"rea6", "rea2"}, optional
            COSMO-REA6, by default, or COSMO-REA2
        hub_heights : Sequence[float] | None, optional
            Heights above ground in metres whose winds, as ``u100m`` and ``v100m``, are added to the output
        hub_interp : {"linear", "log"}, optional
            Their interpolation between model levels, by default "linear"
        precision, accelerated
            As for :meth:`CorrDiff.load_model`

        Raises
        ------
        InputError
            If the package is missing, damaged, or inconsistent, or the device is not there
        """
        heights = tuple(map(float, hub_heights or ()))
        variant = Variant(resolution, mode, heights, hub_interp)
        loaded = read_cosmo(package, variant)
        downscaler = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, precision, accelerated)
        model = cls(downscaler, variant)
        return model if device is None else model.to(device)
