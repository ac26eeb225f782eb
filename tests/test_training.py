# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Losses against PhysicsNeMo's, and the loop: reproducible, resumable, and what it says it does."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import make_networks, make_spec, randomise, relerr, upstream_wrapper
from torch import Tensor, nn

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.networks import Denoiser, Regression
from earth2_corrdiff.training.data import Pairs, batches, channel_statistics
from earth2_corrdiff.training.loop import Recipe, train
from earth2_corrdiff.training.losses import EDMLoss, regression_loss

pytestmark = pytest.mark.filterwarnings("ignore")
H, W = 16, 24


def fields(batch: int, channels: int, seed: int) -> Tensor:
    return torch.randn(batch, channels, H, W, generator=torch.Generator().manual_seed(seed))


# losses


def networks_of_both(training: bool) -> tuple[Regression, Denoiser, nn.Module, nn.Module]:
    """Ours, and upstream's with the same weights."""
    ours = make_networks(make_spec((H, W)), seed=3)
    theirs = []
    for net in ours:
        other = upstream_wrapper(net.origin.name, net.origin.args)
        other.load_state_dict(net.state_dict(), strict=False)
        theirs.append(other.train(training))
        net.train(training)
    return *ours, *theirs


@pytest.mark.parametrize("training", [True, False])
def test_edm_loss_equals_upstreams_residual_loss(training: bool) -> None:
    from physicsnemo.diffusion.metrics.legacy_losses import ResidualLoss

    regression, denoiser, their_regression, their_denoiser = networks_of_both(training)
    truth, cond = fields(3, 2, 0), fields(3, 4, 1)

    class Denoise(nn.Module):
        """Without arguments of theirs that a plain U-Net does not take."""

        def forward(self, x: Tensor, y: Tensor, sigma: Tensor, **_: object) -> Tensor:
            return their_denoiser(x, y, sigma)

    torch.manual_seed(7)  # they draw from the global generator, ours from one with the same seed
    want = ResidualLoss(their_regression, P_mean=0.0, P_std=1.2, hr_mean_conditioning=True)(
        Denoise(), truth, cond
    )
    with torch.no_grad():
        mean = regression(cond)
        generator = torch.Generator().manual_seed(7)
        got = EDMLoss()(denoiser, torch.cat([mean, cond], 1), truth - mean, generator)
    assert got.ndim == 0 and float(got) == pytest.approx(float(want.mean().detach()), rel=1e-5)


def test_regression_loss_equals_upstreams() -> None:
    from physicsnemo.diffusion.metrics.legacy_losses import RegressionLoss

    regression, _, theirs, _ = networks_of_both(True)
    truth, cond = fields(2, 2, 0), fields(2, 4, 1)

    class Regress(nn.Module):
        def forward(self, x: Tensor, y: Tensor, force_fp32: bool, **_: object) -> Tensor:
            return theirs(x, y)

    want = RegressionLoss()(Regress(), truth, cond).mean()
    assert float(regression_loss(regression, cond, truth).detach()) == pytest.approx(float(want), rel=1e-5)


def test_edm_loss_by_hand() -> None:
    """A denoiser that answers zero: the loss is the weighted square of the residual alone."""

    class Zero(nn.Module):
        sigma_data = 0.5
        seen: list[Tensor]

        def forward(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
            self.seen = [x, sigma]
            return torch.zeros_like(x)

    net, residual = Zero(), fields(4, 2, 0)
    got = EDMLoss(P_mean=-0.7, P_std=0.9)(net, fields(4, 1, 1), residual, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    sigma = torch.exp(-0.7 + 0.9 * torch.randn(4, generator=generator))
    noise = torch.randn(residual.shape, generator=generator)
    assert torch.allclose(net.seen[1], sigma)
    assert torch.allclose(net.seen[0], residual + sigma.view(-1, 1, 1, 1) * noise)
    per_sample = residual.square().mean((1, 2, 3))
    weight = 1 / sigma**2 + 1 / 0.5**2  # the same as (sigma² + sd²) / (sigma sd)²
    assert float(got) == pytest.approx(float((weight * per_sample).mean()), rel=1e-5)


# the order of samples


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (13, 4), (5, 5), (7, 1)])
def test_each_epoch_is_a_permutation(size: int, batch: int) -> None:
    per_epoch = size // batch
    drawn = list(itertools.islice(batches(size, batch, 3), 3 * per_epoch))
    assert all(len(b) == batch for b in drawn)
    epochs = [torch.cat(drawn[i : i + per_epoch]).tolist() for i in range(0, len(drawn), per_epoch)]
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * batch and set(epoch) <= set(range(size))
    assert size == 1 or epochs[0] != epochs[1] != epochs[2]


