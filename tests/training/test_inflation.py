# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Inflation of the residual: the members that the weights make, and the factor that scores find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from earth2studio.models.auto import Package
from tiny import relerr
from training_kit import config, train, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.training.inflation import fit_inflation, inflate, lowest
from earth2_corrdiff.training.pairs import PairFile, Pairs

SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


@pytest.fixture(scope="module")
def package(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("plain"), pairs))


def normal(shape: Sequence[int], seed: int) -> torch.Tensor:
    return 0.5 * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed % 2**31))


def model_of(folder: Path) -> Downscaler:
    return CorrDiff.load_model(Package(str(folder)), precision="fp32", accelerated=False).downscaler


@pytest.mark.slow
def test_members_of_inflated_weights(package: Path, pairs: Path) -> None:
    """With r the mean, a member x becomes r + c (x - r), c of each output; the mean is what it was."""
    x = PairFile(pairs).read([3]).coarse
    plain = model_of(package)
    mean, members = plain.mean(x), plain(x, SEEDS)
    inflated = inflate(plain, (1.3, 0.8))
    factor = torch.tensor([1.3, 0.8]).view(-1, 1, 1)
    assert relerr(inflated.mean(x), mean) < 1e-5
    residual = (members - mean[:, None]) * factor
    assert relerr(inflated(x, SEEDS) - mean[:, None], residual) < 1e-3
    assert float(residual.abs().max()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 1.3])
def test_the_factor_of_least_crps(
    package: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    """Of a truth that is drawn as members are, 1; of one with residuals 1.3 times as large, 1.3."""
    model, known = model_of(package), PairFile(pairs).read(range(12))
    mean = model.mean(known.coarse)
    truth = mean + size * model.scale_out * normal(mean.shape, 1)
    monkeypatch.setattr(PairFile, "read", lambda _, rows: Pairs(known.coarse[rows], truth[rows], known.times))
    monkeypatch.setattr(
        Downscaler, "residual", lambda _, cond, mean, seeds: normal((len(seeds), *mean.shape[1:]), seeds[0])
    )
    found = fit_inflation(model, PairFile(pairs), range(12), 6, 0)
    assert found == pytest.approx((size, size), abs=0.06)


def test_a_parabola_by_hand() -> None:
    x = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    assert lowest(x, 2 + (x - 0.97) ** 2) == pytest.approx(0.97)
    assert lowest(x, x) == 0.8 and lowest(x, -x) == 1.2


@pytest.mark.slow
def test_a_training_with_inflation(package: Path, pairs: Path, tmp_path: Path) -> None:
    """The same networks, inflated by what work/inflation.json says; again the same bytes."""
    told = config(tmp_path, pairs, inflation={"times": 2, "members": 3})
    first = train(told)
    plain, made = model_of(package), model_of(first)
    ratio = np.divide(made.spec.outputs.scale, plain.spec.outputs.scale)
    x = PairFile(pairs).read([3]).coarse
    assert relerr(made.mean(x), plain.mean(x)) < 1e-5 and not np.allclose(ratio, 1)
    before = (first / "diffusion.mdlus").read_bytes()
    assert (train(told) / "diffusion.mdlus").read_bytes() == before


def test_refusals(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="members must be 2 or more"):
        config(tmp_path, pairs, inflation={"members": 1})
    with pytest.raises(InputError, match="leave out inflation"):
        config(tmp_path, pairs, inflation={}, few_step={"steps": 2})
    told = config(
        tmp_path,
        pairs,
        inflation={},
        data={"pairs": str(pairs), "split": {"train": ["2020-01-01/2020-12-31"]}},
    )
    with pytest.raises(InputError, match="there are none"):
        train(told)


def test_a_dit_is_refused_before_it_is_trained(pairs: Path, tmp_path: Path) -> None:
    net = {"model_type": "DiT", "patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
    told = config(
        tmp_path, pairs, inflation={}, diffusion__network={**net, "attn_kwargs": {"attn_kernel": 3}}
    )
    with pytest.raises(InputError, match="leave out inflation for a DiT"):
        train(told)
    assert not (tmp_path / "work" / "regression.ckpt").exists()
