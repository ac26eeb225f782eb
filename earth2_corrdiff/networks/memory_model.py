# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory model of U-Nets and DiTs: the bytes that each way of running one needs on a domain of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch

from earth2_corrdiff.networks.dit import MOST_ROWS, DiT
from earth2_corrdiff.networks.dit import Block as TransformerBlock
from earth2_corrdiff.networks.unet import Block, Conv2d, SongUNet


@dataclass(frozen=True)
class Memory:
    """Bytes that one evaluation of a U-Net holds at its peak, weights apart.

    Attributes
    ----------
    whole : int
        With PyTorch's operators and fused norms, at once: inputs of convolutions are joined and normed
        as a whole. A captured graph holds the same, once what ran before the capture is given back
    plain : int
        Operation by operation, as upstream: norms make several float32 maps
    kernels : int
        With the CPU's own kernels, maps freed when no later layer needs them
    strips : int
        In strips, feature maps in memory
    mapped, files : int
        In strips, feature maps in files: what is left in memory, and what the files hold
    """

    whole: int
    plain: int
    kernels: int
    strips: int
    mapped: int
    files: int


@dataclass(frozen=True)
class _Step:
    """Numbers in memory around one block.

    Attributes
    ----------
    others : int
        Maps that later blocks need
    parts, inside : int
        The maps that are its input, and the same joined
    raised, halved : int
        The input at twice, or at half, the resolution, where the block changes it; else 0
    out, side : int
        The output, and what the convolution of the skip makes
    joins : bool
        True if two maps are joined
    strip, pairs : int
        Input and output of a strip; queries, keys, values and result of the attention
    """

    others: int
    parts: int
    inside: int
    raised: int
    halved: int
    out: int
    side: int
    joins: bool
    strip: int
    pairs: int

    @property
    def normed(self) -> int:
        """Channels that the first convolution reads."""
        return self.raised or self.halved or self.inside

    @property
    def maps(self) -> int:
        """Maps that strips hold: none is joined, normed or raised as a whole, and one is made."""
        return self.others + self.parts + self.out

    @property
    def kernels(self) -> int:
        """The same with the map between the convolutions and the skip's beside it."""
        return self.maps + self.out + self.side

    @property
    def whole(self) -> int:
        """The norm beside its input, which stays until the end; the convolutions; the sum with the skip."""
        kept = self.parts + (self.inside if self.joins else 0) + self.halved
        return self.others + kept + max(self.normed + self.out, 2 * self.out + self.side)

    def plain(self, size: int) -> int:
        """Bytes at the norms of upstream's arithmetic, in a type of ``size`` bytes.

        Their input in float32 (a copy, where it is not), centred, times the weight, and plus the bias.
        """
        wide = 12 if size >= 4 else 16
        first = size * self.inside + wide * self.inside
        second = size * (self.inside + 2 * self.out) + wide * self.out  # before and after the embedding
        return size * self.others + max(first, second)


def memory_of(net: SongUNet, domain: tuple[int, int], dtype: torch.dtype, rows: int = 64) -> Memory:
    """Memory of a U-Net on a domain, computed from its architecture.

    Parameters
    ----------
    net : SongUNet
        The network
    domain : tuple[int, int]
        (H, W)
    dtype : torch.dtype
        Of its convolutions
    rows : int, optional
        Of a strip, by default 64
    """
    size, pixels = dtype.itemsize, domain[0] * domain[1]
    first, last = next(iter(net.enc.values())), list(net.dec.values())[-1]
    inputs, outputs = cast(Conv2d, first).weight.shape[1], cast(Conv2d, last).weight.shape[0]
    ends = size * pixels * (inputs + outputs)
    steps = list(_steps(net, *domain, rows))
    # a strip as it is read, in float32, and once more: normed, or for its squared deviations
    strip = size + 8
    # the inputs are held in float32, too
    whole = ends + 4 * pixels * inputs + max(s.whole for s in steps) * size
    return Memory(
        whole=whole,
        # in float32 twice: as it is, and scaled
        plain=max(whole, ends + 8 * pixels * inputs + max(s.plain(size) for s in steps)),
        kernels=ends + max(s.kernels for s in steps) * size,
        strips=ends + max(s.maps * size + s.strip * strip + s.pairs * size for s in steps),
        mapped=ends + max(s.strip * strip + s.pairs * size for s in steps),
        files=max(s.maps for s in steps) * size,
    )


def memory_of_dit(net: DiT, domain: tuple[int, int], dtype: torch.dtype) -> int:
    """Bytes that one evaluation of a DiT holds at its peak on a domain (H, W), weights apart.

    Tokens are float32 between the layers, ``dtype`` in the products.
    """
    size, rotary = dtype.itemsize, net.theta is not None
    pixels, tokens = math.prod(domain), math.prod(domain) // math.prod(net.patch_size)
    block = cast(TransformerBlock, net.blocks[0])
    # tokens; queries, keys and values; the first two rotated, in float32; all copied into tiles, with results
    attention = 4 + 3 * size + 2 * size * rotary + max(8 * rotary, 5 * size)
    # these normed in both types; the inside before and after the activation
    perceptron = 4 + size + 2 * size * block.width / net.hidden
    rows = min(tokens, MOST_ROWS)
    inside = net.hidden * max(attention * tokens, 4 * tokens + perceptron * rows)
    head = 8 * net.hidden * tokens + 4 * pixels * (
        2 * net.out_channels + 2 * cast(Any, net.detokenizer).width
    )
    return int(8 * pixels * net.in_channels + max(inside, head))


def _steps(net: SongUNet, H: int, W: int, rows: int) -> Iterator[_Step]:
    first, *down = net.enc.values()
    pixels, channels = H * W, cast(Conv2d, first).weight.shape[0]
    area, skips = (rows + 2) * W, [channels * pixels]
    for block in cast(list[Block], down):
        before, pixels = pixels, pixels // 4 if block.conv0.down else pixels
        yield _step(block, sum(skips[:-1]), skips[-1:], (before, pixels), area)
        skips.append(block.out_channels * pixels)
        channels = block.out_channels
    x = 0  # the encoder's last map is the decoder's first input and a skip too: it is there once
    for block in (b for b in net.dec.values() if isinstance(b, Block)):
        before, pixels = pixels, pixels * 4 if block.conv0.up else pixels
        joined = [skips.pop()] if block.in_channels != channels else []
        yield _step(block, sum(skips), [x, *joined], (before, pixels), area)
        x, channels = block.out_channels * pixels, block.out_channels


def _step(block: Block, others: int, parts: list[int], pixels: tuple[int, int], area: int) -> _Step:
    before, after = pixels
    out, up = block.out_channels * after, block.conv0.up
    return _Step(
        others,
        sum(parts),
        inside=block.in_channels * before,
        raised=block.in_channels * after if up else 0,
        halved=block.in_channels * after if block.conv0.down else 0,
        out=out,
        side=0 if block.skip is None else out // 4 if up else out,  # doubled after its convolution
        joins=len(parts) > 1,
        strip=(block.in_channels + block.out_channels) * min(area, before),
        pairs=0 if block.attn is None else 4 * out,
    )
