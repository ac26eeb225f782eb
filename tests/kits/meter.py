# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that a computation really holds, tensor by tensor, on any device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Bytes of all tensors that are alive, weights and mapped files apart."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.weights = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage(), func is torch.ops.aten.from_file.default)
        return out

    def count(self, storage: torch.UntypedStorage, mapped: bool) -> None:
        key = storage._cdata
        if key in self.alive or key in self.weights:
            return
        self.alive[key] = 0 if mapped else storage.nbytes()
        self.now += self.alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        self.now -= self.alive.pop(key)
