# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fused operators on the CPU: norm.c called through ctypes.

For float32 and bfloat16, the norm in NHWC (channels_last) alone: that is the layout of the accelerated
network, and the vectors of a machine lie along the channels. float16 and NCHW are left to the reference.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from earth2_corrdiff.networks.kernels.native import library
from earth2_corrdiff.networks.kernels.reference import Norm

_TYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Call(ctypes.Structure):
    """``Norm`` of norm.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "grad", "out", "weight", "bias", "shift")),
        *((name, ctypes.c_void_p) for name in ("mean", "rstd", "dweight", "dbias", "dshift")),
        *((name, ctypes.c_int64) for name in ("batch", "pixels", "channels", "groups", "type")),
        *((name, ctypes.c_int64) for name in ("silu", "unbiased", "threads")),
        ("eps", ctypes.c_double),
    )


def supports(x: Tensor) -> bool:
    """True if ``forward`` and ``backward`` take such a tensor, and there is a compiler on this machine."""
    nhwc = x.is_contiguous(memory_format=torch.channels_last)
    return x.dtype in _TYPES and nhwc and library() is not None


def supports_residual(x: Tensor) -> bool:
    """True if ``residual_scale`` and ``gelu_`` take such a tensor, and there is a compiler."""
    return x.dtype in _TYPES and library() is not None


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reference.forward`; ``x`` must be NHWC.

    Raises
    ------
    MemoryError
        If there is none left for the sums
    """
    mean, rstd = (torch.empty(x.shape[0], norm.groups) for _ in range(2))
    out = torch.empty_like(x)
    _run(norm, x, weight=weight, bias=bias, shift=shift, out=out, mean=mean, rstd=rstd)
    return out, mean, rstd


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm: Norm,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`reference.backward`; ``grad`` and ``x`` must be NHWC and of one dtype.

    Raises
    ------
    MemoryError
        If there is none left for the sums
    """
    B, C, _, _ = x.shape
    dx, dweight, dbias, dshift = torch.empty_like(x), torch.empty(C), torch.empty(C), torch.empty(B, C)
    made = {"out": dx, "dweight": dweight, "dbias": dbias, "dshift": dshift}
    _run(norm, x, weight=weight, bias=bias, shift=shift, grad=grad, mean=mean, rstd=rstd, **made)
    return dx, dweight, dbias, dshift


def residual_scale(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """As :func:`reference.residual_scale`; x and y must be dense, with the same strides and dtype."""
    out = torch.empty_like(x)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, y, out))
    count, kind = ctypes.c_long(x.numel()), _TYPES[x.dtype]
    _native().e2c_residual_scale(*pointers, count, kind, ctypes.c_float(scale), torch.get_num_threads())
    return out


def gelu_(x: Tensor) -> Tensor:
    """GELU in its tanh form, in place; x must be contiguous."""
    _native().e2c_gelu(
        ctypes.c_void_p(x.data_ptr()), ctypes.c_long(x.numel()), _TYPES[x.dtype], torch.get_num_threads()
    )
    return x


def supports_turn(x: Tensor) -> bool:
    """True if ``turn_`` takes such a tensor, and there is a compiler."""
    dense = x.is_cpu and x.stride()[-2:] == (x.shape[-1], 1) and x.stride(1) == x.shape[2] * x.stride(2)
    return dense and supports_residual(x)


def turn_(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate pairs of channels of ``[B, h, w, heads, dim]`` in place, by ``[h, w, 1, dim / 2]`` complex64."""
    B, h, w, heads, dim = x.shape
    sizes = (ctypes.c_int64 * 4)(B, h * w, heads, dim)
    strides = (ctypes.c_int64 * 2)(x.stride(0), x.stride(2))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, turns))
    _native().e2c_turn(*pointers, sizes, strides, _TYPES[x.dtype], torch.get_num_threads())
    return x


def _run(norm: Norm, x: Tensor, **tensors: Tensor | None) -> None:
    B, C, H, W = x.shape
    for name in ("weight", "bias", "shift"):
        given = tensors[name]
        tensors[name] = None if given is None else given.float().contiguous()
    call = _Call(
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()},
        x=x.data_ptr(),
        batch=B,
        pixels=H * W,
        channels=C,
        groups=norm.groups,
        type=_TYPES[x.dtype],
        silu=norm.silu,
        unbiased=norm.unbiased,
        threads=torch.get_num_threads(),
        eps=norm.eps,
    )
    if _native().e2c_group_norm(ctypes.byref(call)):
        raise MemoryError("not enough memory for the sums of a group norm")


def _native() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise RuntimeError("the CPU's own kernels are not available here")
    return found
