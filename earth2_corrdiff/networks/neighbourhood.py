# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Neighbourhood attention: every token of a grid attends to a window of tokens around it.

Along each axis of ``n`` tokens a query at position ``i`` sees ``k`` keys, and at a border the window is
shifted inside, neither cut nor padded (Hassani et al., arXiv 2204.07143)::

    start(i) = clamp(i - k // 2, 0, n - k)        keys start(i) ... start(i) + k - 1

With a dilation ``d`` the same holds inside each group of positions that are equal modulo ``d``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError

Pair = int | tuple[int, int]


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: Pair, dilation: Pair = 1, scale: float | None = None
) -> Tensor:
    """Softmax attention of each query to the ``kernel`` x ``kernel`` tokens around it.

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
        If ``kernel * dilation`` tokens do not fit the grid, or an even kernel is asked for

    Source: ``natten.functional.na2d`` 0.21.
    """
    windows = [axis_windows(*axis) for axis in zip(q.shape[1:3], pair(kernel), pair(dilation), strict=True)]
    return masked_attention(q, k, v, windows, scale)


def pair(value: Pair) -> tuple[int, int]:
    """(h, w) of a value for both axes or for each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def axis_windows(n: int, kernel: int, dilation: int = 1) -> Tensor:
    """``[n, n]`` bool: True if the query (row) sees the key (column) along one axis.

    Raises
    ------
    InputError
        If the kernel does not fit, or is even and not the whole axis
    """
    if kernel < 1 or dilation < 1 or kernel * dilation > n:
        raise InputError(
            f"kernel {kernel} with dilation {dilation} does not fit {n} tokens; use a larger domain"
        )
    if kernel % 2 == 0 and kernel * dilation != n:
        raise InputError(f"{kernel} is not a valid kernel of neighbourhood attention; use an odd one")
    group, i = torch.arange(n) % dilation, torch.arange(n) // dilation
    members = (n - group + dilation - 1) // dilation  # positions in each one's dilation group
    start = torch.minimum((i - kernel // 2).clamp(min=0), members - kernel)
    keys = (start * dilation + group)[:, None] + dilation * torch.arange(kernel)
    return torch.zeros(n, n, dtype=torch.bool).scatter_(1, keys, True)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, windows: list[Tensor], scale: float | None = None
) -> Tensor:
    """The reference: all products, those outside a window masked; memory grows as ``(h w)²``."""
    rows, columns = windows
    mask = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    heads = [x.flatten(1, 2).transpose(1, 2) for x in (q, k, v)]  # [B, heads, h w, dim]
    y = F.scaled_dot_product_attention(*heads, attn_mask=mask.to(q.device), scale=scale)
    return y.transpose(1, 2).reshape(q.shape)
