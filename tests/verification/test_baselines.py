# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines that are fitted on training pairs, against plain NumPy pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from plotting_store import write
from tiny import curved
from torch.nn import functional as F  # noqa: N812
from training_kit import config, hours, train
from verification_kit import QUICK, value

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.verify import main
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.store import reader
from earth2_corrdiff.training.block_means import Blocks, make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile
from earth2_corrdiff.verification import Training, nearest_in_training, verify
from earth2_corrdiff.verification.baselines import PENALTY, Baselines
from earth2_corrdiff.verification.nearest import Nearest, nearest

H, W, FIT, TEST = 16, 24, 16, 3
RAIN = Transform("log_eps", eps=1e-3)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Pairs of rain (with a gap) and temperature on a bent grid, and a store of the last times."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    warm = 290 + 3 * rng.normal(size=(FIT + TEST, 1, 1)) + rng.normal(size=(FIT + TEST, H, W))
    warm += (
        np.linspace(-2, 2, W)
        * (hours(FIT + TEST).astype("datetime64[h]").astype(int) % 24 == 12)[:, None, None]
    )
    rain = (rng.gamma(0.4, 5e-3, (FIT + TEST, H, W)) * np.exp((warm - 290) / 4)).astype(np.float32)
    rain[:, :4, -6:] = np.nan
    grid = curved(H, W)
    fields = {"tp": (("time", "y", "x"), rain, {"units": "m"})}
    fields["t2m"] = (("time", "y", "x"), warm.astype(np.float32), {"units": "K"})
    axes = {"time": hours(FIT + TEST), "lat": (("y", "x"), grid.lat), "lon": (("y", "x"), grid.lon)}
    xr.Dataset(fields, axes).to_netcdf(folder / "fine.nc")
    names = Channels(("tp", "t2m"), ("tp", "t2m"))
    list(make_own_pairs(folder / "fine.nc", "all", names, folder / "p.zarr", Blocks(4), Area(multiple=8)))
    file = PairFile(folder / "p.zarr", gaps=True)
    some = file.read(range(FIT, FIT + TEST))
    low, dims = ("y_lowres", "x_lowres"), ("y", "x")
    noise = rng.normal(0, 1e-3, (TEST, 3, H, W)), rng.normal(size=(TEST, 3, H, W))
    members = [some.fine[:, c].numpy()[:, None] + noise[c] for c in range(2)]
    data = {
        "tp": (("time", "sample", *dims), np.maximum(np.nan_to_num(members[0]), 0).astype(np.float32)),
        "t2m": (("time", "sample", *dims), members[1].astype(np.float32)),
        **{f"{n}_lowres": (("time", *low), some.coarse[:, c].numpy()) for c, n in enumerate(("tp", "t2m"))},
        "member_seed": (("time", "sample"), np.arange(3 * TEST).reshape(TEST, 3)),
    }
    coarse = file.coarse_grid
    coords = {"time": some.times, "sample": np.arange(3), "lat": (dims, file.fine_grid.lat)}
    coords |= {
        "lon": (dims, file.fine_grid.lon),
        "lat_lowres": (low, coarse.lat),
        "lon_lowres": (low, coarse.lon),
    }
    write(xr.Dataset(data, coords), folder / "s.zarr")
    return SimpleNamespace(
        folder=folder, file=file, store=folder / "s.zarr", truth=folder / "fine.nc", some=some
    )


def test_against_numpy(kit: SimpleNamespace) -> None:
    """Fits of some pixels by hand, in the space of the transforms; the gap stays one."""
    ds = reader.open_store(kit.store)
    fit = Baselines(Training(kit.file.path), ds).fit  # without a model no transform is known
    fit = type(fit)(kit.file, range(FIT), {"tp": RAIN}, fit.regrid, [0, 6, 12, 18])
    train = kit.file.read(range(FIT))

    def spaces(pairs: object) -> tuple[np.ndarray, np.ndarray]:
        x = F.interpolate(pairs.coarse.double(), (H, W), mode="bilinear").numpy()  # type: ignore[attr-defined]
        y = pairs.fine.double().numpy()  # type: ignore[attr-defined]
        for some in (x, y):
            some[:, 0] = np.log1p(some[:, 0] / 1e-3)
        return x, y

    (x, y), (at, _) = spaces(train), spaces(kit.some)
    hour = train.times.astype("datetime64[h]").astype(int) % 24
    for case in range(TEST):
        now = int(kit.some.times[case].astype("datetime64[h]").astype(int) % 24)
        coarse = kit.some.coarse[case].double()
        ridge, mean = fit.ridge(coarse, now).numpy(), fit.climatology(coarse, now).numpy()
        for i, j in ((0, 0), (7, 11), (15, 23)):
            X, r = x[:, :, i, j], y[:, :, i, j] - x[:, :, i, j]
            Z = (X - X.mean(0)) / X.std(0)
            w = np.linalg.solve(Z.T @ Z + PENALTY * np.eye(2), Z.T @ (r - r.mean(0)))
            want = at[case, :, i, j] + r.mean(0) + ((at[case, :, i, j] - X.mean(0)) / X.std(0)) @ w
            other = at[case, :, i, j] + r[hour == now].mean(0)
            for got, value_ in ((ridge, want), (mean, other)):
                physical = np.array([max(1e-3 * np.expm1(value_[0]), 0), value_[1]])
                np.testing.assert_allclose(got[:, i, j], physical, rtol=2e-5, atol=1e-8)
        assert np.isnan(ridge[:, :4, -6:]).all() and np.isfinite(ridge[:, 8:]).all()


