# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The two networks of a checkpoint against PhysicsNeMo's wrappers, and what is left to PhysicsNeMo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import relerr, upstream_save, upstream_wrapper
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.solvers import karras_sigmas
from earth2_corrdiff.networks.mdlus import Checkpoint, read_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, build, create, set_precision

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Loading"
)
H, W, CIN, COUT = 16, 24, 5, 2
ARGS = {
    "img_resolution": [H, W],
    "img_in_channels": CIN,
    "img_out_channels": COUT,
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
POSITION = {
    "model_type": "SongUNetPosEmbd",
    "gridtype": "sinusoidal",
    "N_grid_channels": 4,
    "img_in_channels": 9,
}
DENOISERS = {
    "plain": ("EDMPrecondSuperResolution", {}),
    "position": ("EDMPrecondSuperResolution", POSITION),
    "learnable position": ("EDMPrecondSuperResolution", {**POSITION, "gridtype": "learnable"}),
    "sigma_data": ("EDMPrecondSuperResolution", {"sigma_data": 0.8}),
    "scaled condition": ("EDMPrecondSR", {**POSITION, "img_channels": 2, "scale_cond_input": True}),
    "scaled by default": ("EDMPrecondSR", {"img_channels": 2}),
    "unscaled": ("EDMPrecondSR", {"img_channels": 2, "scale_cond_input": False}),
    "rounded": ("EDMPrecondSuperResolution", {**POSITION, "use_fp16": True}),
}
REGRESSIONS = {
    "zero embedding": ("UNet", {"embedding_type": "zero"}),
    "embedding of zero": ("UNet", {}),
    "position": ("UNet", {**POSITION, "embedding_type": "zero"}),
    "renamed": ("CorrDiffRegressionUNet", {"embedding_type": "zero"}),
    "rounded": ("UNet", {**POSITION, "use_fp16": True}),
}


def both(folder: Path, name: str, change: dict[str, Any]) -> tuple[Regression | Denoiser, nn.Module]:
    """Upstream's wrapper with random weights, and ours by way of its checkpoint."""
    theirs = upstream_wrapper(name, {**ARGS, **change}, 7)
    return build(read_mdlus(upstream_save(theirs, folder / "net.mdlus"))), theirs


def fields(channels: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), DENOISERS.values(), ids=DENOISERS.keys())
def test_denoiser_equals_upstream_bit_for_bit(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    ours, theirs = both(tmp_path, name, change)
    assert isinstance(ours, Denoiser) and not ours.training and ours.image_channels == CIN + COUT
    x, cond = fields(COUT), fields(CIN, seed=1)
    with torch.no_grad():
        for sigma in karras_sigmas(8, 0.002, 80)[:-1]:
            noisy = x * max(sigma, 1)
            got, want = (
                ours(noisy, sigma, cond),
                theirs(noisy, cond, torch.tensor(sigma, dtype=torch.float64)),
            )
            assert got.dtype == torch.float32 and torch.equal(got, want), sigma
        each = torch.tensor([0.05, 7.0])  # as in training: a sigma for each member
        assert torch.equal(ours(x, each, cond), theirs(x, cond, each))


def test_scaling_the_condition_makes_a_difference() -> None:
    args = {**ARGS, "img_channels": 2, "scale_cond_input": True}
    scaled, plain = (
        build(Checkpoint(name, args, create(Checkpoint(name, args, {}, "")).state_dict(), ""))
        for name in ("EDMPrecondSR", "EDMPrecondSuperResolution")
    )
    assert isinstance(scaled, Denoiser) and isinstance(plain, Denoiser)
    assert scaled.scale_cond and not plain.scale_cond


@pytest.mark.parametrize(("name", "change"), REGRESSIONS.values(), ids=REGRESSIONS.keys())
def test_regression_equals_upstream_bit_for_bit(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    ours, theirs = both(tmp_path, name, change)
    assert isinstance(ours, Regression) and ours.image_channels == CIN + COUT
    cond = fields(CIN, seed=1)
    with torch.no_grad():
        # upstream's caller makes its zeros in float64
        zeros = torch.zeros(2, COUT, H, W, dtype=torch.float64)
        want = theirs(zeros[:1], cond[:1])
        assert want.std() > 0.1 and torch.equal(ours(cond[:1]), want)
        assert relerr(ours(cond), theirs(zeros, cond)) < 1e-6


def test_noise_range_comes_from_the_checkpoint(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, "EDMPrecondSuperResolution", {"sigma_min": 0.01, "sigma_max": 50.0})
    assert isinstance(ours, Denoiser)
    assert (ours.sigma_min, ours.sigma_max) == (theirs.sigma_min, theirs.sigma_max) == (0.01, 50.0)
    ours, theirs = both(tmp_path, "EDMPrecondSuperResolution", {})
    assert (ours.sigma_min, ours.sigma_max) == (theirs.sigma_min, theirs.sigma_max) == (0.0, float("inf"))


# architectures that unet.py does not know

FOREIGN = {
    "residual encoder": {"encoder_type": "residual", **POSITION},
    "skip decoder": {"encoder_type": "skip", "decoder_type": "skip"},
    "wider filter": {"resample_filter": [1, 3, 3, 1]},
    "fourier embedding": {"embedding_type": "fourier", "channel_mult_noise": 2},
    "another activation": {"act": "gelu"},
    "Dhariwal": {"model_type": "DhariwalUNet", "img_resolution": 16, "model_channels": 64},
    "learnable": {**POSITION, "gridtype": "learnable", "encoder_type": "residual"},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_architectures_are_left_to_upstream(tmp_path: Path, change: dict[str, Any]) -> None:
    ours, theirs = both(tmp_path, "EDMPrecondSuperResolution", change)
    assert isinstance(ours, Denoiser) and not ours.training and ours.image_channels == CIN + COUT
    x, cond = fields(COUT)[..., :16], fields(CIN, seed=1)[..., :16]
    if "DhariwalUNet" not in change.values():
        x, cond = fields(COUT), fields(CIN, seed=1)
    with torch.no_grad():
        assert torch.equal(ours(x, 0.7, cond), theirs(x, cond, torch.tensor(0.7)))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with pytest.raises(InputError, match="'bf16'.*PhysicsNeMo"):
        set_precision(ours, "bf16")
    set_precision(ours, "fp32")


def test_foreign_regression_equals_upstream(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, "UNet", {"encoder_type": "residual", "embedding_type": "zero"})
    cond = fields(CIN)
    with torch.no_grad():
        assert torch.equal(ours(cond), theirs(torch.zeros(2, COUT, H, W), cond))


@pytest.mark.slow
def test_foreign_network_moves_as_a_whole(tmp_path: Path) -> None:
    """Buffers that PhysicsNeMo's module holds itself must follow, or a GPU would meet CPU tensors."""
    ours, _ = both(tmp_path, "EDMPrecondSuperResolution", FOREIGN["residual encoder"])
    x, cond = (torch.empty(1, channels, H, W, device="meta") for channels in (COUT, CIN))
    got = ours.to("meta")(x, 0.7, cond)
    assert got.device.type == "meta" and got.shape == (1, COUT, H, W)
    assert ours.train().model._net[0].training and not ours.eval().model._net[0].training


def test_without_physicsnemo_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("physicsnemo", "physicsnemo.models", "physicsnemo.models.diffusion_unets"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]  # an import now fails
    checkpoint = Checkpoint("UNet", {**ARGS, "encoder_type": "residual"}, {}, "regression.mdlus")
    with pytest.raises(InputError, match=r"regression\.mdlus.*'residual'.*earth2-corrdiff\[physicsnemo\]"):
        create(checkpoint)
    create(Checkpoint("UNet", ARGS, {}, "regression.mdlus"))  # ordinary ones do without


BAD = {
    "class": ("Linear", {}, "Linear"),
    "model_type": ("UNet", {"model_type": "Transformer"}, "Transformer"),
    "labels": ("UNet", {"label_dim": 3}, "label"),
    "lead time": (
        "EDMPrecondSuperResolution",
        {**POSITION, "lead_time_mode": True, "lead_time_channels": 2},
        "lead times",
    ),
    "no channels": ("UNet", {"img_in_channels": None}, "args.json"),
    "an argument too many": ("UNet", {"colour": "red"}, "colour"),
    "half a resolution": ("UNet", {"img_resolution": [448]}, "args.json"),
    "no resolution": ("UNet", {"img_resolution": None}, "args.json"),
    "negative width": ("UNet", {"model_channels": -8}, "args.json"),
    "no width": ("UNet", {"model_channels": 0}, "args.json"),
    "ten channels": ("UNet", {"model_channels": 10}, "10 channels"),
    "no levels": ("UNet", {"channel_mult": []}, "args.json"),
    "grid": ("UNet", {**POSITION, "gridtype": "hexagonal"}, "hexagonal"),
    "embedding": ("UNet", {"embedding_type": "hash"}, "hash"),
    "sigma": ("EDMPrecondSuperResolution", {"sigma_data": "wide"}, "wide"),
}


@pytest.mark.parametrize(("name", "change", "word"), BAD.values(), ids=BAD.keys())
def test_arguments_that_describe_no_network(
    upstream: object, name: str, change: dict[str, Any], word: str
) -> None:
    args = {k: v for k, v in {**ARGS, **change}.items() if v is not None or k == "img_resolution"}
    with pytest.raises(InputError, match=word) as raised:
        create(Checkpoint(name, args, {}, "net.mdlus"))
    assert "net.mdlus" in str(raised.value) and "\n" not in str(raised.value)


# half precision


def upstream_in(dtype: torch.dtype, net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Upstream's U-Net under autocast: its wrappers refuse it on the CPU, the U-Net itself does not."""
    net.model.amp_mode = True  # it refuses autocast otherwise
    with torch.no_grad(), torch.autocast("cpu", dtype):
        return net.model(x, labels, None).float()


def upstream_denoise(dtype: torch.dtype, net: nn.Module, x: Tensor, sigma: float, cond: Tensor) -> Tensor:
    s, sd = torch.tensor(sigma), 0.5
    arg = torch.cat([x / (s**2 + sd**2).sqrt(), cond], dim=1)
    raw = upstream_in(dtype, net, arg, (s.log() / 4).reshape(1))
    return x * sd**2 / (s**2 + sd**2) + raw * s * sd / (s**2 + sd**2).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_denoises_no_worse_than_upstream(tmp_path: Path, precision: str) -> None:
    ours, theirs = both(tmp_path, "EDMPrecondSuperResolution", {**POSITION, "model_channels": 16})
    set_precision(ours, precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for sigma in karras_sigmas(8, 0.002, 80)[:-1]:
        x = torch.cat([fields(COUT, seed=seed) for seed in range(4)])
        x, cond = x * (0.25 + sigma**2) ** 0.5, torch.cat([fields(CIN, seed=seed) for seed in range(4, 8)])
        with torch.no_grad():
            want = theirs(x, cond, torch.tensor(sigma))
            got = ours(x, sigma, cond)
        assert got.dtype == torch.float32
        mine, stock = relerr(got, want), relerr(upstream_denoise(dtype, theirs, x, sigma, cond), want)
        assert 0 < mine <= stock, (sigma, mine, stock)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_regresses_no_worse_than_upstream(tmp_path: Path, precision: str) -> None:
    ours, theirs = both(tmp_path, "UNet", {"embedding_type": "zero", "model_channels": 16})
    set_precision(ours, precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    cond = torch.cat([fields(CIN, seed=seed) for seed in range(4)])
    zeros = torch.zeros(len(cond), COUT, H, W)
    with torch.no_grad():
        want, got = theirs(zeros, cond), ours(cond)
    stock = upstream_in(dtype, theirs, torch.cat([zeros, cond], 1), torch.zeros(1))
    assert got.dtype == torch.float32 and 0 < relerr(got, want) <= relerr(stock, want)


def test_half_precision_keeps_norms_and_embeddings_in_float32() -> None:
    net = create(Checkpoint("EDMPrecondSuperResolution", {**ARGS, **POSITION}, {}, ""))
    set_precision(net, "bf16")
    for name, p in net.named_parameters():
        half = "norm" not in name and "affine" not in name and "map_" not in name
        assert p.dtype == (torch.bfloat16 if half else torch.float32), name


def test_unknown_precision() -> None:
    with pytest.raises(InputError, match="'int8'.*fp32, bf16, fp16"):
        set_precision(create(Checkpoint("UNet", ARGS, {}, "")), "int8")
