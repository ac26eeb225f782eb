# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Rectified flow: against an integration in float64 by hand, and the exact flow of a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import make_networks, make_spec
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.rectified_flow import flow_sigmas
from earth2_corrdiff.model.diffusion.solvers import SOLVERS, Churn, network_calls, sample
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import Sampling

SHAPE = (2, 3, 4, 6)
FLOW = Sampling("heun", 6, schedule="rectified_flow", shift=32.0, clip=0.05)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(x: Tensor, t: float) -> Tensor:
    """A smooth, non-linear prediction of x0 from x_t."""
    return (1 - t) * x + t * (0.4 * torch.sin(x) + 0.1)


def denoiser(y: Tensor, sigma: float) -> Tensor:
    """The same network as D(y; sigma)."""
    return network(y / (1 + sigma), sigma / (1 + sigma))


def gaussian(s: float) -> Callable[[Tensor, float], Tensor]:
    """The perfect denoiser of N(0, s²)."""
    return lambda y, sigma: y * s**2 / (s**2 + sigma**2)


# levels


@pytest.mark.parametrize("shift", [1.0, 3.0, 32.0])
def test_the_shift_multiplies_noise_levels(shift: float) -> None:
    levels = flow_sigmas(5, 0.99, shift)
    times = [0.99 * (1 - i / 5) for i in range(6)]
    assert levels == pytest.approx([shift * t / (1 - t) for t in times], rel=1e-12) and levels[-1] == 0
    single = torch.linspace(0.99, 0, 6, dtype=torch.float32)
    want = (shift * single / (1.0 + (shift - 1.0) * single)).tolist()  # the stock class's lines
    got = flow_sigmas(5, 0.99, shift, torch.float32)
    assert [s / (1 + s) for s in got] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"t_max": t}, "t_max") for t in (0.0, 1.0, -0.5, math.nan)]
    + [({"shift": a}, "shift") for a in (0.0, -1.0, math.inf, math.nan)]
    + [({"clip": c}, "clip") for c in (-0.1, 1.0, math.nan)]
    + [({"schedule": "linear"}, "schedule"), ({"rho": 0.0}, "rho"), ({"rho": math.nan}, "rho")],
)
def test_settings_that_make_no_sense(change: dict[str, float | str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        replace(FLOW, **change)  # type: ignore[arg-type]


def test_levels_that_a_network_does_not_support() -> None:
    with pytest.raises(InputError, match="supports noise levels from 0 to 80"):
        FLOW.sigmas(0, 80, torch.float32)
    assert max(replace(FLOW, shift=0.5).sigmas(0, 80, torch.float32)) < 80
    with pytest.raises(InputError, match="leaves no times"):
        replace(FLOW, shift=1e6, t_max=0.9999).sigmas(0, math.inf, torch.float32)
    with pytest.raises(InputError, match="sigma_max belongs to the schedule karras"):
        FLOW.check_setting("sigma_max")
    with pytest.raises(InputError, match="shift belongs to the schedule rectified_flow"):
        Sampling("heun", 6).check_setting("shift")


def test_a_package_of_the_generic_layout_cannot_hold_it(tmp_path: Path) -> None:
    spec = make_spec()
    for sampling in (FLOW, Sampling("heun", 6, rho=5.0)):
        with pytest.raises(InputError, match="the schedule karras with a rho of 7 alone"):
            save_package(tmp_path, replace(spec, sampling=sampling), *make_networks(spec))


# solvers


@pytest.mark.parametrize("clip", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_equals_an_integration_by_hand(solver: str, clip: float) -> None:
    """The stock class's: x in t, v = (x - x0) / max(t, clip), and the last step with Euler."""
    levels = flow_sigmas(7, 0.98, 2.0)
    times = [2 * t / (1 + t) for t in (0.98 * (1 - i / 7) for i in range(8))]
    x = times[0] * noise()
    for t, after in pairwise(times):
        v = (x - network(x, t)) / max(t, clip)
        if solver == "heun" and after > 1e-12:
            guess = x + (after - t) * v
            v = (v + (guess - network(guess, after)) / max(after, clip)) / 2
        x = x + (after - t) * v
    calls = []

    def counted(y: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return denoiser(y, sigma)

    got = sample(counted, noise(), levels, solver, clip=clip)
    assert torch.allclose(got, x, rtol=1e-9, atol=1e-9)
    assert len(calls) == network_calls(solver, 7)


def test_euler_in_time_is_euler_in_sigma_and_heun_is_not() -> None:
    levels = flow_sigmas(6, 0.99, 3.0)
    ways = {
        s: [sample(denoiser, noise(), levels, s, clip=clip) for clip in (0.0, None)]
        for s in ("euler", "heun")
    }
    assert torch.allclose(*ways["euler"], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(*ways["heun"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("solver", "clip", "order"),
    [("euler", 0.0, 1), ("heun", 0.0, 2), ("heun", None, 2), ("dpmpp_2m", None, 2), ("trigflow", None, 1)],
)
def test_order_of_convergence(solver: str, clip: float | None, order: int) -> None:
    """From t = 0.9 to 0.2 the exact flow of N(0, s²) multiplies by the ratio of standard deviations."""
    s, one = 0.7, torch.ones(1, 1, 1, 1, dtype=torch.float64)
    spread = lambda t: math.hypot((1 - t) * s, t)  # noqa: E731
    errors = []
    for steps in (100, 200):
        times = [0.9 - 0.7 * i / steps for i in range(steps + 1)]
        got = float(sample(gaussian(s), one, [t / (1 - t) for t in times], solver, clip=clip))
        in_t = clip is not None
        exact = 0.9 * spread(0.2) / spread(0.9) if in_t else 9 * math.hypot(s, 0.25) / math.hypot(s, 9)
        errors.append(abs(got - exact))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_all_solvers_find_the_same_field() -> None:
    """With many steps; the stochastic one without churn, and with churn the same spread."""
    levels = flow_sigmas(400, 0.99, 4.0)
    want = sample(denoiser, noise(), flow_sigmas(1000, 0.99, 4.0), "heun", clip=0.0)
    for solver in SOLVERS:
        for clip in (0.0, None):
            got = sample(denoiser, noise(), levels, solver, clip=clip, churn=Churn(0.0), draw=noise)
            error = float((got - want).norm() / want.norm())
            assert error < (0.02 if solver in ("euler", "trigflow") else 1e-3), (solver, clip, error)
    g, n = torch.Generator().manual_seed(0), 20_000
    draw = lambda: torch.randn(1, 1, 1, n, generator=g)  # noqa: E731
    churned = sample(
        gaussian(0.8), draw(), flow_sigmas(60, 0.99, 4.0), "stochastic", churn=Churn(15), draw=draw
    )
    assert float(churned.std()) == pytest.approx(0.8, abs=0.03)
