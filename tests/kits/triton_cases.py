# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the reference in float64: on a GPU, or on the CPU through Triton's interpreter.

``test_kernels_triton.py`` runs this file in processes of their own, because Triton decides at its import
whether it interprets. By hand: ``TRITON_INTERPRET=1 python -m pytest tests/kits/triton_cases.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import FLOATS, LAYOUTS, NCHW, NHWC, Case, assert_close, inputs, results, truth
from torch import Tensor
from triton_interpreter import mend_scalars

from earth2_corrdiff.networks import kernels
from earth2_corrdiff.networks.kernels import ops, reference, triton_norm, triton_tiles
from earth2_corrdiff.networks.kernels.feature_maps import FeatureMap, join, measured, normalised
from earth2_corrdiff.networks.kernels.reference import Norm

# the interpreter's numpy says where exp(-z) is infinite: the activation is 0 there, as it should be
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if INTERPRETED:
    mend_scalars()
# The interpreter cuts bfloat16 off where a GPU rounds.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7 if INTERPRETED else 2.0**-8, torch.float16: 2.0**-11}
GPU_ALONE = [  # the interpreter is slow
    (torch.float32, NHWC, Case((1, 128, 17, 11), 1000)),
    (torch.float32, NHWC, Case((5, 32, 5, 1), 100)),
    (torch.bfloat16, NCHW, Case((3, 32, 1, 5), 1000)),
    (torch.float16, NHWC, Case((1, 160, 9, 13), 0, silu=False)),
]
CASES = [
    *GPU_ALONE,
    (torch.float32, NCHW, Case((1, 128, 9, 7), 1000, silu=False)),
    (torch.float32, NHWC, Case((3, 32, 9, 13), 0, unbiased=False)),
    (torch.float32, NCHW, Case((1, 96, 9, 13), 100, shifted=False)),
    (torch.float32, NHWC, Case((1, 384, 1, 5), 100)),
    (torch.float32, NHWC, Case((1, 20, 7, 5), 1000)),
    (torch.bfloat16, NHWC, Case((1, 256, 9, 13), 100)),
    (torch.float16, NCHW, Case((1, 512, 1, 5), 100, unbiased=False)),
    (torch.float32, NHWC, Case((2, 4, 1, 1), unbiased=False)),
]


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators take Triton for tensors of the CPU, too: what they do on a GPU, with their gradients."""
    monkeypatch.setattr(ops, "_version", lambda x, native: triton_norm)


@pytest.mark.parametrize(
    ("dtype", "layout", "case"), CASES[len(GPU_ALONE) :] if INTERPRETED else CASES, ids=str
)
def test_norm_and_gradients(
    on_triton: None, dtype: torch.dtype, layout: torch.memory_format, case: Case
) -> None:
    given = inputs(case, dtype, layout, DEVICE)
    got = results(kernels.group_norm_silu, case, given)
    assert got["y"].dtype == got["x"].dtype == dtype
    assert got["y"].stride() == given.x.stride() == got["x"].stride()
    assert_close(got, truth(case, given), case, ROUNDING[dtype])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_many_tiles(on_triton: None, monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format) -> None:
    """As in a large field: several tiles in a span, several rounds of merging, and empty tiles at the end."""
    few = {"TILE": 128, "SPANS": 8, "MOST_TILES": 3, "MERGE_ROWS": 2}
    few |= {"BACK_TILE": 128, "BACK_LEAST_TILES": 1, "BACK_MOST_TILES": 3, "BACK_ROWS": 4}
    few |= {"SUM_TILE": 64, "SUM_SPANS": 8, "SPAN_UNIT": 8}
    for name, value in few.items():
        monkeypatch.setattr(triton_tiles, name, value)
    case = Case((1, 32, 10, 11), 1000)
    given = inputs(case, layout=layout, device=DEVICE)
    for backward in (False, True):
        cut = triton_tiles.Tiles.of(given.x, backward)
        assert cut.tiles == 3 and cut.spans > 4
        assert cut.spans * cut.tiles * cut.rows - 10 * 11 > cut.rows
    spans = triton_tiles.Spans.of(10 * 11)
    assert spans.count > 4 and spans.span * spans.count > 10 * 11 and spans.span >= 4 * spans.rows(32)
    assert_close(results(kernels.group_norm_silu, case, given), truth(case, given), case)


# feature maps with their moments: channels of one map, or of two side by side
MAPS = [
    (torch.float32, (128,), "same", True),
    (torch.float32, (20,), "up", False),
    (torch.float32, (32,), "down", True),
    (torch.float32, (64, 32), "same", True),
    (torch.float32, (20, 12), "same", False),  # too few to be read side by side: joined first
    (torch.bfloat16, (256, 128), "same", True),
    (torch.float16, (32, 32), "down", True),
]


@pytest.fixture
def maps_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of the CPU take Triton, too, but for those in float64."""
    monkeypatch.setattr(ops, "on_triton", lambda x: x.dtype != torch.float64)


