# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Neighbourhood attention: every token of a grid attends to a window of tokens around it.

Along each axis of ``n`` tokens a query at position ``i`` sees ``k`` keys, and at a border the window is
shifted inside, neither cut nor padded (Hassani et al., arXiv 2204.07143)::

    start(i) = clamp(i - k // 2, 0, n - k)        keys start(i) ... start(i) + k - 1

With a dilation ``d`` the same holds inside each group of positions that are equal modulo ``d``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.kernels import cpu_window, tuned

Pair = int | tuple[int, int]
TILES = {"cpu": 8}  # queries along each side of a tile
TILE = 16  # on other devices
RUN = 8  # tiles in one call: more would be fresh pages for each on a CPU
FLEX_TILE = 8, 16  # tokens along (h, w) of a block of 128


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """Softmax attention of each query to the ``kernel`` x ``kernel`` tokens around it.

    Memory and time grow linearly with the number of tokens, backward included.

    Parameters
    ----------
    q, k, v : Tensor
        ``[B, h, w, heads, dim]``
    kernel : int | tuple[int, int]
        Keys along (h, w) that a query sees, odd or the whole axis
    dilation : int | tuple[int, int], optional
        Distance of these keys; by default 1
    scale : float, optional
        Factor of the products; by default ``dim ** -0.5``

    Returns
    -------
    Tensor
        ``[B, h, w, heads, dim]``

    Raises
    ------
    InputError
        If ``kernel * dilation`` tokens do not fit the grid, or the kernel is even

    Source: ``natten.functional.na2d`` 0.21.
    """
    kernel, dilation = pair(kernel), pair(dilation)
    for axis in zip(q.shape[1:3], kernel, dilation, strict=True):
        _check(*axis)
    if kernel == q.shape[1:3]:
        return _attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), None, scale).view(q.shape)
    if q.device.type == "cpu":
        return cpu_attention(q, k, v, kernel, dilation, scale)
    chosen = q.is_cuda and q.dtype is not torch.float64 and q.shape[-1] in (16, 32, 64, 128)
    form = FORMS[tuned.chosen(q.device).attention] if chosen else tiled_attention
    return form(q, k, v, kernel, dilation, scale)


