# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Neighbourhood attention by hand, one query at a time, against its forms."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny import relerr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks import neighbourhood
from earth2_corrdiff.networks.kernels import cpu_window
from earth2_corrdiff.networks.neighbourhood import (
    cpu_attention,
    flex_attention,
    masked_attention,
    neighbourhood_attention,
    tiled_attention,
)

# (h, w), kernel, dilation: with tiles of 4 x 4 queries grids of less than a tile, of whole tiles and of parts
CASES = [
    ((3, 5), 3, 1),
    ((9, 7), 7, 1),
    ((9, 7), 1, 1),
    ((8, 12), 5, 1),
    ((13, 22), (3, 7), 1),
    ((14, 11), 3, 3),
    ((9, 20), (9, 5), (1, 2)),
    ((8, 6), (4, 3), (2, 1)),
]


def draw(shape: tuple[int, int], dtype: torch.dtype = torch.float64, dim: int = 16) -> list[Tensor]:
    """Queries, keys and values as a linear layer gives them: views of one tensor."""
    torch.manual_seed(0)
    return list(torch.randn(2, *shape, 3, 3, dim, dtype=torch.float64).to(dtype).unbind(3))


def positions(i: int, n: int, kernel: int, dilation: int) -> list[int]:
    """Keys of position i: the nearest of its dilation group, none twice, the same number everywhere."""
    group = range(i % dilation, n, dilation)
    start = min(max(i // dilation - kernel // 2, 0), len(group) - kernel)
    return list(group[start : start + kernel])


def by_hand(q: Tensor, k: Tensor, v: Tensor, kernel: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Softmax of each query's products with its own keys."""
    out = torch.empty_like(q)
    for i, j in product(*map(range, q.shape[1:3])):
        keys = [positions(*axis) for axis in zip((i, j), q.shape[1:3], kernel, dilation, strict=True)]
        at = tuple(zip(*product(*keys), strict=True))
        near_k, near_v = (x[:, at[0], at[1]] for x in (k, v))  # [B, keys, heads, dim]
        weight = (torch.einsum("bnd,bknd->bkn", q[:, i, j], near_k) / 4).softmax(1)
        out[:, i, j] = torch.einsum("bkn,bknd->bnd", weight, near_v)
    return out


@pytest.mark.parametrize(("shape", "kernel", "dilation"), CASES)
def test_forms_have_one_meaning(
    shape: tuple[int, int], kernel: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(neighbourhood.TILES, "cpu", 4)
    q, k, v = (x.requires_grad_() for x in draw(shape))
    want = by_hand(q, k, v, neighbourhood.pair(kernel), neighbourhood.pair(dilation))
    grads = torch.autograd.grad(want, (q, k, v), draw(shape)[2])
    for form in (neighbourhood_attention, tiled_attention, masked_attention):
        y = form(q, k, v, kernel, dilation)
        assert y.shape == q.shape and (y - want).abs().max() < 1e-12
        found = torch.autograd.grad(y, (q, k, v), draw(shape)[2])
        assert max((a - b).abs().max() for a, b in zip(found, grads, strict=True)) < 1e-12
    other = neighbourhood_attention(q, k, v, kernel, dilation, scale=0.7)
    assert (other - masked_attention(q * 2.8, k, v, kernel, dilation)).abs().max() < 1e-12


@pytest.mark.parametrize("tile", [4, 8])
def test_error_in_half_precision_is_that_of_masked_attention(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(neighbourhood.TILES, "cpu", tile)
    exact, half = draw((17, 26)), draw((17, 26), torch.bfloat16, 32)
    truth = masked_attention(*(x.double() for x in half), 5)
    bound = 1.05 * relerr(masked_attention(*half, 5), truth)
    for form in (neighbourhood_attention, tiled_attention):
        y = form(*half, 5)
        assert y.dtype is torch.bfloat16 and relerr(y, truth) < bound
    for x in half:
        x.requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in half]
    true = torch.autograd.grad(masked_attention(*wide, 5).sum(), wide)
    masked = torch.autograd.grad(masked_attention(*half, 5).sum(), half)
    ours = torch.autograd.grad(neighbourhood_attention(*half, 5).sum(), half)
    for a, b, c in zip(ours, masked, true, strict=True):
        assert a.dtype is torch.bfloat16 and relerr(a, c) < 1.3 * relerr(b, c)
    single = [x.float() for x in exact]
    assert relerr(tiled_attention(*single, 5), masked_attention(*exact, 5)) < 5e-7


def test_the_own_kernel_of_the_cpu() -> None:
    """In float32 inside, also for bfloat16; with more rows and columns than one of its parts."""
    if not cpu_window.supports(*draw((4, 4), torch.float32)):
        pytest.skip("there is no C compiler for the kernels")
    for shape, kernel, dilation in [*CASES, ((18, 70), (3, 9), 1), ((35, 5), (13, 5), (2, 1))]:
        q, k, v = draw(shape)
        want = masked_attention(q, k, v, kernel, dilation)
        assert relerr(cpu_attention(q.float(), k.float(), v.float(), kernel, dilation), want) < 6e-7
        for dim in (16, 32):  # which a matrix unit takes
            half = draw(shape, torch.bfloat16, dim)
            want = masked_attention(*(x.double() for x in half), kernel, dilation, scale=0.5)
            assert relerr(cpu_attention(*half, kernel, dilation, scale=0.5), want) < 3e-3
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = draw((9, 7), dtype, 32)
        q[1, 4, 5, 2, 0] = torch.nan
        bad = cpu_attention(q, k, v, 3).isnan()
        assert bad[1, 4, 5, 2].all() and bad.sum() == q.shape[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbourhood, "FLEX_TILE", (2, 4))
    for shape, kernel, dilation in CASES[3:6]:
        q, k, v = draw(shape, torch.float32)
        want = masked_attention(q, k, v, kernel, dilation)
        assert relerr(flex_attention(q, k, v, kernel, dilation), want) < 5e-7


@pytest.mark.parametrize(
    ("kernel", "dilation", "word"),
    [(9, 1, "9 .* 8 tokens"), (3, 3, "dilation 3"), (0, 1, "0"), (4, 1, "odd")],
)
def test_refusals(kernel: int, dilation: int, word: str) -> None:
    q, k, v = draw((8, 12))
    with pytest.raises(InputError, match=word):
        neighbourhood_attention(q, k, v, kernel, dilation)
