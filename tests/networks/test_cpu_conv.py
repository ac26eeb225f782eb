# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU's own convolutions against PyTorch in float64, and that no call finds what another one left."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from tiny import relerr
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks.kernels import cpu_conv
from earth2_corrdiff.networks.kernels.cpu_conv import (
    Extras,
    Field,
    Filter,
    Norm,
    Residual,
    available,
    conv,
    pack,
)

pytestmark = pytest.mark.skipif(not available(), reason="there is no C compiler for the kernels")
BFLOAT16 = torch.bfloat16
# Relative error (L2) of a convolution in float32: Winograd's F(4 x 4, 3 x 3), and the plain sum ...
BOUND = {3: 1e-6, 1: 2.5e-7}
OFFSET = 6e-8  # ... and what the norm adds per standard deviation that the mean is away from zero
CHANNELS = {
    "4 to 12": ((4,), 12),
    "20 to 24": ((20,), 24),
    "12 and 24 to 20": ((12, 24), 20),
    "128 to 128": ((128,), 128),
    "128 and 256 to 40": ((128, 256), 40),
}
MODES = [(3, "same"), (3, "up"), (3, "down"), (1, "same"), (1, "down")]
SIZES = {"same": [(1, 1), (2, 1), (5, 7), (17, 23)], "down": [(2, 2), (5, 7), (17, 23)]}
SIZES["up"] = SIZES["same"]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments(data: Tensor) -> Tensor:
    """Means and sums of squares [2, C], in float64."""
    pixels = data.double().flatten(0, 1)
    mean = pixels.mean(0)
    return torch.stack([mean, (pixels - mean).square().sum(0)])


def image(H: int, W: int, C: int, offset: float = 0.0, dtype: torch.dtype = torch.float32) -> Field:
    data = (draw(H, W, C, seed=H + 100 * C) + offset).to(dtype)
    return Field(data, moments(data).float())


def images(channels: tuple[int, ...], size: tuple[int, int], offset: float = 0.0) -> tuple[Field, ...]:
    return tuple(image(*size, C, offset) for C in channels)


def weights(c_in: int, c_out: int, size: int) -> tuple[Tensor, Tensor]:
    return draw(c_out, c_in, size, size, seed=c_in) / (c_in * size**2) ** 0.5, draw(c_out, seed=1)


