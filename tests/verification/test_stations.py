# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verification at stations: places, reports of files and of sources, scores by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.interpolate import RegularGridInterpolator
from verification_kit import QUICK, TIMES, bent, build, flat

from earth2_corrdiff.base import studio
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.verify import main
from earth2_corrdiff.verification import verify_at_stations
from earth2_corrdiff.verification.reports import open_reports, read_csv
from earth2_corrdiff.verification.stations import Points

LAT, LON = np.array([23.1, 24.7, 22.03, 40.0, 25.0]), np.array([120.2, 122.9, 118.1, 120.0, 478.5])


def test_places_on_a_rectilinear_grid() -> None:
    """Against SciPy; longitudes in either convention; outside it there is nothing."""
    grid, field = flat(), np.random.default_rng(0).normal(size=(17, 26))
    points = Points(grid, LAT, LON)
    assert points.inside.tolist() == [True, True, True, False, True]
    want = RegularGridInterpolator((grid.lat[::-1], grid.lon), field[::-1])
    got = points(torch.from_numpy(field)).numpy()
    inside = np.stack([LAT, LON % 360], axis=1)[points.inside]
    np.testing.assert_allclose(got[points.inside], want(inside), rtol=1e-9)
    assert np.isnan(got[3])
    np.testing.assert_array_equal(points.part(np.array([1, 3]))(torch.from_numpy(field)), got[[1, 3]])


def test_places_on_a_curvilinear_grid() -> None:
    """Interpolated latitudes and longitudes are those of the places; points of the grid are themselves."""
    grid = bent()
    rng = np.random.default_rng(1)
    j, i = rng.integers(0, 19, 40), rng.integers(0, 27, 40)
    v, u = rng.uniform(size=(2, 40))
    lat, lon = (
        (1 - v) * ((1 - u) * a[j, i] + u * a[j, i + 1]) + v * ((1 - u) * a[j + 1, i] + u * a[j + 1, i + 1])
        for a in (grid.lat, grid.lon)
    )
    points = Points(grid, lat, lon)
    assert points.inside.all()
    for axis, want in ((grid.lat, lat), (grid.lon, lon)):
        np.testing.assert_allclose(points(torch.from_numpy(axis)), want, atol=1e-6)
    corners = Points(grid, grid.lat[[0, -1], [0, -1]], grid.lon[[0, -1], [0, -1]])
    field = torch.from_numpy(rng.normal(size=grid.shape))
    torch.testing.assert_close(corners(field), field[[0, -1], [0, -1]], rtol=0, atol=1e-5)
    assert not Points(grid, np.array([0.0, np.nan]), np.array([0.0, 120.0])).inside.any()


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on a bent grid, and reports of four stations in a file."""
    folder = tmp_path_factory.mktemp("stations")
    build(folder / "s.zarr", members=3)
    lines = [["time", "lat", "lon", "station", "t2m [degC]", "u10m", "v10m", "quality"]]
    for time in TIMES:
        for name, lat, lon, warm in (
            ("A", 24, 121, 22),
            ("B", 23.3, 119.5, 21),
            ("far", 40, 121, 1),
            ("C", 25, 122, ""),
        ):
            lines.append([str(time)[:16], lat, lon, name, warm, 3.5, -2.0, "ok"])
    lines.append(
        [str(TIMES[0] + np.timedelta64(6, "m"))[:16], 24, 121, "A", 5, 1, 1, ""]
    )  # later: not the nearest
    lines.append(["2024-07-24T03:00", 24, 121, "A", 5, 1, 1, ""])
    lines.append([str(TIMES[1])[:16], 25, 122, "C", 400, "", "", ""])
    with (folder / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


@pytest.mark.slow
def test_scores_and_counts(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand, from fields that SciPy does not interpolate: the places' own weights, and plain NumPy."""
    ((lead, found),) = verify_at_stations(kit / "s.zarr", str(kit / "r.csv"), settings=QUICK)
    assert lead is None and found.used == {"t2m": (2, 16), "u10m": (3, 24), "v10m": (3, 24), "ws10m": (3, 24)}
    said = " ".join(found.notes)
    for text in ("35 reports of 4 stations", "8 reports are left out: outside", "no mrr", "1 values of t2m"):
        assert text in said, text
    assert "1 reports are left out: more than 10 minutes" in said and "without a correction" in said
    ds = xr.open_zarr(kit / "s.zarr")
    points = Points(bent(), np.array([24, 23.3]), np.array([121, 119.5]))
    x = np.stack(
        [[points(torch.from_numpy(f)).numpy() for f in case] for case in ds["t2m"].values.astype(float)]
    )
    y = np.array([295.15, 294.15])
    target = found.result.targets[0]
    want = np.abs(x - y).mean(1) - np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (2 * 3 * 2)
    assert target.name == "t2m"
    assert float(found.result.score("crps", "ensemble", target).value) == pytest.approx(want.mean())
    rmse = np.sqrt(((x.mean(1) - y) ** 2).mean())
    assert float(found.result.score("rmse", "ensemble", target).value) == pytest.approx(rmse)
    ratio = np.sqrt(4 / 3 * x.var(1, ddof=1).mean()) / rmse
    assert float(found.result.score("spread_skill", "ensemble", target).value) == pytest.approx(ratio)
    output = tmp_path / "out.csv"
    flags = ["--stations", str(kit / "r.csv"), "--output", str(output), "--bootstrap", "0"]
    assert main([str(kit / "s.zarr"), *flags]) == 0
    assert "interpolation" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out-stations.csv").open()))
    mine = next(r for r in rows if (r["variable"], r["forecast"], r["score"]) == ("t2m", "ensemble", "crps"))
    assert float(mine["value"]) == pytest.approx(want.mean(), rel=1e-6) and mine["reports"] == "16"


