# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""TrigFlow as a formulation of the second stage: its loss by its own equations, and a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import make_networks, make_spec
from training_kit import config, losses, train, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.training.losses import EDMLoss
from earth2_corrdiff.training.stages import DiffusionLoss, Images


def test_the_loss_is_that_of_the_velocity() -> None:
    """``|sd F(x_t / sd, t) - dx_t/dt|² / sd²`` of ``x_t = cos t y + sin t sd z`` (arXiv 2410.11081)."""
    _, net = make_networks(make_spec())
    net.angle, sd = True, net.sigma_data
    source = torch.Generator().manual_seed(0)
    y, z = (torch.randn(3, 2, 16, 24, generator=source) for _ in range(2))
    cond = torch.randn(3, net.image_channels - 2, 16, 24, generator=source)
    sigma = torch.tensor([0.05, 0.6, 20.0])
    t = (sigma / sd).atan()
    cos, sin = t.cos().view(-1, 1, 1, 1), t.sin().view(-1, 1, 1, 1)
    F = -net.model(torch.cat([(cos * y + sin * sd * z) / sd, cond], 1), t, None)
    want = (sd * F - (cos * sd * z - sin * y)).double().square().mean((2, 3)) / sd**2
    got = DiffusionLoss(net, EDMLoss(sd))(Images(cond, y, z, sigma))
    torch.testing.assert_close(got.double(), want.mean(0), rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_training_of_trigflow_and_of_what_starts_from_it(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.zarr")
    told = config(tmp_path, pairs, diffusion__formulation="trigflow", diffusion__lr=1e-2, diffusion__steps=20)
    made = train(told)
    meta = json.loads((made / "metadata.json").read_text())
    assert (meta["formulation"], meta["solver"], meta["number_of_steps"]) == ("trigflow", "trigflow", 12)
    assert sum(losses(tmp_path, "diffusion")[-4:]) < sum(losses(tmp_path, "diffusion")[:4])
    none = {"regression__network": {}, "diffusion__network": {}, "start_from": str(made)}
    few = {"regression__steps": 0, "diffusion__steps": 0, "few_step": {"steps": 1, "pooling": [1]}}
    got = read_package(Folder(train(config(tmp_path / "few", pairs, **none, **few))))
    assert got.denoiser is not None and got.denoiser.angle and got.spec.sampling.levels == (2.0,)
    with pytest.raises(InputError, match=r"leave out diffusion.formulation"):
        config(tmp_path, pairs, **none, diffusion__formulation="trigflow")
