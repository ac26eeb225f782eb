# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Denoisers of patches against PhysicsNeMo's patched samplers, and against no patches at all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from patch_layouts import LAYOUTS, UNET, Layout, eager, fields, layouts, randn, theirs_of
from tiny import relerr, upstream_wrapper
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import WINDOWS, Given, PatchInputs, patched
from earth2_corrdiff.model.diffusion.solvers import SOLVERS, karras_sigmas, sample
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, create

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Patch shape"
)

# samplers


class StandIn:
    """A cheap denoiser that looks at its neighbours, at what it is conditioned on, and at its place."""

    sigma_min, sigma_max, sigma_data = 0.0, math.inf, 0.5
    round_sigma = staticmethod(torch.as_tensor)

    def __init__(self, domain: tuple[int, int]) -> None:
        self.pos_embd = randn(2, *domain, seed=9)
        self.sizes: list[int] = []

    def given(self, cond: Tensor, position: Tensor | None) -> Callable[[Tensor, float], Tensor]:
        assert position is not None and len(position) == len(cond)
        return lambda x, sigma: self.denoise(x, sigma, cond, position)

    def denoise(self, x: Tensor, sigma: float | Tensor, cond: Tensor, position: Tensor) -> Tensor:
        self.sizes.append(len(x))
        x, s = x.float(), torch.as_tensor(sigma).float()
        near = F.avg_pool2d(x, 3, 1, 1) / (1 + s) + cond[:, :1] - cond[:, -1:] + position[:, :1]
        return x * 0.25 / (s**2 + 0.25) + 0.3 * torch.sin(near) * s / (1 + s)

    def __call__(self, x: Tensor, cond: Tensor, sigma: Tensor, *_: Any, **how: Any) -> Tensor:
        return self.denoise(x, sigma, cond, how["embedding_selector"](self.pos_embd))


def inputs_of(lr: Tensor, mean: Tensor, position: Tensor) -> PatchInputs:
    """As upstream's samplers arrange them: mean and inputs, then the inputs of the whole domain."""
    return PatchInputs(torch.cat([mean.expand(len(lr), -1, -1, -1), lr], dim=1), lr, position[None])


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun"])
@layouts
def test_equals_the_patched_deterministic_sampler(layout: Layout, solver: str) -> None:
    from physicsnemo.diffusion.samplers.legacy_deterministic_sampler import deterministic_sampler

    net, (noise, lr, mean) = StandIn(layout[0]), fields(layout[0])
    with eager():
        want = deterministic_sampler(
            net, noise, lr, patching=theirs_of(layout), mean_hr=mean, num_steps=4, solver=solver
        )
    ours = patched(net.given, PatchGeometry(*layout), inputs_of(lr, mean, net.pos_embd), batch=6)
    got = sample(ours, noise, karras_sigmas(4, 0.002, 80), solver)
    assert got.dtype == want.dtype == torch.float64
    assert torch.equal(got, want) if solver == "euler" else relerr(got, want) < 1e-7


@layouts
def test_equals_the_patched_stochastic_sampler(layout: Layout) -> None:
    from physicsnemo.diffusion.samplers.legacy_stochastic_sampler import stochastic_sampler

    net, (noise, lr, mean) = StandIn(layout[0]), fields(layout[0])
    with eager():
        want = stochastic_sampler(net, noise, lr, patching=theirs_of(layout), mean_hr=mean, num_steps=4)
    ours = patched(net.given, PatchGeometry(*layout), inputs_of(lr, mean, net.pos_embd), batch=6)
    sigmas = karras_sigmas(4, 0.002, 800, dtype=torch.float32)
    got = sample(ours, noise, sigmas, "heun", dtype=torch.float32)
    assert got.dtype == want.dtype == torch.float32 and torch.equal(got, want)


