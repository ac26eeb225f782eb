# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the training does for a GPU, as far as a CPU shows it: one layout throughout; compiled networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_kit import UNET, Watch, config, train, write_pairs

from earth2_corrdiff.networks.fast.accelerate import fuse
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.unet import Conv2d, GroupNorm
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.losses import EDMLoss
from earth2_corrdiff.training.means import Means
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import open_material, start
from earth2_corrdiff.training.stages import Batch, DiffusionStage, RegressionStage

PLACED = {**UNET, "model_type": "SongUNetPosEmbd", "gridtype": "learnable", "N_grid_channels": 8}
PATCHES = {"shape": [8, 12], "per_time": 3}
SHORT = {"steps": 3, "batch": 2, "micro_batch": 1}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr", 5)


def is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["regression", "diffusion", "patches"])
def test_every_map_is_channels_last(tmp_path: Path, pairs: Path, which: str) -> None:
    """From the images on: a map in another layout is copied before its convolution, or normalised slowly."""
    (tmp_path / "work").mkdir()
    more: dict[str, Any] = {"diffusion__patches": PATCHES, "diffusion__network": PLACED}
    told = config(tmp_path, pairs, **(more if which == "patches" else {}))
    material = open_material(told, World(), lambda what, left: None)
    model = start(told, material, World())
    # as the trainer has it
    net = model.regression if which == "regression" else model.denoiser
    fuse(net.train().requires_grad_(True).to(memory_format=torch.channels_last))
    stage: RegressionStage | DiffusionStage = RegressionStage(model, Cutter())
    if which != "regression":
        means = Means(model, material.pairs)
        stage = DiffusionStage(model, Cutter(told.diffusion.patches), EDMLoss(), means)
    seen: list[tuple[str, bool]] = []
    for name, module in net.named_modules():
        if isinstance(module, Conv2d | GroupNorm):
            module.register_forward_hook(
                lambda module, given, made, name=name: seen.append(
                    (name, is_last(given[0]) and is_last(made))
                )
            )
            if isinstance(module, GroupNorm):
                silu = module.silu
                module.silu = lambda x, shift=None, name=name, silu=silu: (  # type: ignore[method-assign]
                    seen.append((name, is_last(x))) or silu(x, shift)
                )
    images = stage.images(Batch([0, 1], material.pairs.read([0, 1]), [(0, 0), (0, 1)]))
    for image in (images.cond, images.noise):
        assert image is None or is_last(image)
    with torch.autocast("cpu", torch.bfloat16):
        stage.loss(images).mean().backward()
    assert len(seen) > 20 and [name for name, last in seen if not last] == []


@pytest.mark.slow
def test_a_compiled_training_learns_the_same(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward traced; the average, its validation and the package are those of the plain one."""
    compile_, compiled = nn.Module.compile, []

    def trace(self: nn.Module, **how: Any) -> None:
        compiled.append(type(self).__name__)
        compile_(self, backend="aot_eager", **how)

    monkeypatch.setattr(nn.Module, "compile", trace)
    watches, packages = {}, {}
    stages = ("regression", "diffusion")
    short: dict[str, Any] = {f"{stage}__{key}": n for stage in stages for key, n in SHORT.items()}
    short |= {f"{stage}__network": {**UNET, "channel_mult": [1]} for stage in stages}  # half as much to trace
    for name in ("plain", "compiled"):
        (tmp_path / name).mkdir()
        told = config(tmp_path / name, pairs, compiled=name == "compiled", **short)
        watches[name] = Watch()
        packages[name] = train(told, watches[name])
    assert compiled == ["SongUNet", "SongUNet"]
    plain, other = (watch.steps for watch in watches.values())
    for want, got in zip(plain, other, strict=True):
        assert got.loss == pytest.approx(want.loss, rel=1e-4, nan_ok=True)
        assert (got.validation is None) == (want.validation is None)
        assert want.validation is None or got.validation == pytest.approx(want.validation, rel=1e-4)
    for file in ("regression.mdlus", "diffusion.mdlus"):
        first, second = (read_mdlus(folder / file).state for folder in packages.values())
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-5)


def test_noise_drawn_beforehand_is_the_same(tmp_path: Path, pairs: Path) -> None:
    """What a thread draws for the next batch; a batch that comes without draws the same bits."""
    (tmp_path / "work").mkdir()
    told = config(tmp_path, pairs, diffusion__patches=PATCHES)
    material = open_material(told, World(), lambda what, left: None)
    model = start(told, material, World())
    means = Means(model, material.pairs)
    stage = DiffusionStage(model, Cutter(told.diffusion.patches), EDMLoss(), means)
    plain = Batch([0, 1], material.pairs.read([0, 1]), [(0, 0), (0, 1)])
    drawn = stage.draw(plain.keys)
    assert drawn.noise.shape == (6, 2, 8, 12) and drawn.level.shape == (6,)
    shown = [vars(stage.images(batch)).values() for batch in (plain, replace(plain, drawn=drawn))]
    for one, other in zip(*shown, strict=True):
        assert torch.equal(one, other) if one is not None else other is None
    assert RegressionStage(model, Cutter()).draw(plain.keys) is None
