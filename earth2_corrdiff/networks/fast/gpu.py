# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A ``SongUNet`` for GPUs, and for CPUs without kernels of their own: channels-last, with fused norms.

Weights are cast and re-ordered once. Convolutions have no biases: cuDNN would add them in a pass of its own.
Those of a block's first convolution, with the noise embedding of a level, shift the norm behind it, the
others enter where the block is joined with its skip. All shapes are static and no value is read back, so a
step can be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks.kernels.feature_maps import FeatureMap, join, measured, normalised
from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.unet import EPS, SKIP_SCALE, Attention, Block, Conv2d, GroupNorm, SongUNet

CHANNELS_LAST = torch.channels_last
ALIGNED = 8  # tensor cores take channels by eights: less is filled with zeros


def _padding(channels: int) -> int:
    return -channels % ALIGNED


class _Conv:
    """Weights of a convolution without its bias, in the type that it runs in; zeros where it is padded."""

    def __init__(self, module: Conv2d, dtype: torch.dtype, c_in: int = 0, c_out: int = 0) -> None:
        weight = F.pad(module.weight.detach(), (0, 0, 0, 0, 0, c_in, 0, c_out))
        self.weight = weight.to(dtype, copy=True).contiguous(memory_format=CHANNELS_LAST)
        self.bias, self.padding = module.bias.detach().float(), module.padding

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=self.padding)


class _Norm:
    def __init__(self, module: GroupNorm, silu: bool = True) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.norm = Norm(module.groups, EPS, silu, unbiased=True)

    def __call__(self, *maps: FeatureMap, **how: Any) -> tuple[Tensor, Tensor | None]:
        return normalised(maps, self.weight, self.bias, self.norm, **how)


class _Attention:
    def __init__(self, module: Attention, dtype: torch.dtype) -> None:
        C = module.proj.weight.shape[0]
        # channel 3c + j becomes j C + c: queries, keys and values in one piece each
        order = torch.arange(3 * C, device=module.qkv.weight.device).view(C, 3).t().reshape(-1)
        self.norm = _Norm(module.norm, silu=False)
        # as products, whose bias costs nothing
        self.qkv = module.qkv.weight.detach()[order, :, 0, 0].to(dtype)
        self.qkv_bias = module.qkv.bias.detach()[order].to(dtype)
        self.proj = module.proj.weight.detach()[:, :, 0, 0].to(dtype, copy=True)
        self.bias = module.proj.bias.detach().float()

    def __call__(self, x: FeatureMap) -> FeatureMap:
        B, C, H, W = x.values.shape
        y, _ = self.norm(x)
        qkv = F.linear(y.permute(0, 2, 3, 1).reshape(B, 1, H * W, C), self.qkv, self.qkv_bias)
        q, k, v = torch.split(qkv, C, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, scale=C**-0.5)
        y = F.linear(y, self.proj).reshape(B, H, W, C).permute(0, 3, 1, 2)
        return join(y, x.values, self.bias, SKIP_SCALE)


class _Block:
    def __init__(self, module: Block, dtype: torch.dtype) -> None:
        self.c_in = module.in_channels
        self.mode = "up" if module.conv0.up else "down" if module.conv0.down else "same"
        self.norm0, self.norm1 = _Norm(module.norm0), _Norm(module.norm1)
        self.conv0, self.conv1 = _Conv(module.conv0, dtype), _Conv(module.conv1, dtype)
        self.skip = None if module.skip is None else _Conv(module.skip, dtype)
        self.bias = self.conv1.bias if self.skip is None else self.conv1.bias + self.skip.bias
        self.attention = None if module.attn is None else _Attention(module.attn, dtype)

    def __call__(self, *maps: FeatureMap, shift: Tensor) -> FeatureMap:
        # what the skip's convolution reads is written beside the norm where it is not there as one tensor
        beside = self.mode == "down" or len(maps) > 1
        y, side = self.norm0(*maps, mode=self.mode, keep=beside)
        y = self.conv0(y)
        y, _ = self.norm1(measured(y), shift=shift)
        y = self.conv1(y)
        side = maps[0].values if side is None else side
        # a 1 x 1 convolution commutes with doubling, at a quarter of the work: join doubles
        x = join(y, side if self.skip is None else self.skip(side), self.bias, SKIP_SCALE)
        return x if self.attention is None else self.attention(x)


@dataclass(frozen=True)
class Row:
    """Inputs of the network at one noise level: a tensor, so that a captured graph can take another one.

    Attributes
    ----------
    values : Tensor
        ``[3 + Cs + sum of C_out]`` float32: c_in, c_out, c_skip; the factor of each channel of the slab; and
        of every block what its first norm's convolution is shifted by
    slab : int
        Cs, channels of the slab
    """

    values: Tensor
    slab: int

    def copy_(self, other: Row) -> None:
        """Take the values of another level."""
        self.values.copy_(other.values)

    def clone(self) -> Row:
        """The same values at another address."""
        return Row(self.values.clone(), self.slab)


