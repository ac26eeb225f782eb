# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Members' noise: equal to the stock classes' where those are meant, and a function of nothing else."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from fast_kit import with_gpu
from tiny import make_networks, make_spec, weather
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion import noise as module
from earth2_corrdiff.model.diffusion.noise import (
    SEEDS,
    MemberNoise,
    consecutive_seeds,
    drawn_seeds,
    fresh_seed,
    member_seed,
)
from earth2_corrdiff.model.downscaler import Downscaler

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NOON = np.datetime64("2024-07-24T12:00")


def test_equals_stacked_random_generator(upstream: object) -> None:
    from physicsnemo.diffusion.utils import StackedRandomGenerator

    seeds = [3, 0, 2**32 + 5, 4_000_000_000]
    theirs = StackedRandomGenerator(CPU, seeds)
    ours = MemberNoise(seeds, (2, 5, 7), CPU)
    for _ in range(3):  # later draws too
        assert torch.equal(ours(), theirs.randn((4, 2, 5, 7), device=CPU))


def test_a_member_is_the_same_alone_and_in_company_in_any_order() -> None:
    together = MemberNoise([5, 6, 7], (2, 4, 6), CPU)
    first, second = together(), together()
    alone = MemberNoise([6], (2, 4, 6), CPU)
    assert torch.equal(alone()[0], first[1]) and torch.equal(alone()[0], second[1])
    assert torch.equal(MemberNoise([7, 5], (2, 4, 6), CPU)(), first[[2, 0]])


def test_noise_is_standard_normal_and_members_are_independent() -> None:
    a, b = MemberNoise([0, 1], (4, 100, 120), CPU)().flatten(1).double()
    n = a.numel()
    for x in (a, b):
        assert abs(x.mean()) < 5 / n**0.5 and abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((a * b).mean()) < 5 / n**0.5


def test_known_noise() -> None:
    """Pinned: stores that were begun with an older version must go on with the same members."""
    got = MemberNoise([0], (1, 1, 3), CPU)().flatten()
    assert torch.allclose(got, torch.tensor([1.5409961, -0.2934289, -2.1787894]), rtol=1e-6)


def test_seeds_of_the_stock_classes() -> None:
    generator = torch.Generator().manual_seed(7)
    assert drawn_seeds(7, 4) == torch.randint(0, 2**32, (4,), generator=generator).tolist()
    assert drawn_seeds(7, 2) == drawn_seeds(7, 4)[:2]
    assert consecutive_seeds(7, 3) == [7, 8, 9]
    assert consecutive_seeds(SEEDS - 1, 2) == [SEEDS - 1, 0]


def test_member_seed_is_pinned() -> None:
    """As the noise: a store that was begun with an older version goes on with the same members."""
    assert [member_seed(0, NOON, i) for i in range(3)] == [3769593392, 2646383208, 422464563]
    assert member_seed(SEEDS, NOON, 0) == member_seed(0, NOON, 0)


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "ns"])
def test_member_seed_does_not_depend_on_the_unit_of_time(unit: str) -> None:
    assert member_seed(3, NOON.astype(f"datetime64[{unit}]"), 1) == member_seed(3, NOON, 1)


def test_member_seeds_differ_in_seed_time_and_member() -> None:
    seeds, members = range(4), range(8)
    times = [np.datetime64(t) for t in ("1940-01-01", "1969-12-31T18", "2024-07-24T12", "2024-07-24T18")]
    made = {member_seed(*what) for what in itertools.product(seeds, times, members)}
    assert len(made) == 4 * 4 * 8 and all(0 <= s < SEEDS for s in made)


def test_fresh_seeds_are_fresh() -> None:
    seeds = {fresh_seed() for _ in range(8)}
    assert len(seeds) == 8 and all(0 <= s < SEEDS for s in seeds)


# drawn in threads, beside a GPU, and on it


def one_by_one(seeds: Sequence[int], shape: tuple[int, ...], draws: int) -> list[Tensor]:
    """By the plainest way: a generator per member, in turn."""
    generators = [torch.Generator().manual_seed(seed % SEEDS) for seed in seeds]
    return [torch.stack([torch.randn(shape, generator=g) for g in generators]) for _ in range(draws)]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (1, 4, 4), (3, 17, 23), (2, 64, 96)])
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], threads: int) -> None:
    """Sizes below and above those where PyTorch draws 16 numbers at once, and no multiples of it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(module, "_cores", lambda: 8)
    seeds = [3, 0, 2**32 + 5, 4_000_000_000, 7]
    ours = MemberNoise(seeds, shape, CPU)
    assert all(torch.equal(ours(), want) for want in one_by_one(seeds, shape, 3))


def test_members_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together, inner, seen = Barrier(4, timeout=60), module._fill, set()

    def fill(*what: Any) -> None:
        together.wait()  # nobody passes before all have come
        seen.add(get_ident())
        inner(*what)

    monkeypatch.setattr(module, "_fill", fill)
    monkeypatch.setattr(module, "_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    module._threads.cache_clear()
    try:
        seeds = list(range(8))
        assert torch.equal(MemberNoise(seeds, (2, 3, 4), CPU)(), one_by_one(seeds, (2, 3, 4), 1)[0])
    finally:
        module._threads.cache_clear()
    assert len(seen) == 4


@pytest.mark.process
def test_a_fork_has_threads_of_its_own() -> None:
    code = """
