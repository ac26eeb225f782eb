# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The store: what is in it, what opens it, and the other backends that a run can write to."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from earth2studio.io import KVBackend, NetCDF4Backend, XarrayBackend, ZarrBackend
from run_kit import (
    COARSE,
    NAMES,
    OUTPUTS,
    SHAPE,
    TIMES,
    Weather,
    bent,
    contents,
    load,
    make_package,
    same,
    straight,
    weather_file,
)

from earth2_corrdiff import InputError, demo, downscale, make_source
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.run.downscaling import Downscaling, Options

H, W = SHAPE
SEED = 5
KNOWN = {
    "mrr": ("dBZ", "equivalent_reflectivity_factor", "maximum radar reflectivity"),
    "t2m": ("K", "air_temperature", "temperature at 2 m"),
    "u10m": ("m s-1", "eastward_wind", "eastward wind at 10 m"),
    "v10m": ("m s-1", "northward_wind", "northward wind at 10 m"),
    "tcwv_lowres": (
        "kg m-2",
        "atmosphere_mass_content_of_water_vapor",
        "total column water vapour, coarse input",
    ),
    "z500_lowres": ("m2 s-2", "geopotential", "geopotential at 500 hPa, coarse input"),
    "refc_lowres": ("dBZ", "equivalent_reflectivity_factor", "composite radar reflectivity, coarse input"),
    "orography": ("m", "surface_altitude", "height of the terrain"),
    "land_fraction": ("1", "land_area_fraction", "fraction of land"),
    "lat": ("degrees_north", "latitude", "latitude"),
    "lon_lowres": ("degrees_east", "longitude", "longitude"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def store(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two times, three members, over the demo's weather."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    options = Options(seed=SEED, command="python my_run.py")
    downscale(TIMES, load(package), make_source("demo"), path, options=options)
    return path


def opened(path: Path) -> xr.Dataset:
    """As a user opens it, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path).load()


def test_xarray_opens_it_with_no_argument_and_no_warning(store: Path) -> None:
    ds = opened(store)
    assert dict(ds.sizes) == {
        **{"time": 2, "sample": 3, "ilat": H, "ilon": W},
        **{"lat_lowres": 36, "lon_lowres": 40},
    }
    assert set(ds.coords) == {"time", "sample", "ilat", "ilon", "lat", "lon", "lat_lowres", "lon_lowres"}
    lowres = {f"{name}_lowres" for name in (*NAMES, "refc")}
    assert set(ds.data_vars) == {*OUTPUTS.names, *lowres, "orography", "land_fraction", "member_seed"}
    assert ds.time.values.tolist() == np.array(TIMES, dtype="datetime64[ns]").tolist()
    assert ds["sample"].values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(ds.lat, bent().lat)
    np.testing.assert_array_equal(ds.lon, bent().lon)
    np.testing.assert_array_equal(ds.lat_lowres, COARSE.lat)
    assert set(ds.mrr.coords) == {"time", "sample", "ilat", "ilon", "lat", "lon"}


def test_chunks_hold_one_time_and_one_member(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    assert root.metadata.zarr_format == 3 and root.metadata.consolidated_metadata is not None
    assert not list(root.groups())  # Earth2Studio cannot reopen a store with groups
    for name in OUTPUTS.names:
        array = root[name]
        assert array.metadata.dimension_names == ("time", "sample", "ilat", "ilon")
        assert array.shape == (2, 3, H, W) and array.chunks == (1, 1, H, W)
        assert array.dtype == np.float32 and np.isnan(array.fill_value)
    for name in (*NAMES, "refc"):
        array = root[f"{name}_lowres"]
        assert array.metadata.dimension_names == ("time", "lat_lowres", "lon_lowres")
        assert array.dtype == np.float32 and array.chunks == (1, 36, 40) and np.isnan(array.fill_value)
    assert root["member_seed"].dtype == np.int64 and root["member_seed"].chunks == (1, 1)


def test_the_coarse_input_is_what_the_source_gave(store: Path) -> None:
    ds = opened(store)
    truth = demo.DemoWeather()(ds.time.values, [*NAMES, "refc"])
    for name in (*NAMES, "refc"):
        np.testing.assert_array_equal(ds[f"{name}_lowres"], truth.sel(variable=name))


def test_invariants_are_in_it(store: Path, package: Path) -> None:
    ds = opened(store)
    with xr.open_dataset(package / "invariants.nc") as invariants:
        for name in ("orography", "land_fraction"):
            assert ds[name].dims == ("ilat", "ilon") and "lat" in ds[name].coords
            np.testing.assert_array_equal(ds[name], invariants[name])


@pytest.mark.parametrize("name", KNOWN)
def test_units_and_names(store: Path, name: str) -> None:
    attributes = opened(store)[name].attrs
    assert (attributes["units"], attributes["standard_name"], attributes["long_name"]) == KNOWN[name]


def test_coordinates_say_what_they_are(store: Path) -> None:
    ds = opened(store)
    assert ds.time.attrs["standard_name"] == "time" and "UTC" in ds.time.attrs["long_name"]
    assert ds["sample"].attrs["standard_name"] == "realization"
    for variable in ds.data_vars.values():
        assert variable.attrs["long_name"]


def test_provenance(store: Path, package: Path) -> None:
    about = dict(opened(store).attrs)
    versions = json.loads(about.pop("versions"))
    assert set(versions) == {"earth2_corrdiff", "earth2studio", "torch", "numpy", "zarr"}
    assert (
        versions["torch"].startswith(torch.__version__.split("+")[0]) and "unknown" not in versions.values()
    )
    sha256 = about.pop("package_sha256")
    assert sha256 == load(package).spec.sha256 and len(sha256) == 64
    assert about == {
        "Conventions": "CF-1.11",
        "title": "CorrDiff downscaling of synthetic demo weather",
        "source": "demo",
        "package": str(package),
        "synthetic": 1,
        "synthetic_source": 1,
        "solver": "heun",
        "number_of_steps": 2,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "seed": SEED,
        "precision": "fp32",
        "device": "cpu",
        "command": "python my_run.py",
    }


def test_seeds_of_members(store: Path) -> None:
    ds = opened(store)
    for t, time in enumerate(ds.time.values):
        assert ds.member_seed[t].values.tolist() == [member_seed(SEED, time, i) for i in range(3)]


@pytest.mark.slow
def test_another_source_is_not_synthetic_and_has_no_refc(package: Path, tmp_path: Path) -> None:
    source = make_source(f"file:{weather_file(tmp_path / 'weather.nc')}")
    downscale(TIMES[0], load(package), source, tmp_path / "run.zarr")
    ds = opened(tmp_path / "run.zarr")
    assert ds.attrs["synthetic"] == 0 and ds.attrs["title"] == "CorrDiff downscaling"
    assert ds.attrs["source"] == f"file:{tmp_path}/weather.nc"
    assert "refc_lowres" not in ds and "t2m_lowres" in ds


@pytest.mark.slow
def test_a_synthetic_package_is_enough(tmp_path: Path) -> None:
    path = make_package(tmp_path / "package", synthetic=True)
    downscale(TIMES[0], load(path), Weather(), tmp_path / "run.zarr")
    about = opened(tmp_path / "run.zarr").attrs
    assert (about["synthetic"], about["synthetic_source"], about["source"]) == (1, 0, "Weather")
    assert about["title"] == "CorrDiff downscaling by a demo model trained on synthetic weather"


@pytest.mark.slow
def test_refc_that_a_source_should_have_but_has_not(package: Path, tmp_path: Path) -> None:
    """As with a mirror of GFS without it: Earth2Studio hands on NaN."""
    path = weather_file(tmp_path / "weather.nc", names=(*NAMES, "refc"))
    with xr.open_dataset(path) as ds:
        ds.assign(refc=ds.refc * np.nan).to_netcdf(tmp_path / "hollow.nc")
    downscale(TIMES, load(package), make_source(f"file:{tmp_path}/hollow.nc"), tmp_path / "run.zarr")
    assert "refc_lowres" not in opened(tmp_path / "run.zarr")
    downscale(TIMES, load(package), make_source(f"file:{path}"), tmp_path / "other.zarr")
    assert opened(tmp_path / "other.zarr").refc_lowres.notnull().all()


@pytest.mark.slow
def test_a_rectilinear_grid(tmp_path: Path) -> None:
    grid = straight((20, 36))
    path = make_package(tmp_path / "package", grid)
    downscale(TIMES[0], load(path), Weather(), tmp_path / "run.zarr")
    ds = opened(tmp_path / "run.zarr")
    assert ds.t2m.dims == ("time", "sample", "lat", "lon") and ds.t2m.shape == (1, 3, 20, 36)
    assert ds.t2m.notnull().all() and "ilat" not in ds.dims
    np.testing.assert_array_equal(ds.lat, grid.lat)
    np.testing.assert_array_equal(ds.lon, grid.lon)
    assert ds.sel(lat=24, lon=120, method="nearest").t2m.shape == (1, 3)


@pytest.mark.slow
def test_unwritten_cells_are_nan(package: Path, tmp_path: Path) -> None:
    """Of a run that was stopped after its second member; it opens without a warning, too."""
    run = iter(Downscaling(TIMES, load(package), Weather(), tmp_path / "run.zarr"))
    assert [member for _, member in (next(run), next(run))] == [0, 1]
    ds = opened(tmp_path / "run.zarr")
    written = ds.member_seed != -1
    assert written.values.tolist() == [[True, True, False], [False, False, False]]
    for name in OUTPUTS.names:
        assert (ds[name].notnull().all(("ilat", "ilon")) == written).all()
        assert (ds[name].isnull().all(("ilat", "ilon")) == ~written).all()
    assert ds.t2m_lowres[0].notnull().all() and ds.t2m_lowres[1].isnull().all()


@pytest.mark.slow
def test_earth2studio_reopens_and_writes_it(store: Path, tmp_path: Path) -> None:
    import shutil

    path = shutil.copytree(store, tmp_path / "copy.zarr")
    io = ZarrBackend(str(path))
    coords = OrderedDict(time=io["time"][1:], sample=np.array([2]), lat=io["lat"][:], lon=io["lon"][:])
    before = opened(path)
    field, _ = io.read(coords, "t2m")
    np.testing.assert_array_equal(field[0, 0], before.t2m[1, 2])
    io.write(torch.full((1, 1, H, W), 280.0), coords, "t2m")
    after = opened(path)
    assert (after.t2m[1, 2] == 280).all()
    before.t2m[1, 2] = 280
    xr.testing.assert_identical(after, before)


@pytest.mark.slow
def test_downscale_returns_the_backend(package: Path, tmp_path: Path) -> None:
    io = downscale(TIMES[0], load(package), Weather(), str(tmp_path / "run.zarr"), number_of_samples=2)
    assert isinstance(io, ZarrBackend) and io["t2m"].shape == (1, 2, H, W)


# backends that are open already


def members(store: Path, name: str) -> Any:
    return opened(store)[name].values


@pytest.mark.slow
def test_own_zarr_backend(package: Path, store: Path, tmp_path: Path) -> None:
    """The same store, attributes and all, in a file and in memory."""
    options = Options(seed=SEED, command="python my_run.py")
    io = ZarrBackend(str(tmp_path / "own.zarr"))
    assert downscale(TIMES, load(package), make_source("demo"), io, options=options) is io
    same(tmp_path / "own.zarr", store)
    memory = ZarrBackend()
    downscale(TIMES, load(package), make_source("demo"), memory, options=options)
    np.testing.assert_array_equal(memory["mrr"][:], members(store, "mrr"))
    assert memory.root.attrs["seed"] == SEED


@pytest.mark.slow
def test_own_zarr_backend_that_is_not_empty(package: Path, tmp_path: Path) -> None:
    io = ZarrBackend(str(tmp_path / "own.zarr"))
    io.add_array(OrderedDict(time=np.arange(2)), "something")
    before = contents(tmp_path / "own.zarr")
    for resume in (False, True):
        with pytest.raises(InputError, match="not empty; give an empty backend"):
            downscale(TIMES, load(package), Weather(), io, options=Options(resume=resume))
    assert contents(tmp_path / "own.zarr") == before


@pytest.mark.slow
def test_own_zarr_backend_is_resumed(package: Path, store: Path, tmp_path: Path) -> None:
    options = Options(seed=SEED, command="python my_run.py")
    run = iter(Downscaling(TIMES, load(package), make_source("demo"), ZarrBackend(str(tmp_path)), options))
    next(run)
    with pytest.raises(InputError, match="not empty"):
        downscale(TIMES, load(package), make_source("demo"), ZarrBackend(str(tmp_path)), options=options)
    with pytest.raises(InputError, match="seed 5 instead of 6"):
        again = Options(seed=6, resume=True)
        downscale(TIMES, load(package), make_source("demo"), ZarrBackend(str(tmp_path)), options=again)
    rest = Downscaling(
        TIMES, load(package), make_source("demo"), ZarrBackend(str(tmp_path)), Options(resume=True)
    )
    assert len(list(rest)) == rest.written == 5
    same(tmp_path, store)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [bent(), straight((20, 36))], ids=["bent", "straight"])
def test_other_backends(tmp_path: Path, grid: Any) -> None:
    """Fields and coordinates alone, with the values of the store."""
    path = make_package(tmp_path / "package", grid)
    model, options = load(path), Options(seed=SEED)
    downscale(TIMES, model, Weather(), tmp_path / "run.zarr", options=options)
    expected = opened(tmp_path / "run.zarr")
    kwargs = {"mode": "w", "diskless": False}
    backends = [
        XarrayBackend(OrderedDict()),
        NetCDF4Backend(str(tmp_path / "run.nc"), backend_kwargs=kwargs),
        KVBackend(),
    ]
    for io in backends:
        assert downscale(TIMES, model, Weather(), io, options=options) is io
        for name in OUTPUTS.names:
            np.testing.assert_array_equal(np.asarray(io[name][:]), expected[name])
    backends[1].close()
    with xr.open_dataset(tmp_path / "run.nc") as ds:
        np.testing.assert_array_equal(ds.lat, grid.lat)
        assert (
            ds.time.values.astype("datetime64[s]").tolist()
            == expected.time.values.astype("datetime64[s]").tolist()
        )
