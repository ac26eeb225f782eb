# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Residuals of times that a regression has not seen, against means that are made by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import Watch, config, hours, train, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.training.folds import blocks_of
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import open_material, start
from earth2_corrdiff.training.train import Training


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


def test_blocks_by_hand() -> None:
    times = hours(5)[[0, 0, 1, 2, 4, 3, 2]]  # three runs of some valid times, in any order
    assert blocks_of(times, [0, 1, 2, 3, 5, 6], 2) == [(0, 1, 2), (3, 5, 6)]
    assert blocks_of(times, [1, 4], 2) == [(1,), (4,)]
    with pytest.raises(InputError, match="cross_fit of 3 needs as many training times; there are 2"):
        blocks_of(times, [0, 1, 2], 3)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".mdlus")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_residuals_are_those_of_unseen_times(pairs: Path, tmp_path: Path, kept: bool) -> None:
    """Outputs are scaled to the residuals of the folds' regressions; each saw all but its block."""
    told = config(tmp_path, pairs, diffusion__cross_fit=3, diffusion__cache_means=kept)
    watch = Watch()
    package = Training(told, watch=watch).run()
    folds = [f"regression_fold_{n}" for n in (1, 2, 3)]
    assert watch.stages == ["regression", *folds, "diffusion"]
    material = open_material(told, World(), lambda what, left: None)
    model = start(told, material, World())
    scale = torch.tensor(read_package(Folder(package)).spec.outputs.scale).view(-1, 1, 1)
    rest, nets = [], []
    for name, block in zip(folds, ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9]), strict=True):
        saved = torch.load(tmp_path / "work" / f"{name}.ckpt", weights_only=True)
        assert f"{10 - len(block)} times" in saved["key"] and str(tuple(block)) in saved["key"]
        model.regression.load_state_dict(saved["average"])
        nets.append(next(model.regression.parameters()).clone())
        some = material.pairs.read(block)
        rest.append((some.fine - model.mean(some.coarse)).double() / scale)
    assert not torch.equal(nets[0], nets[1])
    assert torch.cat(rest).transpose(0, 1).flatten(1).std(1).tolist() == pytest.approx([0.5, 0.5], rel=1e-3)
    before = digest(package)
    assert digest(train(told)) == before
    (tmp_path / "work" / "diffusion.ckpt").unlink()
    assert digest(train(told)) == before
    plain = train(config(tmp_path / "plain", pairs))
    got, want = (read_package(Folder(folder)) for folder in (package, plain))
    assert not np.allclose(got.spec.outputs.scale, want.spec.outputs.scale, rtol=1e-3)


def test_what_cross_fits_are_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cross_fit must be 0 or at least 2, got 1"):
        config(tmp_path, pairs, diffusion__cross_fit=1)
    with pytest.raises(InputError, match="leave out diffusion.cross_fit"):
        config(
            tmp_path, pairs, start_from="p", diffusion={"steps": 1, "cross_fit": 2}, regression={"steps": 0}
        )
