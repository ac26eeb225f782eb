# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of one fine source: block means, gaps, projected grids, every run of a file of forecasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import curved, hills

from earth2_corrdiff.base.block_means import Blocks, block_means, mean_grid
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.make_pairs import main
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile


def test_block_means_by_hand() -> None:
    field = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert np.array_equal(block_means(field, 2), [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])
    assert block_means(field, 1) is field
    field[0, 0] = np.nan
    field[2, :2] = np.nan  # half of a block
    field[2:, 2:4] = np.nan
    field[0, 4:], field[1, 4] = np.nan, np.nan  # three of four
    got = block_means(field, 2)
    assert got[0, 0] == pytest.approx((1 + 6 + 7) / 3) and got[1, 0] == pytest.approx((18 + 19) / 2)
    assert np.isnan(got[1, 1]) and np.isnan(got[0, 2])


def test_grids_of_block_means() -> None:
    lat, lon = np.linspace(20, 23, 4), np.linspace(100, 110, 6)
    straight = mean_grid(Grid(lat, lon), 2)
    assert np.allclose(straight.lat, [20.5, 22.5]) and np.allclose(straight.lon, [101, 105, 109])
    seam = np.array([[179.0, 179.8, -179.4, -178.6]] * 2)
    lats = np.array([[10.0] * 4, [11.0] * 4])
    bent = mean_grid(Grid(np.vstack([lats, lats + 2]), np.vstack([seam, seam])), 2)
    assert bent.curvilinear and np.allclose(bent.lon % 360, [[179.4, 181.0]] * 2, atol=1e-4)


def forecasts(path: Path, missing: bool = False) -> xr.Dataset:
    """Two runs of three lead times on a projected grid; the last field of the second run is empty."""
    grid, rng = curved(18, 26), np.random.default_rng(0)
    start = np.array(["2026-02-01T00", "2026-02-01T06"], "datetime64[ns]")
    lead = np.array([0, 6, 12])
    fields = {
        "t2m": 280 + rng.normal(0, 1, (2, 3, 18, 26)),
        "rain6": rng.gamma(0.5, 2, (2, 3, 18, 26)),
    }
    fields["t2m"][1, 2] = np.nan
    if missing:
        fields["rain6"][0, 1, :3, :3] = np.nan
    data = xr.Dataset(
        {name: (("init_time", "lead", "y", "x"), values) for name, values in fields.items()},
        {
            "init_time": start,
            "lead": lead,
            "valid_time": (("init_time", "lead"), start[:, None] + lead * np.timedelta64(1, "h")),
            "lat": (("y", "x"), grid.lat),
            "lon": (("y", "x"), grid.lon),
        },
    )
    data["rain6"].attrs["units"], data["t2m"].attrs["units"] = "kg m-2", "K"
    data.to_netcdf(path)
    return data


def test_every_run_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs with one valid time are pairs of their own, in Earth2Studio's units and names."""
    data = forecasts(tmp_path / "runs.nc")
    xr.Dataset(
        {"orography": (("y", "x"), hills(curved(18, 26))[0])},
        {"lat": data["lat"], "lon": data["lon"]},
    ).to_netcdf(tmp_path / "terrain.nc")
    words = [
        *(
            "--fine",
            str(tmp_path / "runs.nc"),
            "--coarse-from-fine",
            "4",
            "--times",
            "all",
            "--every-run",
            "6",
        ),
        *("--inputs", "t2m,tp06=rain6", "--outputs", "tp06=rain6", "--multiple", "8"),
        *("--invariants", str(tmp_path / "terrain.nc"), "--output", str(tmp_path / "pairs.zarr")),
    ]
    assert main(words) == 0
    assert "1 of 4 times have no values and are left out" in capsys.readouterr().out
    assert main([*words, "--append"]) == 0
    assert capsys.readouterr().out.endswith("pairs.zarr has 3 pairs\n")
    pairs = PairFile(tmp_path / "pairs.zarr")
    assert pairs.channels == Channels(("t2m", "tp06"), ("tp06",), ("orography",))
    assert [str(time)[11:13] for time in pairs.times] == ["06", "12", "12"]
    assert pairs.fine_grid.shape == (16, 24) and pairs.coarse_grid.shape == (4, 6)
    assert pairs.invariant_fields is not None and pairs.invariant_fields.shape == (1, 16, 24)
    got = pairs.read([0, 1, 2])
    inner = data.isel(y=slice(1, 17), x=slice(1, 25))
    runs = ((0, 1), (1, 1), (0, 2))  # by valid time, then lead time
    for number, (run, lead) in enumerate(runs):
        warm, rain = (inner[name][run, lead].to_numpy() for name in ("t2m", "rain6"))
        assert np.allclose(got.fine[number, 0], rain / 1000, rtol=1e-6)
        assert np.allclose(got.coarse[number, 0], warm.reshape(4, 4, 6, 4).mean((1, 3)), rtol=1e-6)
        assert np.allclose(got.coarse[number, 1], rain.reshape(4, 4, 6, 4).mean((1, 3)) / 1000, rtol=1e-5)


def test_gaps_are_kept_and_must_be_allowed(tmp_path: Path) -> None:
    forecasts(tmp_path / "runs.nc", missing=True)
    channels, area = Channels(("rain6",), ("rain6",)), Area(multiple=4)
    least = np.timedelta64(6, "h")
    path = tmp_path / "p.zarr"
    list(make_own_pairs(tmp_path / "runs.nc", "all", channels, path, Blocks(4, 2), area, least))
    with pytest.raises(InputError, match="missing values"):
        PairFile(path).read([0])
    got = PairFile(path, gaps=True).read([0])
    gaps = torch.isnan(got.fine[0, 0])
    assert (
        got.fine.shape == (1, 1, 8, 12) and gaps.sum() == 1 and gaps[0, 0]
    )  # 2 x 2 points of 3 x 3, trimmed
    assert not torch.isnan(got.coarse).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coarse", "gfs"], "either --coarse or"),
        (["--coarse-from-fine", "1"], "2 or more"),
        (["--coarse-from-fine", "4", "--margin", "1"], "margin"),
        (["--coarse-from-fine", "4", "--every-run", "100"], "no lead time of"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forecasts(tmp_path / "runs.nc")
    if "gfs" in words:
        words = [*words, "--coarse-from-fine", "4"]
    more = ["--fine", str(tmp_path / "runs.nc"), "--times", "all", "--inputs", "t2m", "--outputs", "t2m"]
    with pytest.raises(SystemExit):
        main([*more, "--coarse-from-fine", "4", "--every-run", "-3", "--output", str(tmp_path / "p.zarr")])
    assert "needs a lead time of 0 hours or more, got -3" in capsys.readouterr().err
    assert main([*words, *more, "--output", str(tmp_path / "p.zarr")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "p.zarr").exists()