import os, torch
from earth2_corrdiff.model.diffusion.noise import MemberNoise
torch.get_num_threads = lambda: 2
def draw(): return MemberNoise([1, 2, 3], (2, 8, 8), torch.device("cpu"))()
want, child = draw(), os.fork()
if not child:
    os._exit(0 if torch.equal(draw(), want) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


class Pinned(Tensor):
    """Host memory that remembers how it went to the GPU, which is the CPU here."""

    copies: list[tuple[torch.device, bool]] = []

    def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
        Pinned.copies.append((device, non_blocking))
        return self.as_subclass(Tensor).clone()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether memory was to be pinned, each time."""
    asked = []

    def memory(shape: tuple[int, ...], pinned: bool) -> Tensor:
        asked.append(pinned)
        return torch.empty(shape).as_subclass(Pinned)

    monkeypatch.setattr(module, "_memory", memory)
    Pinned.copies = []
    return asked


def test_for_a_gpu(pinned: list[bool]) -> None:
    """Begun before it is asked for, from pinned memory, without waiting for the copy; the CPU's bits."""
    ours = MemberNoise([5, 6, 7], (2, 5, 7), GPU).begin()
    assert pinned == [True] and ours._begun is not None
    assert ours.begin()._begun is ours._begun and pinned == [True]
    for want in one_by_one([5, 6, 7], (2, 5, 7), 3):
        assert torch.equal(ours(), want)
    assert pinned == [True] * 3 and Pinned.copies == [(GPU, True)] * 3


def test_on_a_cpu_nothing_begins() -> None:
    """The draw would take cores from the regression."""
    for where in ("host", "device"):
        assert MemberNoise([5], (2, 5, 7), CPU, where).begin()._begun is None


def test_what_goes_wrong_in_a_thread_is_raised(pinned: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "_fill", fill)
    with pytest.raises(MemoryError):
        MemberNoise([5, 6], (2, 5, 7), GPU).begin()()


def test_memory_that_cannot_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = torch.empty

    def empty(*what: Any, pin_memory: bool = False, **how: Any) -> Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return inner(*what, **how)

    monkeypatch.setattr(torch, "empty", empty)
    assert module._memory((2, 3), pinned=True).shape == (2, 3)


def test_on_a_cpu_the_device_draws_as_the_host() -> None:
    ours, theirs = (MemberNoise([3, 4], (2, 5, 7), CPU, where) for where in ("device", "host"))
    assert all(torch.equal(ours(), theirs()) for _ in range(3))


def test_the_device_draws_by_its_own_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per member, of the device, a draw of one member's shape each: the calls of upstream's class."""
    calls: list[Any] = []

    class Generator:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def manual_seed(self, seed: int) -> Generator:
            self.seed = seed
            return self

    def randn(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        calls.append((shape, generator.seed, generator.device, device))
        return torch.zeros(shape)

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "randn", randn)
    drawn = MemberNoise([SEEDS + 3, 4], (2, 5, 7), GPU, "device").begin()()
    assert drawn.shape == (2, 2, 5, 7)
    assert calls == [((2, 5, 7), seed, GPU, GPU) for seed in (3, 4)]


@pytest.mark.gpu
@with_gpu
def test_noise_on_a_gpu() -> None:
    """From the host the CPU's bits, from the device those of its own generators."""
    seeds, shape = [5, 2**31, 7], (4, 65, 96)
    host, device = (MemberNoise(seeds, shape, GPU, where).begin() for where in ("host", "device"))
    generators = [torch.Generator(GPU).manual_seed(seed) for seed in seeds]
    for want in one_by_one(seeds, shape, 3):
        assert torch.equal(host().cpu(), want)
        own = torch.stack([torch.randn(shape, generator=g, device=GPU) for g in generators])
        assert torch.equal(device(), own)
    assert drawn_seeds(3, 2, GPU) != drawn_seeds(3, 2)


@pytest.mark.parametrize("mode", ["both", "regression"])
def test_drawing_begins_before_the_regression(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """For the first members of each case; where nothing is sampled, nothing is drawn."""
    events: list[str] = []
    begin, draw = MemberNoise.begin, MemberNoise.__call__

    def begun(self: MemberNoise) -> MemberNoise:
        events.append(f"begin {len(self.generators)}")
        return begin(self)

    def drawn(self: MemberNoise) -> Tensor:
        events.append("draw")
        return draw(self)

    monkeypatch.setattr(MemberNoise, "begin", begun)
    monkeypatch.setattr(MemberNoise, "__call__", drawn)
    spec = make_spec(inference_mode=mode)
    model = Downscaler(spec, *make_networks(spec), "fp32")
    model.regression.register_forward_hook(lambda *_: events.append("regression"))
    model(weather(2), [1, 2, 3], max_batch=2)
    sampled = ["begin 2", "regression", "draw", "begin 1", "draw"]
    assert events == (sampled if mode == "both" else ["regression"]) * 2


@pytest.mark.slow
def test_noise_is_drawn_anew_after_memory_has_run_out() -> None:
    """A block that failed has used its noise; the next attempt has the same."""
    spec = make_spec()
    want = Downscaler(spec, *make_networks(spec), "fp32")(weather(), [1, 2, 3, 4])
    model = Downscaler(spec, *make_networks(spec), "fp32")
    left, inner = [3], model._denoise

    def denoise(*what: Any) -> Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(*what)

    model._denoise = denoise  # type: ignore[method-assign]
    assert torch.equal(model(weather(), [1, 2, 3, 4], max_batch=4), want) and left[0] < 0


def test_places_to_draw_noise() -> None:
    for where in ("gpu", "", "HOST"):
        with pytest.raises(InputError, match=f"'{where}' is not a place to draw noise; use host or device"):
            MemberNoise([1], (1, 2, 3), CPU, where)
    assert drawn_seeds(7, 4, CPU) == drawn_seeds(7, 4)
