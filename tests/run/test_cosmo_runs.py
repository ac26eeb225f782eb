# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of ``CorrDiffCosmoEra5`` for a region, with winds at a hub height, from the command's options."""

from __future__ import annotations

from pathlib import Path

import cosmo_kit as kit
import numpy as np
import pytest
import torch
import xarray as xr

from earth2_corrdiff import CorrDiffCosmoEra5, downscale, make_source
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli import plot, verify
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.plotting import open_store
from earth2_corrdiff.run import Options
from earth2_corrdiff.run.packages import load_model

TIMES = [str(time)[:16] for time in kit.TIMES[[0, 2]]]  # at night and at noon
REGION = "48.9,50.3,9.6,11.3"


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the inputs around the region."""
    lat, lon = np.arange(45, 54.6, 0.5), np.arange(5, 16.1, 0.5)
    fields = {
        name: (("time", "lat", "lon"), kit.coarse((2, lat.size, lon.size), i).numpy() + level)
        for i, (name, level) in enumerate(zip(kit.INPUTS, (0.0, 0.0, 280.0, 98000.0), strict=True))
    }
    path = tmp_path_factory.mktemp("weather") / "era5.nc"
    xr.Dataset(fields, {"time": np.array(TIMES, "datetime64[ns]"), "lat": lat, "lon": lon}).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As one with reasonable numbers for such weather."""
    folder = kit.make_cosmo(tmp_path_factory.mktemp("cosmo"))
    levels = {"t2m": {"mean": 280.0, "std": 5.0}, "sp": {"mean": 98000.0, "std": 500.0}}
    kit.edit(folder / "rea6/stats.json", lambda stats: stats["era5"].update(levels))
    return str(folder)


@pytest.mark.slow
def test_a_store_of_a_region(package: str, weather: Path, tmp_path: Path) -> None:
    options = ModelOptions(package, "cpu", "fp32", mode="diffusion", hub_heights="50", region=REGION)
    model, source, path = load_model(options), make_source(f"file:{weather}"), tmp_path / "out.zarr"
    assert isinstance(model, CorrDiffCosmoEra5)
    downscale(TIMES, model, source, path, options=Options(seed=3))
    ds = open_store(path).load()
    np.testing.assert_array_equal(ds["lat"], model.spec.output_grid.lat)
    assert ds["tp"].attrs["units"] == "m"
    assert ds["elevation"].shape == model.spec.output_grid.shape
    assert not ds["aswdir_s"][0].any()  # at night
    assert ds["aswdir_s"][1].min() > 0
    with xr.open_dataset(weather) as file:
        near = file.sel(lat=model.lat_input_numpy, lon=model.lon_input_numpy)
        x = torch.from_numpy(np.stack([near[name].values for name in kit.INPUTS], axis=1)).float()
    for case, time in enumerate(TIMES):
        seeds = [int(seed) for seed in ds["member_seed"][case]]
        want = model.downscaler(x[case : case + 1], seeds, valid_times=[time])[0]
        for i, name in enumerate(model.spec.output_variables):
            np.testing.assert_allclose(ds[name][case], want[:, i], rtol=1e-5, atol=1e-5)
    for part in [part for part in (path / "u50m/c/1").rglob("*") if part.is_file()]:
        part.unlink()
    downscale(TIMES, model, source, path, options=Options(seed=3, resume=True))
    xr.testing.assert_identical(open_store(path).load(), ds)
    assert plot.main([str(path), "--variables", "aswdir_s", "u50m", "--output-dir", str(tmp_path)]) == 0
    truth = tmp_path / "truth.nc"
    ds[["tp"]].isel(sample=0, drop=True).to_netcdf(truth)
    assert verify.main([str(path), "--truth", str(truth), "--no-report", "--variables", "tp"]) == 0


def test_the_mean_is_one_field(package: str, weather: Path, tmp_path: Path) -> None:
    model = load_model(ModelOptions(package, "cpu", "fp32", mode="mean", samples=1))
    downscale(
        TIMES[:1], model, make_source(f"file:{weather}"), tmp_path / "out.zarr", options=Options(seed=3)
    )
    assert open_store(tmp_path / "out.zarr")["t2m"].shape == (1, 1, *kit.NATIVE)
    with pytest.raises(InputError, match="multiple|patches"):
        load_model(ModelOptions(package, "cpu", "fp32", mode="diffusion", patch="7x7"))
