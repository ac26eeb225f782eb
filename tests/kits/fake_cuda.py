# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU's memory without a GPU: PyTorch's caching allocator in small, behind the names of ``torch.cuda``.

As the real one: what is freed stays with the process; a request takes the smallest free block of its own
pool that fits and splits it; ``empty_cache`` gives back whole segments alone; graphs captured into a pool
keep it, and the pool of no graph gives its segments back, too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

SHARED = (0, 0)  # the pool of all that is not captured


@dataclass(eq=False)
class Block:
    """A piece of a segment."""

    segment: Segment
    size: int
    used: bool = False


@dataclass(eq=False)
class Segment:
    """What the driver gave at once."""

    pool: tuple[int, int]
    size: int
    blocks: list[Block] = field(default_factory=list)

    def merge(self) -> None:
        """Join free neighbours."""
        joined: list[Block] = []
        for block in self.blocks:
            if joined and not joined[-1].used and not block.used:
                joined[-1].size += block.size
            else:
                joined.append(block)
        self.blocks = joined


class FakeGraph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    def replay(self) -> None:
        """Nothing to do: what it would compute is not the matter here."""


class FakeCuda:
    """``torch.cuda`` of a device with ``total`` bytes, of which others use ``others``."""

    def __init__(self, total: int, others: int = 0) -> None:
        self.total, self.others = total, others
        self.segments: list[Segment] = []
        self.graphs: dict[tuple[int, int], weakref.WeakSet[FakeGraph]] = {}
        self.pool, self.handles, self.emptied = SHARED, 0, 0
        self.peak = 0

    # the allocator

    def alloc(self, size: int) -> Block:
        """What a tensor of so many bytes takes."""
        free = [b for s in self.segments if s.pool == self.pool for b in s.blocks if not b.used]
        fitting = sorted((b for b in free if b.size >= size), key=lambda b: b.size)
        if not fitting:
            fitting = [self._segment(size)]
        block = fitting[0]
        if block.size > size:
            at = block.segment.blocks.index(block)
            block.segment.blocks.insert(at + 1, Block(block.segment, block.size - size))
            block.size = size
        block.used = True
        return block

    def _segment(self, size: int) -> Block:
        if self.mem_get_info()[0] < size:
            self.empty_cache()
        if self.mem_get_info()[0] < size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        segment = Segment(self.pool, size)
        segment.blocks.append(Block(segment, size))
        self.segments.append(segment)
        self.peak = max(self.peak, self.reserved)
        return segment.blocks[0]

    def free(self, block: Block) -> None:
        """The tensor is gone."""
        block.used = False
        block.segment.merge()

    def step(self, size: int) -> None:
        """What a network does: several maps, one after the other, and at most ``size`` at once."""
        parts: list[Block] = []
        try:
            parts.extend(self.alloc(size // 4) for _ in range(4))
        finally:
            for part in parts:
                self.free(part)

    @property
    def reserved(self) -> int:
        """Bytes that the driver gave."""
        return sum(s.size for s in self.segments)

    # torch.cuda

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Free and total, as the driver sees them."""
        return self.total - self.others - self.reserved, self.total

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """Of the names in PyTorch's documentation those that are in bytes and current."""
        blocks = [(s, b) for s in self.segments for b in s.blocks]
        used = sum(b.size for _, b in blocks if b.used)
        split = sum(b.size for s, b in blocks if not b.used and len(s.blocks) > 1)
        sizes = {"reserved": self.reserved, "allocated": used, "active": used, "inactive_split": split}
        return {f"{name}_bytes.all.current": size for name, size in sizes.items()}

    def empty_cache(self) -> None:
        """Give back segments that hold nothing, but not those of a pool that graphs live in."""
        self.emptied += 1
        kept = [s for s in self.segments if any(b.used for b in s.blocks) or self.graphs.get(s.pool)]
        self.segments = kept

    def graph_pool_handle(self) -> tuple[int, int]:
        """A pool that there has not been."""
        self.handles += 1
        return (0, self.handles)

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, pool: tuple[int, int], **how: Any) -> Iterator[None]:
        """As the real one, it gives back what it can before it begins."""
        self.empty_cache()
        alive = self.graphs.setdefault(pool, weakref.WeakSet())
        # PyTorch's own assertion: a pool that lost its last graph, and still has memory, cannot be taken
        assert alive or not any(s.pool == pool for s in self.segments)
        alive.add(graph)
        self.pool = pool
        try:
            yield
        finally:
            self.pool = SHARED

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the real one, with no pool of an earlier test."""
        for name in ("mem_get_info", "memory_stats", "empty_cache", "graph_pool_handle", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr("earth2_corrdiff.base.graph_pool._POOLS", {})
