# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fused operators as PyTorch operators: the fastest version that a device has, and the gradients.

``torch.compile`` and CUDA graphs see one operator each. Nothing waits for the device. The bits of a sample
depend neither on its batch nor on the number of threads, in Triton and C; the reference's are PyTorch's.

============================  ===============================================================================
tensor                        version
============================  ===============================================================================
GPU (CUDA, ROCm)              Triton: float32, bfloat16, float16, NHWC and NCHW
CPU, float32 or bfloat16      C: the norm in NHWC, the residual in any layout
all else, and all float64     :mod:`reference`, with one warning where a faster version should have been there
============================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.networks.kernels import cpu_norm, reference, tuned
from earth2_corrdiff.networks.kernels.reference import Norm, working_dtype

Norms = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
    *,
    silu: bool = True,
    shift: Tensor | None = None,
    unbiased: bool = False,
) -> Tensor:
    """SiLU of the group normalisation of ``x + shift``, as :func:`reference.group_norm_silu` specifies it.

    Parameters
    ----------
    x : Tensor
        ``[B, C, H, W]``; best in NHWC (``torch.channels_last``)
    groups, weight, bias, eps, silu, unbiased
        As in the reference
    shift : Tensor | None, optional
        ``[B, C]``, or ``[1, C]`` for all samples

    Returns
    -------
    Tensor
        ``[B, C, H, W]``, dtype and layout of ``x``

    Raises
    ------
    ValueError
        If shapes or devices do not fit together, or the groups do not divide the channels
    """
    _check(x, groups, weight, bias, shift)
    shift = None if shift is None else shift.expand(x.shape[0], x.shape[1])
    y, _, _ = cast(Norms, _norm(x, weight, bias, shift, groups, eps, silu, unbiased))
    return y


def _check(x: Tensor, groups: int, weight: Tensor, bias: Tensor, shift: Tensor | None) -> None:
    """Kernels trust what they get: with a wrong shape or device they would read other memory."""
    if x.ndim != 4 or x.shape[1] % groups:
        raise ValueError(f"[B, C, H, W] with C in {groups} equal groups is needed, got {list(x.shape)}")
    B, C, _, _ = x.shape
    for name, tensor, shapes in (
        ("weight", weight, [(C,)]),
        ("bias", bias, [(C,)]),
        ("shift", shift, [(B, C), (1, C)]),
    ):
        if tensor is not None and (tuple(tensor.shape) not in shapes or tensor.device != x.device):
            raise ValueError(
                f"{name} must be {list(shapes[0])} on {x.device}, got {list(tensor.shape)} on {tensor.device}"
            )


def residual_scale(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """``(x + y) * scale``: the end of a block, in the layout of ``x``.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices differ
    """
    if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
        both = " and ".join(f"{list(t.shape)} {t.dtype} on {t.device}" for t in (x, y))
        raise ValueError(f"two tensors of one shape, dtype and device are needed, got {both}")
    return cast(Tensor, _residual(x, y, scale))


# which version


class _Version(Protocol):
    """The interface of :mod:`reference`, :mod:`cpu_norm` and :mod:`triton_norm`."""

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, norm: Norm, /
    ) -> Norms: ...

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor | None,
        mean: Tensor,
        rstd: Tensor,
        norm: Norm,
        /,
    ) -> Gradients: ...

    def residual_scale(self, x: Tensor, y: Tensor, scale: float, /) -> Tensor: ...


def _version(x: Tensor, native: Callable[[Tensor], bool]) -> _Version:
    """The version for a tensor; ``native`` is true if the C kernels take it."""
    if x.dtype == torch.float64 or x.numel() == 0:
        return reference
    if x.device.type == "cpu":
        return cpu_norm if native(x) else reference
    return _on_accelerator(x.device.type)


def on_triton(x: Tensor) -> bool:
    """True if Triton's kernels take a tensor."""
    return (
        x.device.type != "cpu"
        and x.dtype != torch.float64
        and _on_accelerator(x.device.type) is not reference
    )


