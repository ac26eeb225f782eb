# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The U-Net on a domain of any size, exactly: layer by layer, in strips of rows.

A group norm needs the mean and variance of the whole domain, so no tile can be computed on its own. A layer
can: its input is read in strips with one row of halo, its output written in strips, and the moments of the
output are gathered on the way. Held are the feature maps that later layers need, in the type of the
convolutions, and nothing of the size of a map beside them; the maps may live in host memory or in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.unet import EPS, SKIP_SCALE, Attention, Block, Conv2d, GroupNorm, SongUNet

Maps = Sequence[Tensor]  # feature maps side by side: [B, C, H, W] each, never concatenated as a whole
Read = Callable[[int, int], Tensor]  # rows of a map, from and to


@dataclass(frozen=True)
class _Affine:
    """A group norm with known moments: ``(x - mean) · scale + bias``, each ``[B, C, 1, 1]``."""

    mean: Tensor
    scale: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.to(self.mean.dtype, copy=True).sub_(self.mean).mul_(self.scale).add_(self.bias)
        return wide.to(x.dtype)

    def silu(self, x: Tensor) -> Tensor:
        """The norm and its activation, rounded where the network rounds."""
        return F.silu(self(x), inplace=True)


class _Moments:
    """Mean and squared deviations per channel, gathered strip by strip (Chan et al. 1983): for any mean."""

    def __init__(self) -> None:
        self.count, self.mean, self.m2 = 0, torch.zeros(()), torch.zeros(())

    def add(self, strip: Tensor) -> None:
        """Take in ``[B, C, h, W]``."""
        B, C, h, W = strip.shape
        wide = _wide(strip.permute(0, 2, 3, 1).reshape(B, h * W, C))
        mean = wide.mean(dim=1)
        m2 = (wide - mean[:, None]).square_().sum(dim=1).double()
        mean, both = mean.double(), self.count + h * W
        gap = mean - self.mean.to(mean)
        self.m2 = self.m2.to(m2) + m2 + gap**2 * (self.count * h * W / both)
        self.mean = self.mean.to(mean) + gap * (h * W / both)
        self.count = both

    def norm(self, layer: GroupNorm) -> _Affine:
        """The norm with these moments, unbiased as in evaluation."""
        B, C = self.mean.shape
        groups = (B, layer.groups, C // layer.groups)
        mean, m2 = self.mean.view(groups), self.m2.view(groups)
        center = mean.mean(dim=2, keepdim=True)
        spread = (m2 + self.count * (mean - center) ** 2).sum(dim=2, keepdim=True)
        rstd = (spread / (self.count * groups[2] - 1) + EPS).rsqrt()
        scale = rstd * layer.weight.view(1, *groups[1:])
        columns = (center.expand(groups), scale, layer.bias.expand(B, -1))
        return _Affine(*(c.reshape(B, C, 1, 1).to(layer.weight.dtype) for c in columns))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class StripUNet:
    """A :class:`SongUNet` in evaluation mode with bounded memory; called as the network itself.

    Equal to the network to rounding (relative 1e-6 in float32): moments, and nothing else, are summed in
    another order. Attention looks at all pixels of its level, without the matrix of all pairs.

    Parameters
    ----------
    net : SongUNet
        The network; its weights are used, not copied
    rows : int
        Rows of a strip at the first level, by default 64; coarser levels take more, so that a strip is about
        as wide everywhere
    maps : str | Path
        Where the feature maps live, as in :class:`MapMemory`

    Raises
    ------
    InputError
        If the network is not one of ``unet.py``, is in training mode, or the folder does not exist
    """

    def __init__(self, net: SongUNet, rows: int = 64, maps: str | Path = "device") -> None:
        if not isinstance(net, SongUNet):
            raise InputError(
                f"strips need a network of this package, not a {type(net).__name__}; run it whole"
            )
        if net.training or rows < 1:
            raise InputError(f"strips need evaluation mode and 1 row or more, got {rows}")
        self.net, self.rows, self.store = net, rows, MapMemory(maps)

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor, position: Tensor | None = None) -> Tensor:
        """As ``SongUNet.forward``, in the type of ``x``: ``[B, C, H, W], [B] or [1] → [B, C_out, H, W]``.

        ``position [B or 1, Cp, H, W]`` replaces the network's own embedding.
        """
        net = self.net
        if position is None and net.pos_embd is not None:
            position = net.pos_embd[None]
        maps = [x] if position is None else [x, position.to(x.dtype).expand(len(x), -1, -1, -1)]
        run = _Run(self.store, self.rows * x.shape[3], net.embed(labels), x)
        first, *blocks = net.enc.values()
        x = run.first(cast(Conv2d, first), maps, net.spatial_emb)
        skips = [x]
        for block in blocks:
            x = run.block(cast(Block, block), [x])
            skips.append(x)
        *blocks, norm, conv = net.dec.values()
        for block in cast(list[Block], blocks):
            maps = [x] if x.shape[1] == block.in_channels else [x, skips.pop()]
            x = run.block(block, maps)
        return run.last(cast(GroupNorm, norm), cast(Conv2d, conv), x)


