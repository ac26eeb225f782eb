# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Float32 that is float32: no TF32 on a GPU while the reference mode computes.

PyTorch lets convolutions round their factors to TF32 (10 bits of mantissa) by default, and matrix products
where a user asked for it. Its switches belong to the process; they are thrown for single calls of a network
and put back. A captured graph keeps what held at its capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

Undo = Callable[[], None]
_KINDS = ("cuda",)  # of devices that have it
_LOCK = Lock()
_inside = 0  # calls that are in full float32 at this moment, in any thread
_undo: list[Undo] = []


@contextmanager
def full_float32(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Compute in full float32 inside the block; nothing changes on devices without TF32.

    The first call in turns TF32 off, the last one out puts back what was. Other threads, which share the
    switches, compute in full float32 meanwhile: never with less than they asked for.
    """
    global _inside
    if not wanted or device.type not in _KINDS:
        yield
        return
    with _LOCK:
        if _inside == 0:
            _undo.extend((_convolutions_off(), _products_off()))
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            while _inside == 0 and _undo:
                _undo.pop()()


def _convolutions_off() -> Undo:
    cudnn, new = torch.backends.cudnn, getattr(torch.backends.cudnn, "conv", None)
    try:
        before = cudnn.allow_tf32
    except RuntimeError:  # values of PyTorch's newer names that the older one does not have
        return _ieee(new)
    if not _rounds(new, before):
        return _nothing
    cudnn.allow_tf32 = False
    if _rounds(new, False):  # inherited from torch.backends.fp32_precision
        _ieee(new)

    def undo() -> None:
        cudnn.allow_tf32 = before

    return undo


def _products_off() -> Undo:
    new = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _ieee(new)
    if not _rounds(new, before != "highest"):
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _rounds(new: Any, old: bool) -> bool:
    """True if TF32 is on, by the newer name where PyTorch has it: the one that its kernels read."""
    precision = getattr(new, "fp32_precision", None)
    return old if precision is None else bool(precision == "tf32")


def _ieee(new: Any) -> Undo:
    before, new.fp32_precision = new.fp32_precision, "ieee"

    def undo() -> None:
        new.fp32_precision = before

    return undo


def _nothing() -> None:
    """It was off."""
