# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms of variables with skewed or bounded distributions, and their inverses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError

KINDS = ("identity", "log1p", "log_eps", "asinh", "logit_eps", "logit_eps_percent")
_PARAMETER = {"log1p": "scale", "log_eps": "eps", "asinh": "eps"}


@dataclass(frozen=True)
class Transform:
    """A variable's transform before normalisation: ``y = f(x)``, elementwise, with ``x`` in physical units.

    ========================  ==========================================  ========================
    kind                      y                                           x
    ========================  ==========================================  ========================
    ``identity``              x                                           any
    ``log1p``                 log(1 + x / scale)                          above -scale
    ``log_eps``               log(1 + x / eps)                            above -eps
    ``asinh``                 arsinh(x / eps)                             any
    ``logit_eps``             logit(eps + (1 - 2 eps) x / scale)          0 to scale
    ``logit_eps_percent``     the same; a scale of 1 means 100            0 to scale
    ========================  ==========================================  ========================

    Attributes
    ----------
    kind : str
        One of ``KINDS``
    eps : float
        In the variable's units, or for ``logit`` a fraction below 0.5
    scale : float
        In the variable's units

    Raises
    ------
    InputError
        If the kind is unknown or a parameter is out of range

    Source: ``earth2studio.models.dx.CorrDiffCosmoEra5`` (all but ``log1p``).
    """

    kind: str = "identity"
    eps: float = 1e-5
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"{self.kind!r:.60} is not a valid transform; use one of {', '.join(KINDS)}")
        least, most = (0.0, 0.5) if self.bounded else (1e-30, 1e30)
        if not (least <= self.eps < most and 1e-30 <= self.scale < 1e30):
            raise InputError(
                f"the transform {self.kind} needs an eps of {least:g} to {most:g} and a positive scale, "
                f"got {self.eps} and {self.scale}"
            )

    @property
    def bounded(self) -> bool:
        """True if the variable has a lower and an upper bound."""
        return self.kind.startswith("logit")

    @property
    def bounds(self) -> tuple[float, float]:
        """Physical range of the variable: (0, scale), (0, inf) or all numbers."""
        if self.bounded:
            return 0.0, self._unit
        return (0.0 if self.kind.startswith("log") else -math.inf), math.inf

    @property
    def _unit(self) -> float:
        """What x is divided by."""
        if self.kind == "logit_eps_percent" and self.scale == 1:
            return 100.0
        return self.eps if _PARAMETER.get(self.kind) == "eps" else self.scale

    def forward(self, x: Tensor) -> Tensor:
        """``y`` of physical values, of the same shape and type; NaN outside the table's range."""
        if self.kind == "identity":
            return x
        if self.kind == "asinh":
            return torch.asinh(x / self._unit)
        if self.bounded:
            return torch.logit(self.eps + (1 - 2 * self.eps) * (x / self._unit))
        return torch.log1p(x / self._unit)

    def inverse(self, y: Tensor) -> Tensor:
        """Physical values of ``y``, of the same shape and type.

        The logarithms' and asinh's inverse is infinite where the exponential overflows: in float32 from about
        ``y`` = 89 up, in float64 from about 710.
        """
        if self.kind == "identity":
            return y
        if self.kind == "asinh":
            return self._unit * torch.sinh(y)
        if self.bounded:
            return ((torch.sigmoid(y) - self.eps) / (1 - 2 * self.eps)) * self._unit
        return self._unit * torch.expm1(y)
