# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory pool of captured steps: one per GPU for all networks, because they run in turn.

The memory of a step is free again at its end, and the next step captured into the pool takes it. So
regression, denoiser and every size of batch together hold what the largest of them needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, cast
from weakref import WeakSet

import torch


class GraphPool:
    """The pool of one device.

    Attributes
    ----------
    lock : Lock
        To be held from before the inputs of a step are written until its result is copied: nothing else may
        run in the pool meanwhile
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._graphs: WeakSet[Any] = WeakSet()
        self._handle: Any = None
        self._stream: Any = None
        self._bytes = 0

    @property
    def held(self) -> int:
        """Bytes that the pool keeps from everything but captured steps."""
        return self._bytes if len(self._graphs) else 0

    @contextmanager
    def capture(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        """Capture the block on the current device; kernels have been chosen and built before.

        The memory of steps before the capture is given back first: it would stay beside the pool, which
        cannot use it.
        """
        torch.cuda.empty_cache()
        if not len(self._graphs):  # a pool ends with its last graph
            self._handle, self._bytes = torch.cuda.graph_pool_handle(), 0
        self._graphs.add(graph)
        before = _reserved()
        try:
            # other threads fetch and write meanwhile: only this one's calls belong to the capture
            with torch.cuda.graph(graph, pool=self._handle, capture_error_mode="thread_local"):
                yield
        finally:
            self._bytes += max(0, _reserved() - before)

    def take_turn(self) -> None:
        """Let the GPU finish what runs in the pool, where that is in another stream than the current one."""
        stream = torch.cuda.current_stream()
        if self._stream is not None and self._stream != stream:
            stream.wait_stream(self._stream)
        self._stream = stream


_POOLS: dict[int, GraphPool] = {}
_LOCK = Lock()


def pool_of(device: torch.device) -> GraphPool:
    """The pool of a device; of the current one where it has no index."""
    index = cast("int | None", device.index)
    if index is None:
        begun = device.type == "cuda" and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if begun else 0
    with _LOCK:
        return _POOLS.setdefault(index, GraphPool())


def _reserved() -> int:
    return int(torch.cuda.memory_stats().get("reserved_bytes.all.current", 0))