def unet_of_patches(args: dict[str, Any], theirs: Any) -> Given:
    """Our network with upstream's weights; its position features are handed in with the conditioning."""
    ours = create(Checkpoint("EDMPrecondSuperResolution", args, {}, ""))
    assert isinstance(ours, Denoiser)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    ours.eval().requires_grad_(False)
    ours.model.pos_embd = None

    def given(cond: Tensor, position: Tensor | None) -> Callable[[Tensor, float], Tensor]:
        assert position is not None
        static = torch.cat([cond, position], dim=1)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            every = zip(x, static.expand(len(x), -1, -1, -1), strict=True)
            return torch.cat([ours(a[None], sigma, b[None]) for a, b in every])

        return denoise

    return given


@pytest.mark.slow
def test_equals_the_patched_sampler_with_a_real_network() -> None:
    from physicsnemo.diffusion.samplers.legacy_deterministic_sampler import deterministic_sampler

    layout = LAYOUTS["both"]
    theirs, (noise, lr, mean) = upstream_wrapper("EDMPrecondSuperResolution", UNET, 3), fields(layout[0])
    with eager():
        want = deterministic_sampler(
            theirs, noise, lr, patching=theirs_of(layout), mean_hr=mean, num_steps=3, solver="euler"
        )
    inputs = inputs_of(lr, mean, theirs.model.pos_embd.detach())
    ours = patched(unet_of_patches(UNET, theirs), PatchGeometry(*layout), inputs)
    got = sample(ours, noise, karras_sigmas(3, 0.002, 80), "euler")
    assert relerr(got, want) < 1e-5 and want.std() > 0.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("patch", [(40, 56), (448, 448)])
def test_one_patch_over_all_is_no_patch_bit_for_bit(solver: str, patch: tuple[int, int]) -> None:
    geometry = PatchGeometry((40, 56), patch, 4, 2)
    net, (noise, lr, mean) = StandIn((40, 56)), fields((40, 56), 1)
    inputs = inputs_of(lr, mean, net.pos_embd)
    assert geometry.single and len(geometry.patches) == 1
    cond = torch.cat([inputs.cond, lr], dim=1)
    results = []
    for denoise in (
        patched(net.given, geometry, inputs),
        net.given(cond, net.pos_embd[None]),
    ):
        draws = torch.Generator().manual_seed(5)
        draw = lambda draws=draws: torch.randn(noise.shape, generator=draws)  # noqa: E731
        results.append(sample(denoise, noise, karras_sigmas(4, 0.002, 80), solver, draw=draw))
    assert torch.equal(*results)


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_the_result_does_not_depend_on_the_batch(window: str) -> None:
    layout = LAYOUTS["both"]
    theirs, (noise, lr, mean) = upstream_wrapper("EDMPrecondSuperResolution", UNET, 3), fields(layout[0], 3)
    inputs = inputs_of(lr, mean, theirs.model.pos_embd.detach())
    net, geometry = unet_of_patches(UNET, theirs), PatchGeometry(*layout)
    want = patched(net, geometry, inputs, window)(noise, 0.7)
    for batch, keep in ((2, False), (7, True)):
        denoise = patched(net, geometry, inputs, window, batch, keep)
        assert torch.equal(denoise(noise, 0.7), want) and torch.equal(denoise(noise, 0.7), want)
    shared = PatchInputs(inputs.cond[:1], lr[:1], inputs.position)
    for batch, keep in ((3, True), (4, False)):
        same = patched(net, geometry, shared, window, batch, keep)(noise, 0.7)
        assert torch.equal(same[:1], want[:1]) and not torch.equal(same[1:], want[1:])


def test_kept_conditioning_is_prepared_once() -> None:
    """Of each patch once where all members share it; without ``keep``, at every call."""
    geometry = PatchGeometry((40, 56), (16, 24), 4, 2)
    net, (noise, lr, mean) = StandIn((40, 56)), fields((40, 56), 3)
    inputs, made = inputs_of(lr[:1], mean, net.pos_embd), []

    def given(cond: Tensor, position: Tensor | None) -> Callable[[Tensor, float], Tensor]:
        made.append(len(cond))
        return net.given(cond, position)

    for keep, calls in ((True, 1), (False, 3)):
        made.clear()
        denoise = patched(given, geometry, inputs, batch=1, keep=keep)
        for _ in range(3):
            denoise(noise, 1.0)
        members = 1 if keep else len(noise)
        assert made == [1] * len(geometry.patches) * members * calls


