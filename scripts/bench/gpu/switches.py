# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Switches of PyTorch that hold for a block of code, and networks that are made without drawing weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

Made = TypeVar("Made")


@contextlib.contextmanager
def tf32(convolutions: bool, products: bool = False) -> Iterator[None]:
    """TF32 on or off; PyTorch's default is on in convolutions and off in matrix products."""
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place, value in zip(places, (convolutions, products), strict=True):
            place.allow_tf32 = value
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


@contextlib.contextmanager
def searching() -> Iterator[None]:
    """CuDNN's search for the fastest algorithm of each convolution."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark
    try:
        cudnn.benchmark = True
        yield
    finally:
        cudnn.benchmark = before


def within(context: Callable[[], Any], work: Callable[[], Made]) -> Callable[[], Made]:
    """``work``, each call inside a ``context()`` of its own."""

    @wraps(work)
    def run() -> Made:
        with context():
            return work()

    return run


class Undrawn(TorchFunctionMode):
    """Makes random tensors without a generator zeros: weights that are written over take seconds to draw."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        how = kwargs or {}
        if "generator" not in how and func in (torch.rand, torch.randn):
            return torch.zeros(*args, **how)
        if "generator" not in how and func is torch.Tensor.uniform_:
            return args[0].zero_()
        return func(*args, **how)