def random_maps(dtype: torch.dtype, channels: tuple[int, ...], B: int = 2) -> list[Tensor]:
    return [
        inputs(Case((B, c, 6, 10), 100 * i), dtype, device=DEVICE, seed=i).x for i, c in enumerate(channels)
    ]


def with_shifts() -> Iterator[tuple[Any, ...]]:
    """Only what one convolution has made is shifted; the interpreter, which is slow, sees one of three."""
    for i, case in enumerate(MAPS):
        shifts = (0, 1, 2) if len(case[1]) == 1 else (0,)
        yield from ((*case, n) for n in ((shifts[i % len(shifts)],) if INTERPRETED else shifts))


@pytest.mark.parametrize(("dtype", "channels", "mode", "keep", "shifts"), list(with_shifts()), ids=str)
def test_norms_of_maps(
    maps_on_triton: None, dtype: torch.dtype, channels: tuple[int, ...], mode: str, keep: bool, shifts: int
) -> None:
    """Against the operators one after the other, in float64."""
    xs, C = random_maps(dtype, channels), sum(channels)
    given = inputs(Case((2, C, 1, 1)), device=DEVICE)
    shift = None if not shifts else inputs(Case((shifts, C, 1, 1)), device=DEVICE).shift
    how = {"mode": mode, "keep": keep}
    norm = Norm(min(32, C // 4), unbiased=True)
    got, raw = normalised([measured(x) for x in xs], given.weight, given.bias, norm, shift=shift, **how)
    exact = given.double()
    wide = None if shift is None else shift.double().expand(2, -1)
    plain = [FeatureMap(x.double()) for x in xs]
    want, kept = normalised(plain, exact.weight, exact.bias, norm, shift=wide, **how)
    bound = 3e-6 + ROUNDING[dtype]
    assert got.dtype == dtype and got.is_contiguous(memory_format=NHWC)
    assert (got.double() - want).abs().max() <= bound * want.abs().max()
    assert (raw is None) == (not keep)
    if raw is not None and kept is not None:
        assert (raw.double() - kept).abs().max() <= bound * kept.abs().max()


@pytest.mark.parametrize("side", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "C"), [(torch.float32, 40), (torch.bfloat16, 128)], ids=str)
def test_joins_and_their_moments(maps_on_triton: None, dtype: torch.dtype, C: int, side: int) -> None:
    """The sum against float64, and its moments against those of the tensor itself: the same bits."""
    (x,), bias = random_maps(dtype, (C,)), inputs(Case((1, C, 1, 1)), device=DEVICE).bias
    skip = None
    if side:
        size = (2, C, 6 // side, 10 // side)
        skip = inputs(Case(size), dtype, device=DEVICE, seed=3).x
    got = join(x, skip, bias, 0.7)
    want = join(x.double(), None if skip is None else skip.double(), bias.double(), 0.7).values
    assert got.values.dtype == dtype and got.values.is_contiguous(memory_format=NHWC)
    assert (got.values.double() - want).abs().max() <= (2e-7 + ROUNDING[dtype]) * want.abs().max()
    assert got.moments is not None and torch.equal(got.moments, measured(got.values).moments)
    mean, squares = got.moments.double().unbind(2)
    counts = torch.tensor([32.0, 28.0], dtype=torch.float64, device=DEVICE).view(1, 2, 1)
    y = got.values.double().flatten(2)
    torch.testing.assert_close((mean * counts).sum(1) / 60, y.mean(2), rtol=1e-6, atol=1e-6)
    about = squares.sum(1) + (counts * (mean - y.mean(2)[:, None]) ** 2).sum(1)
    torch.testing.assert_close(about, 59 * y.var(2), rtol=1e-5, atol=1e-5)


def test_maps_have_the_same_bits_in_any_batch(maps_on_triton: None) -> None:
    xs = random_maps(torch.float32, (64, 32), 3)
    given = inputs(Case((1, 96, 1, 1)), device=DEVICE)

    def run(*xs: Tensor) -> Tensor:
        joined = [join(x, x, given.bias[: x.shape[1]], 0.7) for x in xs]
        return normalised(joined, given.weight, given.bias, Norm(24, unbiased=True))[0]

    assert torch.equal(run(*(x[1:2] for x in xs)), run(*xs)[1:2])


def test_same_bits_in_any_batch(on_triton: None) -> None:
    case = Case((3, 20, 9, 13), 100)
    given = inputs(case, device=DEVICE)
    together = results(kernels.group_norm_silu, case, given)
    part = replace(given, x=given.x[1:2], shift=given.shift[1:2], grad=given.grad[1:2])
    alone = results(kernels.group_norm_silu, case, part)
    for name in ("y", "x", "shift"):
        assert torch.equal(alone[name], together[name][1:2]), name


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS.keys())
def test_norm_of_a_constant(dtype: torch.dtype) -> None:
    """The variance is 0: eps decides, and nothing is infinite."""
    given = inputs(Case((1, 32, 5, 7), shifted=False), dtype, device=DEVICE)
    x = torch.full_like(given.x, 1000.1)
    how = given.weight, given.bias, None, Norm(8)
    y, mean, rstd = triton_norm.forward(x, *how)
    want, _, _ = reference.forward(x.double(), *how)
    assert (y.double() - want).abs().max() < 0.1  # 1000.1 is known to 3e-5, and 1 / sqrt(eps) is 1000
    assert rstd.allclose(torch.full_like(rstd, 1000.0))
    dx, *_ = triton_norm.backward(given.grad, x, given.weight, given.bias, None, mean, rstd, Norm(8))
    assert dx.isfinite().all()


def test_an_outlier_where_the_differences_are_taken_from() -> None:
    given = inputs(Case((1, 32, 9, 13), shifted=False), device=DEVICE)
    given.x[:, :, 0, 0] = 3e4
    how = given.weight, given.bias, None, Norm(8)
    (y, *_), (want, *_) = triton_norm.forward(given.x, *how), reference.forward(given.x.double(), *how)
    near, far = y.double().flatten(2)[..., 1:], want.flatten(2)[..., 1:]
    assert (near - far).abs().max() < 2e-5 * far.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS.keys())
