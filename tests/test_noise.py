# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Members' noise: equal to the stock classes' where those are meant, and a function of nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from earth2_corrdiff.noise import (
    SEEDS,
    MemberNoise,
    consecutive_seeds,
    drawn_seeds,
    fresh_seed,
    member_seed,
)

CPU = torch.device("cpu")
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