def pair(value: Pair) -> tuple[int, int]:
    """(h, w) of a value for both axes or for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """The reference: all products, those outside the windows masked; memory grows as ``(h w)²``."""
    rows, columns = map(_seen, q.shape[1:3], pair(kernel), pair(dilation))
    mask = _both(rows, columns).to(q.device)
    return _attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), mask, scale).view(q.shape)


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """Tiles of queries against the union of their windows, on any device."""
    y: Tensor = _Windowed.apply(q, k, v, pair(kernel), pair(dilation), scale, False)
    return y


def cpu_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """The CPU's own kernel where it takes the tensors; the backward pass is that of tiles."""
    own = cpu_window.supports(q, k, v) and not torch.compiler.is_compiling()
    y: Tensor = _Windowed.apply(q, k, v, pair(kernel), pair(dilation), scale, own)
    return y


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """PyTorch's ``flex_attention`` over tiles of tokens; compiled on a GPU, and on a CPU only its meaning."""
    from torch.nn.attention import flex_attention as flex

    (h, w), (a, b) = q.shape[1:3], FLEX_TILE
    rows, columns = -h % a, -w % b
    mask = _block_mask(h, w, pair(kernel), pair(dilation), q.device)

    def tiles(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, columns, 0, rows))
        x = x.reshape(len(x), (h + rows) // a, a, (w + columns) // b, b, *x.shape[3:])
        return x.transpose(2, 3).flatten(1, 4).transpose(1, 2)  # [B, heads, tokens, dim]

    attend = _compiled(flex.flex_attention) if q.is_cuda else flex.flex_attention
    y: Tensor = attend(tiles(q), tiles(k), tiles(v), block_mask=mask, scale=scale).transpose(1, 2)
    y = y.reshape(len(q), (h + rows) // a, (w + columns) // b, a, b, *q.shape[3:]).transpose(2, 3)
    return y.flatten(3, 4).flatten(1, 2)[:, :h, :w]


def natten_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """NATTEN's own kernels, where that package is installed."""
    from natten.functional import na2d

    y: Tensor = na2d(q, k, v, kernel_size=kernel, dilation=dilation, scale=scale)
    return y


FORMS = {"tiles": tiled_attention, "flex": flex_attention, "natten": natten_attention}


def _check(n: int, kernel: int, dilation: int) -> None:
    if kernel < 1 or dilation < 1 or kernel * dilation > n:
        raise InputError(
            f"kernel {kernel} with dilation {dilation} does not fit {n} tokens; use a larger domain"
        )
    if kernel % 2 == 0 and kernel * dilation != n:
        raise InputError(f"{kernel} is not a valid kernel of neighbourhood attention; use an odd one")


def _seen(n: int, kernel: int, dilation: int) -> Tensor:
    """``[n, n]`` bool: True if the query (row) sees the key (column) along one axis."""
    seen = torch.zeros(n, n, dtype=torch.bool)
    for first in range(dilation):
        group = seen[first::dilation, first::dilation]
        group |= _window(range(len(group)), range(len(group)), len(group), kernel)
    return seen


def _window(queries: range, keys: range, n: int, kernel: int) -> Tensor:
    """``[queries, keys]`` bool: True if the query sees the key, on an axis of ``n`` tokens."""
    start = (torch.tensor(queries)[:, None] - kernel // 2).clamp(0, n - kernel)
    key = torch.tensor(keys)
    return (start <= key) & (key < start + kernel)


def _both(rows: Tensor, columns: Tensor) -> Tensor:
    """``[a, u], [b, x] → [a b, u x]``: True if the query sees the key along both axes."""
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """``[B, queries, heads, dim]``, keys likewise."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


@dataclass(frozen=True)
class _Tiles:
    """Neighbouring tiles of queries along one axis, whose windows have the same pattern.

    Attributes
    ----------
    queries, keys : range
        Of the first tile; the keys are the union of its queries' windows
    count, step : int
        Number of tiles, and tokens from one to the next
    seen : Tensor
        ``[queries, keys]`` bool
    """

    queries: range
    keys: range
    count: int
    step: int
    seen: Tensor

    def cut(self, x: Tensor, first: range) -> Tensor:
        """``[B, u, w, heads, dim] → [B tiles, u len(first), heads, dim]``."""
        cut = x[:, :, first.start : first.stop + (self.count - 1) * self.step]
        cut = cut.unfold(2, len(first), self.step).permute(0, 2, 1, 5, 3, 4)
        return cut.flatten(2, 3).flatten(0, 1)


def _tiles(n: int, kernel: int, tile: int) -> Iterator[_Tiles]:
    """The tiles of an axis of ``n`` tokens; those away from the borders come together, up to ``RUN``."""
    union, half = min(n, tile + kernel - 1), kernel // 2

    def border(first: int) -> int:
        inside = half <= first and first + tile + half <= n
        return -1 - first // (RUN * tile) if inside else first

    for _, group in groupby(range(0, n, tile), border):
        first, *others = group
        start = max(0, min(first - half, n - union))
        queries, keys = range(first, min(first + tile, n)), range(start, start + union)
        yield _Tiles(queries, keys, 1 + len(others), tile, _window(queries, keys, n, kernel))


@dataclass(frozen=True)
class _Strip:
    """Some rows of queries of one dilation group, and the keys that they see."""

    queries: tuple[slice, ...]
    keys: tuple[slice, ...]
    seen: Tensor
    columns: list[_Tiles]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """``[B, rows, w, heads, dim]``, with more rows of keys."""
        return torch.cat([self._columns(tiles, q, k, v, scale) for tiles in self.columns], dim=2)

    def _columns(self, tiles: _Tiles, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        mask = _both(self.seen, tiles.seen).to(q.device)
        parts = tiles.cut(q, tiles.queries), tiles.cut(k, tiles.keys), tiles.cut(v, tiles.keys)
        y = _attention(*parts, mask, scale)
        y = y.reshape(len(q), tiles.count, len(self.seen), len(tiles.seen), *q.shape[3:])
        return y.transpose(1, 2).flatten(2, 3)


def _strips(q: Tensor, kernel: tuple[int, int], dilation: tuple[int, int]) -> Iterator[_Strip]:
    """The strips of the grid of ``q``."""
    shape, tile = q.shape[1:3], TILES.get(q.device.type, TILE)
    for group in _groups(shape, dilation):
        rows, columns = (range(n)[at] for n, at in zip(shape, group[1:], strict=True))
        tiles_of_columns = list(_tiles(len(columns), kernel[1], tile))
        for tiles in _tiles(len(rows), kernel[0], tile):
            for i in range(0, tiles.count * tiles.step, tiles.step):
                parts = (rows[r.start + i : r.stop + i] for r in (tiles.queries, tiles.keys))
                queries, keys = (
                    (group[0], slice(part.start, part.stop, part.step), group[2]) for part in parts
                )
                yield _Strip(queries, keys, tiles.seen, tiles_of_columns)


def _groups(shape: Sequence[int], dilation: tuple[int, int]) -> Iterator[tuple[slice, slice, slice]]:
    """The dilation groups, each of which is a grid of its own."""
    for row, column in product(*map(range, dilation)):
        yield slice(None), slice(row, shape[0], dilation[0]), slice(column, shape[1], dilation[1])


class _Windowed(torch.autograd.Function):
    """Tiles of queries against the union of their windows, a strip of rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kernel: tuple[int, int],
        dilation: tuple[int, int],
        scale: float | None,
        own: bool,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.settings = kernel, dilation, scale
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if own:
            factor = q.shape[-1] ** -0.5 if scale is None else scale
            for at in _groups(q.shape[1:3], dilation):
                cpu_window.attention(q[at], k[at], v[at], kernel, factor, out[at])
            return out
        for strip in _strips(q, kernel, dilation):
            out[strip.queries] = strip.attention(q[strip.queries], k[strip.keys], v[strip.keys], scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes each strip again: what a strip gathers is many times its keys and is not kept."""
        qkv = ctx.saved_tensors
        kernel, dilation, scale = ctx.settings
        wide = torch.promote_types(grad.dtype, torch.float32)  # sums over strips
        grads = [torch.zeros_like(x, dtype=wide) for x in qkv]
        for strip in _strips(qkv[0], kernel, dilation):
            places = strip.queries, strip.keys, strip.keys
            q, k, v = (x[at].detach().requires_grad_() for x, at in zip(qkv, places, strict=True))
            with torch.enable_grad():
                y = strip.attention(q, k, v, scale)
            found = torch.autograd.grad(y, (q, k, v), grad[strip.queries])
            for total, at, part in zip(grads, places, found, strict=True):
                total[at] += part
        return *(total.to(x.dtype) for total, x in zip(grads, qkv, strict=True)), None, None, None, None


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False)


@lru_cache(maxsize=8)
def _block_mask(
    h: int, w: int, kernel: tuple[int, int], dilation: tuple[int, int], device: torch.device
) -> Any:
    """The tiles of keys that each tile of queries needs: all of its pairs, or some, which are masked."""
    from torch.nn.attention.flex_attention import BlockMask

    a, b = FLEX_TILE
    rows, columns = (
        F.pad(_seen(*axis), (0, -axis[0] % side, 0, -axis[0] % side)).to(device)
        for axis, side in zip(zip((h, w), kernel, dilation, strict=True), FLEX_TILE, strict=True)
    )
    across = columns.shape[0] // b

    def place(token: Tensor) -> tuple[Tensor, Tensor]:
        tile, inside = token // (a * b), token % (a * b)
        return tile // across * a + inside // b, tile % across * b + inside % b

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        (i, j), (u, x) = place(query), place(key)
        return rows[i, u] & columns[j, x]

    def pairs(some: Any) -> Tensor:
        return _both(
            *(some(some(seen.view(-1, n, len(seen) // n, n), 3), 1) for seen, n in ((rows, a), (columns, b)))
        )

    def listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
        order = pairs.int().argsort(dim=-1, descending=True, stable=True)
        return pairs.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]

    partial, whole = pairs(torch.any) & ~pairs(torch.all), pairs(torch.all)
    return BlockMask.from_kv_blocks(*listed(partial), *listed(whole), BLOCK_SIZE=a * b, mask_mod=sees)