def test_residual_and_scale(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x, y = (inputs(Case((3, 40, 7, 11)), dtype, layout, DEVICE, seed).x for seed in (0, 1))
    got = triton_norm.residual_scale(x, y, 0.7)
    assert got.stride() == x.stride() and got.dtype == dtype
    want = (x.double() + y.double()) * 0.7
    assert (got.double() - want).abs().max() <= (1e-7 + ROUNDING[dtype]) * want.abs().max()


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_a_gpu_takes_these_kernels_and_is_not_waited_for() -> None:
    case = Case((2, 128, 28, 28), 100)
    given = inputs(case, torch.bfloat16, device=DEVICE)
    assert ops._version(given.x, lambda x: False) is triton_norm
    results(kernels.group_norm_silu, case, given)  # compiles
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = results(kernels.group_norm_silu, case, given)
        kernels.residual_scale(got["y"], given.x, 0.7)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert_close(got, truth(case, given), case, ROUNDING[torch.bfloat16])


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_a_captured_graph_replays_the_same_bits() -> None:
    given = inputs(Case((2, 128, 28, 28)), torch.bfloat16, device=DEVICE)

    def run() -> Tensor:
        y = kernels.group_norm_silu(given.x, 32, given.weight, given.bias, shift=given.shift, unbiased=True)
        return kernels.residual_scale(y, given.x, 0.7)

    want = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    graph.replay()
    assert torch.equal(got, want)
