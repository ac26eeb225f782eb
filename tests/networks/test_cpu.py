# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The two fast U-Nets against the plain one, in every option that a checkpoint may have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch
from tiny import randomise, relerr
from torch import Tensor

from earth2_corrdiff.networks.fast.cpu import ROWS, CpuUNet, supports
from earth2_corrdiff.networks.fast.gpu import TorchUNet
from earth2_corrdiff.networks.preconditioned import round_to_half
from earth2_corrdiff.networks.unet import Conv2d, SongUNet

with_kernels = pytest.mark.skipif(not supports(SongUNet(8, 2, 2, 8)), reason="there is no C compiler")
SIDE, COUT, COND = (16, 24), 2, 5
LABEL = -0.3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SINUSOIDAL = {"gridtype": "sinusoidal", "N_grid_channels": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinusoidal": SINUSOIDAL,
    "more frequencies": {"gridtype": "sinusoidal", "N_grid_channels": 8},
    "linear": {"gridtype": "linear", "N_grid_channels": 2},
    "learnable": {"gridtype": "learnable", "N_grid_channels": 5},
    "additive": {"additive_pos_embed": True},
    "additive and sinusoidal": {"additive_pos_embed": True, **SINUSOIDAL},
    "attention at both levels": {"attn_resolutions": [16, 8]},
    "attention at the top": {"attn_resolutions": [16], "bottleneck_attention": False},
    "no attention": {"attn_resolutions": [], "bottleneck_attention": False},
    "three levels": {"channel_mult": [1, 2, 3]},
    "narrower below": {"channel_mult": [2, 1]},
    "one level": {"channel_mult": [2]},
    "three blocks": {"num_blocks": 3},
    "no noise": {"embedding_type": "zero"},
    "20 channels": {"model_channels": 20},
    "32 groups": {"model_channels": 128, "channel_mult": [1, 1]},
}


def make(seed: int = 0, side: tuple[int, int] = SIDE, **options: Any) -> SongUNet:
    common = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
    c_in = COUT + COND + options.get("N_grid_channels", 0)
    net = SongUNet(side, c_in, COUT, **{**common, "dropout": 0.0, **options})
    return cast(SongUNet, randomise(net, seed).eval().requires_grad_(False))


