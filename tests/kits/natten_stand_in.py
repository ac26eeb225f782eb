# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""NATTEN's attention in plain PyTorch, offered to upstream under its name where NATTEN is not installed.

Import this before PhysicsNeMo's DiT. Each query of ``[B, h, w, heads, dim]`` attends to the k x k window
around it, which is shifted at a border to stay inside.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def _windows(n: int, k: int) -> Tensor:
    """Positions that each of n queries of an axis attends to, ``[n, k]``."""
    first = (torch.arange(n) - k // 2).clamp(0, n - k)
    return first[:, None] + torch.arange(k)


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Any,
    dilation: Any = 1,
    scale: Any = None,
    **_: Any,
) -> Tensor:
    """Neighbourhood attention without dilation, all windows gathered."""
    assert dilation in (1, (1, 1), [1, 1])
    kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    rows, columns = _windows(query.shape[1], kh), _windows(query.shape[2], kw)

    def gathered(x: Tensor) -> Tensor:  # [B, h, kh, w, kw, heads, dim]
        return x[:, rows][:, :, :, columns]

    scores = torch.einsum("bhwnd,bhkwlnd->bhwnkl", query, gathered(key))
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.flatten(-2).softmax(-1).view(scores.shape)
    return torch.einsum("bhwnkl,bhkwlnd->bhwnd", weights, gathered(value))


if importlib.util.find_spec("natten") is None:
    for _name in ("natten", "natten.functional"):
        _module: Any = ModuleType(_name)
        _module.__spec__ = importlib.machinery.ModuleSpec(_name, None, is_package=_name == "natten")
        _module.__version__ = "0.0.0"
        sys.modules[_name] = _module
    sys.modules["natten.functional"].na2d = na2d  # type: ignore[attr-defined]
    sys.modules["natten"].functional = sys.modules["natten.functional"]  # type: ignore[attr-defined]
