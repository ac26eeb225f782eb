# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Calibrations: the fit against synthetic ensembles, its file, and runs and verifications that apply it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from run_kit import OUTPUTS, load, make_package, same
from scipy.optimize import minimize

from earth2_corrdiff import demo, downscale
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.calibrate import main
from earth2_corrdiff.model.calibration import Calibration
from earth2_corrdiff.model.calibration_network import NetworkCorrection
from earth2_corrdiff.model.correction import Correction
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run import Options
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.run.tasks import Part
from earth2_corrdiff.verification import Bootstrap, Settings, calibration_fit, verify
from earth2_corrdiff.verification.calibration_fit import HeldOut, Pairs, fitted, fitted_network, moments
from earth2_corrdiff.verification.forecasts import CalibratedEnsemble, regression_of
from earth2_corrdiff.verification.pointwise import crps

FREE, POSITIVE = (-math.inf, math.inf), (0.0, math.inf)


def synthetic(bias: float = 0.0, squeeze: float = 1.0, dry: float | None = None, T: int = 20) -> Pairs:
    """Members and a truth of one distribution; then members are shifted and drawn to the regression."""
    rng, P, M = np.random.default_rng(3), 60, 6
    mean = 10 + 3 * rng.standard_normal((T, 1, P)) + rng.standard_normal((T, 1, 1))
    drawn = mean + 1.5 * rng.standard_normal((T, M + 1, P))
    truth, members = drawn[:, 0], mean + bias + squeeze * (drawn[:, 1:] - mean)
    means = mean.repeat(M, 1)
    if dry is not None:
        truth, members, means = (np.maximum(some - dry, 0) for some in (truth, members, means))
    flat = [torch.from_numpy(some.swapaxes(0, 1).reshape(M, -1)) for some in (means, members)]
    weight = torch.from_numpy(np.tile(0.5 + rng.random(P), T))
    time = torch.arange(T).repeat_interleave(P)
    lat, hour = torch.linspace(20, 30, P).repeat(T), time * (np.pi / 2)
    place = torch.stack([lat, -lat, hour.cos(), hour.sin()])[:, None].double()
    return Pairs(torch.from_numpy(truth.ravel()), weight, time, place, *flat)


def score(pairs: Pairs, members: torch.Tensor) -> float:
    return float(pairs.average(crps(members, pairs.truth)[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("dry", "bounds"), [(None, FREE), (10.0, POSITIVE)])
def test_a_biased_narrow_ensemble_is_restored(dry: float | None, bounds: tuple[float, float]) -> None:
    """80 % of the way to the calibrated one at least, on times that it was not fitted on."""
    best = synthetic(dry=dry)
    pairs = synthetic(2.0, 0.5, dry)
    found = HeldOut.of(pairs, 4, partial(fitted, bounds=bounds))
    assert found.before == pytest.approx(score(pairs, pairs.members))
    assert found.better and found.before - found.after > 0.8 * (found.before - score(best, best.members))
    assert -1 < found.change.low < found.change.value < found.change.high < 0


@pytest.mark.slow
@pytest.mark.parametrize("dry", [None, 10.0])
def test_a_calibrated_ensemble_stays(dry: float | None) -> None:
    pairs, bounds = synthetic(dry=dry), FREE if dry is None else POSITIVE
    found = HeldOut.of(pairs, 4, partial(fitted, bounds=bounds))
    assert abs(found.after / found.before - 1) < 0.005
    assert found.better == (found.change.value < 0 and found.change.high < 0)


def test_the_closed_form_and_the_minimum() -> None:
    """The closed form by NumPy; the minimum by another method."""
    pairs = synthetic(1.0, 0.7, T=4)
    r, x, y = (part.numpy() for part in (pairs.mean, pairs.members, pairs.truth.expand_as(pairs.mean)))
    w = pairs.weight.expand_as(pairs.mean).numpy()
    lines = [np.polynomial.polynomial.polyfit(r.ravel(), v.ravel(), 1, w=w.ravel() ** 0.5) for v in (y, x)]
    rests = [
        np.average((v - line[0] - line[1] * r) ** 2, weights=w) for v, line in zip((y, x), lines, strict=True)
    ]
    c = (rests[0] / rests[1]) ** 0.5
    assert np.allclose(
        moments(pairs), (lines[0][0] - c * lines[1][0], lines[0][1] + c * (1 - lines[1][1]), c)
    )

    def loss(abc: np.ndarray) -> float:
        new = abc[0] + abc[1] * r + abc[2] * (x - r)
        apart = np.abs(new[:, None] - new[None]).sum((0, 1)) / (2 * len(x) * (len(x) - 1))
        return float(np.average(np.abs(new - y[0]).mean(0) - apart, weights=w[0]))

    best = minimize(loss, (0.0, 1.0, 1.0), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9})
    found = fitted(pairs)
    assert loss(np.array([found.offset, found.slope, found.spread])) <= best.fun + 1e-7


@pytest.mark.slow
def test_a_network_learns_what_depends_on_place_and_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_fit, "STEPS", 150)
    pairs = synthetic()
    lat, _, cosine, _ = pairs.place
    best, local = score(pairs, pairs.members), 1 + 0.5 * (lat - 25) / 5
    pairs = pairs._replace(members=pairs.mean + (pairs.members - pairs.mean) / (2 * local) + cosine)
    plain, network = (HeldOut.of(pairs, 2, fit).after for fit in (fitted, fitted_network))
    assert network - best < 0.5 * (plain - best)