@pytest.mark.slow
def test_with_a_model(kit: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All baselines at the same points; the noise has the residual's variance; the command has them too."""
    told = config(
        tmp_path,
        kit.file.path,
        data__missing="mask",
        data__transforms={"tp": {"kind": "log_eps", "eps": 1e-3}},
        data__split={"train": ["2020-01-01/2020-01-03T12"], "validation": ["2020-01-03T18/2020-01-04T18"]},
    )
    loaded = read_package(Folder(train(told)))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32")
    training = Training(kit.file.path, noise="2020-01-03T18/2020-01-04T18")
    result = verify(kit.store, kit.truth, downscaler=model, training=training, settings=QUICK)
    names = ["ensemble", "regression", "regression + noise", "interpolation", "residual climatology"]
    assert result.forecasts == [*names, "ridge regression", "ensemble mean", "climatology"]
    assert [target.units for target in result.targets] == ["K", "mm"]
    assert value(result, "crps", "t2m", "ensemble mean") == pytest.approx(value(result, "mae", "t2m"))
    assert any("The truth of tp has gaps" in note and "forecast by all" in note for note in result.notes)
    assert any("fitted on 16 fields of 16 times" in note for note in result.notes)
    rows = range(11, 16)
    some = kit.file.read(rows)
    cond = model.condition(some.coarse, some.times)
    mean = model.normalised_mean(cond).double()
    fine = some.fine.double()
    fine[:, 0] = torch.log1p(fine[:, 0] / 1e-3)
    left = ((fine - model.center_out) / model.scale_out - mean).transpose(0, 1).flatten(1)
    fitted = Baselines(training, reader.open_store(kit.store), model)
    for c in range(2):
        assert float(fitted.deviation[c]) == pytest.approx(float(left[c][left[c].isfinite()].std()), rel=1e-5)
    mae = np.abs(result.score("crps", "interpolation", result.targets[1]).value)
    assert mae < 50  # mm
    flags = [
        "--truth",
        str(kit.truth),
        "--package",
        str(tmp_path / "package"),
        "--no-report",
        "--bootstrap",
        "0",
    ]
    assert main([str(kit.store), *flags, "--baselines", str(kit.file.path), "--tiles", "8"]) == 0
    said = capsys.readouterr().out
    assert "ridge regression" in said and "squares of 8 x 8 cells" in said
    with pytest.raises(InputError, match="gaps, and no distance"):
        nearest_in_training(kit.store, kit.truth, model, training)
    spectrum = result.score("power", "ensemble", result.targets[1]).value
    assert np.isnan(spectrum).all()  # without tiles a domain with gaps has none


def test_a_memorised_field_is_found() -> None:
    """Fields of one distribution are equally far; a member that repeats a training field is not."""
    rng = torch.Generator().manual_seed(0)
    training, truth = torch.randn(20, 2, 8, 6, generator=rng), torch.randn(3, 2, 8, 6, generator=rng)
    members = torch.randn(3, 4, 2, 8, 6, generator=rng)
    members[1, 2] = training[7] + 0.1 * members[1, 2]
    own, _ = nearest(truth, training)
    others, which = nearest(members.flatten(0, 1), training)
    want = (truth[0] - training).square().mean((1, 2, 3)).sqrt().min()
    assert own[0] == pytest.approx(float(want), rel=1e-6) and which[6] == 7
    times = hours(20)
    found = Nearest(times[:3], own, others.reshape(3, 4), times[which[[0, 6, 8]]], 20)
    assert found.ratio < 0.1 and "1 of 12 members are below 0.5" in found.table().caption
    assert found.table().rows[1][1] == "2020-01-02T18:00"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"fit": "2020-01-01/2020-01-05T06"}, "2020-01-05T00:00 is verified"),
        ({"fit": "2021-01-01/2021-02-01"}, "no time for --fit"),
        ({"fit": "2021"}, "--fit: '2021' is not a valid period"),
        ({"fit": "2020-01-01/2020-01-01T06"}, "no time at 12 UTC"),
    ],
)
def test_what_is_refused(kit: SimpleNamespace, how: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Baselines(Training(kit.file.path, **how), reader.open_store(kit.store))
