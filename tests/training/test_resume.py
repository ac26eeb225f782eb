# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Trainings that are killed and go on, bit for bit; and two processes that work as one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import relerr
from torch import Tensor
from training_kit import UNET, losses, rows, write_config, write_pairs
from training_processes import Stop, run, together

from earth2_corrdiff.networks.mdlus import read_mdlus

FILES = ("regression.mdlus", "diffusion.mdlus", "metadata.json", "stats.json")
PATCHES = "diffusion__patches"
MORE: dict[str, Any] = {
    PATCHES: {"shape": [8, 8], "per_time": 3, "overlap": 2},
    "diffusion__micro_batch": 5,
    "diffusion__cache_means": True,
}
DROPPING = {"regression__network": {**UNET, "dropout": 0.2}, **MORE}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A training in one go, with drop-out and patches."""
    folder = tmp_path_factory.mktemp("unbroken")
    status, said = run(folder, write_config(folder, pairs, **DROPPING))
    assert status == 0, said
    return folder


def equal(a: Path, b: Path) -> None:
    for stage in ("regression", "diffusion"):
        name = Path("work") / f"{stage}.csv"
        assert (a / name).read_text() == (b / name).read_text(), stage
    for file in FILES:
        assert (a / "package" / file).read_bytes() == (b / "package" / file).read_bytes(), file


@pytest.mark.process
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, pairs: Path, unbroken: Path
) -> None:
    """Killed a step after a checkpoint in each stage, and once in the middle of writing the next one."""
    told = write_config(tmp_path, pairs, **DROPPING)
    for stage, step in (("regression", 5), ("diffusion", 3)):
        status, said = run(tmp_path, told, Stop(stage, step))
        assert status == -signal.SIGKILL, said
        assert len(rows(tmp_path / "work" / f"{stage}.csv")) == step
        assert torch.load(tmp_path / "work" / f"{stage}.ckpt", weights_only=True)["step"] == step - 1
        (tmp_path / "work" / f"{stage}.ckpt.part").write_bytes(b"half a checkpoint")
    status, said = run(tmp_path, told)
    assert status == 0 and "the package is in" in said, said
    equal(tmp_path, unbroken)


@pytest.mark.process
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, pairs: Path) -> None:
    told = write_config(tmp_path, pairs)
    status, said = run(tmp_path, told, Stop("regression", 3, signal.SIGINT))
    last = said.strip().splitlines()[-1]
    assert status == 130 and last.startswith("train-corrdiff: interrupted: "), said
    assert f"{tmp_path / 'work'} keeps what is done; the same command goes on with it" in last
    assert "Traceback" not in said


def weights(folder: Path, name: str) -> Tensor:
    state = read_mdlus(folder / "package" / f"{name}.mdlus").state
    return torch.cat([value.flatten() for value in state.values()])


@pytest.mark.process
def test_two_processes_equal_one(tmp_path: Path, pairs: Path) -> None:
    """Of twice the batch: every loss, every validation, and the weights, to rounding."""
    one, two = tmp_path / "one", tmp_path / "two"
    few = {"steps": 3, "batch": 4, "sigmas": [2.0, 0.8], "pooling": [1, 2], "patches": MORE[PATCHES]}
    status, said = run(tmp_path, write_config(one, pairs, **MORE, few_step=few))
    assert status == 0, said
    statuses, said = together(tmp_path, write_config(two, pairs, **MORE, few_step=few), 2)
    assert statuses == [0, 0], said
    assert said.count("the package is in") == 1 and "Warning" not in said
    for stage in ("regression", "diffusion", "few_step"):
        assert losses(two, stage) == pytest.approx(losses(one, stage), rel=1e-5)
        for column in ("validation", "gradient_norm"):
            a, b = ([float(r[column] or -1) for r in rows(f / "work" / f"{stage}.csv")] for f in (one, two))
            assert a == pytest.approx(b, rel=1e-4) and max(a) > 0
        network = "regression" if stage == "regression" else "diffusion"
        assert relerr(weights(two, network), weights(one, network)) < 1e-4


@pytest.mark.process
def test_a_batch_that_cannot_be_shared(tmp_path: Path, pairs: Path) -> None:
    statuses, said = together(tmp_path, write_config(tmp_path, pairs, diffusion__batch=3), 2)
    assert statuses == [2, 2] and "diffusion.batch of 3 cannot be shared by 2 processes" in said, said