@cache
def _on_accelerator(kind: str) -> _Version:
    reason = f"there are none for devices of type {kind!r}"
    if kind == "cuda":  # PyTorch calls AMD's GPUs so, too
        try:
            from earth2_corrdiff.networks.kernels import triton_norm, triton_tiles

            tuned.apply(triton_tiles, torch.device(kind))
            return triton_norm
        except ImportError as error:
            reason = f"Triton cannot be imported ({error})"
    logger.warning("the GPU's fused kernels are not used: {}; PyTorch's operators are slower", reason)
    return reference


# layout


def _dense(x: Tensor) -> Tensor:
    """NHWC or NCHW: ``x``, or a copy where it has gaps."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    nhwc = x.stride(1) == 1
    return x.contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)


def _like(x: Tensor, layout: Tensor) -> Tensor:
    """``x`` with exactly the strides of ``layout``."""
    return x if x.stride() == layout.stride() else torch.empty_like(layout, dtype=x.dtype).copy_(x)


# the operators of PyTorch


@torch.library.custom_op(
    "earth2_corrdiff::group_norm_silu",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor? shift, int groups, float eps, bool silu, "
    "bool unbiased) -> (Tensor, Tensor, Tensor)",
)
def _norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    unbiased: bool,
) -> Norms:
    x = _dense(x)
    version = _version(x, cpu_norm.supports)
    y, mean, rstd = version.forward(x, weight, bias, shift, Norm(groups, eps, silu, unbiased))
    return _like(y, x), mean, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, *how: object) -> Norms:
    mean = x.new_empty(x.shape[0], groups, dtype=working_dtype(x.dtype))
    return torch.empty_like(_dense(x)), mean, torch.empty_like(mean)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Norms) -> None:
    x, weight, bias, shift, groups, eps, silu, unbiased = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
    ctx.how = groups, silu, unbiased


def _differentiate(ctx: Any, grad: Tensor, *of_moments: Tensor | None) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias, dshift = _norm_backward(grad, *ctx.saved_tensors, *ctx.how)
    return dx, dweight, dbias, dshift if ctx.needs_input_grad[3] else None, None, None, None, None


_norm.register_autograd(_differentiate, setup_context=_keep)


@torch.library.custom_op(
    "earth2_corrdiff::group_norm_silu_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor? shift, Tensor mean, Tensor rstd, "
    "int groups, bool silu, bool unbiased) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    unbiased: bool,
) -> Gradients:
    x = _dense(x)
    grad = _like(grad.to(x.dtype), x)
    norm = Norm(groups, silu=silu, unbiased=unbiased)
    version = _version(x, cpu_norm.supports)
    dx, dweight, dbias, dshift = version.backward(grad, x, weight, bias, shift, mean, rstd, norm)
    kind = mean.dtype if shift is None else shift.dtype
    return _like(dx, x), dweight.to(weight.dtype), dbias.to(bias.dtype), dshift.to(kind)


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, mean: Tensor, *how: object
) -> Gradients:
    dshift = x.new_empty(x.shape[:2], dtype=mean.dtype if shift is None else shift.dtype)
    return torch.empty_like(_dense(x)), weight.new_empty(x.shape[1]), bias.new_empty(x.shape[1]), dshift


@torch.library.custom_op(
    "earth2_corrdiff::residual_scale",
    mutates_args=(),
    schema="(Tensor x, Tensor y, float scale) -> Tensor",
)
def _residual(x: Tensor, y: Tensor, scale: float) -> Tensor:
    x = _dense(x)
    y = _like(y, x)
    return _like(_version(x, cpu_norm.supports_residual).residual_scale(x, y, scale), x)


@_residual.register_fake
def _(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return torch.empty_like(_dense(x))


def _keep_scale(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.scale = inputs[2]


def _scaled(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    grad = grad * ctx.scale
    return grad, grad, None


_residual.register_autograd(_scaled, setup_context=_keep_scale)
