# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A ``SongUNet`` for GPUs, and for CPUs without kernels of their own: channels-last, with fused norms.

Weights are cast and re-ordered once; the noise embedding of a level enters as the bias of each block's
first convolution. All shapes are static and no value is read back, so a step can be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.kernels import group_norm_silu, residual_scale
from earth2_corrdiff.unet import EPS, SKIP_SCALE, Attention, Block, Conv2d, GroupNorm, SongUNet

CHANNELS_LAST = torch.channels_last


class _Conv:
    """Weights of a convolution in the type that it runs in."""

    def __init__(self, module: Conv2d, dtype: torch.dtype, order: Tensor | None = None) -> None:
        weight, bias = module.weight.detach(), module.bias.detach()
        if order is not None:
            weight, bias = weight[order], bias[order]
        self.weight = weight.to(dtype, copy=True).contiguous(memory_format=CHANNELS_LAST)
        self.bias, self.padding = bias.to(dtype), module.padding
        self.up, self.down = module.up, module.down

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = F.avg_pool2d(x, 2) if self.down else x
        pointwise = self.padding == 0
        if self.up and not pointwise:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.conv2d(x, self.weight, self.bias if bias is None else bias, padding=self.padding)
        # a 1 x 1 convolution commutes with doubling, at a quarter of the work
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.up and pointwise else x


class _Norm:
    def __init__(self, module: GroupNorm, silu: bool = True) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.groups, self.silu = module.groups, silu

    def __call__(self, x: Tensor) -> Tensor:
        return group_norm_silu(x, self.groups, self.weight, self.bias, EPS, silu=self.silu, unbiased=True)


class _Attention:
    def __init__(self, module: Attention, dtype: torch.dtype) -> None:
        C = module.proj.weight.shape[0]
        # channel 3c + j becomes j C + c: queries, keys and values in one piece each
        order = torch.arange(3 * C, device=module.qkv.weight.device).view(C, 3).t().reshape(-1)
        self.norm = _Norm(module.norm, silu=False)
        self.qkv, self.proj = _Conv(module.qkv, dtype, order), _Conv(module.proj, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(B, 1, H * W, 3 * C)
        q, k, v = torch.split(qkv, C, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, scale=C**-0.5)
        y = y.reshape(B, H, W, C).permute(0, 3, 1, 2)
        return residual_scale(self.proj(y), x, SKIP_SCALE)


class _Block:
    def __init__(self, module: Block, dtype: torch.dtype) -> None:
        self.c_in = module.in_channels
        self.norm0, self.norm1 = _Norm(module.norm0), _Norm(module.norm1)
        self.conv0, self.conv1 = _Conv(module.conv0, dtype), _Conv(module.conv1, dtype)
        self.skip = None if module.skip is None else _Conv(module.skip, dtype)
        self.attention = None if module.attn is None else _Attention(module.attn, dtype)

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        y = self.conv0(self.norm0(x), bias)
        y = self.conv1(self.norm1(y))
        y = residual_scale(y, x if self.skip is None else self.skip(x), SKIP_SCALE)
        return y if self.attention is None else self.attention(y)


@dataclass(frozen=True)
class Row:
    """What one noise level means for the network: tensors, so that a captured graph can take another one.

    Attributes
    ----------
    scalars : Tensor
        ``[5]`` float32: c_in, the factor of the conditioning, c_out, c_skip, and 1 for the position
    biases : Tensor
        ``[sum of C_out]``: of every block's first convolution, in the type of the convolutions
    """

    scalars: Tensor
    biases: Tensor

    def copy_(self, other: Row) -> None:
        """Take the values of another level."""
        self.scalars.copy_(other.scalars)
        self.biases.copy_(other.biases)

    def clone(self) -> Row:
        """The same values at another address."""
        return Row(self.scalars.clone(), self.biases.clone())


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
        self._modules = [cast(Block, m) for m in (*encoder, *decoder)]
        self._widths = [m.out_channels for m in self._modules]
        self._encoder = [_Block(cast(Block, m), dtype) for m in encoder]
        self._decoder = [_Block(cast(Block, m), dtype) for m in decoder]
        self._stem, self._head = _Conv(cast(Conv2d, first), dtype), _Conv(cast(Conv2d, last), dtype)
        self._head_norm = _Norm(cast(GroupNorm, norm))
        spatial = net.spatial_emb
        self._spatial = None if spatial is None else spatial.detach().to(dtype)

    def slab(self, static: Tensor, position: Tensor | None = None) -> Tensor:
        """The channels that do not change from step to step, ``[1, C, H, W]`` float32, position included."""
        position = self._net.position() if position is None else position
        if position is not None:
            position = position.detach().float()
            static = torch.cat([static.float(), position.expand(len(static), -1, -1, -1)], dim=1)
        # a copy in any case: who gave it may write into it again
        return static.to(torch.float32, memory_format=CHANNELS_LAST, copy=True)

    def row(self, label: float, c_in: float, cond: float, gain: float, skip: float) -> Row:
        """The noise level with this label and these factors, made on the device."""
        how: Any = {"dtype": torch.float32, "device": self._stem.weight.device}
        # filled, not copied: a copy from the host would wait for the device
        fill = [torch.full((1,), value, **how) for value in (c_in, cond, gain, skip, 1.0)]
        emb = self._net.embed(torch.full((1,), label, **how))
        biases = [(m.affine(emb)[0] + m.conv0.bias).to(self.dtype) for m in self._modules]
        return Row(torch.cat(fill), torch.cat(biases))

    def __call__(self, x: Tensor, slab: Tensor, row: Row) -> Tensor:
        """``gain * F(c_in x ⊕ slab; label) + skip * x``: ``[B, C_out, H, W]`` float32 in and out."""
        c_in, cond, gain, skip, one = row.scalars.unbind()
        scaled = slab.shape[1] - self._positions
        slab = torch.cat([slab[:, :scaled] * cond, slab[:, scaled:] * one], dim=1)
        image = torch.cat([c_in * x, slab.expand(len(x), -1, -1, -1)], dim=1).to(self.dtype)
        raw = self._features(
            image.contiguous(memory_format=CHANNELS_LAST), torch.split(row.biases, self._widths)
        )
        return skip * x + gain * self._head(self._head_norm(raw)).float()

    @property
    def _positions(self) -> int:
        return self._net.positions

    def _features(self, image: Tensor, biases: Sequence[Tensor]) -> Tensor:
        rows = iter(biases)
        x = self._stem(image)
        x = x if self._spatial is None else x + self._spatial
        skips = [x]
        for block in self._encoder:
            x = block(x, next(rows))
            skips.append(x)
        for block in self._decoder:
            if x.shape[1] != block.c_in:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, next(rows))
        return x
