# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of ``CorrDiffEra5Hrrr`` into stores on the axes of its projection; pictures and scores of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hrrr_kit import INPUTS, OUTPUTS, SHAPE, make_hrrr

from earth2_corrdiff import CorrDiffEra5Hrrr, downscale, make_source
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.plotting import open_store
from earth2_corrdiff.run import Options
from earth2_corrdiff.run.packages import load_model

TIMES = ["2024-07-24T06:00", "2024-07-24T12:00"]


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the inputs around the domain, from south to north."""
    lat, lon = np.arange(36, 41.1, 0.25), np.arange(257, 264.1, 0.25)
    rng = np.random.default_rng(2)
    fields = {
        name: (("time", "lat", "lon"), rng.normal(size=(2, lat.size, lon.size)) + level)
        for name, level in zip(INPUTS, (290.0, 3.0, 20.0), strict=True)
    }
    path = tmp_path_factory.mktemp("weather") / "era5.nc"
    xr.Dataset(fields, {"time": np.array(TIMES, "datetime64[ns]"), "lat": lat, "lon": lon}).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CorrDiffEra5Hrrr:
    folder = make_hrrr(tmp_path_factory.mktemp("hrrr"), num_steps=2)
    made = load_model(ModelOptions(str(folder), "cpu", "fp32"))
    assert isinstance(made, CorrDiffEra5Hrrr)
    return made


@pytest.fixture(scope="module")
def store(model: CorrDiffEra5Hrrr, weather: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "out.zarr"
    downscale(TIMES, model, make_source(f"file:{weather}"), path, options=Options(seed=3))
    return path


def test_a_store_on_y_and_x(store: Path, model: CorrDiffEra5Hrrr, weather: Path) -> None:
    ds = open_store(store)
    assert ds["refc"].dims == ("time", "sample", "y", "x") and ds["refc"].shape == (2, 2, *SHAPE)
    np.testing.assert_array_equal(ds["y"], model.hrrr_y)
    np.testing.assert_array_equal(ds["x"], model.hrrr_x)
    assert ds["x"].attrs == {"standard_name": "projection_x_coordinate", "units": "m"}
    assert ds["lat"].dims == ds["lon"].dims == ("y", "x") and {"lat", "lon"} <= set(ds["refc"].coords)
    np.testing.assert_array_equal(ds["lat"], model.spec.output_grid.lat)
    assert ds.attrs["schedule"] == "rectified_flow, t_max 0.99, shift 32, clip 0.05"
    assert "sigma_max" not in ds.attrs and ds.attrs["stages"] == "diffusion"
    with xr.open_dataset(weather) as file:
        near = file.sel(lat=model.lat_input_numpy, lon=model.lon_input_numpy)
        x = torch.from_numpy(np.stack([near[name].values for name in INPUTS], axis=1)).float()
    for case, time in enumerate(TIMES):
        seeds = [int(seed) for seed in ds["member_seed"][case]]
        want = model.downscaler(x[case : case + 1], seeds, valid_times=[time])[0]
        for i, name in enumerate(OUTPUTS):
            np.testing.assert_allclose(ds[name][case], want[:, i], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_lost_parts_are_made_again_and_other_settings_are_refused(
    store: Path, model: CorrDiffEra5Hrrr, weather: Path
) -> None:
    before = open_store(store).load()
    source = make_source(f"file:{weather}")
    for part in ("refc/c/1", "lat/c", "y/c"):
        for path in [p for p in (store / part).rglob("*") if p.is_file()]:
            path.unlink()
    downscale(TIMES, model, source, store, options=Options(seed=3, resume=True))
    xr.testing.assert_identical(open_store(store).load(), before)
    model.shift = 16.0
    with pytest.raises(InputError, match="shift 32.* instead of .*shift 16"):
        downscale(TIMES, model, source, store, options=Options(seed=3, resume=True))
    model.shift = 32.0


@pytest.mark.slow
def test_pictures_and_scores(store: Path, tmp_path: Path) -> None:
    from earth2_corrdiff.cli import plot, verify

    assert plot.main([str(store), "--variables", "refc", "t2m", "--output-dir", str(tmp_path)]) == 0
    assert list(tmp_path.glob("*.png"))
    truth = tmp_path / "truth.nc"
    open_store(store)[["mslp"]].isel(sample=0, drop=True).load().to_netcdf(truth)
    words = [str(store), "--truth", str(truth), "--no-report", "--variables", "mslp"]
    assert verify.main(words) == 0
