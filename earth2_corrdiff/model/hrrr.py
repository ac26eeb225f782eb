# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""ERA5 to HRRR's 3 km grid over the contiguous United States, as Earth2Studio's ``CorrDiffEra5Hrrr``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Self, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.studio import Package
from earth2_corrdiff.base.variables import LAT, LON
from earth2_corrdiff.model.coordinates import CoordSystem
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.earth2studio import _sampled
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.model.packages.hrrr import VARIANTS, read_hrrr
from earth2_corrdiff.model.timed import TimedCorrDiff, published
from earth2_corrdiff.networks.preconditioned import Denoiser, DiTFlow

# Attributes of the stock class that are fixed here, which nothing would use if they could be set
_FIXED: tuple[str, ...] = (
    "network",
    "network_kind",
    "prediction_type",
    "time_scale",
    "era5_variables",
    "amp",
)
_FIXED += ("network_kind", "day_of_year", "era5_variables", "era5_center", "era5_scale", "hrrr_y", "hrrr_x")
# Its methods without a counterpart here
_NOT_CALLED = (
    "_cos_zenith",
    "_scalar_conditions",
    "_rf_time_steps",
    "_sample_one",
    "_load_json",
    "_load_npy",
)
PACKAGE = "hf://nvidia/corrdiff-era5-hrrr@c95089642d19985714eebebdbd5b0b72c86ed1a3"


class CorrDiffEra5Hrrr(TimedCorrDiff):
    """Downscaling of ERA5 to HRRR with the interface of Earth2Studio's class of the same name.

    Parameters
    ----------
    downscaler, number_of_samples, seed
        As for :class:`CorrDiff`

    Attributes
    ----------
    shift, t_max, x0v_clip : float
        Of the times of rectified flow: see ``rectified_flow.py``
    rho : float
        Exponent of the noise levels, for networks of EDM's formulation

    Raises
    ------
    InputError
        If the package is another's, or an attribute is set that is fixed, or to a value that is not valid

    Source: ``earth2studio.models.dx.CorrDiffEra5Hrrr``.
    """

    not_called = (*TimedCorrDiff.not_called, *_NOT_CALLED)

    def __init__(
        self, downscaler: Downscaler, number_of_samples: int | None = None, seed: int | None = None
    ) -> None:
        if downscaler.spec.projected is None:
            raise InputError("this is not a package of CorrDiffEra5Hrrr; load it with CorrDiff")
        super().__init__(downscaler, number_of_samples, seed)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            advice = "amp or precision" if name == "amp" else "another package"
            raise InputError(f"{name} cannot be set: load the model again, with {advice}")
        super().__setattr__(name, value)

    shift: float = _sampled("shift", "Factor of the noise levels of rectified flow.")
    t_max: float = _sampled("t_max", "First time of rectified flow, before the shift.")
    x0v_clip: float = _sampled("clip", "Smallest divisor of Euler and Heun in time.")
    rho: float = _sampled("rho", "Exponent of EDM's noise levels.")

    @property
    def network(self) -> Denoiser:
        """The network as a denoiser."""
        return self.downscaler.denoiser

    @property
    def network_kind(self) -> str:
        """``rectified_flow`` or ``edm``."""
        return "rectified_flow" if isinstance(self.network, DiTFlow) else "edm"

    @property
    def prediction_type(self) -> str:
        """What the network makes: ``x0`` or ``flow``."""
        return str(getattr(self.network, "prediction", "x0"))

    @property
    def time_scale(self) -> float:
        """The network's noise label at t = 1; 999 for EDM's formulation, which has none."""
        return float(getattr(self.network, "time_scale", 999.0))

    @property
    def day_of_year(self) -> bool:
        """True if the network sees the phase of the year."""
        return "sin_year" in self.spec.vector

    @property
    def amp(self) -> bool:
        """True if the network computes in half precision: see ``precision`` of :meth:`load_model`."""
        return self.downscaler.precision != "fp32"

    @property
    def era5_variables(self) -> NDArray[Any]:
        """Names of the input."""
        return np.array(self.input_variables)

    @property
    def hrrr_y(self) -> NDArray[Any]:
        """Metres along y in HRRR's projection, ``[H]``."""
        return self._projected[0]

    @property
    def hrrr_x(self) -> NDArray[Any]:
        """Metres along x in HRRR's projection, ``[W]``."""
        return self._projected[1]

    @property
    def _projected(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return cast(tuple[NDArray[Any], NDArray[Any]], self.spec.projected)

    def output_axes(self) -> CoordSystem:
        """``hrrr_y`` and ``hrrr_x``; the attributes ``lat_output_grid`` and ``lon_output_grid`` are 2-D."""
        return OrderedDict(hrrr_y=self.hrrr_y.copy(), hrrr_x=self.hrrr_x.copy())

    def __call__(self, x: Any, coords: CoordSystem | None = None) -> Any:
        """As :class:`TimedCorrDiff`; of a ``DataArray`` one with latitudes and longitudes."""
        y = super().__call__(x, coords)
        if not isinstance(y, xr.DataArray):
            return y
        axes, grid = tuple(self.output_axes()), self.spec.output_grid
        return y.assign_coords(lat=(axes, grid.lat, LAT), lon=(axes, grid.lon, LON))

    @classmethod
    def load_default_package(cls) -> Package:
        """The published weights on Hugging Face, cached by Earth2Studio."""
        return published(PACKAGE, "corrdiff_era5_hrrr")

    @classmethod
    def load_model(  # type: ignore[override]
        cls,
        package: Files,
        device: str | torch.device | None = None,
        number_of_samples: int | None = None,
        number_of_steps: int | None = None,
        shift: float | None = None,
        seed: int | None = None,
        amp: bool | None = None,
        variant: str = VARIANTS[0],
        precision: str = "auto",
        accelerated: bool = True,
    ) -> Self:
        """Load a package.

        Parameters
        ----------
        package : Package
            Earth2Studio's package
        device : str | torch.device | None, optional
            Where to put the model, by default the CPU
        number_of_samples, number_of_steps, shift : int | None, int | None, float | None, optional
            Members, steps of the solver, and shift of the times, by default the package's
        seed : int | None, optional
            Of the first member; ``None`` draws one per call and logs it
        amp : bool | None, optional
            True for the precision "bf16", False for "fp32"
        variant : {"x_pred"}, optional
            Folder of the package
        precision : {"auto", "fp32", "bf16", "fp16"}, optional
            Of the network, by default the fastest on the device, where the package allows other than float32
        accelerated : bool, optional
            False for upstream's arithmetic, operation by operation, by default True

        Raises
        ------
        InputError
            If the package is missing, damaged, or inconsistent, or an argument does not fit it
        """
        loaded = read_hrrr(package, variant)
        precision = _precision(precision, amp, loaded.precision)
        pipeline = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, precision, accelerated)
        model = cls(pipeline, number_of_samples, seed)
        for name, value in (("number_of_steps", number_of_steps), ("shift", shift)):
            if value is not None:
                setattr(model, name, value)
        return model if device is None else model.to(device)


def _precision(precision: str, amp: bool | None, own: str) -> str:
    """The precision of two arguments that may not contradict each other, and of the package."""
    if amp is None:
        return own if precision == "auto" else precision
    if precision != "auto" and (precision == "fp32") is amp:
        raise InputError(f"amp={amp} contradicts precision={precision!r}; give one of them")
    if precision == "auto":
        return "bf16" if amp else "fp32"
    return precision
