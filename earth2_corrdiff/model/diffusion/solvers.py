# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Sigma schedule and solvers of the reverse diffusion: a callable, a tensor, a list of sigmas.

``denoise(x, sigma)`` returns the expected clean residual given the noisy ``x``; conditioning, patches and
batches are the caller's. Sigmas are Python floats on the host, states are tensors on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.rectified_flow import integrate_flow

Denoise = Callable[[Tensor, float], Tensor]
Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Churn:
    """Noise that the stochastic solver adds and removes again at each step (Karras et al. 2022, algorithm 2).

    Attributes
    ----------
    S_churn : float
        Over all steps; each step raises sigma by the factor ``1 + min(S_churn / N, sqrt(2) - 1)``
    S_min, S_max : float
        Only steps with sigma in this range are raised
    S_noise : float
        Factor on the standard deviation of the added noise
    """

    S_churn: float = 2.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0

    def factor(self, sigma: float, steps: int) -> float:
        """The rise of ``sigma``, relative to itself."""
        inside = self.S_min <= sigma <= self.S_max
        return min(self.S_churn / steps, math.sqrt(2) - 1) if inside else 0.0


def karras_sigmas(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
) -> list[float]:
    """Noise levels of ``steps`` steps, falling from ``sigma_max`` to ``sigma_min`` and then to 0.

    Karras et al. 2022, equation 5, evaluated in ``dtype``: upstream's deterministic sampler uses
    float64, its stochastic one float32 (2e-6 apart). One step goes from ``sigma_max`` to 0.

    Raises
    ------
    InputError
        If there are no steps, or the range is empty or not positive
    """
    if steps < 1:
        raise InputError(f"the number of steps must be 1 or more, got {steps}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(f"sigma must satisfy 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if steps == 1:
        return [float(sigma_max), 0.0]
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = torch.arange(steps, dtype=dtype)
    sigmas = (first + ramp / (steps - 1) * (last - first)) ** rho
    return [*sigmas.tolist(), 0.0]


def _euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    for sigma, after in pairwise(sigmas):
        slope = (1 / sigma) * x
        slope -= (1 / sigma) * denoise(x, sigma)  # in place: fresh memory costs more than the arithmetic
        x = x + slope.mul_(after - sigma)
    return x


def _heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    for sigma, after in pairwise(sigmas):
        x = _heun_step(denoise, x, sigma, after)
    return x


def _heun_step(denoise: Denoise, x: Tensor, sigma: float, after: float) -> Tensor:
    """One step with the trapezoidal correction, except into sigma = 0."""
    step = after - sigma
    slope = (x - denoise(x, sigma)).div_(sigma)
    guess = x + step * slope
    if after == 0:
        return guess
    slope_after = (guess - denoise(guess, after)).div_(after)
    slope.mul_(0.5).add_(slope_after.mul_(0.5))
    return x + slope.mul_(step)


def _stochastic(denoise: Denoise, x: Tensor, sigmas: Sequence[float], churn: Churn, draw: Draw) -> Tensor:
    """Heun with churn: Karras et al. 2022, algorithm 2."""
    steps = len(sigmas) - 1
    for sigma, after in pairwise(sigmas):
        raised = sigma * (1 + churn.factor(sigma, steps))
        if raised > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * churn.S_noise * draw().to(x.dtype)
        x = _heun_step(denoise, x, raised, after)
    return x


def _dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M), Lu et al., arXiv 2211.01095, algorithm 2, in lambda = -log(sigma)."""
    before: Tensor | None = None
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        clean = denoise(x, sigma)
        if after == 0:
            return clean
        h = math.log(sigma / after)
        target = clean
        if before is not None:
            ratio = h / math.log(sigmas[i - 1] / sigma)
            target = (1 + ratio / 2) * clean - (ratio / 2) * before
        x = (after / sigma) * x - math.expm1(-h) * target
        before = clean
    return x


def _trigflow(denoise: Denoise, x: Tensor, sigmas: Sequence[float], sigma_data: float) -> Tensor:
    """Euler in the angle ``theta = atan(sigma / sigma_data)``, where the flow is ``dy/dtheta = -F``.

    With ``r = sqrt(sigma_data² + sigma²)`` and ``y = x / r``; exact for a Gaussian residual of standard
    deviation ``sigma_data``. The rotation form ``y cos h - F sin h`` is plain Euler: do not use it.
    """
    for sigma, after in pairwise(sigmas):
        r, r_after = math.hypot(sigma_data, sigma), math.hypot(sigma_data, after)
        h = math.atan2(after, sigma_data) - math.atan2(sigma, sigma_data)
        minus_f = (sigma_data**2 * x - r**2 * denoise(x, sigma)) * (1 / (sigma_data * sigma))
        x = (r_after / r) * (x + h * minus_f)
    return x


def _few_step(denoise: Denoise, x: Tensor, sigmas: Sequence[float], draw: Draw | None) -> Tensor:
    """Fields out of noise: the first from noise alone, each next one from the last with new noise."""
    clean = denoise(x, sigmas[0])
    for sigma in sigmas[1:-1]:
        if draw is None:
            raise InputError("a second call needs a source of noise (draw)")
        clean = denoise(clean + sigma * draw().to(x.dtype), sigma)
    return clean


SOLVERS = ("euler", "heun", "stochastic", "dpmpp_2m", "trigflow")
"""Solvers of the reverse diffusion, for every denoiser."""
FEW_STEP = "few_step"
"""The solver, and the schedule, of networks that were trained to make a field in one call, or in few."""


def network_calls(solver: str, steps: int) -> int:
    """Calls of ``denoise`` in ``sample``: the NFE at which solvers are compared."""
    check_solver(solver)
    return 2 * steps - 1 if solver in ("heun", "stochastic") else steps


def check_solver(solver: str) -> None:
    """Raise InputError if the solver is unknown."""
    if solver not in (*SOLVERS, FEW_STEP):
        raise InputError(f"unknown solver {solver!r}; use one of {', '.join(SOLVERS)}")


def sample(
    denoise: Denoise,
    noise: Tensor,
    sigmas: Sequence[float],
    solver: str = "euler",
    *,
    sigma_data: float = 0.5,
    churn: Churn | None = None,
    draw: Draw | None = None,
    clip: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Integrate the probability flow from pure noise to a sample.

    Parameters
    ----------
    denoise : Callable[[Tensor, float], Tensor]
        Denoiser D(x; sigma), called with ``x [B, C, H, W]`` of type ``dtype``
    noise : Tensor
        Standard normal ``[B, C, H, W]``
    sigmas : Sequence[float]
        Falling noise levels that end in 0, as from :func:`karras_sigmas`
    solver : str, optional
        ``euler`` and ``heun`` (upstream's formulas to the bit), ``stochastic`` (Heun with churn),
        ``dpmpp_2m`` or ``trigflow``, by default "euler"; ``few_step`` for networks that were trained for it,
        at the noise levels that they were trained for
    sigma_data : float, optional
        Standard deviation of the residual that ``trigflow`` is exact for, by default 0.5
    churn : Churn, optional
        For ``stochastic``, by default ``Churn()``
    draw : Callable[[], Tensor], optional
        Fresh standard normal noise shaped as ``noise``; ``stochastic`` needs it, and ``few_step`` of several
        calls
    clip : float | None, optional
        For ``euler`` and ``heun`` in the time of rectified flow (see ``rectified_flow.py``): its smallest
        divisor; None, the default, for steps in sigma
    dtype : torch.dtype, optional
        Of the state, by default float64, as upstream's deterministic sampler; its stochastic one: float32

    Returns
    -------
    Tensor
        ``[B, C, H, W]`` of type ``dtype``

    Raises
    ------
    InputError
        If the solver is unknown, or ``stochastic`` has nothing to draw from
    """
    check_solver(solver)

    def clean(y: Tensor, sigma: float) -> Tensor:
        return denoise(y, sigma).to(dtype)

    if clip is not None and solver in ("euler", "heun"):
        return integrate_flow(clean, noise.to(dtype), sigmas, solver == "heun", clip)
    x = noise.to(dtype) * sigmas[0]
    if solver == "euler":
        return _euler(clean, x, sigmas)
    if solver == "heun":
        return _heun(clean, x, sigmas)
    if solver == "dpmpp_2m":
        return _dpmpp_2m(clean, x, sigmas)
    if solver == FEW_STEP:
        return _few_step(clean, x, sigmas, draw)
    if solver == "trigflow":
        return _trigflow(clean, x, sigmas, sigma_data)
    if draw is None:
        raise InputError("the stochastic solver needs a source of noise (draw)")
    return _stochastic(clean, x, sigmas, churn or Churn(), draw)
