# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Training on data as they are: skewed variables, missing values, dry weather, time of day, block means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto import Package
from earth2studio.models.dx.corrdiff import CorrDiff as Stock
from training_kit import config, hours, rows, train

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.config import Patches, Wet
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.cutter import TURN, Cutter, turned
from earth2_corrdiff.training.losses import EDMLoss, squared_error
from earth2_corrdiff.training.pairs import Channels, PairFile
from earth2_corrdiff.training.statistics import Moments

RAIN = Transform("log_eps", eps=1e-3)
SKEWED: dict[str, Any] = {
    "data__missing": "mask",
    "data__transforms": {"tp": {"kind": "log_eps", "eps": 1e-3}},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten hours of rain in showers, dry in the west, missing in a corner."""
    folder, rng = tmp_path_factory.mktemp("rain"), np.random.default_rng(0)
    rain = rng.gamma(0.3, 5e-3, (10, 32, 48)).astype(np.float32)
    rain[:, :, :20] = 0
    rain[:, :6, -7:] = np.nan
    warm = 290 + rng.normal(0, 1, (10, 32, 48)).astype(np.float32)
    axes = {"time": hours(10), "lat": np.linspace(50, 41, 32), "lon": np.linspace(0, 14, 48)}
    dims = ("time", "lat", "lon")
    data = xr.Dataset({"tp": (dims, rain, {"units": "m"}), "t2m": (dims, warm, {"units": "K"})}, axes)
    data.to_netcdf(folder / "rain.nc")
    channels = Channels(("tp", "t2m"), ("tp",))
    list(make_own_pairs(folder / "rain.nc", "all", channels, folder / "p.zarr", Blocks(4), Area(multiple=8)))
    return folder / "p.zarr"


def test_moments_leave_out_missing_values() -> None:
    fields = torch.randn(5, 2, 4, 6, dtype=torch.float64)
    fields[1, 0, 2], fields[4, 1] = torch.nan, torch.nan
    moments = Moments()
    for part in fields.split(2):
        moments.add(part)
    for c in range(2):
        known = fields[:, c][~fields[:, c].isnan()]
        assert float(moments.mean[c]) == pytest.approx(float(known.mean()), abs=1e-12)
        assert float(moments.std[c]) == pytest.approx(float(known.std()), rel=1e-12)


def test_losses_leave_out_missing_values() -> None:
    """The same as those of the known pixels alone, whatever stands at the others."""
    mean, target = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    known = (torch.rand(2, 3, 4, 6) > 0.3).float()
    got = squared_error(mean, torch.where(known > 0, target, 99.0), known)
    for b in range(2):
        for c in range(3):
            at = known[b, c] > 0
            want = (mean[b, c][at] - target[b, c][at]).square().mean()
            assert float(got[b, c]) == pytest.approx(float(want), rel=1e-5)
    sigma = torch.tensor([0.4, 3.0])
    weight = 1 / sigma**2 + 1 / 0.25
    assert torch.allclose(
        EDMLoss()(mean, target, sigma, known), weight[:, None] * squared_error(mean, target, known)
    )


@pytest.mark.slow
def test_a_whole_training(pairs: Path, tmp_path: Path) -> None:
    """Losses of known pixels, statistics of transformed values, and a package that applies it all."""
    told = config(
        tmp_path,
        pairs,
        **SKEWED,
        data__features=("sin_hour", "cos_hour"),
        attribution="Data: nobody, CC0",
        regression__patches={"shape": [16, 16], "per_time": 2, "whole": False, "coverage": 0.95},
        diffusion__patches={"shape": [16, 16], "per_time": 2, "whole": False, "coverage": 0.95},
    )
    spec = read_package(Folder(train(told))).spec
    entries = json.loads((tmp_path / "package" / "metadata.json").read_text())
    assert [row["name"] for row in entries["channels"]] == ["tp", "t2m", "sin_hour", "cos_hour"]
    assert entries["missing_inputs"] is True and entries["block_means"] == {"coarse": 4, "fine": 1}
    assert spec.attribution == entries["attribution"] == "Data: nobody, CC0" and spec.blocks == Blocks(4)
    stats = json.loads((tmp_path / "package" / "stats.json").read_text())
    assert list(stats["output"]) == ["log_eps(tp)"] and list(stats["input"]) == ["log_eps(tp)", "t2m"]
    with pytest.raises(KeyError):  # the stock class does not undo transforms
        Stock.load_model(Package(str(tmp_path / "package")))
    assert spec.regridding == "index" and spec.missing_inputs and spec.rules[0].transform == RAIN
    assert [(c.name, c.transform.kind) for c in spec.channels[:2]] == [("tp", "log_eps"), ("t2m", "identity")]
    split = PairFile(pairs, gaps=True).read(range(8))
    values = RAIN.forward(split.fine.double())
    assert spec.outputs.center[0] == pytest.approx(float(values[~values.isnan()].mean()), rel=1e-5)
    assert all(np.isfinite(float(row["loss_tp"])) for row in rows(tmp_path / "work" / "diffusion.csv"))


@pytest.mark.slow
def test_the_package_runs(pairs: Path, tmp_path: Path) -> None:
    """Rain is not negative, and missing where its own coarse cell is; the hour is needed."""
    loaded = read_package(Folder(train(config(tmp_path, pairs, **SKEWED, data__features=("sin_hour",)))))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32")
    file = PairFile(pairs, gaps=True)
    some = file.read([8, 9])
    assert some.coarse.isnan().any()
    made = model(some.coarse, [1, 2], valid_times=file.times[8:])
    gaps = some.coarse[:, None, :1].isnan().repeat_interleave(4, -2).repeat_interleave(4, -1)
    assert made.shape == (2, 2, 1, 32, 48) and made.nan_to_num(0).min() >= 0
    assert torch.equal(made.isnan(), gaps.expand_as(made))
    mean = loaded.spec.inputs.center[0]
    filled = some.coarse.clone()
    cond = model.condition(filled, file.times[8:])
    assert float(cond[0, 0, 0, -1]) == 0 and np.isfinite(mean)
    with pytest.raises(InputError, match="valid time"):
        model(some.coarse, [1])


@pytest.mark.slow
def test_a_regression_of_differences(pairs: Path, tmp_path: Path) -> None:
    """What it makes is added to the interpolated input, which is the mean where it makes nothing."""
    told = config(tmp_path, pairs, **SKEWED, data__differences=True)
    loaded = read_package(Folder(train(told)))
    with pytest.raises(KeyError):  # the stock class adds nothing
        Stock.load_model(Package(str(tmp_path / "package")))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32", accelerated=False)
    some = PairFile(pairs, gaps=True).read([8])
    plain = model.mean(some.coarse)
    with torch.no_grad():
        for weights in model.regression.parameters():
            weights.zero_()
    mean, want = model.mean(some.coarse), model.regrid(some.coarse[:, :1])
    known = want.isfinite()
    assert loaded.spec.differences and torch.allclose(mean[known], want[known], atol=1e-6)
    assert not torch.allclose(plain[known], want[known], atol=1e-6)
    stats = json.loads((tmp_path / "package" / "stats.json").read_text())
    assert list(stats["output"]) == ["difference to log_eps(tp)"]


def test_chosen_patches(pairs: Path) -> None:
    """Covered and wet, but for the part that may be dry; the same for the same key."""
    fine = PairFile(pairs, gaps=True).read(range(10)).fine
    wet = Wet("tp", 1e-3, share=0.4, dry=0.25)
    cutter = Cutter(Patches((8, 8), 20, coverage=1.0, wet=wet), flips=True)
    keys = [(0, n) for n in range(10)]
    cuts = cutter.cuts(fine, keys)
    assert cuts is not None and torch.equal(cuts, cutter.cuts(fine, keys))  # type: ignore[arg-type]
    patches = cutter.cut(fine, cuts)
    assert patches.shape == (200, 1, 8, 8) and patches.isfinite().all()
    share = (patches >= 1e-3).float().mean((1, 2, 3))
    assert 0.6 < float((share >= 0.4).float().mean()) < 0.98  # a quarter is taken anywhere
    assert cuts[:, 2].unique().tolist() == list(range(2 * TURN))
    again = cutter.cuts(fine[3:4], keys[3:4])
    assert again is not None and torch.equal(again, cuts[60:80])


def test_flips_and_turns() -> None:
    """The eight symmetries of a square, the four of a rectangle."""
    square = torch.arange(9.0).view(1, 3, 3)
    assert len({tuple(turned(square, op).flatten().tolist()) for op in range(2 * TURN)}) == 8
    wide = torch.randn(50, 1, 4, 6)
    cutter = Cutter(flips=True)
    cuts = cutter.cuts(wide, [(0, n) for n in range(50)])
    assert cuts is not None and set(cuts[:, 2].tolist()) == {0, 2, TURN, TURN + 2}
    made = cutter.cut(wide, cuts)
    for before, after, operation in zip(wide, made, cuts[:, 2].tolist(), strict=True):
        want = before.flip(-1) if operation >= TURN else before
        assert torch.equal(after, want.flip(-1).flip(-2) if operation % TURN else want)


POS = {"model_type": "SongUNetPosEmbd", "model_channels": 8, "N_grid_channels": 4}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gaps": ({}, "missing values"),
    "a transform of nothing": ({**SKEWED, "data__transforms": {"mrr": {}}}, "mrr, which is no input"),
    "a transform that does not take the values": (
        {**SKEWED, "data__transforms": {"t2m": {"kind": "logit_eps", "eps": 0.01}}},
        r"t2m has values from 28\d.* to 29\d.*, and the transform logit_eps takes 0 to 1; use another one",
    ),
    "flips with a place": ({**SKEWED, "data__flips": True, "data__features": ["sin_lat"]}, "sin_lat"),
    "flips with positions": (
        {**SKEWED, "data__flips": True, "regression__network": POS},
        "embedding of position",
    ),
    "an unknown feature": ({**SKEWED, "data__features": ["moon"]}, "not a valid feature"),
    "wet with another variable": (
        {**SKEWED, "regression__patches": {"shape": [16, 16], "wet": {"variable": "t2m", "least": 1.0}}},
        "not an output",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, pairs: Path, tmp_path: Path) -> None:
    more, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        train(config(tmp_path, pairs, **more))
