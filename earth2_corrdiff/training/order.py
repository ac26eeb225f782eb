# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Order of the times of a training: seeded, chunk by chunk, and the same after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """Endless batches of indices: each epoch a new permutation.

    Chunks are shuffled, and times among the chunks of a window, so that a chunk is read once for each
    epoch and no more than two windows are in memory. With chunks of one time it is a full permutation.

    Attributes
    ----------
    indices : Sequence[int]
        Numbers of the times
    batch : int
        Indices per batch; the rest of an epoch goes to the next
    seed : int
        The k-th batch depends on the seed and k alone
    chunks : np.ndarray | None
        The chunk on disk that each index lies in; None where each has its own
    window : int
        Chunks among which times are shuffled
    """

    indices: Sequence[int]
    batch: int
    seed: int
    chunks: NDArray[np.int64] | None = None
    window: int = 8

    def epoch(self, number: int) -> list[int]:
        """All indices in the order of one epoch."""
        rng, chunks = np.random.default_rng((self.seed, number)), self._by_chunk()
        order = [chunks[i] for i in rng.permutation(len(chunks))]
        if len(chunks) == len(self.indices):
            return [index for chunk in order for index in chunk]
        drawn: list[int] = []
        for first in range(0, len(order), self.window):
            some = [index for chunk in order[first : first + self.window] for index in chunk]
            drawn += [some[i] for i in rng.permutation(len(some))]
        return drawn

    def _by_chunk(self) -> list[list[int]]:
        if self.chunks is None:
            return [[index] for index in self.indices]
        found: dict[int, list[int]] = {}
        for index in self.indices:
            found.setdefault(int(self.chunks[index]), []).append(index)
        return list(found.values())

    def batches(self, first: int = 0) -> Iterator[list[int]]:
        """The batches from number ``first`` on."""
        size, start = len(self.indices), first * self.batch
        number, skip = divmod(start, size)
        left = self.epoch(number)[skip:]
        while True:
            while len(left) < self.batch:
                number += 1
                left += self.epoch(number)
            yield left[: self.batch]
            left = left[self.batch :]