def test_batches_depend_on_the_seed_and_their_number_alone() -> None:
    def take(count: int, seed: int, first: int = 0) -> list[list[int]]:
        return [b.tolist() for b in itertools.islice(batches(13, 4, seed, first), count)]

    whole = take(10, 3)
    assert whole == take(10, 3) and whole != take(10, 4)
    for first in (1, 3, 4, 7):
        assert take(10 - first, 3, first) == whole[first:]


def test_fewer_samples_than_a_batch() -> None:
    for index in itertools.islice(batches(3, 8, 0), 3):
        assert sorted(index.tolist()) == [0, 1, 2]


def test_channel_statistics() -> None:
    x = fields(5, 3, 0) * torch.tensor([1.0, 20.0, 300.0]).view(-1, 1, 1) + 7
    stats = channel_statistics(["a", "b", "c"], x, factor=2.0)
    assert stats.names == ("a", "b", "c")
    for i in range(3):
        values = x[:, i].double().numpy()
        assert stats.center[i] == pytest.approx(values.mean()) and stats.scale[i] == pytest.approx(
            2 * values.std(ddof=1)
        )
    assert len(Pairs(x, x)) == 5


# the loop

RECIPE = Recipe(steps=6, batch=2, lr=1e-2, warmup=2, ema_halflife=3, seed=5, bf16=False)
Loss = Callable[[Tensor, torch.Generator], Tensor]


def problem(dropout: float = 0.0) -> tuple[Denoiser, Loss]:
    """A tiny denoiser, and its loss on seven samples."""
    denoiser = make_networks(make_spec((8, 8)), seed=1, dropout=dropout, channel_mult=[1])[1]
    generator = torch.Generator().manual_seed(0)
    cond, residual = (torch.randn(7, c, 8, 8, generator=generator) for c in (6, 2))
    edm = EDMLoss()
    return denoiser, lambda index, g: edm(denoiser, cond[index], residual[index], g)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(recipe: Recipe = RECIPE, dropout: float = 0.0) -> tuple[list[float], dict[str, Tensor]]:
    net, loss = problem(dropout)
    values = [value for _, value in train(net, loss, 7, recipe)]
    return values, weights(net)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_seed_gives_the_same_network_bit_for_bit(bf16: bool) -> None:
    recipe = Recipe(**{**RECIPE.__dict__, "bf16": bf16})
    values, first = run(recipe)
    torch.manual_seed(99)  # nothing of the global generator enters
    again, second = run(recipe)
    assert values == again and equal(first, second) and len(values) == 6
    other, third = run(Recipe(**{**recipe.__dict__, "seed": 6}))
    assert values != other and not equal(first, third)


@functools.cache
def unbroken(dropout: float) -> tuple[list[float], dict[str, Tensor]]:
    return run(dropout=dropout)


@pytest.mark.parametrize(("stop", "dropout"), [(1, 0.0), (2, 0.0), (5, 0.0), (3, 0.3)])
def test_a_resumed_training_equals_an_unbroken_one(tmp_path: Path, stop: int, dropout: float) -> None:
    values, want = unbroken(dropout)
    net, loss = problem(dropout)
    part = list(itertools.islice(train(net, loss, 7, RECIPE, tmp_path / "state.pt", every=2), stop))
    torch.manual_seed(99)
    net, loss = problem(dropout)
    rest = list(train(net, loss, 7, RECIPE, tmp_path / "state.pt", every=2))
    assert [step for step, _ in part] == list(range(1, stop + 1))
    first = stop - stop % 2 + 1  # what came after the last checkpoint is done again
    assert [step for step, _ in rest] == list(range(first, 7))
    assert [value for _, value in part] == values[:stop]
    assert [value for _, value in rest] == values[first - 1 :]
    assert equal(weights(net), want)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_finished_training_is_taken_up_as_it_ended(tmp_path: Path) -> None:
    net, loss = problem()
    list(train(net, loss, 7, RECIPE, tmp_path / "state.pt"))
    again, loss = problem()
    assert list(train(again, loss, 7, RECIPE, tmp_path / "state.pt")) == []
    assert equal(weights(again), weights(net))
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_training_lowers_the_loss() -> None:
    net, loss = problem()

    def value() -> float:
        with torch.no_grad():
            return float(loss(torch.arange(7), torch.Generator().manual_seed(0)))

    before = value()
    list(train(net, loss, 7, Recipe(steps=15, batch=7, lr=2e-2, warmup=2, ema_halflife=2, bf16=False)))
    assert value() < 0.9 * before


