# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Neighbourhood attention on the CPU: window.c called through ctypes, in float32 inside."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from earth2_corrdiff.networks.kernels.native import library

_TYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Call(ctypes.Structure):
    """``Window`` of window.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_int64) for name in ("batch", "h", "w", "heads", "dim", "kh", "kw")),
        *((name, ctypes.c_int64) for name in ("type", "threads")),
        *((name, ctypes.c_int64 * 4) for name in ("sq", "sk", "sv", "so")),
        ("scale", ctypes.c_double),
    )


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """True if ``attention`` takes such tensors, and there is a compiler on this machine."""
    dense = all(x.device.type == "cpu" and x.dtype is q.dtype and x.stride(-1) == 1 for x in (q, k, v))
    return dense and q.dtype in _TYPES and q.shape[-1] % 16 == 0 and library() is not None


def attention(q: Tensor, k: Tensor, v: Tensor, kernel: tuple[int, int], scale: float, out: Tensor) -> None:
    """Neighbourhood attention without dilation, ``[B, h, w, heads, dim]`` four times, into ``out``.

    Raises
    ------
    MemoryError
        If there is none left for a part of the keys
    """
    B, h, w, heads, dim = q.shape
    call = _Call(
        *(x.data_ptr() for x in (q, k, v, out)),
        *(B, h, w, heads, dim, *kernel, _TYPES[q.dtype], torch.get_num_threads()),
        *((ctypes.c_int64 * 4)(*x.stride()[:4]) for x in (q, k, v, out)),
        scale,
    )
    native = library()
    if native is None or native.e2c_window(ctypes.byref(call)):
        raise MemoryError("not enough memory for the keys of neighbourhood attention")
