# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""verify-corrdiff takes every store that run-corrdiff writes; forecasts are scored by lead time."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from command_stores import KINDS, make_stores

from earth2_corrdiff.cli.verify import main
from earth2_corrdiff.verification import Bootstrap, Settings, open_verification, verify
from earth2_corrdiff.verification.result import Result

pytestmark = pytest.mark.slow

HOUR = np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_stores(tmp_path_factory.mktemp("stores"))


def truth_of(store: Path) -> xr.Dataset:
    """A truth at every hour of two days, on the store's grid."""
    ds = xr.open_zarr(store)
    times = np.datetime64("2024-07-24T00", "ns") + np.arange(49) * HOUR
    rng = np.random.default_rng(0)
    shape = (len(times), *ds["t2m"].shape[-2:])
    dims = ("time", *ds["t2m"].dims[-2:])
    data = {
        "t2m": (dims, 297 + rng.standard_normal(shape)),
        "mrr": (dims, 20 * rng.random(shape)),
    }
    return xr.Dataset(data, {"time": times, "lat": ds["lat"], "lon": ds["lon"]})


FEW = Settings(variables=["t2m"], bootstrap=Bootstrap(0))
ALL = ["--variables", "t2m", "--bootstrap", "0", "--no-report"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_is_verified(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    truth_of(stores[kind]).to_netcdf(tmp_path / "truth.nc")
    argv = [str(stores[kind]), "--truth", str(tmp_path / "truth.nc"), *ALL]
    if kind == "unfinished":
        assert main(argv) == 2
        said = "member 1 of 2024-07-24T00:00 + 6 h is not written"
        assert said in capsys.readouterr().err
        argv.append("--skip-incomplete")
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 members" if kind == "coarse members" else "2 members")
    assert ("By lead time" in out) == ("--lead" in KINDS[kind])
    if kind == "unfinished":
        assert "Left out, as the truth or members are missing: the lead times 6 h, 12 h." in out


def crps_by_hand(members: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """Fair CRPS of members ``[M, H, W]``, from its definition."""
    size = len(members)
    error = np.abs(members - truth).mean(0)
    apart = np.abs(members[:, None] - members[None]).sum((0, 1)) / (2 * size * (size - 1))
    return float(((error - apart) * weights).mean())


def crps(result: Result, forecast: str = "ensemble") -> float:
    (target,) = result.targets
    return float(result.score("crps", forecast, target).value)


@pytest.mark.parametrize("kind", ["forecasts", "coarse members"])
def test_each_lead_time_is_scored_at_its_valid_times(stores: dict[str, Path], kind: str) -> None:
    ds, truth = xr.open_zarr(stores[kind]), truth_of(stores[kind])
    result = verify(stores[kind], truth, settings=FEW)
    weights, all_leads = result.domain.area.numpy(), []
    for number, lead in enumerate(ds["lead_time"].values):
        part = result.by_lead[lead]
        by_hand = []
        for i, start in enumerate(ds["time"].values):
            fields = ds["t2m"].isel(time=i, lead_time=number).values.astype("f8")
            known = truth["t2m"].sel(time=start + lead).values
            by_hand.append(crps_by_hand(fields.reshape(-1, *known.shape), known, weights))
        assert crps(part) == pytest.approx(np.mean(by_hand), rel=1e-6)
        np.testing.assert_array_equal(part.times, ds["time"].values + lead)
        all_leads += by_hand
    assert crps(result) == pytest.approx(np.mean(all_leads), rel=1e-6)
    assert result.draws == ds.sizes["time"] and len(result.times) == len(all_leads)


def test_the_interpolation_of_coarse_members_is_an_ensemble(stores: dict[str, Path]) -> None:
    verification = open_verification(
        stores["coarse members"], truth_of(stores["coarse members"]), settings=FEW, leads="6h"
    )
    (part,) = verification.parts.values()  # type: ignore[union-attr]
    interpolation = part.forecasts[-1]
    assert (interpolation.name, interpolation.size) == ("interpolation", 2)
    one, other = (interpolation.field(part.times[0], "t2m", member) for member in (0, 1))
    assert not np.array_equal(one, other)


def test_the_chosen_lead_times_in_files(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth_of(stores["forecasts"]).to_netcdf(tmp_path / "truth.nc")
    argv = [str(stores["forecasts"]), "--truth", str(tmp_path / "truth.nc"), *ALL, "--lead", "6,12"]
    assert main([*argv, "--output", str(tmp_path / "s.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "at 2 lead times from 6 h to 12 h of 2 starts, valid 2024-07-24T06:00 to 2024-07-24T18:00" in out
    with (tmp_path / "s.csv").open() as file:
        rows = [
            row for row in csv.DictReader(file) if row["score"] == "crps" and row["forecast"] == "ensemble"
        ]
    assert [row["lead_h"] for row in rows] == ["", "6", "12"]
    values = [float(row["value"]) for row in rows]
    assert values[0] == pytest.approx(np.mean(values[1:]), rel=1e-5)
    assert main([*argv, "--output", str(tmp_path / "s.zarr")]) == 0
    ds = xr.open_zarr(tmp_path / "s.zarr")
    np.testing.assert_allclose(
        ds["crps_by_lead"].sel(forecast="ensemble", variable="t2m"), values[1:], rtol=1e-6
    )
    assert (ds["lead_time"].values / HOUR).tolist() == [6, 12]


def test_the_report_shows_lead_times(stores: dict[str, Path], tmp_path: Path) -> None:
    truth_of(stores["forecasts"]).to_netcdf(tmp_path / "truth.nc")
    argv = [
        str(stores["forecasts"]),
        "--truth",
        str(tmp_path / "truth.nc"),
        "--report",
        str(tmp_path / "r.html"),
    ]
    assert main([*argv, "--variables", "t2m", "--bootstrap", "0"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Fair CRPS against lead time" in page and "<h2>By lead time</h2>" in page


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("analysis", ["--lead", "6h"], "the store has no lead times, it is of analyses; leave out --lead"),
        ("forecasts", ["--lead", "9h"], "the store has no lead time 9 h; it has 0 h, 6 h, 12 h"),
        ("forecasts", ["--compare", "one=ONE"], "lacks the lead time 0 h"),
        ("analysis", ["--compare", "fx=FORECASTS"], "has 3 lead times, what is verified has none"),
    ],
)
def test_lead_times_that_do_not_fit(
    stores: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: list[str],
    message: str,
) -> None:
    truth_of(stores[kind]).to_netcdf(tmp_path / "truth.nc")
    places = {"ONE": stores["one lead time"], "FORECASTS": stores["forecasts"]}
    for word, path in places.items():
        flags = [flag.replace(word, str(path)) for flag in flags]
    assert main([str(stores[kind]), "--truth", str(tmp_path / "truth.nc"), *ALL, *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_a_lead_time_without_truth_is_left_out(stores: dict[str, Path]) -> None:
    truth = truth_of(stores["forecasts"]).sel(time=slice(None, "2024-07-24T10"))
    result = verify(stores["forecasts"], truth, settings=FEW)
    assert [lead / HOUR for lead in result.by_lead] == [0, 6]
    assert "Left out, as the truth or members are missing: the lead times 12 h." in result.notes
    assert any(note.startswith("Lead time 6 h: 1 of 2 times are left out") for note in result.notes)


def test_starts_are_drawn_with_all_their_lead_times(stores: dict[str, Path]) -> None:
    """An interval of all lead times is that of the means over the lead times of each start."""
    result = verify(stores["forecasts"], truth_of(stores["forecasts"]), settings=FEW)
    (target,) = result.targets
    column = result.series["ensemble", "t2m"].column("crps")
    assert result.starts is not None and result.starts.tolist() == [0, 1, 0, 1, 0, 1]
    by_start = column.reshape(3, 2).mean(0)
    np.testing.assert_allclose(result._by_draw(column), by_start)
    assert float(result.score("crps", "ensemble", target).value) == pytest.approx(by_start.mean())


def test_the_regression_of_forecasts(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stores["coarse members"]
    truth_of(store).to_netcdf(tmp_path / "truth.nc")
    argv = [
        str(store),
        "--truth",
        str(tmp_path / "truth.nc"),
        *ALL,
        "--package",
        str(store.parent / "package"),
    ]
    assert main([*argv, "--device", "cpu"]) == 0
    assert "gain over regression" in capsys.readouterr().out
