# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A ``SongUNet`` on the CPU's own kernels: one image at a time, each tensor read once and written once.

The arithmetic is float32 in every precision. What changes is how activations and weights are kept: in
float32, but for ``bf16`` in bfloat16 and float16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.kernels.cpu_conv import Extras, Field, Filter, Norm, Residual, conv, pack
from earth2_corrdiff.networks.unet import EPS, SKIP_SCALE, Attention, Block, Conv2d, GroupNorm, SongUNet

KEPT = {  # activations, weights
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.float16),
    "fp16": (torch.float32, torch.float32),  # float16 would cost digits and save nothing here
}
ROWS = 128  # noise levels whose biases are remembered
UNUSED = 2**30  # bytes of buffers that may wait to be used again


class _Buffers:
    """Tensors to be used again: fresh memory costs a page fault per 4 KiB.

    Those of more than ``UNUSED`` bytes make room before others are made: what is held is then what the maps
    of one level take, not the sum over all levels.
    """

    def __init__(self, store: MapMemory) -> None:
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        self._store = store

    def take(self, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape)
        free = self._free.get((size, dtype))
        if free:
            return free.pop()
        self.trim()
        return self._store.empty(size, dtype, torch.device("cpu"))

    def give(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            self._free.setdefault((tensor.shape, tensor.dtype), []).append(tensor)

    def trim(self) -> None:
        """Drop what is not in use, if it is large."""
        if sum(tensor.nbytes for free in self._free.values() for tensor in free) > UNUSED:
            self._free.clear()


@dataclass(frozen=True)
class _Attention:
    norm: Norm
    qkv: Filter
    proj: Filter


@dataclass(frozen=True)
class _Block:
    mode: str
    norm0: Norm
    conv0: Filter
    norm1: Norm
    conv1: Filter
    skip: Filter | None
    attention: _Attention | None


def _norm(module: GroupNorm, silu: bool = True) -> Norm:
    return Norm(module.weight.detach().float(), module.bias.detach().float(), module.groups, EPS, silu)


def _filter(module: Conv2d, dtype: torch.dtype) -> Filter:
    return pack(module.weight, module.bias, dtype)


def _attention(module: Attention, dtype: torch.dtype) -> _Attention:
    C = module.proj.weight.shape[0]
    # channel 3c + j becomes j C + c: queries, keys and values in one piece each
    order = torch.arange(3 * C).view(C, 3).t().reshape(-1)
    qkv = pack(module.qkv.weight[order], module.qkv.bias[order], dtype)
    return _Attention(_norm(module.norm, silu=False), qkv, _filter(module.proj, dtype))


def _block(module: Block, dtype: torch.dtype) -> _Block:
    mode = "up" if module.conv0.up else "down" if module.conv0.down else "same"
    return _Block(
        mode,
        _norm(module.norm0),
        _filter(module.conv0, dtype),
        _norm(module.norm1),
        _filter(module.conv1, dtype),
        None if module.skip is None else _filter(module.skip, dtype),
        None if module.attn is None else _attention(module.attn, dtype),
    )


class CpuUNet:
    """Runs the U-Net ``net`` (which stays as it is, and must be on the CPU) with packed weights.

    Parameters
    ----------
    net : SongUNet
        In float32
    precision : {"fp32", "bf16", "fp16"}
        How activations and weights are kept
    """

    def __init__(self, net: SongUNet, precision: str, store: MapMemory | None = None) -> None:
        self._net = net
        self._dtype, weights = KEPT[precision]
        self._first, *encoder = net.enc.values()
        *decoder, last_norm, last = net.dec.values()
        assert isinstance(self._first, Conv2d) and isinstance(last, Conv2d)  # noqa: S101 (for the type checker)
        assert isinstance(last_norm, GroupNorm)  # noqa: S101
        self._blocks = [m for m in (*encoder, *decoder) if isinstance(m, Block)]
        self._encoder = [_block(m, weights) for m in encoder if isinstance(m, Block)]
        self._decoder = [_block(m, weights) for m in decoder if isinstance(m, Block)]
        self._widths = [m.in_channels for m in decoder if isinstance(m, Block)]
        self._stem, self._head = _filter(self._first, weights), _filter(last, weights)
        self._head_norm = _norm(last_norm)
        self._spatial = None if net.spatial_emb is None else Residual(_image(net.spatial_emb.detach()[0]))
        self._rows: OrderedDict[float, list[Tensor]] = OrderedDict()
        self._buffers, self._lock = _Buffers(store or MapMemory()), Lock()

    @property
    def positions(self) -> int:
        """Channels of the position features, the last ones of a slab."""
        return self._net.positions

    def slab(self, static: Tensor, position: Tensor | None = None) -> Tensor:
        """The channels that do not change from step to step, position features included: ``[H, W, C]``.

        ``static`` is ``[C, H, W]``.
        """
        if position is None:
            whole = self._net.position()
            position = None if whole is None else whole[0]
        if position is not None:
            static = torch.cat([static.float(), position.float()])
        return _image(static)

    def biases(self, label: float) -> list[Tensor]:
        """Of every block's first convolution, at one noise label: its own, and the embedding's affine."""
        row = self._rows.get(label)
        if row is None:
            emb = self._net.embed(torch.tensor([label], dtype=torch.float32))
            row = [m.affine(emb)[0].float() + m.conv0.bias.float() for m in self._blocks]
            self._rows[label] = row
            if len(self._rows) > ROWS:
                self._rows.popitem(last=False)
        return row

    def __call__(
        self, x: Tensor, slab: Tensor, scale: Tensor | None, label: float, gain: float, skip: float
    ) -> Tensor:
        """``gain * F(x ⊕ slab; label) + skip * x`` for one image.

        Parameters
        ----------
        x : Tensor
            ``[C_out, H, W]``
        slab : Tensor
            From :meth:`slab`
        scale : Tensor | None
            Factor of each input channel ``[C_out + C]``
        label, gain, skip : float
            Noise label, and the preconditioning's c_out and c_skip

        Returns
        -------
        Tensor
            ``[C_out, H, W]`` float32
        """
        image = _image(x)
        out = torch.empty_like(image)
        with self._lock, torch.no_grad():
            last = self._features(image, slab, scale, self.biases(label))
            extras = Extras(norm=self._head_norm, gain=gain, residual=Residual(image, skip) if skip else None)
            conv((last,), self._head, out, extras, moments=False)
            self._buffers.give(last.data)
        return out.permute(2, 0, 1)

    def release(self) -> None:
        """Give back the memory of large feature maps: the next call may be long away."""
        with self._lock:
            self._buffers.trim()

    def _features(self, image: Tensor, slab: Tensor, scale: Tensor | None, biases: list[Tensor]) -> Field:
        H, W, _ = image.shape
        rows = iter(biases)
        stem = Extras(scale=scale, residual=self._spatial)
        out = self._buffers.take((H, W, self._stem.bias.numel()), self._dtype)
        x = conv((Field(image), Field(slab)), self._stem, out, stem)
        skips = [x]
        for block in self._encoder:
            x = self._run(block, (x,), next(rows))
            skips.append(x)
        for block, width in zip(self._decoder, self._widths, strict=True):
            sources = (x,) if x.data.shape[-1] == width else (x, skips.pop())
            y = self._run(block, sources, next(rows))
            self._buffers.give(*(s.data for s in sources if not any(s is kept for kept in skips)))
            x = y
        return x

    def _run(self, block: _Block, sources: tuple[Field, ...], bias: Tensor) -> Field:
        h, w, _ = sources[0].data.shape
        size = {"same": (h, w), "up": (2 * h, 2 * w), "down": (h // 2, w // 2)}[block.mode]
        shape = (*size, block.conv0.bias.numel())
        take, dtype = self._buffers.take, self._dtype
        inner = conv(
            sources, block.conv0, take(shape, dtype), Extras(block.norm0, bias=bias, mode=block.mode)
        )
        spare, residual = [inner.data], Residual(sources[0].data, SKIP_SCALE)
        if block.skip is not None:
            up = block.mode == "up"  # a 1 x 1 convolution before doubling costs a quarter, and is the same
            side = take((h, w, shape[2]) if up else shape, dtype)
            conv(sources, block.skip, side, Extras(mode="same" if up else block.mode), moments=False)
            spare, residual = [*spare, side], Residual(side, SKIP_SCALE, up)
        extras = Extras(block.norm1, gain=SKIP_SCALE, residual=residual)
        y = conv((inner,), block.conv1, take(shape, dtype), extras)
        self._buffers.give(*spare)
        return y if block.attention is None else self._attend(block.attention, y)

    def _attend(self, attention: _Attention, x: Field) -> Field:
        H, W, C = x.data.shape
        qkv = self._buffers.take((H, W, 3 * C), torch.float32)
        conv((x,), attention.qkv, qkv, Extras(attention.norm), moments=False)
        q, k, v = qkv.view(1, 1, H * W, 3, C).unbind(-2)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=C**-0.5).reshape(H, W, C)
        out = self._buffers.take((H, W, C), self._dtype)
        extras = Extras(gain=SKIP_SCALE, residual=Residual(x.data, SKIP_SCALE))
        y = conv((Field(mixed),), attention.proj, out, extras)
        self._buffers.give(qkv, x.data)
        return y


def _image(x: Tensor) -> Tensor:
    """``[C, H, W]`` → ``[H, W, C]`` float32, in one piece."""
    return x.permute(1, 2, 0).float().contiguous()


def supports(net: nn.Module) -> bool:
    """True if ``CpuUNet`` can run this network here."""
    from earth2_corrdiff.networks.kernels.cpu_conv import available

    return isinstance(net, SongUNet) and available()
