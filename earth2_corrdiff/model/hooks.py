# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The methods of Earth2Studio's ``CorrDiff`` that its subclasses may replace, called from the pipeline here.

A subclass that replaces one of them changes the fields as it does there. What a package describes itself (see
``CorrDiffSpec``) needs no subclass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from datetime import datetime
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.loaded import Loaded
from earth2_corrdiff.model.prepared import Prepared, masked
from earth2_corrdiff.model.spec import CorrDiffSpec

STEPS = ("normalize_input", "_interpolate")
"""Parts of ``preprocess_input``, for packages of the stock class's layout."""
HOOKS = ("preprocess_input", *STEPS, "postprocess_output", "_inference_context")
CALLED = {
    "preprocess_input": ("x", "valid_time"),
    "normalize_input": ("x",),
    "_interpolate": ("x",),
    "postprocess_output": ("x",),
    "_inference_context": (),
}
"""Their arguments; those of some stock classes have more."""
# Methods of the stock class that have no counterpart here
NOT_CALLED = (
    *("_forward", "_setup_sampler", "_register_buffers", "_check_latlon_grid", "_check_grid_spacing"),
    *("_check_grid_bounds", "_validate_grid_format", "_infer_input_latlon_grid", "_load_json_from_package"),
)


def _takes(method: Any, arguments: int) -> bool:
    """True if a function of a class can be called with so many arguments beside ``self``."""
    try:
        signature(method).bind(None, *[None] * arguments)
    except TypeError:
        return False
    return True


class StockHooks(nn.Module):
    """A model with a ``downscaler`` whose methods a subclass may replace.

    Raises
    ------
    InputError
        If a subclass replaces a method that is not called here, or one that takes other arguments here
    """

    downscaler: Downscaler
    not_called: ClassVar[tuple[str, ...]] = NOT_CALLED
    _case: Prepared | None = None  # whose fields postprocess_output gets: solar gates need its time

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        replaced = [name for name in cls.not_called if name in cls.__dict__]
        if replaced:
            raise InputError(
                f"{cls.__name__} replaces {', '.join(replaced)}, which this CorrDiff does not call; leave it "
                "out, or replace preprocess_input, normalize_input, postprocess_output or _inference_context"
            )
        for name, arguments in CALLED.items():
            if name in cls.__dict__ and not _takes(cls.__dict__[name], len(arguments)):
                raise InputError(
                    f"{cls.__name__}.{name} takes other arguments than this CorrDiff gives it; use "
                    f"{name}({', '.join(('self', *arguments))})"
                )

    def preprocess_input(self, x: Tensor, valid_time: datetime | None = None) -> Tensor:
        """Conditioning of cases: ``[C, h, w]`` or ``[B, C, h, w]`` → ``[B, Cc, H, W]``, normalised."""
        x = x[None] if x.ndim == len(self.downscaler.spec.input_shape) else x
        if not any(map(self.replaces, STEPS)):
            times = None if valid_time is None else np.full(len(x), np.datetime64(valid_time))
            return Downscaler.condition(self.downscaler, x, times)
        fine = torch.stack([self._interpolate(case) for case in x])
        invariants = self.downscaler.conditioning.invariants.expand(len(x), -1, -1, -1)
        return self.normalize_input(torch.cat([fine, invariants], dim=1))

    def _interpolate(self, x: Tensor) -> Tensor:
        """Coarse fields on the fine grid: ``[C, h, w] → [C, H, W]``."""
        fine: Tensor = self.downscaler.regrid(x)
        return fine

    def normalize_input(self, x: Tensor) -> Tensor:
        """Inputs and invariants on the fine grid, normalised: ``[B, C, H, W]``."""
        return (x - self.downscaler.conditioning.center) / self.downscaler.conditioning.scale

    def postprocess_output(self, x: Tensor) -> Tensor:
        """Physical fields of normalised ones: ``[m, Co, H, W]``."""
        return Downscaler.physical(self.downscaler, x, self._case)

    def _inference_context(self) -> AbstractContextManager[Any]:
        """Context of the networks' calls."""
        return nullcontext()

    def connect(self) -> None:
        """Make the pipeline call those that the class replaces; the others stay as fast as they are."""
        if any(map(self.replaces, STEPS)) and self.downscaler.spec.channels:
            raise InputError(f"the package has channels of its own; replace preprocess_input, not {STEPS[0]}")
        if any(map(self.replaces, HOOKS)):  # another model may have the same downscaler
            self.downscaler = copy(self.downscaler)
        if any(map(self.replaces, ("preprocess_input", *STEPS))):
            setattr(self.downscaler, "condition", self._condition)  # noqa: B010 (a method)
        if self.replaces("postprocess_output"):
            setattr(self.downscaler, "physical", self._physical)  # noqa: B010
        if self.replaces("_inference_context"):
            self.downscaler.context = self._inference_context

    @classmethod
    def replaces(cls, name: str) -> bool:
        """True if the class has a method of its own in the place of one of these."""
        return getattr(cls, name) is not getattr(StockHooks, name)

    def _condition(self, coarse: Tensor, valid: Times | None = None) -> Tensor:
        """As :meth:`Downscaler.condition`, of one case ``[1, C, h, w]``; with several hours in its batch."""
        one = coarse[0] if coarse.ndim == 4 else coarse
        time = None if valid is None or np.isnat(valid[0]) else valid[0].astype("datetime64[us]").item()
        cond, spec = self.preprocess_input(one, time), self.downscaler.spec
        want = (1, spec.condition_channels, *spec.domain)
        if tuple(cond.shape) != want:
            raise InputError(f"preprocess_input must give the shape {list(want)}, it gave {list(cond.shape)}")
        return cond.to(torch.float32).contiguous(memory_format=torch.channels_last)

    def _physical(self, normalised: Tensor, case: Prepared | None = None) -> Tensor:
        self._case = case
        return masked(self.postprocess_output(normalised).to(torch.float32), case)

    @classmethod
    def own_spec(cls, loaded: Loaded) -> CorrDiffSpec:
        """A package's metadata with the channels that the class's ``preprocess_input`` adds to them."""
        spec, regression = loaded.spec, loaded.regression
        if not cls.replaces("preprocess_input") or regression is None:
            return spec
        known = spec.condition_channels + len(spec.outputs.names) + (4 if spec.regression_grid else 0)
        return replace(spec, hook_channels=max(0, regression.image_channels - known))
