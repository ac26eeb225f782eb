# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions of the U-Net on the CPU, each with its norm before and its residual behind it, in one pass.

``conv`` computes, for one image in NHWC,

    out = gain * (weight ∗ resample(act(norm(x0 ⊕ x1))) + bias) + residual_gain * residual

and the moments of ``out``, which the next norm needs: a tensor is read once and written once. 3 x 3
convolutions use Winograd's F(4 x 4, 3 x 3) (Lavin and Gray, arXiv 1509.09308) in float32.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from earth2_corrdiff.networks.kernels.native import library

MODES = {"same": 0, "up": 1, "down": 2}
_TYPES = {torch.float32: 0, torch.bfloat16: 1}
# Rows: the points 0, 2/3, -2/3, 3/2, -3/2 and infinity, where the three weights are evaluated.
_POINTS = ((1, 0, 0), *((1, p, p * p) for p in (2 / 3, -2 / 3, 3 / 2, -3 / 2)), (0, 0, 1))


class _Conv(ctypes.Structure):
    """``Conv`` of conv.h."""

    _fields_ = (
        ("x", ctypes.c_void_p * 2),
        ("moments", ctypes.c_void_p * 2),
        *(
            (name, ctypes.c_void_p)
            for name in ("gamma", "beta", "scale", "weight", "bias", "residual", "out")
        ),
        ("out_moments", ctypes.c_void_p),
        ("c", ctypes.c_int64 * 2),
        ("type", ctypes.c_int64 * 2),
        *((name, ctypes.c_int64) for name in ("h", "w", "mode", "groups", "unbiased", "activate", "cout")),
        *((name, ctypes.c_int64) for name in ("half_weight", "residual_type", "residual_up", "out_type")),
        *((name, ctypes.c_double) for name in ("eps", "factor", "gain", "residual_gain")),
        ("threads", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Field:
    """An image ``[H, W, C]`` float32 or bfloat16, and its moments: means, then sums of squares ``[2, C]``."""

    data: Tensor
    moments: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """Group norm (+ SiLU) in front of a convolution; ``unbiased`` divides by n - 1."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float = 1e-6
    silu: bool = True
    unbiased: bool = True


@dataclass(frozen=True)
class Filter:
    """Packed weights of a convolution.

    Attributes
    ----------
    panels : Tensor
        ``[panel, 36 or 1, C_in, width]``: panels of ``width`` output channels, filled up with zeros;
        3 x 3 weights in Winograd's domain, rounded to ``panels``' type only there
    bias : Tensor
        ``[C_out]`` float32
    size : int
        3 or 1
    factor : float
        The weights are those of ``panels`` times this power of two: float16 has a short range
    """

    panels: Tensor
    bias: Tensor
    size: int
    factor: float = 1.0


@dataclass(frozen=True)
class Residual:
    """Sum behind a convolution: ``[H, W, C_out]``, or half that size and doubled on the way."""

    data: Tensor
    gain: float = 1.0
    up: bool = False


@dataclass(frozen=True)
class Extras:
    """Operations around a convolution; by default none."""

    norm: Norm | None = None
    scale: Tensor | None = field(default=None)  # [C_in]: factor of each channel, where there is no norm
    bias: Tensor | None = None  # instead of the filter's own
    gain: float = 1.0
    residual: Residual | None = None
    mode: str = "same"


def available() -> bool:
    """True if the kernels can be used on this machine."""
    return library() is not None


def pack(weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> Filter:
    """Prepare weights ``[C_out, C_in, k, k]``, k = 3 or 1, to be kept in ``dtype`` float32 or float16."""
    C_out, C_in, size, _ = weight.shape
    points = torch.tensor(_POINTS, dtype=torch.float64)
    domain = torch.kron(points, points) if size == 3 else points.new_ones(1, 1)  # [36, 9], or nothing to do
    width = 2 * _native().e2c_vector_length()
    panels = -(-C_out // width)
    # by tap, then by panel: contiguous pieces for the product, which is most of the work of loading
    w = weight.detach().float().new_zeros(size * size, C_in, panels * width)
    w[:, :, :C_out] = weight.detach().permute(2, 3, 1, 0).reshape(size * size, C_in, C_out)
    full = (domain.float() @ w.view(size * size, -1)).view(-1, C_in, panels, width)
    factor = 1.0
    most = float(full.abs().max())
    if dtype is torch.float16 and most > 0:
        factor = 2.0 ** (math.frexp(most)[1] - 15)
        full = full / factor
    kept = full.to(dtype).permute(2, 0, 1, 3).contiguous()
    return Filter(kept, bias.detach().float().contiguous(), size, factor)


def conv(
    sources: tuple[Field, ...],
    weight: Filter,
    out: Tensor,
    extras: Extras = Extras(),  # noqa: B008 (frozen)
    moments: bool = True,
) -> Field:
    """Convolve one or two images (side by side in channels) into ``out [H, W, C_out]``.

    Raises
    ------
    ValueError
        If the shapes do not fit together
    MemoryError
        If there is none left for a thread's scratch
    """
    _check(sources, weight, out, extras)
    call = _Conv(threads=torch.get_num_threads())
    H, W, _ = sources[0].data.shape
    norm, residual = extras.norm, extras.residual
    made = out.new_empty(2, out.shape[-1], dtype=torch.float32) if moments else None
    for i, source in enumerate(sources):
        call.x[i], call.c[i] = source.data.data_ptr(), source.data.shape[-1]
        call.type[i] = _TYPES[source.data.dtype]
        if norm is not None:
            call.moments[i] = _pointer(source.moments)
    call.h, call.w, call.mode = H, W, MODES[extras.mode]
    if norm is not None:
        call.gamma, call.beta = norm.weight.data_ptr(), norm.bias.data_ptr()
        call.groups, call.unbiased, call.activate = norm.groups, norm.unbiased, norm.silu
        call.eps = norm.eps
    call.scale = _pointer(extras.scale)
    bias = weight.bias if extras.bias is None else extras.bias
    call.weight, call.bias = weight.panels.data_ptr(), bias.data_ptr()
    call.half_weight, call.factor = weight.panels.dtype is torch.float16, weight.factor
    call.cout, call.gain = out.shape[-1], extras.gain
    if residual is not None:
        call.residual, call.residual_gain = residual.data.data_ptr(), residual.gain
        call.residual_type, call.residual_up = _TYPES[residual.data.dtype], residual.up
    call.out, call.out_type, call.out_moments = out.data_ptr(), _TYPES[out.dtype], _pointer(made)
    run = _native().e2c_winograd if weight.size == 3 else _native().e2c_pointwise
    if run(ctypes.byref(call)):
        raise MemoryError("not enough memory for the scratch of a convolution")
    return Field(out, made)


def _check(sources: tuple[Field, ...], weight: Filter, out: Tensor, extras: Extras) -> None:
    """The kernels trust what they get: with a wrong shape they would read other memory."""
    H, W, _ = sources[0].data.shape
    C_in, C_out = weight.panels.shape[2], len(weight.bias)
    made = {"same": (H, W), "up": (2 * H, 2 * W), "down": (H // 2, W // 2)}[extras.mode]
    tensors, doubles = [out, *(source.data for source in sources)], extras.mode == "up"
    fits = out.shape == (*made, C_out) and 0 not in made
    fits = fits and sum(source.data.shape[-1] for source in sources) == C_in
    fits = fits and all(source.data.shape[:2] == (H, W) for source in sources)
    if extras.residual is not None:
        tensors.append(extras.residual.data)
        h, w, C = extras.residual.data.shape
        up = extras.residual.up
        doubles, fits = doubles or up, fits and (h << up, w << up, C) == out.shape
    if not fits or (doubles and weight.size == 1) or not all(t.is_cpu and t.is_contiguous() for t in tensors):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(
            f"a convolution of {C_in} to {C_out} channels, mode {extras.mode!r}, cannot take {shapes}"
        )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _native() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise RuntimeError("the CPU's own kernels are not available here")
    return found
