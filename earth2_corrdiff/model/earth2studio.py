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
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.studio import AutoModelMixin, Package
from earth2_corrdiff.model.coordinates import LEADS, VALID, CoordSystem, folded, match_coords, split_leading
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds, drawn_seeds
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.solvers import Churn
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.given_networks import given_downscaler
from earth2_corrdiff.model.hooks import StockHooks
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.spec import CorrDiffSpec, check_count, check_seed
from earth2_corrdiff.model.stock_attributes import StockAttributes


def _sampled(name: str, doc: str) -> Any:
    """An attribute of ``CorrDiff`` that is a field of its default ``Sampling``."""

    def get(model: CorrDiff) -> Any:
        return getattr(model.downscaler.sampling, name)

    def put(model: CorrDiff, value: Any) -> None:
        model.downscaler.sampling.check_setting(name)
        model.downscaler.sampling = replace(model.downscaler.sampling, **{name: value})

    return property(get, put, doc=doc)


def _part(part: str, name: str, doc: str) -> Any:
    """An attribute of ``CorrDiff`` that is one of a part of its downscaler."""

    def get(model: CorrDiff) -> Any:
        return getattr(getattr(model.downscaler, part), name)

    def put(model: CorrDiff, value: Any) -> None:
        setattr(getattr(model.downscaler, part), name, value)

    return property(get, put, doc=doc)


class CorrDiff(StockHooks, StockAttributes, AutoModelMixin):  # type: ignore[misc]
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
        Defaults of calls; may be changed at any time
    residual_model, regression_model, sampler_type, hr_mean_conditioning, ...
        Others of the stock class may be read (see ``stock_attributes``)

    A subclass may replace ``preprocess_input``, ``normalize_input``, ``postprocess_output`` and
    ``_inference_context``, as of the stock class (see ``hooks``).

    Raises
    ------
    InputError
        If one of them is set to a value that is not valid

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
        self.connect()
        self.eval()

    # defaults of calls: the package's, until the caller changes them

    @property
    def spec(self) -> CorrDiffSpec:
        """Metadata of the package."""
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

    number_of_steps: int = _sampled("steps", "Steps of the solver.")
    solver: str = _sampled("solver", "``euler``, ``heun``, ``stochastic``, ``dpmpp_2m`` or ``trigflow``.")
    sigma_min: float = _sampled("sigma_min", "Smallest noise level but zero.")
    sigma_max: float = _sampled("sigma_max", "Noise level that sampling starts from, whatever the solver.")
    churn: Churn = _sampled("churn", "Noise that ``stochastic`` adds.")
    noise: str = _sampled(
        "noise", "Where noise is drawn: ``host``, the same on every device, or ``device``, as stock does."
    )
    patching: PatchGeometry | None = _part(
        "domain", "patching", "The patches that the denoiser sees; ``None`` for the domain in one piece."
    )
    window: str = _part("domain", "window", "Average of overlapping patches: ``flat`` or ``cosine``.")
    maps: str | Path = _part(
        "regression", "maps", "Home of its feature maps: ``auto``, ``device``, ``host``, or a folder."
    )

    @property
    def inference_mode(self) -> str:
        """Which of the two stages make the output: ``both``, ``regression`` or ``diffusion``."""
        return self.spec.inference_mode

    @inference_mode.setter
    def inference_mode(self, value: str) -> None:
        self.downscaler.inference_mode = value

    # Earth2Studio's protocol

    def input_coords(self) -> CoordSystem:
        """Coordinates of the input: ``batch, variable, lat, lon``."""
        grid = self.spec.input_grid
        return OrderedDict(
            batch=np.empty(0), variable=np.array(self.input_variables), lat=grid.lat, lon=grid.lon
        )

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """Coordinates of the output: ``batch, sample, variable, lat, lon``; lat and lon 2-D if curvilinear.

        Leading dimensions of any name stand in the place of ``batch``.

        Raises
        ------
        InputError
            If the input coordinates are not the model's (latitude may run either way, longitudes may be
            in either convention)
        """
        leading, own = split_leading(input_coords, self.input_coords())
        match_coords(own, self.input_coords())
        grid = self.spec.output_grid
        return OrderedDict(
            **leading,
            sample=np.arange(self.number_of_samples),
            variable=np.array(self.spec.output_variables),
            lat=grid.lat,
            lon=grid.lon,
        )

    @folded
    def __call__(self, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Downscale ``x [batch, variable, lat, lon]``, or a labelled array: ``model(DataArray)``.

        Leading dimensions of any name (time, lead_time, ensemble) are folded into the batch and come
        back; ``sample`` follows them. As in the stock class, all cases of a call share their members'
        noise; ``earth2_corrdiff.downscale`` gives each time its own.

        Returns
        -------
        tuple[Tensor, CoordSystem]
            ``[batch, sample, variable, H, W]`` float32 on the device of ``x``, and its coordinates; of a
            ``DataArray``, whose variables may stand in any order, a ``DataArray`` on the CPU with ``units``
        """
        coords = coords.copy()
        lead_hours, valid = coords.pop(LEADS, None), coords.pop(VALID, None)
        valid = coords.pop("time", valid)  # valid times beside the batch, for callers of the plain function
        output_coords = self.output_coords(coords)
        if match_coords(coords, self.input_coords()):
            x = x.flip(-2)
        seeds = self.member_seeds()
        y = self.downscaler(x.float(), seeds, self.max_batch, lead_hours=lead_hours, valid_times=valid)
        return y, output_coords

    def member_seeds(self) -> list[int]:
        """Seeds that a call gives its members: those that the stock class gives them.

        Without a seed the first one is drawn with NumPy, so that ``np.random.seed`` has its effect.
        """
        seed = self.seed
        if seed is None:
            seed = int(np.random.randint(2**32))
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

    # construction

    @classmethod
    def from_tensors(
        cls,
        *,
        number_of_samples: int = 1,
        seed: int | None = None,
        grid_spacing_tolerance: float = 0,
        **given: Any,
    ) -> Self:
        """A model of networks and tensors in memory, with the arguments of the stock class by name.

        It runs in float32, without acceleration (see ``given_networks``). Grids may have any spacing.

        Raises
        ------
        InputError
            If they do not fit together
        """
        return cls(given_downscaler(**given), number_of_samples, seed)

    @classmethod
    def load_default_package(cls) -> Package:
        """CorrDiff has no default package: see :class:`CorrDiffTaiwan`, or ``earth2_corrdiff.demo``."""
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
        model = cls(
            Downscaler(cls.own_spec(loaded), loaded.regression, loaded.denoiser, precision, accelerated)
        )
        for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
            if value is not None:
                setattr(model, name, value)
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
