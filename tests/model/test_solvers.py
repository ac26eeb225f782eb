# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Schedule and solvers: against PhysicsNeMo's samplers, and against what is known for a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.solvers import (
    SOLVERS,
    Churn,
    karras_sigmas,
    network_calls,
    sample,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*legacy implementation")
SHAPE = (2, 3, 8, 12)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


class StandIn:
    """A cheap, smooth, non-linear denoiser with the signature of PhysicsNeMo's networks; counts its calls."""

    sigma_min, sigma_max, sigma_data = 0.0, math.inf, 0.5
    round_sigma = staticmethod(torch.as_tensor)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, cond: Tensor | None, sigma: Tensor, *_: Any) -> Tensor:
        self.calls += 1
        x, s = x.float(), torch.as_tensor(sigma).float()
        return x * 0.25 / (s**2 + 0.25) + 0.3 * torch.sin(x / (1 + s)) * s / (1 + s)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return self(x, None, torch.tensor(sigma))


# schedule


def test_schedule_of_eight_steps() -> None:
    want = [80, 34.992, 13.6986, 4.6371, 1.28661, 0.267475, 0.0351867, 0.002, 0]
    got = karras_sigmas(8, 0.002, 80)
    assert got == pytest.approx(want, rel=2e-5)
    assert got[0] == pytest.approx(80, rel=1e-14) and got[-1] == 0


def test_schedule_in_single_precision_is_that_of_the_stochastic_sampler() -> None:
    want = (800 ** (1 / 7) + torch.arange(18) / 17 * (0.002 ** (1 / 7) - 800 ** (1 / 7))) ** 7
    got = karras_sigmas(18, 0.002, 800, dtype=torch.float32)
    assert got == [*want.tolist(), 0.0]
    assert got[:-1] == pytest.approx(karras_sigmas(18, 0.002, 800)[:-1], rel=1e-5)
    assert got != karras_sigmas(18, 0.002, 800)


def test_one_step_goes_from_the_top_to_zero() -> None:
    assert karras_sigmas(1, 0.002, 80) == [80.0, 0.0]
    for solver in ("euler", "heun", "dpmpp_2m"):  # one step of these is the denoiser itself
        net = StandIn()
        got = sample(net.denoise, noise(), [80.0, 0.0], solver)
        assert torch.allclose(got, StandIn().denoise(80 * noise().double(), 80.0).double(), atol=1e-5)
        assert net.calls == 1


@pytest.mark.parametrize(
    ("steps", "low", "high", "word"),
    [(0, 0.002, 80, "steps"), (-3, 0.002, 80, "steps"), (8, 0, 80, "sigma"), (8, 80, 80, "sigma_max")]
    + [(8, 0.002, math.inf, "sigma"), (8, 0.002, math.nan, "sigma"), (8, -1, 80, "sigma_min")],
)
def test_bad_schedules(steps: int, low: float, high: float, word: str) -> None:
    with pytest.raises(InputError, match=word):
        karras_sigmas(steps, low, high)


# against PhysicsNeMo


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [2, 8, 12])
def test_equals_the_deterministic_sampler(solver: str, steps: int) -> None:
    from physicsnemo.diffusion.samplers.legacy_deterministic_sampler import deterministic_sampler

    ours, theirs = StandIn(), StandIn()
    want = deterministic_sampler(theirs, noise(), torch.zeros(SHAPE), num_steps=steps, solver=solver)
    got = sample(ours.denoise, noise(), karras_sigmas(steps, 0.002, 80), solver)
    assert got.dtype == want.dtype == torch.float64 and ours.calls == theirs.calls
    if solver == "euler":
        assert torch.equal(got, want)
    else:
        assert (got - want).norm() < 1e-7 * want.norm()


