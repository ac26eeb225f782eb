# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a network goes, by operator class, from PyTorch's profiler.

Stock norms are a dozen elementwise operators: hooks open a scope around each norm module, and what runs in
it is the norm. This package's C kernels are no operators of PyTorch: each gets a scope of its own; one that
convolves has the norm before it and the residual behind it inside. Everything else is told by the operator's
name and shapes.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from earth2_corrdiff.networks.kernels.cpu_conv import MODES
from earth2_corrdiff.networks.kernels.native import library

from .counts import ATTENTION, CAT, ELEMENTWISE, LINEAR, NORM, RESAMPLE, convolution
from .timing import Work, clock_of

COPIES, OTHER = "copies and casts", "other"
GAPS = "outside operators"  # Python, and on a GPU what runs in a captured graph
_SCOPE = "class: "  # a scope's name is this and its class
# Parts of operator names, in the order in which they are asked for.
_PARTS = {
    NORM: ("norm",),
    ATTENTION: ("scaled_dot_product", "attention", "softmax", "bmm"),
    RESAMPLE: ("upsample", "avg_pool", "resample", "pixel_shuffle"),
    CAT: ("::cat",),
    ELEMENTWISE: (
        *("residual", "silu", "sigmoid", "dropout"),
        *("::add", "::mul", "::sub", "::div", "::rsqrt", "::exp", "::neg", "::addcmul", "::lerp"),
    ),
    COPIES: ("::copy_", "::clone", "::contiguous", "::to", "::_to_copy", "::fill_", "::zero", "::empty"),
}
_MATRIX = ("::mm", "::addmm", "linear", "::matmul")
_PIXELS = 256  # rows from which on a matrix product is a 1 x 1 convolution, and not an embedding


def classify(name: str, shapes: Sequence[Sequence[int]]) -> str | None:
    """Operator class of one profiled event; None where its name says nothing.

    Parameters
    ----------
    name : str
        As ``aten::convolution``
    shapes : Sequence[Sequence[int]]
        Of the inputs; empty where an input is no tensor
    """
    if name.startswith(_SCOPE):
        return name.removeprefix(_SCOPE)
    if "conv" in name and len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) == 4:
        (_, channels, height, _), (_, per_group, kernel, _) = shapes[0], shapes[1]
        return RESAMPLE if per_group == 1 < channels else convolution(kernel, height)
    if any(part in name for part in _MATRIX) and shapes and shapes[0]:
        rows = max(torch.Size(shape[:-1]).numel() for shape in shapes[:2] if shape)
        return convolution(1, 0) if rows >= _PIXELS else LINEAR
    for kind, parts in _PARTS.items():
        if any(part in name for part in parts):
            return kind
    return None


def _kind_of(event: Any) -> str:
    """Class of the outermost event around this one that has a class: what an operator calls belongs to it."""
    kind = None
    while event is not None:
        kind = classify(event.name, event.input_shapes or []) or kind
        event = event.cpu_parent
    return kind or OTHER


@contextlib.contextmanager
def _norm_scopes(net: nn.Module) -> Iterator[None]:
    open_scopes: list[Any] = []

    def enter(module: nn.Module, inputs: object) -> None:
        open_scopes.append(record_function(_SCOPE + NORM))
        open_scopes[-1].__enter__()

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        open_scopes.pop().__exit__(None, None, None)

    norms = [module for module in net.modules() if type(module).__name__.endswith("GroupNorm")]
    handles = [norm.register_forward_pre_hook(enter) for norm in norms]
    handles += [norm.register_forward_hook(leave) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_KERNELS = {
    "e2c_winograd": lambda call: convolution(3, height_of(call)),
    "e2c_pointwise": lambda call: convolution(1, 0),
    "e2c_group_norm": lambda call: NORM,
    "e2c_residual_scale": lambda call: ELEMENTWISE,
}


def height_of(call: Any) -> int:
    """Rows of the output of a C convolution, from its argument."""
    height, mode = call._obj.h, call._obj.mode
    return int(2 * height if mode == MODES["up"] else height // 2 if mode == MODES["down"] else height)


@contextlib.contextmanager
def _kernel_scopes() -> Iterator[None]:
    """Open a scope around each call of a C kernel."""
    found = library()
    if found is None:
        yield
        return
    plain = {name: getattr(found, name) for name in _KERNELS}

    def scoped(name: str) -> Callable[..., int]:
        def call(*args: Any) -> int:
            with record_function(_SCOPE + _KERNELS[name](args[0])):
                return int(plain[name](*args))

        return call

    try:
        for name in plain:
            setattr(found, name, scoped(name))
        yield
    finally:
        for name, function in plain.items():
            setattr(found, name, function)


def breakdown(net: nn.Module, work: Work, on_gpu: bool) -> dict[str, float]:
    """Seconds of each operator class in one call; what the profiler adds to an operator is in them.

    Parameters
    ----------
    net : nn.Module
        The network whose norm modules are told apart
    work : Callable
        Runs it once; warmed up
    on_gpu : bool
        Count the time of the kernels, not of the calls on the host
    """
    clock = clock_of(torch.device("cuda" if on_gpu else "cpu"))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _norm_scopes(net), _kernel_scopes(), torch.inference_mode():
        with profile(activities=activities, record_shapes=True) as found:
            elapsed = clock.time(work)
    seconds: dict[str, float] = {}
    for event in found.events():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if own > 0 and not (on_gpu and event.is_user_annotation):
            kind = _kind_of(event)
            seconds[kind] = seconds.get(kind, 0.0) + own / 1e6
    seconds[GAPS] = max(0.0, elapsed - sum(seconds.values()))
    return seconds


def median_of(breakdowns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median per class over several calls."""
    kinds = dict.fromkeys(kind for found in breakdowns for kind in found)
    return {kind: statistics.median(found.get(kind, 0.0) for found in breakdowns) for kind in kinds}