def test_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Earth2Studio's source is asked for, and its long table."""
    asked: dict[str, Any] = {}

    class Source:
        def __init__(self, stations: list[str], **how: Any) -> None:
            asked.update(stations=stations, **how)

        @staticmethod
        def get_stations_bbox(box: tuple[float, ...]) -> list[str]:
            asked["box"] = box
            return ["a", "b"]

        def __call__(self, time: list[Any], variable: list[str]) -> pd.DataFrame:
            asked["variable"] = variable
            rows = [("a", "t2m", 290.0), ("a", "u10m", 2.0), ("b", "t2m", 9999.9), ("b", "u10m", np.nan)]
            return pd.DataFrame(
                [
                    {
                        "time": pd.Timestamp(time[0]),
                        "lat": 24.0,
                        "lon": 121.0,
                        "station": s,
                        "variable": v,
                        "observation": x,
                    }
                    for s, v, x in rows
                ]
            )

    monkeypatch.setattr(studio, "ISD", Source, raising=False)
    monkeypatch.setattr(
        studio, "ISDLexicon", type("Lexicon", (), {"VOCAB": {"t2m": "", "u10m": ""}}), raising=False
    )
    found = open_reports("isd", TIMES[:1], flat(), ["t2m", "mrr", "u10m"])
    assert asked["box"] == (22, 118, 26, 124) and asked["variable"] == ["t2m", "u10m"]
    assert len(found) == 2 and found.values["t2m"][0] == 290 and np.isnan(found.values["t2m"][1])
    pacific = Grid(np.array([0.0, 1.0]), np.array([-179.0, -170.0]))
    open_reports("isd", TIMES[:1], pacific, ["t2m"])
    assert asked["box"] == (0, 181, 1, 190)
    with pytest.raises(InputError, match="isd have no mrr"):
        open_reports("isd", TIMES[:1], flat(), ["mrr"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,lat\n", "no column lat, lon|no line"),
        ("time,lat,lon,t2m\n2024-07-24,24,x,1\n", "column lon .* must have numbers"),
        ("time,lat,lon,t2m [mm]\n2024-07-24,24,1,1\n", "'mm' is not a valid unit of t2m"),
        ("time,lat,lon,remark\n2024-07-24,24,1,fine\n", "no column of a variable"),
        ("time,lat,lon,t2m\nsoon,24,1,1\n", "soon"),
    ],
)
def test_files_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_csv(tmp_path / "r.csv")
