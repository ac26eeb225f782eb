# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Rectified flow: ``x_t = (1 - t) x0 + t noise`` for t from 0 to 1, its noise levels, Euler and Heun in t.

It is EDM in other variables: ``y = x_t / (1 - t) = x0 + sigma noise`` with ``sigma = t / (1 - t)``. A network
that predicts x0, or the flow ``v = noise - x0 = (x_t - x0) / t``, is thus a denoiser D(y; sigma), and every
solver of ``solvers.py`` works on it. Euler takes the same steps in t as in sigma; Heun does not.

Source: Liu et al., arXiv 2209.03003; the shift: Esser et al., arXiv 2403.03206.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError


def flow_sigmas(
    steps: int, t_max: float = 0.99, shift: float = 1.0, dtype: torch.dtype = torch.float64
) -> list[float]:
    """Noise levels ``t / (1 - t)`` of times that fall from ``t_max`` to 0 in equal steps, then shifted.

    Parameters
    ----------
    steps : int
        Number of steps
    t_max : float, optional
        First time before the shift, in (0, 1), by default 0.99
    shift : float, optional
        ``t → shift t / (1 + (shift - 1) t)``, which multiplies every noise level by it, by default 1
    dtype : torch.dtype, optional
        That times are computed in, by default float64; the stock class uses float32

    Raises
    ------
    InputError
        If a number is out of range, or so near its end that the first time is rounded to 1
    """
    if steps < 1:
        raise InputError(f"the number of steps must be 1 or more, got {steps}")
    check_flow(t_max, shift, 0.0)
    times = torch.linspace(t_max, 0, steps + 1, dtype=dtype)
    times = shift * times / (1 + (shift - 1) * times)
    if not 0 < times[-2] <= times[0] < 1:
        raise InputError(f"a shift of {shift:g} from t_max = {t_max:g} leaves no times; use others")
    return [t / (1 - t) for t in times.tolist()]


def check_flow(t_max: float, shift: float, clip: float) -> None:
    """Raise InputError if a setting of rectified flow is out of range."""
    if not 0 < t_max < 1:
        raise InputError(f"t_max must lie between 0 and 1, got {t_max}")
    if not 1e-6 <= shift <= 1e6:
        raise InputError(f"the shift must be positive, and within 1e-6 and 1e6, got {shift}")
    if not 0 <= clip < 1:
        raise InputError(f"the clip must be 0 or more and less than 1, got {clip}")


def integrate_flow(
    denoise: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    sigmas: Sequence[float],
    heun: bool,
    clip: float = 0.0,
) -> Tensor:
    """Euler or Heun in t on ``dx/dt = (x - x0) / max(t, clip)``, as the stock class; Euler into t = 0.

    Parameters
    ----------
    denoise : Callable[[Tensor, float], Tensor]
        D(y; sigma) of ``y [B, C, H, W]``
    noise : Tensor
        Standard normal ``[B, C, H, W]``
    sigmas : Sequence[float]
        Falling noise levels, as from :func:`flow_sigmas`
    heun : bool
        True for Heun
    clip : float, optional
        Smallest divisor; with 0, the default, the slope is the flow itself

    Returns
    -------
    Tensor
        ``x [B, C, H, W]``
    """
    times = [sigma / (1 + sigma) for sigma in sigmas]
    x = noise * times[0]
    for t, after in pairwise(times):
        slope = _slope(denoise, x, t, clip)
        guess = x + (after - t) * slope
        if heun and after > 0:
            slope = slope.add_(_slope(denoise, guess, after, clip)).mul_(0.5)
            guess = x + slope.mul_(after - t)
        x = guess
    return x


def _slope(denoise: Callable[[Tensor, float], Tensor], x: Tensor, t: float, clip: float) -> Tensor:
    """dx/dt at one time."""
    return (x - denoise(x / (1 - t), t / (1 - t))).div_(max(t, clip))