def images(side: tuple[int, int] = SIDE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and conditioning, [C, H, W]."""
    both = torch.randn(COUT + COND, *side, generator=torch.Generator().manual_seed(seed))
    return both[:COUT], both[COUT:]


def plain(net: SongUNet, x: Tensor, cond: Tensor, label: float = LABEL) -> Tensor:
    """The network itself, in the type of its convolutions."""
    dtype = net.enc[next(iter(net.enc))].weight.dtype
    labels = torch.tensor([label], dtype=torch.promote_types(dtype, torch.float32))
    return net(torch.cat([x, cond])[None].to(dtype), labels)[0]


def exact(net: SongUNet, x: Tensor, cond: Tensor, label: float = LABEL) -> Tensor:
    return plain(copy.deepcopy(net).double(), x, cond, label)


def stock(net: SongUNet, precision: str) -> SongUNet:
    """Convolutions in half precision, by PyTorch's operators."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Conv2d):
            module.to(DTYPES[precision])
    return net


# The fast ones, each with the factors of x, conditioning, network and skip.


def on_kernels(net: SongUNet, precision: str) -> Callable[..., Tensor]:
    unet = CpuUNet(net, precision)

    def run(
        x: Tensor, cond: Tensor, label: float = LABEL, factors: tuple[float, ...] = (1, 1, 1, 0)
    ) -> Tensor:
        slab = unet.slab(cond)
        scale = torch.ones(COUT + slab.shape[-1])
        scale[:COUT], scale[COUT : COUT + COND] = factors[:2]
        return unet(x, slab, None if factors[:2] == (1, 1) else scale, label, *factors[2:])

    return run


def on_torch(net: SongUNet, precision: str) -> Callable[..., Tensor]:
    unet = TorchUNet(net, DTYPES[precision])

    def run(
        x: Tensor, cond: Tensor, label: float = LABEL, factors: tuple[float, ...] = (1, 1, 1, 0)
    ) -> Tensor:
        return unet(x[None], unet.slab(cond[None]), unet.row(label, *factors))[0]

    return run


FAST = [pytest.param(on_kernels, marks=with_kernels), on_torch]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# against the plain network


@pytest.mark.slow
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_in_every_precision(fast: Callable[..., Any], options: dict[str, Any]) -> None:
    """float32 to 2e-6 of float64; bfloat16 no further from it than PyTorch's operators."""
    net = make(**options)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, cond = images()
    want, half = exact(net, x, cond), plain(stock(net, "bf16"), x, cond)
    got = fast(net, "fp32")(x, cond)
    assert got.shape == (COUT, *SIDE) and got.dtype == torch.float32
    assert relerr(got, want) <= 2e-6
    assert 1e-4 < relerr(fast(net, "bf16")(x, cond), want) <= relerr(half, want)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("label", [-1.5, 0.0, 1.1])
def test_bfloat16_is_no_worse_than_stock_operators(fast: Callable[..., Any], label: float) -> None:
    """The acceptance rule, for several networks and inputs."""
    for seed in range(3):
        net = make(seed, **SINUSOIDAL)
        ours, theirs = fast(net, "bf16"), stock(net, "bf16")
        for i in range(3):
            x, cond = images(seed=i)
            want = exact(net, x, cond, label)
            assert relerr(ours(x, cond, label), want) <= relerr(plain(theirs, x, cond, label), want)


def test_float16_is_no_worse_than_stock_operators() -> None:
    net, (x, cond) = make(**SINUSOIDAL), images()
    want = exact(net, x, cond)
    assert relerr(on_torch(net, "fp16")(x, cond), want) <= relerr(plain(stock(net, "fp16"), x, cond), want)


@with_kernels
def test_float16_on_a_cpu() -> None:
    """Upstream's way there: weights rounded to float16, the rest in float32."""
    net, (x, cond) = make(**SINUSOIDAL), images()
    want, rounded = exact(net, x, cond), copy.deepcopy(net)
    round_to_half(rounded)
    assert relerr(on_kernels(net, "fp16")(x, cond), want) <= relerr(plain(rounded, x, cond), want) < 2e-3
    assert relerr(on_kernels(rounded, "fp16")(x, cond), exact(rounded, x, cond)) <= 2e-6


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("options", [{}, SINUSOIDAL], ids=["", "position"])
def test_preconditioning(fast: Callable[..., Any], options: dict[str, Any]) -> None:
    """Positions are not scaled."""
    net, (x, cond) = make(**options), images()
    for c_in, c_cond, gain, skip in ((0.3, 1.7, -2.1, 0.6), (0.3, 1.0, 0.5, 0.0), (1.0, 2.0, 1.0, 1.0)):
        want = gain * exact(net, c_in * x, c_cond * cond) + skip * x
        assert relerr(fast(net, "fp32")(x, cond, LABEL, (c_in, c_cond, gain, skip)), want) <= 2e-6


@pytest.mark.slow
@with_kernels
def test_noise_levels_are_told_apart() -> None:
    """More of them than are remembered, and the first again."""
    net, (x, cond) = make(), images()
    ours = on_kernels(net, "fp32")
    first = ours(x, cond, 0.0)
    labels = torch.linspace(-1, 1, ROWS + 3).tolist()
    made = [ours(x, cond, label) for label in labels]
    assert len({float(y.double().sum()) for y in made}) == len(labels)
    assert relerr(made[-1], exact(net, x, cond, labels[-1])) <= 2e-6
    assert torch.equal(ours(x, cond, 0.0), first)


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("side", [(1, 1), (2, 1), (5, 7), (17, 23)])
def test_odd_sizes(fast: Callable[..., Any], side: tuple[int, int]) -> None:
    """Where nothing is halved."""
    net, (x, cond) = make(channel_mult=[2]), images(side)
    assert relerr(fast(net, "fp32")(x, cond), exact(net, x, cond)) <= 3e-6


@with_kernels
def test_sizes_that_cannot_be_halved_are_refused() -> None:
    """As PyTorch refuses them, where the kernels would read other memory."""
    net, (x, cond) = make(), images((17, 24))
    with pytest.raises(RuntimeError):
        plain(net, x, cond)
    with pytest.raises(ValueError, match="cannot take"):
        on_kernels(net, "fp32")(x, cond)
    ours, (x, _) = CpuUNet(net, "fp32"), images()
    for wrong in (torch.zeros(COND, 8, 8), torch.zeros(COND + 1, *SIDE), torch.zeros(COND, *SIDE[::-1])):
        with pytest.raises(ValueError, match="cannot take"):
            ours(x, ours.slab(wrong), None, LABEL, 1.0, 0.0)


# call after call


@pytest.mark.slow
@with_kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_left_from_other_calls(precision: str) -> None:
    """Sizes and networks in turn, NaN in every buffer that is used again, NaN in the input."""
    networks = [make(seed, model_channels=width) for seed, width in enumerate((8, 12))]
    sides = [(16, 24), (24, 16), (8, 40), (2, 2)]
    cases = [(net, *images(side)) for side in sides for net in networks]
    fresh = [on_kernels(net, precision)(x, cond) for net, x, cond in cases]
    unets = {net: CpuUNet(net, precision) for net in networks}
    for spoil in (False, True, True):
        for (net, x, cond), want in zip(cases, fresh, strict=True):
            unet = unets[net]
            if spoil:
                for tensor in (t for free in unet._buffers._free.values() for t in free):
                    tensor.fill_(torch.nan)
            slab = unet.slab(cond)
            assert torch.equal(unet(x, slab, None, LABEL, 1.0, 0.0), want)
            lost = x.clone()
            lost[1, 0, 1] = torch.nan
            assert unet(lost, slab, None, LABEL, 1.0, 0.0).isnan().all()


@with_kernels
def test_buffers_are_used_again() -> None:
    """The second call takes what the first one gave back, and no more."""
    unet, (x, cond) = CpuUNet(make(), "bf16"), images()

    def call() -> set[int]:
        unet(x, unet.slab(cond), None, LABEL, 1.0, 0.0)
        return {tensor.data_ptr() for free in unet._buffers._free.values() for tensor in free}

    first = call()
    assert len(first) > 5 and call() == first


@with_kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_do_not_depend_on_the_number_of_threads(threads: None, precision: str) -> None:
    """Attention, which is PyTorch's, included."""
    run, (x, cond) = on_kernels(make(attn_resolutions=[16, 8]), precision), images()
    torch.set_num_threads(1)
    want = run(x, cond)
    for number in (2, 3, 5):
        torch.set_num_threads(number)
        assert torch.equal(run(x, cond), want) and torch.equal(run(x, cond), want)


@with_kernels
def test_two_threads_of_python_share_one_network() -> None:
    """Other inputs, other noise levels, other sizes, at the same time: what each gets alone."""
    net = make()
    run = on_kernels(net, "bf16")
    jobs = [(*images(side, seed), 0.1 * seed) for seed in range(8) for side in ((16, 24), (8, 8))]
    alone = [on_kernels(net, "bf16")(*job) for job in jobs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda job: run(*job), jobs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_slab_is_a_copy_on_torch() -> None:
    """Who gave the conditioning may write into it: a captured graph knows a slab by its identity."""
    cond = images()[1][None].contiguous(memory_format=torch.channels_last)
    slab = TorchUNet(make(), torch.float32).slab(cond)
    before = cond.clone()
    cond.zero_()
    assert torch.equal(slab[:, :COND], before) and slab.is_contiguous(memory_format=torch.channels_last)


@with_kernels
def test_half_precision_parameters_are_converted() -> None:
    """A network that a user has cast runs in float32 arithmetic on the values that are left."""
    net, (x, cond) = make(embedding_type="zero").bfloat16(), images()
    want = exact(net, x, cond)
    assert relerr(on_kernels(net, "fp32")(x, cond), want) <= 2e-6
