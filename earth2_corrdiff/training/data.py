# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse/fine pairs in memory, drawn in seeded random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earth2_corrdiff.spec import Statistics


@dataclass(frozen=True)
class Pairs:
    """Coarse states and the fine truth that belongs to them, in physical units.

    Attributes
    ----------
    coarse : Tensor
        ``[N, C, h, w]`` float32
    fine : Tensor
        ``[N, Co, H, W]`` float32
    """

    coarse: Tensor
    fine: Tensor

    def __len__(self) -> int:
        return len(self.coarse)


def channel_statistics(names: Sequence[str], fields: Tensor, factor: float = 1.0) -> Statistics:
    """Mean and ``factor`` times the standard deviation of each channel of ``[N, C, ...]``."""
    flat = fields.double().transpose(0, 1).flatten(1)
    center, scale = flat.mean(1), flat.std(1) * factor
    return Statistics(tuple(names), tuple(center.tolist()), tuple(scale.tolist()))


def batches(size: int, batch: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Endless batches of indices into ``size`` items: each epoch a new permutation.

    Parameters
    ----------
    size, batch : int
        Number of items, and of indices per batch
    seed : int
        Of the order: the k-th batch depends on the seed and k alone
    first : int, optional
        Batches to leave out, as after a resume, by default 0
    """
    per_epoch = max(size // batch, 1)
    epoch, skip = divmod(first, per_epoch)
    while True:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + epoch))
        for i in range(skip, per_epoch):
            yield order[i * batch : (i + 1) * batch]
        epoch, skip = epoch + 1, 0
