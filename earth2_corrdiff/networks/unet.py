# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The U-Net that CorrDiff checkpoints hold, with the state-dict keys of PhysicsNeMo's SongUNet.

The architecture is DDPM++ (Song et al., arXiv 2011.13456) as used by EDM (Karras et al., arXiv
2206.00364): a standard encoder and decoder, box-filter resampling, one attention head. In evaluation
mode the arithmetic is that of ``physicsnemo.models.diffusion_unets.SongUNet``, operation by operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.networks.embeddings import Linear, NoiseEmbedding, position_features, xavier
from earth2_corrdiff.networks.kernels import group_norm_silu, residual_scale

SKIP_SCALE = 0.7071067811865476  # 1 / sqrt(2): keeps the variance of a sum of two equal parts
EPS = 1e-6


class Conv2d(nn.Module):
    """Convolution with "same" padding, after a doubling or before it a halving of the resolution.

    The box filter ``[1, 1]`` makes up-sampling a nearest-neighbour copy and down-sampling a 2 x 2 mean,
    bit for bit equal to upstream's depthwise convolutions.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, up: bool = False, down: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, kernel // 2
        k2 = kernel * kernel
        self.weight = xavier((c_out, c_in, kernel, kernel), c_in * k2, c_out * k2, gain)
        self.bias = nn.Parameter(torch.zeros(c_out))
        if up or down:  # never used here: upstream stores it, so the keys of a checkpoint agree
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor, biased: bool = True) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.down:
            x = F.avg_pool2d(x, 2)
        return F.conv2d(x, self.weight, self.bias if biased else None, padding=self.padding)


class GroupNorm(nn.Module):
    """Group normalisation over ``min(32, C / 4)`` groups, in float32 (or float64, where the input is).

    Evaluation divides by n - 1 (the unbiased variance), training by n, as upstream does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = min(32, (channels + 3) // 4)
        if channels % self.groups:
            raise ValueError(f"{channels} channels cannot be normalised in {self.groups} groups")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.fused = False  # see accelerate.fuse

    def silu(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """SiLU of the norm of ``x`` plus ``shift [B or 1, C]``: one kernel where it is fused."""
        if self.fused:
            unbiased = not self.training
            return group_norm_silu(
                x, self.groups, self.weight, self.bias, EPS, shift=shift, unbiased=unbiased
            )
        if shift is not None:
            x = x + shift[:, :, None, None].to(x.dtype)
        return F.silu(self(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:  # keeps the layout: PyTorch's own makes NCHW of channels-last on a GPU
            unbiased = not self.training
            return group_norm_silu(x, self.groups, self.weight, self.bias, EPS, silu=False, unbiased=unbiased)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            return F.group_norm(wide, self.groups, self.weight, self.bias, EPS).to(x.dtype)
        B, C, H, W = x.shape
        y = wide.reshape(B, self.groups, C // self.groups, H, W)
        mean = y.mean(dim=[2, 3, 4], keepdim=True)
        var = y.var(dim=[2, 3, 4], keepdim=True)
        y = ((y - mean) * (var + EPS).rsqrt()).reshape(B, C, H, W)
        return (y * self.weight.view(1, C, 1, 1) + self.bias.view(1, C, 1, 1)).to(x.dtype)


class Attention(nn.Module):
    """Self-attention over all pixels with one head; channel ``3c + j`` of ``qkv`` is q, k or v."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.qkv = Conv2d(channels, 3 * channels, 1, gain=0.2**0.5)
        self.proj = Conv2d(channels, channels, 1, gain=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 1, C, 3, H * W).permute(0, 1, 4, 3, 2)
        q, k, v = qkv.unbind(-2)
        y = F.scaled_dot_product_attention(q, k, v, scale=C**-0.5)
        return cast(Tensor, self.proj(y.transpose(-1, -2).reshape(x.shape))).add_(x)


class Block(nn.Module):
    """norm, SiLU, convolution, + noise embedding, norm, SiLU, convolution, + skip; then attention."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_emb: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dropout = c_in, c_out, dropout
        self.norm0 = GroupNorm(c_in)
        self.conv0 = Conv2d(c_in, c_out, 3, up=up, down=down)
        self.affine = Linear(c_emb, c_out)
        self.norm1 = GroupNorm(c_out)
        self.conv1 = Conv2d(c_out, c_out, 3, gain=1e-5)
        changes = c_in != c_out or up or down
        self.skip = Conv2d(c_in, c_out, 1, up=up, down=down) if changes else None
        self.attn = Attention(c_out) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        # a fused norm is shifted at no cost: by the convolution's bias, too, which GPUs add in its own pass
        fused, shift = self.norm1.fused, self.affine(emb)
        y = self.conv0(self.norm0.silu(x), biased=not fused)
        y = self.norm1.silu(y, shift + self.conv0.bias if fused else shift)
        y = self.conv1(F.dropout(y, self.dropout, self.training))
        side = x if self.skip is None else self.skip(x)
        if fused and y.dtype == side.dtype:
            y = residual_scale(y, side, SKIP_SCALE)
        else:
            y = (y + side) * SKIP_SCALE
        return y if self.attn is None else cast(Tensor, self.attn(y) * SKIP_SCALE)


class SongUNet(nn.Module):
    """U-Net with the argument names of upstream's ``SongUNet``, ``SongUNetPosEmbd``, ``SongUNetPosLtEmbd``.

    Parameters
    ----------
    img_resolution : int | Sequence[int]
        Side, or (H, W), of the domain; names the levels and sizes the position features
    in_channels, out_channels : int
        Channels in (position features included) and out
    model_channels, channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout
        Width of the first level, its multiples per level, width of the embedding, blocks per level,
        heights at which blocks attend, drop-out in training
    embedding_type : {"positional", "zero"}
        Noise embedding, or none (the regression)
    gridtype, N_grid_channels : str | None, int
        Position features appended to the input; ``None`` for none; ``"learnable"`` for trained ones
    lead_time_channels, lead_time_steps : int
        Trained maps that are appended for a lead time, and how many lead times there are; 0 for none
    """

    pos_embd: Tensor | None

    def __init__(
        self,
        img_resolution: int | Sequence[int],
        in_channels: int,
        out_channels: int,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        additive_pos_embed: bool = False,
        bottleneck_attention: bool = True,
        gridtype: str | None = None,
        N_grid_channels: int = 0,
        lead_time_channels: int = 0,
        lead_time_steps: int = 9,
    ) -> None:
        super().__init__()
        side = (img_resolution, img_resolution) if isinstance(img_resolution, int) else img_resolution
        self.img_shape: tuple[int, int] = (int(side[0]), int(side[1]))
        self.levels = len(channel_mult)
        c_emb = model_channels * channel_mult_emb
        self._add_embedding(embedding_type, model_channels * channel_mult_noise, c_emb)
        self._add_position(gridtype, N_grid_channels)
        shape = (lead_time_steps, lead_time_channels, *self.img_shape)
        self.lt_embd = nn.Parameter(torch.randn(shape)) if lead_time_channels else None
        self.spatial_emb = (
            nn.Parameter(0.02 * torch.randn(1, model_channels, *self.img_shape))
            if additive_pos_embed
            else None
        )
        widths = [model_channels * m for m in channel_mult]
        block = {"c_emb": c_emb, "dropout": dropout}
        first = Conv2d(in_channels, model_channels, 3)
        self.enc = nn.ModuleDict(self._encoder(first, widths, num_blocks, attn_resolutions, block))
        skips = [model_channels] + [b.out_channels for b in self.enc.values() if isinstance(b, Block)]
        self.dec = nn.ModuleDict(
            self._decoder(skips, widths, num_blocks, attn_resolutions, bottleneck_attention, block)
        )
        top = f"{self.img_shape[0]}x{self.img_shape[0]}"
        self.dec[f"{top}_aux_norm"] = GroupNorm(widths[0])
        self.dec[f"{top}_aux_conv"] = Conv2d(widths[0], out_channels, 3, gain=1e-5)

    def _add_embedding(self, kind: str, c_noise: int, c_emb: int) -> None:
        self.embedding_type = kind
        if kind == "zero":
            self.register_buffer("zero_emb", torch.zeros(1, c_emb), persistent=False)
            return
        self.map_noise = NoiseEmbedding(c_noise)
        self.map_layer0 = Linear(c_noise, c_emb)
        self.map_layer1 = Linear(c_emb, c_emb)

    def _add_position(self, gridtype: str | None, channels: int) -> None:
        if gridtype is None or channels == 0:
            self.pos_embd = None
        elif gridtype == "learnable":
            self.pos_embd = nn.Parameter(torch.randn(channels, *self.img_shape))
        else:
            features = torch.from_numpy(position_features(gridtype, channels, self.img_shape))
            self.register_buffer("pos_embd", features, persistent=False)

    def position(self, lead_time: Tensor | None = None) -> Tensor | None:
        """Embeddings appended to the image, ``[1 or B, Cp, H, W]``: position, then lead times ``[B]``."""
        parts = [] if self.pos_embd is None else [self.pos_embd[None]]
        if self.lt_embd is not None:
            if lead_time is None:
                raise ValueError("this network was trained with lead times and needs one for each image")
            parts = [p.expand(len(lead_time), -1, -1, -1) for p in parts] + [self.lt_embd[lead_time]]
        return torch.cat(parts, dim=1) if parts else None

    @property
    def positions(self) -> int:
        """Channels of :meth:`position`."""
        return sum(e.shape[-3] for e in (self.pos_embd, self.lt_embd) if e is not None)

    def _encoder(
        self, first: Conv2d, widths: list[int], num_blocks: int, attend: Sequence[int], block: dict[str, Any]
    ) -> dict[str, nn.Module]:
        layers: dict[str, nn.Module] = {}
        c = first.weight.shape[0]
        for level, width in enumerate(widths):
            res = self.img_shape[0] >> level
            if level == 0:
                layers[f"{res}x{res}_conv"] = first
            else:
                layers[f"{res}x{res}_down"] = Block(c, c, down=True, **block)
            for i in range(num_blocks):
                layers[f"{res}x{res}_block{i}"] = Block(c, width, attention=res in attend, **block)
                c = width
        return layers

    def _decoder(
        self,
        skips: list[int],
        widths: list[int],
        num_blocks: int,
        attend: Sequence[int],
        bottleneck_attention: bool,
        block: dict[str, Any],
    ) -> dict[str, nn.Module]:
        layers: dict[str, nn.Module] = {}
        c = widths[-1]
        for level in reversed(range(self.levels)):
            res = self.img_shape[0] >> level
            if level == self.levels - 1:
                layers[f"{res}x{res}_in0"] = Block(c, c, attention=bottleneck_attention, **block)
                layers[f"{res}x{res}_in1"] = Block(c, c, **block)
            else:
                layers[f"{res}x{res}_up"] = Block(c, c, up=True, **block)
            for i in range(num_blocks + 1):
                attention = i == num_blocks and res in attend
                layers[f"{res}x{res}_block{i}"] = Block(
                    c + skips.pop(), widths[level], attention=attention, **block
                )
                c = widths[level]
        return layers

    def embed(self, labels: Tensor) -> Tensor:
        """Noise labels ``[B]`` → embedding ``[B, C_emb]`` (or ``[1, C_emb]`` of zeros)."""
        if self.embedding_type == "zero":
            return cast(Tensor, self.zero_emb)
        emb = F.silu(self.map_layer0(self.map_noise(labels)))
        return F.silu(self.map_layer1(emb))

    def forward(self, x: Tensor, labels: Tensor, position: Tensor | None = None) -> Tensor:
        """Image ``[B, C_in - positions, H, W]``, labels ``[B]`` or ``[1]`` → ``[B, C_out, H, W]``.

        The dtype of ``x`` is the dtype of the convolutions; norms and embeddings work in float32.
        ``position [1 or B, Cp, H, W]`` replaces the network's own embedding, for patches.
        """
        position = self.position() if position is None else position
        if position is not None:
            x = torch.cat([x, position.to(x.dtype).expand(x.shape[0], -1, -1, -1)], dim=1)
        emb = self.embed(labels)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            if not isinstance(layer, Block) and self.spatial_emb is not None:
                x = x + self.spatial_emb.to(x.dtype)
            skips.append(x)
        *blocks, norm, conv = self.dec.values()
        for block in blocks:
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)
        return cast(Tensor, conv(cast(GroupNorm, norm).silu(x)))