def test_calls_stay_within_the_batch() -> None:
    geometry = PatchGeometry((40, 56), (16, 24), 4, 2)
    net, (noise, lr, mean) = StandIn((40, 56)), fields((40, 56), 3)
    inputs = inputs_of(lr, mean, net.pos_embd)
    for batch in (1, 2, 3, 5, 7, 200):
        net.sizes.clear()
        patched(net.given, geometry, inputs, batch=batch)(noise, 1.0)
        assert sum(net.sizes) == 3 * len(geometry.patches) and max(net.sizes) <= batch
    assert net.sizes == [3 * len(geometry.patches)]


# patches shared among processes


def test_shards_add_up() -> None:
    """Threads in place of processes, a barrier in place of the network: a whole trajectory with Heun."""
    layout, size = LAYOUTS["both"], 3
    net, (noise, lr, mean) = StandIn(layout[0]), fields(layout[0])
    inputs, geometry = inputs_of(lr, mean, net.pos_embd), PatchGeometry(*layout)
    sigmas = karras_sigmas(4, 0.002, 80)
    barrier, parts, calls, results = threading.Barrier(size, timeout=60), {}, [0] * size, {}

    def run(rank: int) -> None:
        def reduce(total: Tensor) -> Tensor:
            calls[rank] += 1
            parts[rank] = total
            barrier.wait()
            summed = sum(parts[r] for r in range(size))
            barrier.wait()
            return summed

        denoise = patched(net.given, geometry, inputs, "cosine", 2, shard=(rank, size), reduce=reduce)
        results[rank] = sample(denoise, noise, sigmas, "heun")

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = sample(patched(net.given, geometry, inputs, "cosine"), noise, sigmas, "heun")
    assert calls == [7] * size and all(relerr(results[rank], want) < 1e-7 for rank in range(size))


def test_more_shards_than_patches() -> None:
    geometry = PatchGeometry((16, 20), (16, 16))
    net, (noise, lr, mean) = StandIn((16, 20)), fields((16, 20))
    inputs, parts = inputs_of(lr, mean, net.pos_embd), []

    def reduce(total: Tensor) -> Tensor:
        parts.append(total.clone())
        return total

    for rank in range(3):
        patched(net.given, geometry, inputs, shard=(rank, 3), reduce=reduce)(noise, 1.0)
    whole = patched(net.given, geometry, inputs, reduce=reduce)(noise, 1.0)
    assert len(geometry.patches) == 2 and not parts[2].any()
    assert torch.equal(parts[0] + parts[1], parts[3]) and torch.equal(parts[3], whole)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"batch": 0}, "batch of 0"),
        ({"shard": (2, 2), "reduce": torch.clone}, "shard 2 of 2"),
        ({"shard": (-1, 2), "reduce": torch.clone}, "shard -1 of 2"),
        ({"shard": (0, 2)}, "a sum over them"),
        ({"window": "round"}, "'round'"),
    ],
)
def test_bad_arguments(how: dict[str, Any], words: str) -> None:
    net, (_, lr, mean) = StandIn((32, 48)), fields((32, 48))
    geometry = PatchGeometry((32, 48), (16, 16))
    with pytest.raises(InputError, match=words):
        patched(net.given, geometry, inputs_of(lr, mean, net.pos_embd), **how)


def test_the_wrong_domain() -> None:
    net, (noise, lr, mean) = StandIn((32, 48)), fields((32, 48))
    denoise = patched(net.given, PatchGeometry((32, 64), (16, 16)), inputs_of(lr, mean, net.pos_embd))
    with pytest.raises(InputError, match="domain of"):
        denoise(noise, 1.0)
