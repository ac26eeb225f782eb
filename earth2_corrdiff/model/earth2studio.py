# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff as an Earth2Studio diagnostic model: tensors with coordinates in, tensors with coordinates out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from earth2studio.models.auto import AutoModelMixin, Package
from earth2studio.models.batch import batch_coords
from earth2studio.utils.type import CoordSystem
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.model.coordinates import LEADS, fold_cases, match_coords
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds, drawn_seeds, fresh_seed
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.solvers import Churn
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.reader import Files, read_package
from earth2_corrdiff.model.spec import CorrDiffSpec, check_count, check_seed
from earth2_corrdiff.model.stock_attributes import StockAttributes


class CorrDiff(StockAttributes, AutoModelMixin):  # type: ignore[misc]
    """CorrDiff downscaling with the interface of Earth2Studio's class of the same name.

    Parameters
    ----------
    downscaler : Downscaler
        The pipeline, with its networks
    number_of_samples : int | None, optional
        Members to draw, by default the package's number
    seed : int | None, optional
        Of the first member, by default the package's; ``None`` draws one per call and logs it

    Attributes
    ----------
    number_of_samples, number_of_steps, solver, seed, sigma_min, sigma_max, churn, noise
    max_batch, inference_mode, patching, window, maps
        May be changed at any time; the next call honours them
    residual_model, regression_model, sampler_type, hr_mean_conditioning, ...
        Others of the stock class may be read (see ``stock_attributes``)

    Raises
    ------
    InputError
        By whatever sets one of them to something that cannot be

    Source: Mardani et al., arXiv 2309.15214; ``earth2studio.models.dx.CorrDiff``.
    """

    def __init__(
        self, downscaler: Downscaler, number_of_samples: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__()
        spec = downscaler.spec
        self.downscaler = downscaler
        self.number_of_samples = (
            number_of_samples if number_of_samples is not None else spec.number_of_samples
        )
        self.seed = seed if seed is not None else spec.seed
        self.max_batch: int | None = None
        self.eval()

    # what a package said, and what the caller made of it

    @property
    def spec(self) -> CorrDiffSpec:
        """What the package says."""
        return self.downscaler.spec

    @property
    def number_of_samples(self) -> int:
        """Members to draw at each call."""
        return self._number_of_samples

    @number_of_samples.setter
    def number_of_samples(self, value: int) -> None:
        self._number_of_samples = check_count("number_of_samples", value)

    @property
    def seed(self) -> int | None:
        """Seed of the first member; ``None`` draws one per call."""
        return self._seed

    @seed.setter
    def seed(self, value: int | None) -> None:
        self._seed = check_seed(value)

    @property
    def number_of_steps(self) -> int:
        """Steps of the solver."""
        return self.downscaler.sampling.steps

    @number_of_steps.setter
    def number_of_steps(self, value: int) -> None:
        self._change(steps=value)

    @property
    def solver(self) -> str:
        """``euler``, ``heun``, ``stochastic``, ``dpmpp_2m`` or ``trigflow``."""
        return self.downscaler.sampling.solver

    @solver.setter
    def solver(self, value: str) -> None:
        self._change(solver=value)

    @property
    def sigma_min(self) -> float:
        """Smallest noise level but zero."""
        return self.downscaler.sampling.sigma_min

    @sigma_min.setter
    def sigma_min(self, value: float) -> None:
        self._change(sigma_min=value)

    @property
    def sigma_max(self) -> float:
        """Noise level that sampling starts from; it stays what it is when the solver changes."""
        return self.downscaler.sampling.sigma_max

    @sigma_max.setter
    def sigma_max(self, value: float) -> None:
        self._change(sigma_max=value)

    @property
    def inference_mode(self) -> str:
        """Which of the two stages make the output: ``both``, ``regression`` or ``diffusion``."""
        return self.spec.inference_mode

    @inference_mode.setter
    def inference_mode(self, value: str) -> None:
        self.downscaler.spec = replace(self.spec, inference_mode=value)

    @property
    def churn(self) -> Churn:
        """Noise that ``stochastic`` adds."""
        return self.downscaler.sampling.churn

    @churn.setter
    def churn(self, value: Churn) -> None:
        self._change(churn=value)

    @property
    def patching(self) -> PatchGeometry | None:
        """The patches that the denoiser sees the domain in; ``None`` where it sees it in one piece."""
        return self.downscaler.domain.patching

    @patching.setter
    def patching(self, value: PatchGeometry | None) -> None:
        self.downscaler.domain.patching = value

    @property
    def window(self) -> str:
        """How patches are averaged where they overlap: ``flat`` or ``cosine``."""
        return self.downscaler.domain.window

    @window.setter
    def window(self, value: str) -> None:
        self.downscaler.domain.window = value

    @property
    def maps(self) -> str | Path:
        """Where the regression keeps its feature maps: ``auto``, ``device``, ``host``, or a folder."""
        return self.downscaler.regression.maps

    @maps.setter
    def maps(self, value: str | Path) -> None:
        self.downscaler.regression.maps = value

    @property
    def noise(self) -> str:
        """Where noise is drawn: ``host``, the same on every device, or ``device``, as stock does."""
        return self.downscaler.sampling.noise

    @noise.setter
    def noise(self, value: str) -> None:
        self._change(noise=value)

    def _change(self, **what: Any) -> None:
        self.downscaler.sampling = replace(self.downscaler.sampling, **what)

    # Earth2Studio's protocol

    def input_coords(self) -> CoordSystem:
        """Coordinates of the input: ``batch, variable, lat, lon``."""
        grid = self.spec.input_grid
        return OrderedDict(
            batch=np.empty(0), variable=np.array(self.input_variables), lat=grid.lat, lon=grid.lon
        )

    @batch_coords()  # type: ignore[untyped-decorator]
    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """Coordinates of the output: ``batch, sample, variable, lat, lon``; lat and lon 2-D if curvilinear.

        Raises
        ------
        InputError
            If the input coordinates are not the model's (latitude may run either way, longitudes may be
            in either convention)
        """
        match_coords(input_coords, self.input_coords())
        grid = self.spec.output_grid
        return OrderedDict(
            batch=input_coords["batch"],
            sample=np.arange(self.number_of_samples),
            variable=np.array(self.output_variables),
            lat=grid.lat,
            lon=grid.lon,
        )

    @fold_cases()
    def __call__(self, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Downscale ``x [batch, variable, lat, lon]``.

        Leading dimensions of any name (time, lead_time, ensemble) are folded into the batch and come
        back; ``sample`` follows them. As in the stock class, all cases of a call share their members'
        noise; ``earth2_corrdiff.downscale`` gives each time its own.

        Returns
        -------
        tuple[Tensor, CoordSystem]
            ``[batch, sample, variable, H, W]`` float32 on the device of ``x``, and its coordinates
        """
        lead_hours = coords.pop(LEADS, None)
        output_coords = self.output_coords(coords)
        if match_coords(coords, self.input_coords()):
            x = x.flip(-2)
        y = self.downscaler(x.float(), self.member_seeds(), self.max_batch, lead_hours=lead_hours)
        return y, output_coords

    def member_seeds(self) -> list[int]:
        """Seeds that a call gives its members: those that the stock class gives them."""
        seed = self.seed
        if seed is None:
            seed = fresh_seed()
            logger.info("drew the seed {}; set .seed to it to get the same members again", seed)
        if not self.spec.drawn_seeds:
            return consecutive_seeds(seed, self.number_of_samples)
        on = self.downscaler.device if self.noise == "device" else None
        return drawn_seeds(seed, self.number_of_samples, on)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, as ``torch.nn.Module.to``; a device that is not there is an InputError."""
        try:
            return super().to(*args, **kwargs)
        except (AssertionError, RuntimeError) as error:
            wanted = args[0] if args else kwargs.get("device")
            raise InputError(f"the device {wanted} cannot be used here ({first_line(error)})") from error

    # loading

    @classmethod
    def load_default_package(cls) -> Package:
        """There is no default for any domain: see :class:`CorrDiffTaiwan`, or ``earth2_corrdiff.demo``."""
        raise NotImplementedError(
            "CorrDiff has no default package; use CorrDiffTaiwan or earth2_corrdiff.demo"
        )

    @classmethod
    def load_model(
        cls,
        package: Files,
        device: str | torch.device | None = None,
        precision: str = "auto",
        accelerated: bool = True,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
    ) -> Self:
        """Load a package, of the generic or of the Taiwan layout.

        Parameters
        ----------
        package : Package
            Earth2Studio's package
        device : str | torch.device | None, optional
            Where to put the model, by default the CPU
        precision : {"auto", "fp32", "bf16", "fp16"}, optional
            Of the networks, by default the fastest on the device; "fp32" is the reference
        accelerated : bool, optional
            False for upstream's arithmetic, operation by operation, by default True
        sigma_min, sigma_max : float | None, optional
            Noise range, by default the package's

        Raises
        ------
        InputError
            If the package is missing, damaged, or inconsistent, or the device is not there
        """
        loaded = read_package(package)
        model = cls(Downscaler(loaded.spec, loaded.regression, loaded.denoiser, precision, accelerated))
        given = {"sigma_min": sigma_min, "sigma_max": sigma_max}
        model._change(**{name: value for name, value in given.items() if value is not None})
        return model if device is None else model.to(device)


class CorrDiffTaiwan(CorrDiff):
    """CorrDiff with the published CorrDiff-Taiwan weights as its default package."""

    @classmethod
    def load_default_package(cls) -> Package:
        """The package of NVIDIA's model registry, cached by Earth2Studio."""
        return Package(
            "ngc://models/nvidia/modulus/corrdiff_inference_package@1",
            cache_options={
                "cache_storage": Package.default_cache("corrdiff_taiwan"),
                "same_names": True,
            },
        )