@pytest.mark.parametrize("steps", [2, 18])
def test_equals_the_stochastic_sampler(steps: int) -> None:
    """Bit for bit: single precision, a top of 800, and no churn, since nobody passes any."""
    from physicsnemo.diffusion.samplers.legacy_stochastic_sampler import stochastic_sampler

    ours, theirs = StandIn(), StandIn()
    want = stochastic_sampler(theirs, noise(), torch.zeros(SHAPE), num_steps=steps)
    sigmas = karras_sigmas(steps, 0.002, 800, dtype=torch.float32)
    got = sample(ours.denoise, noise(), sigmas, "heun", dtype=torch.float32)
    assert got.dtype == torch.float32 and ours.calls == theirs.calls == 2 * steps - 1
    assert torch.equal(got, want)


def test_churn_equals_the_stochastic_sampler_with_churn() -> None:
    from physicsnemo.diffusion.samplers.legacy_stochastic_sampler import stochastic_sampler

    how = {"S_churn": 3.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
    draws = [noise(seed=i) for i in range(1, 13)]  # theirs draws at every step, ours at those in the range
    sigmas = karras_sigmas(12, 0.002, 800, dtype=torch.float32)
    theirs, ours = iter(draws), iter([d for d, s in zip(draws, sigmas, strict=False) if 0.05 <= s <= 50])
    want = stochastic_sampler(
        StandIn(), noise(), torch.zeros(SHAPE), randn_like=lambda _: next(theirs), num_steps=12, **how
    )
    got = sample(
        StandIn().denoise,
        noise(),
        sigmas,
        "stochastic",
        churn=Churn(**how),
        draw=lambda: next(ours),
        dtype=torch.float32,
    )
    assert next(ours, None) is None
    assert (got - want).norm() < 1e-5 * want.norm()


def test_number_of_network_calls() -> None:
    for solver in SOLVERS:
        for steps in (1, 2, 7):
            net = StandIn()
            sample(net.denoise, noise(), karras_sigmas(steps, 0.002, 80), solver, draw=noise)
            assert net.calls == network_calls(solver, steps), solver
    assert [network_calls(solver, 18) for solver in SOLVERS] == [18, 35, 35, 18, 18]


# against the exact answer for a Gaussian


def gaussian(s: float) -> Callable[[Tensor, float], Tensor]:
    """The perfect denoiser of N(0, s²)."""
    return lambda x, sigma: x * s**2 / (s**2 + sigma**2)


SPREADS = (0.02, 0.05, 0.1, 0.3, 0.5, 1.0, 3.0)
# solver, steps, sigma_max, generated over true standard deviation of each target spread
TABLE = [
    ("euler", 8, 80, (0.519, 0.594, 0.584, 0.656, 0.666, 0.692, 0.729)),
    ("euler", 12, 80, (0.669, 0.698, 0.723, 0.758, 0.772, 0.791, 0.818)),
    ("heun", 18, 80, (1.143, 1.111, 1.090, 1.065, 1.055, 1.045, 1.031)),
    ("heun", 18, 800, (1.372, 1.267, 1.220, 1.155, None, 1.107, 1.076)),
    ("dpmpp_2m", 8, 80, (0.779, 0.952, 0.974, 1.135, 1.151, 1.181, 1.190)),
    ("dpmpp_2m", 12, 80, (0.966, 1.057, 1.105, 1.134, 1.132, 1.121, 1.094)),
    ("trigflow", 8, 80, (1.101, 1.203, 1.085, 1.048, 1.000, 0.960, 0.953)),
    ("trigflow", 12, 80, (0.984, 1.012, 1.026, 1.013, 1.000, 0.990, 0.998)),
]


@pytest.mark.parametrize(("solver", "steps", "top", "ratios"), TABLE, ids=[f"{r[0]}-{r[1]}" for r in TABLE])
def test_spread_of_a_gaussian(solver: str, steps: int, top: float, ratios: tuple[float | None, ...]) -> None:
    """The solvers are linear here, so one unit of noise gives the standard deviation."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for s, want in zip(SPREADS, ratios, strict=True):
        got = float(sample(gaussian(s), one, karras_sigmas(steps, 0.002, top), solver)) / s
        if solver == "trigflow" or (solver == "euler" and s == 0.5):
            got /= top / math.hypot(s, top)  # what the exact flow makes of this start
        if want is not None:
            assert got == pytest.approx(want, abs=6e-4), s


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_trigflow_is_exact_where_the_spread_is_sigma_data(steps: int) -> None:
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for s in (0.3, 0.5):
        got = sample(gaussian(s), one, karras_sigmas(steps, 0.002, 80), "trigflow", sigma_data=s)
        assert float(got) == pytest.approx(s * 80 / math.hypot(s, 80), rel=1e-10)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("trigflow", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    """Twice the steps make the error half, or a quarter; without the step to zero, of first order for all."""
    start, s, low = 8.0, 0.7, 0.05
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = start * math.hypot(s, low) / math.hypot(s, start)
    coarse, fine = (
        abs(float(sample(gaussian(s), one, karras_sigmas(steps, low, start)[:-1], solver)) - exact)
        for steps in (100, 200)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


# churn


def test_without_churn_the_stochastic_solver_is_heun_and_draws_nothing() -> None:
    sigmas = karras_sigmas(6, 0.002, 80)

    def never() -> Tensor:
        raise AssertionError("no noise was to be drawn")

    for churn in (Churn(S_churn=0.0), Churn(S_min=1000.0), Churn(S_max=1e-4)):
        got = sample(StandIn().denoise, noise(), sigmas, "stochastic", churn=churn, draw=never)
        assert torch.equal(got, sample(StandIn().denoise, noise(), sigmas, "heun"))


def test_churn_changes_the_result_and_depends_on_the_draws() -> None:
    sigmas = karras_sigmas(6, 0.002, 80)

    def run(seed: int, **how: float) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        draw = lambda: torch.randn(SHAPE, generator=g)  # noqa: E731
        return sample(StandIn().denoise, noise(), sigmas, "stochastic", churn=Churn(**how), draw=draw)

    heun = sample(StandIn().denoise, noise(), sigmas, "heun")
    a, b = run(1), run(2)
    for other in (heun, b, run(1, S_churn=1.0), run(1, S_noise=1.1)):
        assert (a - other).norm() > 0.05 * a.norm()
    assert torch.equal(a, run(1))


def test_churn_factor() -> None:
    churn = Churn(S_churn=2.0, S_min=0.05, S_max=50.0)
    assert churn.factor(1.0, 8) == 0.25
    assert churn.factor(1.0, 2) == math.sqrt(2) - 1  # never more than doubling the variance
    assert churn.factor(0.04, 8) == churn.factor(51.0, 8) == 0.0


@pytest.mark.slow
def test_churn_keeps_the_variance_of_a_gaussian() -> None:
    """Algorithm 2 adds what it removes: with many steps the spread is right."""
    n, g = 200_000, torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(1, 1, 1, n, generator=g)  # noqa: E731
    for s in (0.1, 0.5, 1.0):
        got = sample(
            gaussian(s),
            draw(),
            karras_sigmas(120, 0.002, 80),
            "stochastic",
            churn=Churn(S_churn=20.0),
            draw=draw,
        )
        assert float(got.std()) / s == pytest.approx(1, abs=0.02)
        kurtosis = float((got / got.std()).pow(4).mean())
        assert kurtosis == pytest.approx(3, abs=0.1)


# arguments


def test_state_has_the_type_asked_for() -> None:
    seen: list[torch.dtype] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x.dtype)
        assert isinstance(sigma, float)
        return 0.5 * x.float()

    for dtype in (torch.float64, torch.float32):
        for solver in SOLVERS:
            got = sample(denoise, noise(), karras_sigmas(3, 0.01, 10), solver, draw=noise, dtype=dtype)
            assert got.dtype == dtype and got.shape == SHAPE
            assert set(seen) == {dtype}
            seen.clear()


def test_bad_solvers() -> None:
    sigmas = karras_sigmas(3, 0.01, 10)
    with pytest.raises(InputError, match="solver 'rk4'.*euler, heun"):
        sample(StandIn().denoise, noise(), sigmas, "rk4")
    with pytest.raises(InputError, match="rk4"):
        network_calls("rk4", 3)
    with pytest.raises(InputError, match="draw"):
        sample(StandIn().denoise, noise(), sigmas, "stochastic")