def test_what_is_left_is_the_average_of_the_weights_by_hand() -> None:
    net, loss = problem()
    average = weights(net)
    steps = train(net, loss, 7, RECIPE)
    for step in range(RECIPE.steps):
        next(steps)
        keep = 0.5 ** (1 / min(3, 1 + step / 10))
        average = {k: keep * average[k] + (1 - keep) * v for k, v in weights(net).items()}
    last = weights(net)
    assert next(steps, None) is None
    for name, value in net.named_parameters():
        assert relerr(value, average[name]) < 1e-6, name
    assert not equal(weights(net), last)


def test_one_step_by_hand() -> None:
    """Warm-up, clipping and Adam on one number: w = 3, loss = (10 w)², gradient 600, clipped to 1."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(3.0)

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        return (10 * net(torch.ones(1, 1))).square().mean()

    steps = train(net, loss, 4, Recipe(steps=8, batch=2, lr=0.1, warmup=4, clip=1.0, bf16=False))
    step, value = next(steps)
    assert (step, value) == (1, 900.0)
    # Adam's first step is the rate, whatever the gradient: a quarter of the peak
    assert float(net.weight.detach()) == pytest.approx(3.0 - 0.1 / 4, rel=1e-5)
    # the second: gradients (1, 1) after clipping give the rate again, now half of the peak
    next(steps)
    assert float(net.weight.detach()) == pytest.approx(3.0 - 0.1 / 4 - 0.1 / 2, rel=1e-5)


def test_learning_rate() -> None:
    recipe = Recipe(steps=110, lr=2.0, warmup=10)
    assert [recipe.rate(i) for i in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert [recipe.rate(i) for i in (10, 35, 60, 110, 500)] == pytest.approx(
        [2.0, 1 + math.cos(math.pi / 4), 1.0, 0.0, 0.0], abs=1e-12
    )
    assert Recipe(steps=5, warmup=100).rate(4) == pytest.approx(5e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, bad: float) -> None:
    net, loss = problem()
    count = 0

    def spoilt(index: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal count
        count += 1
        return loss(index, generator) * (bad if count == 4 else 1.0)

    steps = train(net, spoilt, 7, RECIPE, tmp_path / "state.pt", every=1)
    with pytest.raises(InputError, match=r"loss became (nan|inf) at step 3.*learning rate"):
        list(steps)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
    assert all(p.isfinite().all() for p in net.parameters())


def test_a_gradient_that_is_not_finite_stops_it_too() -> None:
    """The root of zero: a finite loss with an infinite slope."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        return net.weight.square().sum().sqrt()

    with pytest.raises(InputError, match="gradient.* at step 0"):
        list(train(net, loss, 4, RECIPE))
    assert net.weight.isfinite().all()


@pytest.mark.parametrize("kind", ["truncated", "of another network", "text"])
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state.pt"
    net, loss = problem()
    list(train(net, loss, 7, RECIPE, path))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("not a checkpoint")
    else:
        net = make_networks(make_spec((8, 8)), model_channels=16)[1]
    with pytest.raises(InputError, match=r"state\.pt") as raised:
        list(train(net, loss, 7, RECIPE, path))
    assert "\n" not in str(raised.value)


def test_the_loop_yields_and_does_nothing_before_it_is_asked() -> None:
    net, loss = problem()
    before = weights(net)
    steps: Iterator[tuple[int, float]] = train(net, loss, 7, RECIPE)
    assert equal(weights(net), before)
    next(steps)
    assert not equal(weights(net), before)
    assert randomise(net) is net
