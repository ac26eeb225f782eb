# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Noise of ensemble members: one generator per member, independent of batch, order, rank and device.

All draws are made on the CPU and then moved, because the CPU's and a GPU's streams differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SEEDS = 2**32  # upstream takes seeds modulo this


def fresh_seed() -> int:
    """A seed from the operating system, for runs that name none; record it."""
    return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])


def member_seed(seed: int, time: np.datetime64, member: int, *forecast: int) -> int:
    """Seed of one member at one valid time: never a function of batch, order, rank or device.

    Parameters
    ----------
    seed : int
        The run's seed
    time : np.datetime64
        Valid time, UTC
    member : int
        Index of the member, from 0
    *forecast : int
        What else tells apart the states of one valid time: seconds of lead time, number of the coarse member

    Returns
    -------
    int
        In [0, 2**32)
    """
    seconds = int(time.astype("datetime64[s]").astype(np.int64))
    entropy = [seed % SEEDS, seconds % 2**64, member, *forecast]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def consecutive_seeds(seed: int, members: int) -> list[int]:
    """Seeds that upstream's ``CorrDiff`` gives its members: ``seed + i``."""
    return [(seed + i) % SEEDS for i in range(members)]


def drawn_seeds(seed: int, members: int) -> list[int]:
    """Seeds that upstream's ``CorrDiffTaiwan`` gives its members on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return [int(s) for s in torch.randint(0, SEEDS, (members,), generator=generator).tolist()]


class MemberNoise:
    """Standard normal noise ``[M, C, H, W]`` float32, one independent stream per member.

    Parameters
    ----------
    seeds : Sequence[int]
        One seed per member, taken modulo 2**32
    shape : Sequence[int]
        (C, H, W)
    device : torch.device
        Where the noise is needed

    Source: upstream's ``StackedRandomGenerator`` (equal on the CPU, bit for bit).
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed) % SEEDS) for seed in seeds]
        self.shape, self.device = tuple(shape), device

    def __call__(self) -> Tensor:
        """The next draw of every member."""
        draws = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device)
