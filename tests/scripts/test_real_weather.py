# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The script of real weather, on an agency's file of a few runs and a package of random networks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from tiny import curved, make_networks

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from bench import real_command, real_weather  # noqa: E402

from earth2_corrdiff.base.block_means import Blocks  # noqa: E402
from earth2_corrdiff.base.errors import InputError  # noqa: E402
from earth2_corrdiff.model.packages.writer import save_package  # noqa: E402
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics  # noqa: E402
from earth2_corrdiff.training.pairs import PairFile  # noqa: E402

NAMES = ("t2m", "tp06")
STUDY = replace(
    real_weather.STUDIES[0],
    file="agency.nc",
    inputs=("t2m", "tp06=tp6h"),
    outputs=("t2m", "tp06=tp6h"),
    blocks=Blocks(4),
    fit="2026-02-01/2026-02-01T18",
    validation="2026-02-02/2026-02-02T01",
    test="2026-02-02T06/2026-02-02T12",
    fewest=2,
    pictures=(("tp06", 10.0),),
)


def agency(path: Path) -> None:
    """Runs of every six hours with two lead times, by an agency's names and units."""
    rng, grid = np.random.default_rng(0), curved(18, 36)
    start = np.arange("2026-02-01T00", "2026-02-02T07", 6, dtype="datetime64[h]").astype("datetime64[ns]")
    dims, lead = ("init_time", "lead", "y", "x"), np.array([0, 6, 12])
    warm, rain = 285 + rng.normal(size=(6, 3, *grid.shape)), rng.gamma(0.5, 6, (6, 3, *grid.shape))
    data = {"t2m": (dims, warm, {"units": "K"}), "tp6h": (dims, rain, {"units": "kg m-2"})}
    valid = start[:, None] + lead * np.timedelta64(1, "h")
    coords = {"init_time": start, "lead": lead, "valid_time": (dims[:2], valid)}
    xr.Dataset(data, {**coords, "lat": (dims[2:], grid.lat), "lon": (dims[2:], grid.lon)}).to_netcdf(path)


@pytest.mark.slow
def test_runs_verifies_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agency(tmp_path / "agency.nc")
    pairs = PairFile(real_weather.make_pairs(STUDY, tmp_path, tmp_path))
    stats = Statistics(NAMES, (285.0, 3e-3), (1.0, 4e-3))
    spec = CorrDiffSpec(
        stats,
        stats,
        pairs.coarse_grid,
        pairs.fine_grid,
        sampling=Sampling("euler", 1),
        regridding="index",
        blocks=pairs.blocks,
    )
    save_package(tmp_path / "package", spec, *make_networks(spec, attn_resolutions=[]))
    monkeypatch.setattr(real_weather, "STUDIES", (STUDY, real_weather.STUDIES[1]))
    flags = ["--taiwan", str(tmp_path / "package"), "--conus", "none", "--members", "2", "--bootstrap", "50"]
    out = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    assert real_command.main([str(tmp_path), *flags, *out]) == real_command.NOT_MET
    said = capsys.readouterr().out
    for text in (
        *("CRPS below ridge regression's", "FAIL", "Nearest training field", "maximum", "regression + noise"),
        *("fitted on 5 fields of 3 times", "Central Weather Administration", "Perfect prognosis"),
        "2 lead times",
    ):
        assert text in said, text
    picture = tmp_path / "out" / "taiwan-3km-tp06.png"
    assert picture.stat().st_size < 250_000 and min(Image.open(picture).size) > 500
    store = tmp_path / "out" / "taiwan-3km-lead-6h.zarr"
    assert (tmp_path / "out" / "taiwan-3km.html").is_file() and store.is_dir()
    part = real_weather.Part(np.timedelta64(12, "h"), STUDY.test_times)
    with pytest.raises(InputError, match="is not that of the pairs"):  # another run's weather
        real_weather.check_input(store, tmp_path / "out" / "taiwan-3km-pairs.zarr", part)
    assert real_command.main([str(tmp_path), "--taiwan", "none", *out]) == 2
    assert "has no mrms_qpe1h_conus.nc" in capsys.readouterr().err
