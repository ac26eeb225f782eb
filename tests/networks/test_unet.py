# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The U-Net against PhysicsNeMo's, operation by operation."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import randomise, relerr
from torch import Tensor, nn

from earth2_corrdiff.networks.unet import Conv2d, GroupNorm, SongUNet

BASE = {
    "img_resolution": [32, 48],
    "in_channels": 5,
    "out_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.0,
}
PLAIN = {
    "rectangular": {},
    "square": {"img_resolution": 32},
    "zero embedding": {"embedding_type": "zero"},
    "additive position": {"additive_pos_embed": True},
    "no bottleneck attention": {"bottleneck_attention": False},
    "attention on two levels": {"attn_resolutions": [32, 16], "num_blocks": 2},
    "other widths": {"model_channels": 12, "channel_mult": [2, 3], "channel_mult_emb": 2},
    "wide noise embedding": {"channel_mult_noise": 2},
    "three groups of five": {"model_channels": 20, "channel_mult": [1, 1]},
}
POSITION = {
    "sinusoidal 4": ("sinusoidal", 4),
    "sinusoidal 8": ("sinusoidal", 8),
    "sinusoidal 12": ("sinusoidal", 12),
    "octave 8": ("sinusoidal_octave", 8),
    "linear": ("linear", 2),
    "learnable": ("learnable", 3),
    "none": ("sinusoidal", 0),
}


def pair(theirs: nn.Module, args: dict[str, Any]) -> tuple[SongUNet, nn.Module]:
    """Our network with the weights of upstream's, made random."""
    randomise(theirs, 1)
    ours = SongUNet(**args)
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    # the frequencies of the noise embedding are the only thing that upstream may or may not store
    assert all(key.endswith("freqs") for key in (*result.missing_keys, *result.unexpected_keys))
    return ours, theirs


def image(args: dict[str, Any], batch: int = 2, channels: int | None = None) -> tuple[Tensor, Tensor]:
    side = args["img_resolution"]
    shape = (side, side) if isinstance(side, int) else side
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, channels or args["in_channels"], *shape, generator=generator)
    return x, torch.tensor([-1.3, 0.9])[:batch]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("change", PLAIN.values(), ids=PLAIN.keys())
def test_equals_song_unet_bit_for_bit(
    upstream: ModuleType, change: dict[str, Any], layout: torch.memory_format
) -> None:
    args = {**BASE, **change}
    ours, theirs = pair(upstream.SongUNet(**args), args)
    x, labels = image(args)
    ours, theirs = ours.eval().to(memory_format=layout), theirs.eval().to(memory_format=layout)
    x = x.to(memory_format=layout)
    with torch.no_grad():
        got, want = ours(x, labels), theirs(x, labels, None)
    assert want.std() > 0.1  # the weights do something
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:gridtype")
@pytest.mark.parametrize(("gridtype", "channels"), POSITION.values(), ids=POSITION.keys())
def test_equals_song_unet_with_position_features(upstream: ModuleType, gridtype: str, channels: int) -> None:
    args = {**BASE, "gridtype": gridtype, "N_grid_channels": channels}
    args["in_channels"] = 5 + channels
    ours, theirs = pair(upstream.SongUNetPosEmbd(**args), args)
    x, labels = image(args, channels=5)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x, labels), theirs.eval()(x, labels, None))
    if channels:  # the position matters, and lands where it should
        assert ours.pos_embd is not None and theirs.pos_embd is not None
        assert torch.equal(ours.pos_embd, theirs.pos_embd)


def test_one_label_for_a_batch_is_the_same_as_one_each() -> None:
    net = randomise(SongUNet(**BASE)).eval()
    x, _ = image(BASE)
    with torch.no_grad():
        assert relerr(net(x, torch.tensor([0.3])), net(x, torch.tensor([0.3, 0.3]))) < 1e-6


