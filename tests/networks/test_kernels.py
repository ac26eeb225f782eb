# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fused norm on the CPU against its reference in float64, and that against PyTorch's own norm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
from axes import pairwise
from kernel_cases import FLOATS, LAYOUTS, NCHW, NHWC, ROUNDING, Case, assert_close, inputs, results, truth
from loguru import logger
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks.kernels import cpu_norm, group_norm_silu, ops, reference
from earth2_corrdiff.networks.kernels.native import library
from earth2_corrdiff.networks.unet import GroupNorm

SIZES = ((28, 28), (17, 23), (1, 5))
CHANNELS = (32, 96, 128, 256, 384, 512)
# Every number of channels at every size; the rest goes round, so that each value meets each other.
CASES = [
    Case((1 + i % 5, C, H, W), (0, 100, 1000)[i // 2 % 3], i % 4 != 1, i % 3 != 0, i % 7 != 2)
    for i, (C, (H, W)) in enumerate(product(CHANNELS, SIZES))
]
SMALL = Case((2, 24, 5, 7))
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU without its kernels, as on a machine without a compiler."""
    monkeypatch.setenv("EARTH2_CORRDIFF_NATIVE", "0")
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# the norm


@pytest.mark.parametrize(
    ("dtype", "layout", "case"), pairwise(FLOATS.values(), LAYOUTS.values(), CASES), ids=str
)
def test_norm_and_gradients(dtype: torch.dtype, layout: torch.memory_format, case: Case) -> None:
    given = inputs(case, dtype, layout)
    got = results(group_norm_silu, case, given)
    assert got["y"].dtype == got["x"].dtype == dtype
    assert got["y"].stride() == given.x.stride() == got["x"].stride()
    assert_close(got, truth(case, given), case, ROUNDING[dtype])


def test_the_kernels_are_in_use_where_there_is_a_compiler() -> None:
    if COMPILER is None:
        pytest.skip("no C compiler")
    for dtype, layout in product((torch.float32, torch.bfloat16), (NHWC, NCHW)):
        assert cpu_norm.supports(inputs(SMALL, dtype, layout).x) == (layout is NHWC)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_norm_without_kernels(no_kernels: None, case: Case) -> None:
    given = inputs(case)
    assert not cpu_norm.supports(given.x)
    assert_close(results(group_norm_silu, case, given), truth(case, given), case, 2e-6)


@pytest.mark.slow
def test_norm_of_a_large_field_far_from_zero() -> None:
    """The size of the design's table; a one-pass variance is wrong by 9 % here."""
    case = Case((1, 128, 112, 112), 1000, shifted=False)
    given = inputs(case)
    want = truth(case, given)["y"]
    got = group_norm_silu(given.x, 32, given.weight, given.bias, unbiased=True)
    assert (got - want).abs().max() < 9e-5 * want.abs().max()


@pytest.mark.parametrize("C", [4, 20, 40, 100, 160])
def test_norm_of_channels_that_fill_no_vector(C: int) -> None:
    case = Case((2, C, 9, 13), unbiased=False)
    given = inputs(case)
    assert_close(results(group_norm_silu, case, given), truth(case, given), case)


def test_norm_of_an_outlier_where_the_differences_are_taken_from() -> None:
    """Sums run over differences from a block's first pixel: the worst that it can be."""
    case = Case((1, 32, 16, 16), shifted=False)
    given = inputs(case)
    given.x.flatten(2)[:, :, ::64] = 3e4
    got, want = results(group_norm_silu, case, given), truth(case, given)
    away = torch.arange(256) % 64 != 0
    for found, true in ((got["y"], want["y"]), (got["x"], want["x"])):
        near, far = (t.double().flatten(2)[:, :, away] for t in (found, true))
        assert (near - far).abs().max() < 2e-5 * far.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS.keys())
def test_norm_of_a_constant_is_its_bias(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The variance is 0: eps decides."""
    x = torch.full((2, 32, 17, 23), 1000.1, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    y = group_norm_silu(x, 8, weight, bias)
    y.sum().backward()
    want = F.silu(bias).view(1, -1, 1, 1).expand_as(y)
    # 1000.1 is known to 3e-5, and 1 / sqrt(eps) is 1000
    torch.testing.assert_close(y.float(), want, rtol=2**-7, atol=0.1)
    assert x.grad is not None and x.grad.isfinite().all()


def test_not_a_number_stays_in_its_group() -> None:
    given = inputs(Case((2, 32, 6, 7)))
    given.x[1, 5, 2, 3] = float("nan")
    y = group_norm_silu(given.x, 8, given.weight, given.bias)
    assert y[1, 4:8].isnan().all()
    y[1, 4:8] = 0
    assert y.isfinite().all()


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_in_any_batch_with_any_threads(threads: None, dtype: torch.dtype) -> None:
    case = Case((5, 96, 17, 23), 100)
    given = inputs(case, dtype)
    together = results(group_norm_silu, case, given)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for name, value in results(group_norm_silu, case, given).items():
            assert torch.equal(value, together[name]), (count, name)
        part = replace(given, x=given.x[1:3], shift=given.shift[1:3], grad=given.grad[1:3])
        for name in ("y", "x", "shift"):
            assert torch.equal(results(group_norm_silu, case, part)[name], together[name][1:3]), (count, name)


def test_one_shift_for_all_samples() -> None:
    given = inputs(SMALL)
    one = given.shift[:1].clone().requires_grad_()
    each = given.shift[:1].expand(2, -1).clone().requires_grad_()
    got, want = (group_norm_silu(given.x, 6, given.weight, given.bias, shift=s) for s in (one, each))
    assert torch.equal(got, want)
    for y in (got, want):
        y.backward(given.grad)
    torch.testing.assert_close(one.grad, each.grad.sum(0, keepdim=True))


def test_norm_of_a_tensor_with_gaps() -> None:
    given = inputs(Case((2, 64, 6, 7)))
    weight, bias = given.weight[:32], given.bias[:32]
    for x, layout in (
        (given.x[:, 16:48], NHWC),
        (given.x[:, :32, 1:], NHWC),
        (given.x.contiguous()[:, :32, :, 1:], NCHW),
    ):
        got = group_norm_silu(x, 8, weight, bias)
        assert torch.equal(got, group_norm_silu(x.clone(memory_format=layout), 8, weight, bias))
        assert got.is_contiguous(memory_format=layout)


def test_norm_of_nothing() -> None:
    y = group_norm_silu(torch.empty(0, 8, 4, 5), 2, torch.ones(8), torch.zeros(8))
    assert y.shape == (0, 8, 4, 5)


def test_weights_in_half_precision() -> None:
    given = inputs(SMALL, torch.bfloat16)
    weight, bias = (t.bfloat16().requires_grad_() for t in (given.weight, given.bias))
    y = group_norm_silu(given.x, 6, weight, bias, shift=given.shift.bfloat16())
    wide = group_norm_silu(given.x, 6, weight.float(), bias.float(), shift=given.shift.bfloat16().float())
    assert torch.equal(y, wide)
    y.backward(given.grad)
    assert weight.grad.dtype == bias.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 24, 5)}, "6 equal groups"),
        ({"groups": 5}, "5 equal groups"),
        ({"weight": torch.zeros(23)}, r"weight must be \[24\] on cpu, got \[23\]"),
        ({"bias": torch.zeros(24, device="meta")}, r"bias must be \[24\] on cpu, got \[24\] on meta"),
        ({"shift": torch.zeros(3, 24)}, r"shift must be \[2, 24\]"),
        ({"shift": torch.zeros(24)}, r"shift must be \[2, 24\]"),
    ],
)
def test_norm_refuses_what_does_not_fit(change: dict[str, Tensor | int], message: str) -> None:
    given = inputs(SMALL)
    right = {"x": given.x, "groups": 6, "weight": given.weight, "bias": given.bias}
    with pytest.raises(ValueError, match=message):
        group_norm_silu(**{**right, **change})


def test_a_device_without_kernels_is_said_once() -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)))
    ops._on_accelerator.cache_clear()
    assert [ops._on_accelerator("abacus") for _ in range(2)] == [reference, reference]
    logger.remove(sink)
    assert len(lines) == 1 and "'abacus'" in lines[0]


# the reference


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_reference_equals_pytorch(layout: torch.memory_format) -> None:
    """Biased, to F.group_norm; unbiased, to the exact fold onto it and to the network's norm."""
    case = Case((2, 96, 17, 23), 100, shifted=False)
    given = inputs(case, layout=layout).double()
    x, groups, weight, bias = given.x, case.norm.groups, given.weight, given.bias
    got = reference.group_norm_silu(x, groups, weight, bias, silu=False)
    torch.testing.assert_close(got, F.group_norm(x, groups, weight, bias, 1e-6))
    unbiased = reference.group_norm_silu(x, groups, weight, bias, unbiased=True)
    r = 1 - groups / x[0].numel()
    fold = F.silu(F.group_norm(x, groups, weight * r**0.5, bias, 1e-6 * r))
    torch.testing.assert_close(unbiased, fold, rtol=1e-10, atol=1e-10)
    assert (unbiased - F.silu(got)).abs().max() > 1e-5  # the two are not the same
    module = GroupNorm(96).double().eval()
    module.weight.data, module.bias.data = weight, bias
    torch.testing.assert_close(unbiased, F.silu(module(x)), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "silu", "unbiased", "shifted"),
    pairwise((reference.group_norm_silu, group_norm_silu), *[(True, False)] * 3),
)
def test_gradients_are_those_of_finite_differences(
    run: object, silu: bool, unbiased: bool, shifted: bool
) -> None:
    given = inputs(Case((2, 8, 2, 3), 1, shifted=shifted)).double()
    leaves = [t for t in (given.x, given.weight, given.bias, given.shift) if t is not None]

    def norm(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None = None) -> Tensor:
        return run(x, 2, weight, bias, silu=silu, shift=shift, unbiased=unbiased)

    assert torch.autograd.gradcheck(norm, [t.requires_grad_() for t in leaves])