def norm(C: int, unbiased: bool = True, silu: bool = True) -> Norm:
    return Norm(1 + 0.2 * draw(C, seed=2), 0.2 * draw(C, seed=3), min(32, C // 4), 1e-6, silu, unbiased)


def empty(sources: tuple[Field, ...], c_out: int, mode: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """For the result: full of NaN, which shows what is not written."""
    H, W, _ = sources[0].data.shape
    H, W = {"same": (H, W), "up": (2 * H, 2 * W), "down": (H // 2, W // 2)}[mode]
    return torch.full((H, W, c_out), torch.nan, dtype=dtype)


def run(sources: tuple[Field, ...], weight: Filter, extras: Extras, **how: torch.dtype) -> Field:
    return conv(sources, weight, empty(sources, len(weight.bias), extras.mode, **how), extras)


def reference(sources: tuple[Field, ...], weight: Tensor, bias: Tensor, extras: Extras) -> Tensor:
    """The same in float64, from the stored values: [H, W, C]."""
    x = torch.cat([s.data.double() for s in sources], dim=-1).permute(2, 0, 1)[None]
    if extras.norm is not None:
        n = extras.norm
        groups = x.reshape(n.groups, -1)
        var = groups.var(dim=1, keepdim=True, unbiased=n.unbiased)
        x = ((groups - groups.mean(dim=1, keepdim=True)) / (var + n.eps).sqrt()).reshape(x.shape)
        x = x * n.weight.double().view(1, -1, 1, 1) + n.bias.double().view(1, -1, 1, 1)
        x = F.silu(x) if n.silu else x
    elif extras.scale is not None:
        x = x * extras.scale.double().view(1, -1, 1, 1)
    x = F.interpolate(x, scale_factor=2) if extras.mode == "up" else x
    x = F.avg_pool2d(x, 2) if extras.mode == "down" else x
    bias = bias if extras.bias is None else extras.bias
    y = extras.gain * F.conv2d(x, weight.double(), bias.double(), padding=weight.shape[-1] // 2)
    if extras.residual is not None:
        r = extras.residual.data.double().permute(2, 0, 1)[None]
        y = y + extras.residual.gain * (F.interpolate(r, scale_factor=2) if extras.residual.up else r)
    return y[0].permute(1, 2, 0)


def check(got: Field, want: Tensor, bound: float) -> None:
    """Field and moments; single values within four times the bound of the largest one."""
    assert relerr(got.data, want) <= bound
    assert (got.data - want).abs().max() <= 4 * bound * want.abs().max()
    assert got.moments is not None
    exact, pixels = moments(got.data), want.shape[0] * want.shape[1]
    spread = float((want - want.mean()).square().mean().sqrt())
    assert (got.moments[0] - exact[0]).abs().max() <= 1e-6 * max(spread, float(want.abs().max()))
    assert (got.moments[1] - exact[1]).abs().max() <= 1e-5 * pixels * spread**2


# against float64


@pytest.mark.parametrize(("c_in", "c_out"), CHANNELS.values(), ids=CHANNELS.keys())
@pytest.mark.parametrize(("size", "mode"), MODES)
def test_norm_and_convolution(c_in: tuple[int, ...], c_out: int, size: int, mode: str) -> None:
    weight, bias = weights(sum(c_in), c_out, size)
    packed = pack(weight, bias)
    for shape, offset in product(SIZES[mode][-2 if sum(c_in) > 100 else 0 :], (0.0, 10.0)):
        sources, extras = images(c_in, shape, offset), Extras(norm(sum(c_in)), mode=mode)
        bound = BOUND[size] + OFFSET * offset
        check(run(sources, packed, extras), reference(sources, weight, bias, extras), bound)


@pytest.mark.parametrize(("size", "mode"), MODES)
def test_all_that_stands_around_a_convolution(size: int, mode: str) -> None:
    """Each alone, then all of it."""
    sources = images((12, 24), (10, 14))
    weight, bias = weights(36, 20, size)
    made = empty(sources, 20, mode).shape
    whole, half = Residual(draw(*made), -0.7), Residual(draw(made[0] // 2, made[1] // 2, 20), 0.6, up=True)
    around = [
        Extras(mode=mode),
        Extras(norm(36, unbiased=False), mode=mode),
        Extras(norm(36, silu=False), mode=mode),
        Extras(scale=draw(36), mode=mode),
        Extras(bias=draw(20, seed=9), mode=mode),
        Extras(gain=-1.7, mode=mode),
        Extras(residual=whole, mode=mode),
        Extras(norm(36), bias=draw(20), gain=0.7, residual=whole, mode=mode),
    ]
    if size == 3 and mode != "down":
        around += [Extras(residual=half, mode=mode), Extras(norm(36), gain=0.7, residual=half, mode=mode)]
    packed, seen = pack(weight, bias), []
    for extras in around:
        got = run(sources, packed, extras)
        check(got, reference(sources, weight, bias, extras), BOUND[size])
        seen.append(float(got.data.double().sum()))
    assert len(set(seen)) == len(around)


def test_the_two_variances_differ_as_much_as_they_should() -> None:
    """On few pixels, by far more than the bound above."""
    sources, (weight, bias) = images((20,), (3, 2)), weights(20, 24, 3)
    one, other = (run(sources, pack(weight, bias), Extras(norm(20, unbiased=u))).data for u in (True, False))
    assert relerr(one, other) > 5e-3


@pytest.mark.parametrize("size", [3, 1])
def test_a_mean_far_from_zero(size: int) -> None:
    """A thousand standard deviations, where stock operators lose 9e-4 and single-pass sums all of it."""
    weight, bias = weights(36, 20, size)
    sources, extras = images((12, 24), (17, 23), 1e3), Extras(norm(36))
    got, want = run(sources, pack(weight, bias), extras), reference(sources, weight, bias, extras)
    assert relerr(got.data, want) <= BOUND[size] + 1e3 * OFFSET
    far = Extras(norm(36), bias=bias + 1e3)
    got = run(images((12, 24), (17, 23)), pack(weight, bias), far)
    assert got.moments is not None
    exact = moments(got.data)
    assert relerr(got.moments[0], exact[0]) <= 1e-7 and relerr(got.moments[1], exact[1]) <= 1e-5


def test_a_constant_field() -> None:
    """Without variance eps decides, and rounding counts a thousand times: no NaN, and no more."""
    data = torch.full((9, 11, 20), 3.0)
    source, extras = Field(data, moments(data).float()), Extras(norm(20))
    weight, bias = weights(20, 24, 3)
    got, want = run((source,), pack(weight, bias), extras), reference((source,), weight, bias, extras)
    assert relerr(got.data, want) < 1e-6 + 3 * 1e3 * OFFSET


# types


@pytest.mark.parametrize(("size", "mode"), MODES)
def test_bfloat16_is_read_and_rounded_exactly(size: int, mode: str) -> None:
    """The arithmetic is that of float32: the same bits as with converted sources and a rounded result."""
    weight, bias = weights(36, 20, size)
    short = tuple(image(10, 14, C, dtype=BFLOAT16) for C in (12, 24))
    wide = tuple(replace(s, data=s.data.float()) for s in short)
    packed, residual = pack(weight, bias), draw(*empty(wide, 20, mode).shape).to(BFLOAT16)
    got, want = (
        run(sources, packed, Extras(norm(36), residual=Residual(data), mode=mode), dtype=dtype)
        for sources, data, dtype in (
            (short, residual, BFLOAT16),
            (wide, residual.float(), torch.float32),
        )
    )
    assert got.data.dtype == BFLOAT16 and torch.equal(got.data, want.data.to(BFLOAT16))
    assert got.moments is not None and want.moments is not None and torch.equal(got.moments, want.moments)
    mixed = run((short[0], wide[1]), packed, Extras(norm(36), residual=Residual(residual), mode=mode))
    assert torch.equal(mixed.data, want.data)


def test_rounding_to_bfloat16_is_that_of_pytorch() -> None:
    ties = torch.tensor([1.0, 1.00390625, 1.01171875, 1.0039063, 3.3895314e38, 3.4e38, 1e-40, 9.2e-41])
    values = torch.cat([ties, -ties, torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]), draw(1000)])
    one = pack(torch.ones(1, 1, 1, 1), torch.zeros(1))
    got = run((Field(values.view(1, -1, 1)),), one, Extras(), dtype=BFLOAT16).data.flatten()
    assert torch.equal(got.isnan(), values.isnan())
    assert torch.equal(got.nan_to_num(7.0), values.to(BFLOAT16).nan_to_num(7.0))


@pytest.mark.parametrize(("size", "mode"), MODES)
def test_weights_in_float16(size: int, mode: str) -> None:
    """Rounded once, in Winograd's domain, whose output transform makes four times as much of it."""
    sources, (weight, _) = images((12, 24), (17, 23)), weights(36, 20, size)
    extras, bias = Extras(norm(36), mode=mode), torch.zeros(20)
    for factor in (1.0, 1e-5, 1e6, 2.0**-100):  # beyond the range of float16 as well
        got = run(sources, pack(factor * weight, bias, torch.float16), extras)
        want = reference(sources, factor * weight, bias, extras)
        assert 1e-4 < relerr(got.data, want) < (1.2e-3 if size == 3 else 3e-4), factor
    if size == 1:
        coarse = (8 * weight).round() / 8  # what float16 holds comes through as it is
        want = reference(sources, coarse, bias, extras)
        assert relerr(run(sources, pack(coarse, bias, torch.float16), extras).data, want) <= BOUND[1]


def test_weights_of_zero() -> None:
    sources = images((20,), (5, 7))
    for dtype in (torch.float32, torch.float16):
        got = run(sources, pack(torch.zeros(24, 20, 3, 3), draw(24), dtype), Extras(norm(20))).data
        assert torch.equal(got, draw(24).expand(5, 7, 24))


# what is not finite


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("size", "mode"), MODES)
def test_what_is_not_finite_stays_so(size: int, mode: str, bad: float) -> None:
    """Winograd may spread it over its tile of 4 x 4, but loses none."""
    weight, bias = weights(20, 24, size)
    packed = pack(weight, bias)
    data = draw(17, 23, 20)
    data[8, 9, 3] = bad
    source = Field(data, moments(data).float())
    plain, normed = (run((source,), packed, Extras(n, mode=mode)) for n in (None, norm(20)))
    want = reference((source,), weight, bias, Extras(mode=mode))
    lost = ~want.isfinite() & plain.data.isfinite()
    assert not want.isfinite().all() and not lost.any()
    assert torch.allclose(plain.data[plain.data.isfinite()].double(), want[plain.data.isfinite()], atol=1e-5)
    assert float(plain.data.isfinite().double().mean()) > 0.7
    assert plain.moments is not None and not plain.moments.isfinite().any()
    assert not normed.data.isfinite().any()  # as upstream: a group's mean is everywhere, and so is its mix


@pytest.mark.parametrize("where", ["weight", "bias", "residual", "scale"])
def test_nan_in_anything_else(where: str) -> None:
    sources, (weight, bias) = images((20,), (5, 7)), weights(20, 24, 3)
    scale, residual = torch.ones(20), draw(5, 7, 24)
    {"weight": weight, "bias": bias, "residual": residual, "scale": scale}[where].view(-1)[0] = torch.nan
    extras = Extras(scale=scale, residual=Residual(residual))
    got, want = run(sources, pack(weight, bias), extras).data, reference(sources, weight, bias, extras)
    assert want.isnan().any() and not (want.isnan() & ~got.isnan()).any()


# call after call


def jobs() -> list[tuple[tuple[Field, ...], Filter, Extras]]:
    """Unlike each other in all that decides how work and scratch are cut."""
    made = []
    for (size, mode), shape, (c_in, c_out) in product(
        MODES, [(2, 2), (30, 14), (9, 61)], [((12, 24), 20), ((128,), 128)]
    ):
        packed = pack(*weights(sum(c_in), c_out, size), torch.float16 if shape[0] == 9 else torch.float32)
        made.append((images(c_in, shape), packed, Extras(norm(sum(c_in)), mode=mode)))
    return made


def same(one: Field, other: Field) -> bool:
    assert one.moments is not None and other.moments is not None
    return torch.equal(one.data, other.data) and torch.equal(one.moments, other.moments)


def test_bits_do_not_depend_on_threads_or_on_other_calls(threads: None) -> None:
    work = jobs()
    torch.set_num_threads(1)
    first = [run(*job) for job in work]
    assert all(field.data.isfinite().all() for field in first)
    for number in (2, 3, 7):
        torch.set_num_threads(number)
        assert all(same(run(*job), field) for job, field in zip(work, first, strict=True)), number
    assert all(same(run(*work[i]), first[i]) for i in reversed(range(len(work))))


@pytest.mark.slow
def test_scratch_full_of_nan_is_not_read(threads: None) -> None:
    torch.set_num_threads(1)  # one scratch, which each call takes
    work = jobs()
    first = [run(*job) for job in work]
    broken = Field(torch.full((61, 61, 128), torch.nan), torch.full((2, 128), torch.nan))
    for size in (3, 1):
        spoil = pack(*weights(128, 128, size))
        for i, job in enumerate(work):
            assert run((broken,), spoil, Extras(norm(128))).data.isnan().all()
            assert same(run(*job), first[i])


def test_threads_of_python_do_not_disturb_each_other() -> None:
    work = jobs()
    first = [run(*job) for job in work]
    seen: list[bool] = []

    def again(order: list[int]) -> None:
        seen.extend(same(run(*work[i]), first[i]) for i in order)

    running = [Thread(target=again, args=(list(range(len(work)))[:: 1 - 2 * k],)) for k in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(seen) == 2 * len(work) and all(seen)


def test_a_thread_keeps_to_the_number_of_threads_that_is_set(
    threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMP alone would give a new thread of Python all cores."""
    asked: list[int] = []

    class Call(cpu_conv._Conv):
        def __init__(self, threads: int) -> None:
            asked.append(threads)
            super().__init__(threads=threads)

    monkeypatch.setattr(cpu_conv, "_Conv", Call)
    for number in (1, 3):
        torch.set_num_threads(number)
        thread = Thread(target=run, args=jobs()[0])
        thread.start()
        thread.join()
    assert asked == [1, 3]


def resident() -> float:
    """Memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def test_a_thread_that_ends_gives_its_scratch_back() -> None:
    """A service has one thread per request: each would leave 1.6 MB behind."""
    job = (images((384,), (28, 28)), pack(*weights(384, 4, 3)), Extras())
    before = 0.0
    for i in range(40):
        thread = Thread(target=run, args=job)
        thread.start()
        thread.join()
        before = resident() if i == 4 else before
    assert resident() - before < 20


# errors


LIMITED = """
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earth2_corrdiff.networks.kernels.cpu_conv import Field, conv, pack

torch.set_num_threads(1)  # a thread would need memory as well
C, one = 400_000, pack(torch.ones(1, 1, 1, 1), torch.zeros(1), torch.float16)
packed = replace(one, panels=one.panels.repeat(1, 1, C, 1))
sources, out = (Field(torch.ones(1, 1, C)),), torch.empty(1, 1, 1)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24, hard))
with pytest.raises(MemoryError, match="scratch"):
    conv(sources, packed, out)
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert float(conv(sources, packed, out).data) == C
"""


@pytest.mark.process
def test_without_memory() -> None:
    """A limit on the address space stops the kernel's scratch of 90 MB.

    In a process of its own: what other tests have left free in this one's heap would serve.
    """
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [3, 1])
def test_shapes_that_do_not_fit_are_refused(size: int) -> None:
    """Else the kernel would read and write other memory."""
    packed, source = pack(*weights(8, 4, size)), image(6, 4, 8)
    half, column, meta = image(6, 4, 4), image(6, 1, 8), Field(torch.empty(6, 4, 8, device="meta"))
    fine = torch.empty(6, 4, 4)
    turned = Field(torch.empty(4, 6, 8).transpose(0, 1))
    assert conv((half, half), packed, fine).data is fine
    for sources, out, extras in (
        ((source, half), fine, Extras()),
        ((half,), fine, Extras()),
        ((half, image(4, 6, 4)), fine, Extras()),
        ((turned,), fine, Extras()),
        ((meta,), fine, Extras()),
        ((source,), torch.empty(6, 4, 8), Extras()),
        ((source,), torch.empty(4, 6, 4), Extras()),
        ((source,), fine, Extras(mode="down")),
        ((source,), fine, Extras(mode="up")),
        ((source,), fine, Extras(residual=Residual(torch.empty(6, 4, 3)))),
        ((source,), fine, Extras(residual=Residual(torch.empty(3, 2, 4)))),
        ((source,), fine, Extras(residual=Residual(fine, up=True))),
        ((column,), torch.empty(3, 0, 4), Extras(mode="down")),
        ((image(5, 4, 8),), torch.empty(5, 4, 4), Extras(residual=Residual(torch.empty(2, 2, 4), up=True))),
    ):
        with pytest.raises(ValueError, match="8 to 4 channels"):
            conv(sources, packed, out, extras)
    if size == 1:  # it commutes with doubling, which is left to who reads the result
        with pytest.raises(ValueError, match="'up'"):
            conv((source,), packed, torch.empty(12, 8, 4), Extras(mode="up"))


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_conv, "library", lambda: None)
    assert not available()
    with pytest.raises(RuntimeError, match="not available"):
        pack(torch.ones(4, 4, 3, 3), torch.zeros(4))
    monkeypatch.setattr(cpu_conv, "library", lambda: SimpleNamespace())
    assert available()
