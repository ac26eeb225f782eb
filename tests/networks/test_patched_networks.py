# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Whole networks on patches, fast and plain, against PhysicsNeMo's patched sampler; lead times; places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fast_kit import fields as fast_fields
from fast_kit import make_denoiser, make_regression
from patch_layouts import LAYOUTS, UNET, eager, fields, theirs_of
from tiny import relerr, upstream_save, upstream_wrapper
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, patched
from earth2_corrdiff.model.diffusion.solvers import karras_sigmas, sample
from earth2_corrdiff.networks.fast.accelerate import FastDenoiser, accelerate
from earth2_corrdiff.networks.fast.executors import Level, StripExecutor
from earth2_corrdiff.networks.kernels import cpu_conv
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.preconditioned import PRECISIONS, Denoiser, build

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Loading"
)
LAYOUT = LAYOUTS["both"]
SCALED = {"img_channels": 2, "scale_cond_input": True}
LATE = {"model_type": "SongUNetPosLtEmbd", "lead_time_channels": 5, "lead_time_steps": 4}
CASES: dict[str, tuple[str, dict[str, Any], list[int] | None]] = {
    "learnable": ("EDMPrecondSuperResolution", {}, None),
    "scaled condition": ("EDMPrecondSR", SCALED, None),
    "sinusoidal": ("EDMPrecondSR", {**SCALED, "gridtype": "sinusoidal"}, None),
    "built by PhysicsNeMo": ("EDMPrecondSuperResolution", {"encoder_type": "residual"}, None),
    "lead times": (
        "EDMPrecondSuperResolution",
        {**LATE, "img_in_channels": UNET["img_in_channels"] + 5},
        [3, 1],
    ),
}


def both(folder: Path, name: str, change: dict[str, Any]) -> tuple[Denoiser, nn.Module]:
    """Ours by way of upstream's checkpoint, and upstream's."""
    theirs = upstream_wrapper(name, {**UNET, **change}, 3)
    ours = build(read_mdlus(upstream_save(theirs, folder / "net.mdlus")))
    assert isinstance(ours, Denoiser)
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change", "lead"), CASES.values(), ids=CASES.keys())
def test_equals_the_patched_sampler(
    tmp_path: Path, name: str, change: dict[str, Any], lead: list[int] | None
) -> None:
    from physicsnemo.diffusion.samplers.legacy_deterministic_sampler import deterministic_sampler

    (ours, theirs), (noise, lr, mean) = both(tmp_path, name, change), fields(LAYOUT[0])
    label = None if lead is None else torch.tensor(lead)
    how: dict[str, Any] = {"patching": theirs_of(LAYOUT), "mean_hr": mean, "num_steps": 2, "solver": "euler"}
    if label is not None:
        how["lead_time_label"] = label
    with eager():
        want = deterministic_sampler(theirs, noise, lr, **how)
    place = ours.position(label)
    assert place is not None
    inputs = PatchInputs(torch.cat([mean.expand(2, -1, -1, -1), lr], 1), lr, place.detach())
    for net, batch in ((ours, 1), (accelerate(ours, "fp32"), 4)):
        with torch.no_grad():
            denoise = patched(net.given, PatchGeometry(*LAYOUT), inputs, batch=batch)
            got = sample(denoise, noise, karras_sigmas(2, 0.002, 80), "euler")
        assert relerr(got, want) < 1e-5 and want.std() > 0.1, (type(net), batch)


@pytest.mark.slow
def test_the_whole_domain_with_lead_times_equals_upstream(tmp_path: Path) -> None:
    channels = UNET["img_in_channels"] + 5
    ours, theirs = both(tmp_path, "EDMPrecondSuperResolution", {**LATE, "img_in_channels": channels})
    noise, lr, mean = fields(LAYOUT[0])
    cond, lead = torch.cat([mean.expand(2, -1, -1, -1), lr, lr], 1), torch.tensor([3, 1])
    assert ours.image_channels == noise.shape[1] + cond.shape[1]
    with torch.no_grad():
        want = theirs(noise, cond, torch.tensor(0.7), lead_time_label=lead)
        assert torch.equal(ours(noise, 0.7, cond, ours.position(lead)), want)
        fast = accelerate(ours, "fp32")
        assert relerr(fast(noise, 0.7, cond, ours.position(lead)), want) < 1e-5
        assert relerr(fast(noise, 0.7, cond, ours.position(lead.flip(0))), want) > 1e-3
        for net in (ours, fast):
            with pytest.raises(ValueError, match="lead time"):
                net(noise, 0.7, cond)


# where feature maps live


def strip_engine(net: nn.Module, precision: str, cond: Tensor) -> Tensor:
    engine = StripExecutor(net, PRECISIONS[precision], "host")  # type: ignore[arg-type]
    with torch.no_grad():
        return engine(torch.zeros(1, 2, *cond.shape[2:]), engine.prepare(cond), Level(0.0))


@pytest.mark.parametrize(("precision", "most"), [("fp32", 3e-6), ("bf16", 3e-2)])
def test_feature_maps_elsewhere(tmp_path: Path, precision: str, most: float) -> None:
    net, cond = make_regression(), fast_fields(seed=1)[1]
    want = accelerate(net, precision)(cond)
    for place in ("host", tmp_path):
        assert torch.equal(accelerate(net, precision, place)(cond), want)
    assert relerr(strip_engine(net.model, precision, cond), net(cond)) < most
    assert list(tmp_path.iterdir()) == []


def test_feature_maps_elsewhere_without_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_conv, "available", lambda: False)
    net, (x, cond) = make_denoiser(), fast_fields(2)
    want = accelerate(net, "fp32")(x, 0.7, cond)
    for precision in ("fp32", "fp16"):
        fast = accelerate(net, precision, tmp_path)
        assert isinstance(fast, FastDenoiser) and relerr(fast(x, 0.7, cond), want) < 3e-6
        assert isinstance(fast.__dict__["_made"][1], StripExecutor)


def test_a_place_that_cannot_be(tmp_path: Path, upstream: object) -> None:
    with pytest.raises(InputError, match="nowhere"):
        accelerate(make_denoiser(), "fp32", tmp_path / "nowhere")
    with pytest.raises(InputError, match="PhysicsNeMo.*device"):
        accelerate(make_denoiser(encoder_type="residual"), "fp32", tmp_path)