def test_evaluation_of_a_member_does_not_depend_on_its_batch() -> None:
    net = randomise(SongUNet(**BASE)).eval().double()
    x, labels = image(BASE)
    x, labels = x.double(), labels.double()
    with torch.no_grad():
        both, first = net(x, labels), net(x[:1], labels[:1])
    assert relerr(both[:1], first) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"embedding_type": "zero"}, {"additive_pos_embed": True}])
def test_training_mode_and_gradients_equal_upstream(upstream: ModuleType, change: dict[str, Any]) -> None:
    args = {**BASE, **change}
    ours, theirs = pair(upstream.SongUNet(**args), args)
    x, labels = image(args)
    target = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))
    outputs = []
    for net, more in ((ours, ()), (theirs, (None,))):
        y = net.train()(x, labels, *more)
        (y - target).square().mean().backward()
        outputs.append(y.detach())
    assert torch.equal(*outputs)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert p.grad is not None and gradients[name] is not None, name
        # without an embedding its matrices have nothing to multiply
        assert (p.grad.abs().max() > 0) != (ours.embedding_type == "zero" and "affine.weight" in name), name
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_training_mode_divides_the_variance_by_n_and_evaluation_by_n_minus_1() -> None:
    norm = GroupNorm(8)
    x = 3 + 2 * torch.randn(1, 8, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = x.reshape(1, 2, 24)
    centred = groups - groups.mean(2, keepdim=True)
    for training, n in ((True, 24), (False, 23)):
        want = centred / (centred.square().sum(2, keepdim=True) / n + 1e-6).sqrt()
        got = norm.double().train(training)(x).detach()
        assert relerr(got, want.reshape(x.shape)) < 1e-12


def test_norm_of_values_far_from_zero_keeps_its_digits() -> None:
    """A one-pass variance loses everything here (the mean is a thousand standard deviations)."""
    x = 1000 + torch.randn(1, 8, 32, 48, generator=torch.Generator().manual_seed(0))
    want = GroupNorm(8).double().eval()(x.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        got = GroupNorm(8).eval()(x.to(memory_format=layout))
        assert (got.double() - want).abs().max() < 2e-3


def test_norm_refuses_channels_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="10 channels"):
        GroupNorm(10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_resampling_convolution_equals_upstream(
    upstream: ModuleType, direction: str, dtype: torch.dtype
) -> None:
    from physicsnemo.nn.module.conv_layers import Conv2d as Upstream

    theirs = Upstream(4, 6, 3, resample_filter=[1, 1], fused_conv_bias=True, **{direction: True})
    ours = Conv2d(4, 6, 3, **{direction: True})
    ours.load_state_dict(randomise(theirs).state_dict())
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    got, want = ours.to(dtype)(x), theirs.to(dtype)(x)
    assert got.shape == (2, 6, *((16, 24) if direction == "up" else (4, 6)))
    assert torch.equal(got, want)


@pytest.mark.parametrize("training", [True, False])
def test_a_fused_norm_without_activation_is_the_plain_one_and_keeps_the_layout(training: bool) -> None:
    """As before attention; PyTorch's own is not trusted with channels-last."""
    x = torch.randn(2, 24, 5, 7, generator=torch.Generator().manual_seed(0))
    plain, fused = (GroupNorm(24).train(training) for _ in range(2))
    fused.fused = True
    given = [x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()]
    want, got = plain(given[0]), fused(given[1])
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, want, check_stride=False)
    for y in (want, got):
        y.square().sum().backward()
    torch.testing.assert_close(given[1].grad, given[0].grad, rtol=1e-4, atol=1e-5, check_stride=False)


def test_dropout_acts_in_training_only() -> None:
    net = randomise(SongUNet(**{**BASE, "dropout": 0.5}))
    x, labels = image(BASE)
    with torch.no_grad():
        net.eval()
        assert torch.equal(net(x, labels), net(x, labels))
        net.train()
        assert not torch.equal(net(x, labels), net(x, labels))
