# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The U-Net in strips against the U-Net, and the memory that both need against what was computed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from meter import Meter
from tiny import randomise, relerr
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.fast.strips import StripUNet
from earth2_corrdiff.networks.memory_model import memory_of
from earth2_corrdiff.networks.unet import Conv2d, SongUNet

H, W = 32, 48
ARGS: dict[str, Any] = {
    "img_resolution": [H, W],
    "in_channels": 5,
    "out_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.0,
}
KINDS = {
    "attention on every level": {"attn_resolutions": [32, 16, 8], "num_blocks": 2},
    "zero embedding": {"embedding_type": "zero"},
    "additive position": {"additive_pos_embed": True},
    "position features": {"gridtype": "sinusoidal", "N_grid_channels": 4, "in_channels": 9},
    "learnable position": {"gridtype": "learnable", "N_grid_channels": 3, "in_channels": 8},
    "other widths": {"model_channels": 12, "channel_mult": [2, 3]},
}


def network(**what: Any) -> SongUNet:
    net = randomise(SongUNet(**{**ARGS, **what}), 1).eval().requires_grad_(False)
    assert isinstance(net, SongUNet)
    return net


def image(batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """With a mean that is no zero, and noise labels."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 5, H, W, generator=generator) + 3
    return x.to(dtype), torch.tensor([0.3, -0.5])[:batch].to(torch.promote_types(dtype, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS.values(), ids=KINDS.keys())
def test_strips_equal_the_whole(what: dict[str, Any]) -> None:
    net, (x, labels) = network(**what), image()
    want = net(x, labels)
    for rows in (1, 3, 8, 64):  # 3 divides no level
        got = StripUNet(net, rows)(x, labels)
        assert got.shape == want.shape and got.dtype == want.dtype
        assert relerr(got, want) < 2e-6, rows
    assert want.std() > 0.1


@pytest.mark.slow
def test_strips_are_exact_but_for_rounding() -> None:
    """In float64 nothing is left; in float32 strips are no further from it than the whole is."""
    net, (x, labels) = network(num_blocks=2), image()
    whole, strips = net(x, labels), StripUNet(net, 5)(x, labels)
    net = net.double()
    want = net(x.double(), labels.double())
    assert relerr(StripUNet(net, 5)(x.double(), labels.double()), want) < 1e-14
    assert relerr(strips, want) < 1.5 * relerr(whole, want)


def test_a_large_mean_is_no_harm() -> None:
    """Moments are merged, not sums of squares: an offset of 1000 spreads."""
    net, (x, labels) = network(), image()
    whole = net(x + 1e3, labels)
    want = network().double()((x + 1e3).double(), labels.double())
    assert relerr(StripUNet(net, 5)(x + 1e3, labels), want) < 2 * relerr(whole, want)


@pytest.mark.slow
def test_bfloat16_is_no_worse_in_strips() -> None:
    net, (x, labels) = network(model_channels=16), image()
    want = net(x, labels)
    for module in net.modules():
        if isinstance(module, Conv2d):
            module.to(torch.bfloat16)
    whole, strips = net(x.bfloat16(), labels), StripUNet(net, 5)(x.bfloat16(), labels)
    assert strips.dtype == torch.bfloat16
    assert 0 < relerr(strips, want) < 1.2 * relerr(whole, want)


@pytest.mark.slow
def test_position_of_another_domain() -> None:
    """As for a patch, or a domain that the network was not made for."""
    net, labels = network(gridtype="learnable", N_grid_channels=3, in_channels=8), image()[1]
    other = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(3))
    wide = torch.randn(2, 5, 64, 80, generator=torch.Generator().manual_seed(4))
    got = StripUNet(net, 8)(wide, labels, other)
    assert net.pos_embd is not None
    net.pos_embd = nn.Parameter(other[0], requires_grad=False)
    assert relerr(got, net(wide, labels)) < 2e-6 and got.shape == (2, 3, 64, 80)


# where maps live


@pytest.mark.slow
def test_the_place_does_not_change_a_bit(tmp_path: Path) -> None:
    net, (x, labels) = network(), image()
    want = StripUNet(net, 7)(x, labels)
    for place in ("host", tmp_path, str(tmp_path)):
        assert torch.equal(StripUNet(net, 7, place)(x, labels), want)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_maps_in_files_take_no_memory(tmp_path: Path) -> None:
    net, (x, labels) = network(model_channels=32, num_blocks=4), image(1)
    row = memory_of(net, (H, W), torch.float32, rows=2)
    peaks = []
    for place in ("device", tmp_path):
        with Meter(net) as meter:
            StripUNet(net, 2, place)(x, labels)
        peaks.append(meter.peak)
    assert peaks[1] <= row.mapped and peaks[0] - peaks[1] > 0.8 * row.files


@pytest.mark.parametrize("place", ["gpu", "no/such/folder"])
def test_bad_places(place: str) -> None:
    with pytest.raises(InputError, match=f"{place} is none of these"):
        StripUNet(network(), 8, place)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for a feature map of 0.0 GB \(No space left"):
        MapMemory(tmp_path).empty((2, 3), torch.float32, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net: (net.train(), 8), "evaluation mode"),
        (lambda net: (net, 0), "1 row or more, got 0"),
        (lambda _: (nn.Conv2d(3, 3, 1), 8), "not a Conv2d"),
    ],
)
def test_bad_arguments(change: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        StripUNet(*change(network()))


# memory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "dtype"), [(1, torch.float32), (2, torch.float64), (8, torch.float32)], ids=str
)
def test_strips_need_what_was_computed(rows: int, dtype: torch.dtype) -> None:
    net = network(model_channels=32, embedding_type="zero", num_blocks=2).to(dtype)
    x, labels = image(1, dtype)
    row = memory_of(net, (H, W), dtype, rows)
    with Meter(net) as whole:
        net(x, labels[:1])
    with Meter(net) as strips:
        StripUNet(net, rows)(x, labels[:1])
    assert whole.peak >= row.whole > row.kernels > row.files
    assert 0.7 * row.strips < strips.peak <= row.strips
    assert strips.peak < 0.75 * whole.peak


def test_memory_grows_with_the_domain_and_strips_do_not() -> None:
    net = network(attn_resolutions=[], bottleneck_attention=False)
    small, large = (memory_of(net, shape, torch.bfloat16, rows=8) for shape in ((64, 96), (256, 96)))
    assert large.files == 4 * small.files and large.whole == 4 * small.whole
    ends = 8 * 64 * 96 * 2  # what goes in and comes out
    assert large.mapped - small.mapped == 3 * ends


def test_maps_by_hand() -> None:
    """At the bottom: what the encoder has made, and the input and output of the second inner block."""
    net = network(channel_mult=[1, 2], num_blocks=4)
    row = memory_of(net, (H, W), torch.float32)
    first, second = 5 * 8, (8 + 4 * 16) // 4
    assert row.files == 4 * H * W * (first + second + 2 * 16 // 4)