class TorchUNet:
    """Runs the U-Net ``net`` (which stays as it is) on the device where it is.

    Parameters
    ----------
    net : SongUNet
        In float32
    dtype : torch.dtype
        Of convolutions and activations; norms work in float32 inside
    """

    def __init__(self, net: SongUNet, dtype: torch.dtype) -> None:
        self._net, self.dtype = net, dtype
        first, *encoder = net.enc.values()
        *decoder, norm, last = net.dec.values()
        stem, head = cast(Conv2d, first), cast(Conv2d, last)
        self._modules = [cast(Block, m) for m in (*encoder, *decoder)]
        self._widths = [m.out_channels for m in self._modules]
        self._encoder = [_Block(cast(Block, m), dtype) for m in encoder]
        self._decoder = [_Block(cast(Block, m), dtype) for m in decoder]
        c_in, self._c_out = stem.weight.shape[1], head.weight.shape[0]
        self._pad = _padding(c_in)
        self._static = c_in - self._c_out - net.positions
        self._stem = _Conv(stem, dtype, c_in=self._pad)
        self._head = _Conv(head, dtype, c_out=_padding(self._c_out))
        self._head_norm = _Norm(cast(GroupNorm, norm))
        spatial = net.spatial_emb
        self._spatial = None if spatial is None else spatial.detach().to(dtype)

    def slab(self, static: Tensor, position: Tensor | None = None) -> Tensor:
        """The channels that no step changes, ``[1, Cs, H, W]`` float32: with the position, then zeros."""
        position = self._net.position() if position is None else position
        if position is not None:
            position = position.detach().float()
            static = torch.cat([static.float(), position.expand(len(static), -1, -1, -1)], dim=1)
        static = F.pad(static, (0, 0, 0, 0, 0, self._pad))
        # a copy in any case: who gave it may write into it again
        return static.to(torch.float32, memory_format=CHANNELS_LAST, copy=True)

    def row(self, label: float, c_in: float, cond: float, gain: float, skip: float) -> Row:
        """The noise level with this label and these factors, made on the device."""
        how: Any = {"dtype": torch.float32, "device": self._stem.weight.device}
        # filled, not copied: a copy from the host would wait for the device
        fixed = self._net.positions + self._pad
        parts = [(1, c_in), (1, gain), (1, skip), (self._static, cond), (fixed, 1.0)]
        fill = [torch.full((count,), value, **how) for count, value in parts]
        emb = self._net.embed(torch.full((1,), label, **how))
        shifts = [(m.affine(emb)[0] + m.conv0.bias).float() for m in self._modules]
        return Row(torch.cat([*fill, *shifts]), self._static + fixed)

    def __call__(self, x: Tensor, slab: Tensor, row: Row) -> Tensor:
        """``gain * F(c_in x ⊕ slab; label) + skip * x``: ``[B, C_out, H, W]`` float32 in and out."""
        (c_in, gain, skip), factors, shifts = torch.split(row.values, [3, row.slab, sum(self._widths)])
        raw = self._features(
            self._image(x, slab, c_in, factors), torch.split(shifts[None], self._widths, dim=1)
        )
        y, _ = self._head_norm(raw)
        y = self._head(y)[:, : self._c_out].float() + self._head.bias[: self._c_out].view(1, -1, 1, 1)
        denoised: Tensor = skip * x + gain * y
        return denoised

    def _image(self, x: Tensor, slab: Tensor, c_in: Tensor, factors: Tensor) -> Tensor:
        """Input of the stem: ``c_in x ⊕ slab``, in its type and in NHWC."""
        B, C, H, W = x.shape
        size = B, C + slab.shape[1], H, W
        image = torch.empty(size, dtype=self.dtype, device=x.device, memory_format=CHANNELS_LAST)
        torch.mul(x, c_in, out=image[:, :C])
        torch.mul(slab.expand(B, -1, -1, -1), factors.view(1, -1, 1, 1), out=image[:, C:])
        return image

    def _features(self, image: Tensor, shifts: Sequence[Tensor]) -> FeatureMap:
        rows = iter(shifts)
        spatial = None if self._spatial is None else self._spatial.expand(len(image), -1, -1, -1)
        x = join(self._stem(image), spatial, self._stem.bias, 1.0)
        skips = [x]
        for block in self._encoder:
            x = block(x, shift=next(rows))
            skips.append(x)
        for block in self._decoder:
            maps = (x,) if x.channels == block.c_in else (x, skips.pop())
            x = block(*maps, shift=next(rows))
        return x