@dataclass(frozen=True)
class _Run:
    """One evaluation: layers on maps.

    Attributes
    ----------
    store : MapMemory
        Where new maps live
    area : int
        Pixels of a strip
    emb : Tensor
        Noise embedding
    like : Tensor
        Of the type and on the device of the computation
    """

    store: MapMemory
    area: int
    emb: Tensor
    like: Tensor

    def strips(self, x: Tensor, finer: bool = False) -> Iterator[tuple[int, int]]:
        """From and to which row each strip of a map goes; a quarter as many where a finer map is read."""
        step = max(1, (self.area // 4 if finer else self.area) // x.shape[3])
        return ((low, min(low + step, x.shape[2])) for low in range(0, x.shape[2], step))

    def read(self, maps: Maps, low: int, high: int) -> Tensor:
        """Rows of maps side by side, on the device."""
        rows = [m[:, :, low:high].to(self.like.device) for m in maps]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def new(self, channels: int, x: Tensor, conv: Conv2d) -> Tensor:
        """A map for what ``conv`` makes of ``x``."""
        H, W = x.shape[2:]
        if conv.up or conv.down:
            H, W = (2 * H, 2 * W) if conv.up else (H // 2, W // 2)
        # [B, H, W, C] in memory: the rows of a strip lie together
        maps = self.store.empty((len(x), H, W, channels), self.like.dtype, self.like.device)
        return maps.permute(0, 3, 1, 2)

    def moments(self, maps: Maps) -> _Moments:
        """Mean and variance of a map that was made before."""
        moments = _Moments()
        for low, high in self.strips(maps[0]):
            moments.add(self.read(maps, low, high))
        return moments

    def first(self, conv: Conv2d, maps: Maps, spatial: Tensor | None) -> Tensor:
        """The convolution of the input, and the additive embedding of position."""
        out = self.new(conv.weight.shape[0], maps[0], conv)
        for low, high in self.strips(out):
            strip = _rows_of(conv, lambda a, b: self.read(maps, a, b), low, high, maps[0].shape[2])
            if spatial is not None:
                strip = strip + spatial[:, :, low:high].to(strip.dtype)
            out[:, :, low:high] = strip
        return out

    def block(self, block: Block, maps: Maps) -> Tensor:
        """A residual block: the result overwrites the map between its convolutions."""
        y = self.new(block.out_channels, maps[0], block.conv0)
        norm1 = self._inner(block, maps, y).norm(block.norm1)
        H = y.shape[2]
        above = y[:, :, :0].to(self.like.device)
        for low, high in self.strips(y):
            # the row above is overwritten already: its old content was kept
            rows = torch.cat([above, self.read([y], low, min(high + 1, H))], dim=2)
            first = above.shape[2]
            strip = block.conv1(norm1.silu(rows))[:, :, first : first + high - low]
            above = rows[:, :, first + high - low - 1 : first + high - low].clone()
            strip = strip + self._skip(block, maps, low, high)
            y[:, :, low:high] = strip.mul_(SKIP_SCALE)
        if block.attn is not None:
            self._attend(block.attn, y)
        return y

    def _inner(self, block: Block, maps: Maps, y: Tensor) -> _Moments:
        """Norm, SiLU, first convolution, noise embedding: into ``y``."""
        norm0, moments = self.moments(maps).norm(block.norm0), _Moments()
        shift = block.affine(self.emb)[:, :, None, None].to(y.dtype)
        for low, high in self.strips(y, finer=block.conv0.down):
            strip = _rows_of(
                block.conv0, lambda a, b: norm0.silu(self.read(maps, a, b)), low, high, maps[0].shape[2]
            )
            strip = strip + shift
            y[:, :, low:high] = strip
            moments.add(strip)
        return moments

    def _skip(self, block: Block, maps: Maps, low: int, high: int) -> Tensor:
        if block.skip is None:
            return self.read(maps, low, high)
        return _rows_of(block.skip, lambda a, b: self.read(maps, a, b), low, high, maps[0].shape[2])

    def _attend(self, attn: Attention, y: Tensor) -> None:
        """Attention over all pixels of ``y``, in place."""
        B, C, H, W = y.shape
        norm = self.moments([y]).norm(attn.norm)
        # contiguous per token: strided ones make PyTorch build the matrix of all pairs
        qkv = self.like.new_empty(3, B, 1, H * W, C)
        for low, high in self.strips(y):
            tokens = attn.qkv(norm(self.read([y], low, high))).permute(0, 2, 3, 1).reshape(B, 1, -1, C, 3)
            qkv[:, :, :, low * W : high * W] = tokens.permute(4, 0, 1, 2, 3)
        q, k, v = qkv.unbind()
        z = F.scaled_dot_product_attention(q, k, v, scale=C**-0.5)
        del qkv, q, k, v
        z = z.reshape(B, H, W, C).permute(0, 3, 1, 2)
        for low, high in self.strips(y):
            strip = attn.proj(z[:, :, low:high]).add_(self.read([y], low, high))
            y[:, :, low:high] = strip.mul_(SKIP_SCALE)

    def last(self, norm: GroupNorm, conv: Conv2d, x: Tensor) -> Tensor:
        """The output's norm and convolution."""
        affine = self.moments([x]).norm(norm)
        out = self.like.new_empty(len(x), conv.weight.shape[0], *x.shape[2:])
        for low, high in self.strips(x):
            out[:, :, low:high] = _rows_of(
                conv, lambda a, b: affine.silu(self.read([x], a, b)), low, high, x.shape[2]
            )
        return out


def _rows_of(conv: Conv2d, read: Read, low: int, high: int, height: int) -> Tensor:
    """Rows ``low`` to ``high`` of a convolution's output, of an input of ``height`` rows.

    The halo keeps the zero padding of the strip's own edges away from these rows.
    """
    a, b = low - conv.padding, high + conv.padding
    if conv.up:
        a, b = a // 2, -(-b // 2)
    elif conv.down:
        a, b = 2 * a, 2 * b
    a, b = max(a, 0), min(b, height)
    first = 2 * a if conv.up else a // 2 if conv.down else a
    out: Tensor = conv(read(a, b))
    return out[:, :, low - first : high - first]