def test_bounds_and_order() -> None:
    """What is dry stays dry, nothing leaves its bounds or jumps, and members keep their order."""
    x, r = torch.linspace(0, 100, 500)[:, None].repeat(1, 3), torch.tensor([[0.0, 20.0, 90.0]])
    for a, b, c in ((5.0, 1.0, 0.5), (-5.0, 0.8, 3.0), (9.0, 1.3, 1.0)):
        new = Correction(a, b, c, 0.0, 100.0)(x, r)
        assert not new[0].any() and (new[-1] == 100).all()
        steps = new.diff(dim=0)
        assert (steps >= 0).all() and steps.max() <= 2 * max(b, c) * 100 / 499 + 1e-3
    free = Correction(1.0, 2.0, 3.0)(x, r)
    assert torch.allclose(free, 1 + 2 * r + 3 * (x - r))
    assert Correction()(x, r) is x


SETTINGS = {"package_sha256": "1", "solver": "heun", "number_of_steps": 3}


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    one = Calibration(
        {"t2m": Correction(1.0, 0.9, 1.2), "tp": Correction(low=0.0)}, SETTINGS, {"source": "gfs"}
    )
    path.write_text(one.text())
    read = Calibration.read(str(path))
    assert (read.corrections, read.settings, read.about) == (one.corrections, SETTINGS, one.about)
    assert read.attributes["calibration"] == "c.json" and len(read.sha256) == 64
    read.check(SETTINGS | {"source": "gfs"}, ["t2m", "msl"], (3, 4))
    with pytest.raises(InputError, match="with solver heun instead of euler; fit another"):
        read.check(SETTINGS | {"solver": "euler"}, ["t2m"], (3, 4))
    with pytest.raises(InputError, match="has none of msl"):
        read.check(SETTINGS, ["msl"], (3, 4))
    content = json.loads(path.read_text())
    content["variables"]["t2m"]["spread"] = -1
    for text in ("no JSON", "[1]", '{"calibration": 2}', json.dumps(content)):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot be read as a calibration"):
            Calibration.read(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        Calibration.read(str(tmp_path / "none.json"))


TIMES = "2024-07-24T00/2024-07-24T18/6h"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; its truth is a member of another seed, 2 K warmer and twice as far from the regression."""
    folder = tmp_path_factory.mktemp("runs")
    scales = tuple(scale / 200 for scale in OUTPUTS.scale)  # its random networks make large values
    package = make_package(folder / "package", outputs=replace(OUTPUTS, scale=scales))
    model, data = load(package), demo.DemoWeather()
    for name, seed, samples in (("s", 1, 4), ("other", 2, 1)):
        options = Options(seed=seed, number_of_samples=samples)
        downscale(TIMES, model, data, folder / f"{name}.zarr", options=options)
    ds = xr.open_zarr(folder / "other.zarr").isel(sample=0)
    regression = regression_of(xr.open_zarr(folder / "other.zarr"), model.downscaler)
    mean = np.stack([regression.field(time, "t2m", 0).numpy() for time in ds["time"].values])
    truth = ds[["t2m"]].load()
    truth["t2m"].values = mean + 2 + 2 * (truth["t2m"].values - mean)
    truth.to_netcdf(folder / "truth.nc")
    return folder


@pytest.fixture(scope="module")
def file(runs: Path) -> Path:
    args = [str(runs / "s.zarr"), "--truth", str(runs / "truth.nc"), "--package", str(runs / "package")]
    assert main([*args, "--folds", "2", "--output", str(runs / "c.json"), "--device", "cpu"]) == 0
    return runs / "c.json"


@pytest.mark.slow
def test_a_run_is_corrected_alike_in_any_parts(runs: Path, file: Path) -> None:
    found = Calibration.read(str(file)).corrections
    assert list(found) == ["t2m"]
    one = found["t2m"]
    assert abs(one.spread - 2) < 0.3 and abs(one.offset + 297 * (one.slope - 1) - 2) < 0.4
    options = ModelOptions(str(runs / "package"), "cpu", "fp32", accelerated=False, calibration=str(file))
    model, data = load_model(options), demo.DemoWeather()
    how = Options(seed=1, number_of_samples=4)
    downscale(TIMES, model, data, runs / "whole.zarr", options=how)
    for part in range(2):
        options_of = replace(how, part=Part(part, 2), max_batch=3)
        downscale(TIMES, model, data, runs / "parts.zarr", options=options_of)
    same(runs / "whole.zarr", runs / "parts.zarr")
    raw, new = (xr.open_zarr(runs / f"{name}.zarr") for name in ("s", "whole"))
    regression = regression_of(raw, model.downscaler)
    mean = np.stack([regression.field(time, "t2m", 0).numpy() for time in raw["time"].values])[:, None]
    wanted = one.offset + one.slope * mean + one.spread * (raw["t2m"].values - mean)
    assert np.allclose(new["t2m"].values, wanted, rtol=0, atol=1e-3)
    assert np.array_equal(raw["mrr"].values, new["mrr"].values)
    assert new.attrs["calibration"] == "c.json" and "calibration" not in raw.attrs
    few = Settings(variables=["t2m"], bootstrap=Bootstrap(0))
    truth, calibration = str(runs / "truth.nc"), Calibration.read(str(file))
    later = verify(runs / "s.zarr", truth, settings=few, downscaler=model.downscaler, calibration=calibration)
    before, after = (verify(runs / f"{name}.zarr", truth, settings=few) for name in ("s", "whole"))
    values = [float(some.score("crps", "ensemble", some.targets[0]).value) for some in (before, after, later)]
    assert values[1] == pytest.approx(values[2], rel=1e-5) and values[1] < 0.8 * values[0]
    with pytest.raises(InputError, match="calibration sha256"):
        downscale(TIMES, model, data, runs / "s.zarr", options=replace(how, resume=True))
    with pytest.raises(InputError, match="calibrated already"):
        verify(runs / "whole.zarr", truth, downscaler=model.downscaler, calibration=calibration)
    with pytest.raises(InputError, match="number_of_steps 2 instead of 1"):
        downscale(TIMES, load_model(replace(options, steps=1)), data, runs / "x.zarr", options=how)


@pytest.mark.slow
def test_a_run_with_a_network(runs: Path, file: Path) -> None:
    """The run and the store that is corrected later have the same fields."""
    ds, draw = xr.open_zarr(runs / "s.zarr"), np.random.default_rng(0)
    layers = [[draw.standard_normal(shape).tolist() for shape in ((o, i), (o,))] for i, o in ((5, 4), (4, 2))]
    one = NetworkCorrection(1, 1.1, 1.2, 200.0, 400.0, 3.0, (24, 121, 297), (2, 3, 9), layers)
    calibration = replace(Calibration.read(str(file)), corrections={"t2m": one})
    (runs / "n.json").write_text(calibration.text())
    options = ModelOptions(
        str(runs / "package"), "cpu", "fp32", accelerated=False, calibration=str(runs / "n.json")
    )
    model = load_model(options)
    how = Options(seed=1, number_of_samples=4)
    downscale(ds["time"].values[1:2], model, demo.DemoWeather(), runs / "n.zarr", options=how)
    later = CalibratedEnsemble(ds, regression_of(ds, model.downscaler), calibration)
    new = xr.open_zarr(runs / "n.zarr")["t2m"][0].values
    for member in range(4):
        field = later.field(ds["time"].values[1], "t2m", member).numpy()
        assert np.allclose(new[member], field, rtol=0, atol=1e-3)
        assert np.abs(field - ds["t2m"][1, member].values).max() > 1


@pytest.mark.slow
def test_what_is_refused(runs: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, truth, package = (str(runs / name) for name in ("s.zarr", "truth.nc", "package"))
    given = ["--truth", truth, "--package", package, "--output", str(runs / "d.json")]
    for args, message in (
        ([store, "--package", package], "give --truth"),
        ([store, "--truth", truth], "give --package"),
        ([store, *given[:4], "--output", str(file)], "exists; use --overwrite"),
        ([store, *given, "--folds", "9"], "4 times with a truth do not make 9 folds"),
        ([str(runs / "other.zarr"), *given], "two or more"),
        ([store, *given, "--variables", "mrr"], "mrr"),
        ([store, "--truth", truth, "--package", "demo", "--output", str(runs / "d.json")], "another package"),
    ):
        capsys.readouterr()
        assert main(args) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
