# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Corrections of members that depend on the place, the hour and the regression, by a small network.

Source of the idea: Grönquist et al. 2021, doi 10.1098/rsta.2020.0092; Ashkboos et al. 2022, arXiv 2206.14786.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.correction import Correction, corrected

Layers = Sequence[tuple[Any, Any]]
"""Weights ``[out, in]`` and biases ``[out]`` of the layers."""


@dataclass(frozen=True)
class NetworkCorrection(Correction):
    """A correction whose a and c vary: ``a + scale n_1`` and ``c exp(n_2)``, n the network's two values.

    Attributes
    ----------
    scale : float
        In the variable's units
    center, width : tuple[float, ...]
        Normalisation of latitude, longitude and regression
    layers : tuple
        See ``Layers``
    """

    scale: float = 1.0
    center: tuple[float, ...] = (0.0, 0.0, 0.0)
    width: tuple[float, ...] = (1.0, 1.0, 1.0)
    layers: Layers = ()

    def __call__(self, members: Tensor, mean: Tensor, place: Tensor | None = None) -> Tensor:
        """Corrected members ``[m, ...]``; ``place [4, 1 or m, ...]`` of :func:`place_of`."""
        if place is None:
            raise InputError("a calibration by a network needs the place and the valid time")
        a, c = self.terms(mean, place)
        return corrected(members, mean, a, self.slope, c, (self.low, self.high))

    def terms(self, mean: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """a and c at each point, ``[1 or m, ...]``."""
        lat, lon, *hour = place.to(mean)
        own = zip((lat, lon, mean), self.center, self.width, strict=True)
        inputs = [(values - center) / width for values, center, width in own]
        x = torch.stack(torch.broadcast_tensors(*inputs, *hour), dim=-1)  # type: ignore[no-untyped-call]
        for number, (weight, bias) in enumerate(self.layers):
            x = x.tanh() if number else x
            x = torch.nn.functional.linear(
                x, torch.as_tensor(weight).to(mean), torch.as_tensor(bias).to(mean)
            )
        return self.offset + self.scale * x[..., 0], self.spread * x[..., 1].exp()


def place_of(grid: Grid, times: Any) -> Tensor:
    """Latitude, longitude, and cosine and sine of the hour of the day: ``[4, T, H, W]``.

    Raises
    ------
    InputError
        If a time is not known
    """
    valid = np.atleast_1d(np.asarray(times, dtype="datetime64[s]"))
    if np.isnat(valid).any():
        raise InputError("a calibration by a network needs the valid time")
    turns = (valid - valid.astype("datetime64[D]")).astype(np.float64)[:, None, None] * (2 * np.pi / 86400)
    parts = np.broadcast_arrays(*(axis[None] for axis in grid.mesh()), np.cos(turns), np.sin(turns))
    return torch.from_numpy(np.stack(parts).astype(np.float32))
