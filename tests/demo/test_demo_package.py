# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded model: it loads everywhere, says that it is synthetic, and visibly works."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch
from bench.demo_skill import demo_verification

from earth2_corrdiff import CorrDiff, demo
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.demo.hours import held_out_times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.training.demo_set import INPUTS, OUTPUTS
from earth2_corrdiff.verification import Bootstrap, Result, Settings

STORM = np.datetime64("2024-07-24T12:00")


@cache
def model() -> CorrDiff:
    return CorrDiff.load_model(demo.package())


@cache
def quick_model() -> CorrDiff:
    """With 8 network calls a member instead of the package's 23."""
    quick = CorrDiff.load_model(demo.package())
    quick.solver, quick.number_of_steps = "trigflow", 8
    return quick


@cache
def storm_members() -> np.ndarray:
    """Four members of the typhoon, ``[4, Co, H, W]``."""
    coarse = torch.from_numpy(demo.DemoWeather()(STORM, list(INPUTS)).values)
    return quick_model().downscaler(coarse, seeds=[11, 12, 13, 14])[0].numpy()


@pytest.mark.slow
def test_size_and_names() -> None:
    files = [path for path in demo.FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.name for path in files} >= {
        "metadata.json",
        "stats.json",
        "regression.mdlus",
        "diffusion.mdlus",
    }
    assert model().spec.synthetic and "demo" in model().spec.name
    assert tuple(model().input_variables) == INPUTS and tuple(model().output_variables) == OUTPUTS


@pytest.mark.slow
def test_grid_is_that_of_the_truth() -> None:
    lat, lon = demo.DemoWeather.fine_grid()
    grid = model().spec.output_grid
    np.testing.assert_allclose(grid.lat, lat, atol=1e-5)
    np.testing.assert_allclose(grid.lon, lon, atol=1e-5)


@pytest.mark.slow
def test_stock_class_loads_it_and_agrees(stock: ModuleType) -> None:
    ours = CorrDiff.load_model(demo.package(), precision="fp32")
    own = ours.downscaler.sampling
    theirs = stock.CorrDiff.load_model(demo.package(), sigma_min=own.sigma_min, sigma_max=own.sigma_max)
    ours.downscaler.sampling = replace(own, solver="heun", double=False)  # the path that stock takes
    x = torch.from_numpy(demo.DemoWeather()(STORM, list(INPUTS)).values)
    coords = OrderedDict(ours.input_coords(), batch=np.arange(1))
    for each in (theirs, ours):
        each.number_of_samples, each.number_of_steps, each.seed = 1, 6, 5
    theirs.sampler = theirs._setup_sampler("stochastic")  # it does not see a changed number of steps
    expected, got = theirs(x, coords)[0], ours(x, coords)[0]
    # relative to each variable's own deviation, not to 300 K
    for i in range(len(OUTPUTS)):
        error = (got - expected)[0, :, i].norm() / (expected[0, :, i] - expected[0, :, i].mean()).norm()
        assert error <= 1e-5


@pytest.mark.slow
def test_rain_is_where_the_typhoon_is() -> None:
    rain = storm_members()[:, 0]
    lat, lon = model().spec.output_grid.mesh()
    storm = demo.DemoWeather.storm(STORM)
    assert storm is not None
    centre_lat, centre_lon = storm.lat_lon
    away = np.hypot(lat - centre_lat, (lon - centre_lon) * np.cos(np.radians(centre_lat))) * 111
    near, far = (rain[:, mask] >= 20 for mask in ((away > 25) & (away < 200), away > 350))
    assert near.mean() > 0.25 and near.mean() > 2 * far.mean()
    assert 35 < np.quantile(rain, 0.999) < 75


@pytest.mark.slow
def test_members_differ_in_the_fine_scales_and_share_the_storm() -> None:
    members = storm_members()
    wind = np.hypot(members[:, 2], members[:, 3])
    lat, lon = model().spec.output_grid.mesh()
    truth = demo.DemoWeather().truth(STORM, ["u10m", "v10m"]).values[0]
    for speed in wind:
        assert np.corrcoef(speed.ravel(), np.hypot(*truth).ravel())[0, 1] > 0.9
    assert (members.std(axis=0).mean(axis=(1, 2)) > [1.0, 0.03, 0.1, 0.1]).all()


def verified(model: Downscaler, times: Times, members: int) -> Result:
    verification = demo_verification(model, times, members, settings=Settings(bootstrap=Bootstrap(0)))
    for _ in verification:
        pass
    return verification.result()


@pytest.mark.slow
def test_mean_error_is_below_interpolation_on_held_out_storms() -> None:
    times = held_out_times(2)
    assert not any(demo.DemoWeather.is_training_time(time) for time in times)
    result = verified(quick_model().downscaler, times, 4)
    for target in result.targets:
        rmse, crps = (
            {name: float(result.score(score, name, target).value) for name in result.forecasts}
            for score in ("rmse", "crps")
        )
        assert crps["ensemble"] < crps["regression"]
        if target.name == "mrr":  # interpolation knows it, the model does not: its mean has to beat no skill
            assert rmse["regression"] < rmse["climatology"]
        else:
            assert max(rmse["regression"], rmse["ensemble"]) < rmse["interpolation"]
            assert crps["ensemble"] < crps["interpolation"]


@pytest.mark.slow
def test_verification_against_numbers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of an "ensemble" that is the truth, and the truth plus two."""
    truth = torch.from_numpy(demo.DemoWeather().fields(STORM).fine)
    downscaler = CorrDiff.load_model(demo.package()).downscaler
    monkeypatch.setattr(downscaler, "forward", lambda x, seeds, **how: torch.stack([truth + 2, truth])[None])
    monkeypatch.setattr(downscaler, "physical", lambda mean, case: truth[None] + 3)
    result = verified(downscaler, np.array([STORM], dtype="datetime64[ns]"), 2)
    target = result.targets[0]
    for score, forecast, value in (
        ("rmse", "regression", 3),
        ("rmse", "ensemble", 1),
        ("crps", "ensemble", 0),  # mean |error| 1, mean distance of two members 2: 1 - 2 / 2
        ("spread_skill", "ensemble", 3**0.5),  # variance 2, squared error of the mean 1, (M + 1) / M = 3 / 2
    ):
        assert float(result.score(score, forecast, target).value) == pytest.approx(value, abs=1e-5)
