# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the newer models through the commands: from files of coarse weather to stores and pictures."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from cmip6_kit import COARSE, INPUTS, INVARIANTS, OUTPUTS, SHAPE, make_cmip6
from cosmo_kit import NATIVE, make_cosmo

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli import plot, run, verify
from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages.names import PUBLISHED, default_source, variant
from earth2_corrdiff.plotting import open_store
from earth2_corrdiff.run.packages import load_model, published
from earth2_corrdiff.service.decode import check_weather, read_array
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.job_runner import held
from earth2_corrdiff.sources import Inputs, Source, make_source

DAYS = np.array([f"2037-09-0{day}T12" for day in (5, 6, 7, 8)], "datetime64[ns]")


def command(module: Any, *words: object) -> tuple[int, str]:
    """Status and output of a command."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        status = module.main([str(word) for word in words])
    return status, text.getvalue()


@pytest.fixture(scope="module")
def climate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package of the layout of CMIP6, and four days of its input, with gaps in the sea ice."""
    folder = tmp_path_factory.mktemp("climate")
    package = make_cmip6(folder / "package")
    stats = json.loads((package / "stats.json").read_text())
    stats["input"]["t2m"] = {"mean": 280.0, "std": 10.0}
    (package / "stats.json").write_text(json.dumps(stats))
    (h, w), rng = COARSE, np.random.default_rng(1)
    values = {"t2m": rng.uniform(250, 300, (4, h, w)), "snc": rng.uniform(0, 100, (4, h, w))}
    values["siconc"] = np.where(rng.random((4, h, w)) < 0.5, np.nan, 40.0)
    grid = xr.open_dataset(package / "input_latlon_grid.nc")
    data = {name: (("time", "lat", "lon"), field.astype("f4")) for name, field in values.items()}
    xr.Dataset(data, {"time": DAYS, "lat": grid.lat, "lon": grid.lon}).to_netcdf(folder / "days.nc")
    return package, folder / "days.nc"


@pytest.mark.slow
def test_hours_of_days_from_daily_means(climate: tuple[Path, Path], tmp_path: Path) -> None:
    """Valid times of two days: each equal to the model's own call on three days around its own."""
    package, days = climate
    store = tmp_path / "out.zarr"
    words = (
        "2037-09-06T03",
        "2037-09-06T21",
        "2037-09-07T03",
        "--package",
        package,
        "--source",
        f"file:{days}",
    )
    settings = ("--precision", "fp32", "--device", "cpu", "--samples", 2, "--seed", 4, "--output", store)
    status, said = command(run, *words, *settings, "--compress", "bounded,t2m=0.1,q700=0.01")
    assert status == 0, said
    ds = open_store(store)
    assert (
        ds["t2m"].shape == (3, 2, *SHAPE) and set(OUTPUTS) <= set(ds) and ds.attrs["coarse"] == "daily means"
    )
    model = load_model(ModelOptions(str(package), "cpu", "fp32"))
    with xr.open_dataset(days) as file:
        x = torch.from_numpy(np.stack([file[name].values for name in INPUTS], axis=1))
        np.testing.assert_array_equal(ds["t2m_lowres"][2], file["t2m"][2])  # of the day itself
    for case, (time, first) in enumerate((("2037-09-06T21", 0), ("2037-09-07T03", 1)), 1):
        seeds = [int(seed) for seed in ds["member_seed"][case]]
        wanted = model.downscaler(x[None, first : first + 3], seeds, valid_times=[np.datetime64(time)])
        np.testing.assert_allclose(ds["u10m"][case], wanted[0, :, 0], atol=0.021)
    invariants = xr.open_dataset(package / "invariants.nc")
    for name in INVARIANTS:  # the right way up
        np.testing.assert_array_equal(ds[name], invariants[name])
    before = ds["u10m"].values
    for path in (store / "u10m" / "c" / "1").rglob("*"):
        if path.is_file():
            path.unlink()
    status, said = command(run, *words, *settings, "--compress", "bounded,t2m=0.1,q700=0.01", "--resume")
    assert status == 0 and "2 of 6 members were missing" in said  # gaps in sea ice are none in the store
    np.testing.assert_array_equal(open_store(store)["u10m"], before)
    status, said = command(
        plot, store, "--variables", "t2m", "ws10m", "--sample", 0, "--output-dir", tmp_path
    )
    assert status == 2 and "no quantity ws10m" in said
    status, said = command(verify, store, "--truth", store, "--package", package, "--no-report")
    assert status == 2 and "takes fields of several days" in said


def test_days_are_read_once_for_all_their_hours(climate: tuple[Path, Path]) -> None:
    package, days = climate
    spec = load_model(ModelOptions(str(package), "cpu", "fp32")).spec
    source = make_source(f"file:{days}")
    read: list[Any] = []
    data = source.data
    source.__dict__["data"] = lambda time, names: (read.append(time[0]), data(time, names))[1]
    inputs = Inputs.of(source, source.cases("2037-09-06T00/2037-09-07T18/6h"), spec)
    assert inputs.fetch(0, INPUTS).shape == (3, 3, *COARSE)
    for number in range(1, 8):
        inputs.fetch(number, INPUTS)
    assert read == list(DAYS)
    assert inputs.whole == ["t2m"]


def test_a_job_holds_the_days_that_its_times_share(climate: tuple[Path, Path]) -> None:
    package, days = climate
    spec = load_model(ModelOptions(str(package), "cpu", "fp32")).spec
    order = SimpleNamespace(times=["2037-09-06T03", "2037-09-07T00", "2037-09-06T00"], lead_time=None)
    job: Any = SimpleNamespace(order=order, stopped=False)
    metrics: Any = SimpleNamespace(fetch=lambda name, worked: None)
    source = make_source(f"file:{days}")
    kept = held(source, job, spec, metrics)
    assert isinstance(kept, Source)
    cases = kept.cases(order.times)
    for number in range(3):
        fields = [Inputs.of(one, cases, spec).fetch(number, INPUTS) for one in (source, kept)]
        torch.testing.assert_close(*fields, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("times", "source", "says"),
    [
        (
            "2037-09-05T00",
            "days",
            "has 4 times from 2037-09-05T12:00 to 2037-09-08T12:00; got 2037-09-04T12:00",
        ),
        ("2037-09-09T00", "days", "got 2037-09-09T12:00"),
        ("2024-07-24T00", "demo", "the source demo has no siconc, snc"),
        (
            "2020-07-24T00",
            "arco",
            "has no siconc|takes daily means, and the source arco has fields of an hour",
        ),
        ("2037-09-06T00", "cmip6:CanESM5", "names no climate model; use cmip6:MODEL,SCENARIO,MEMBER"),
        ("2037-09-06T00", "cmip6:CanESM5,ssp585,r1i1p2f1", "pip install intake-esgf"),
    ],
)
def test_sources_that_do_not_fit_daily_means(
    climate: tuple[Path, Path], tmp_path: Path, times: str, source: str, says: str
) -> None:
    package, days = climate
    name = f"file:{days}" if source == "days" else source
    with pytest.raises(InputError, match=says):
        made = make_source(name)
        Inputs.of(made, made.cases(times), load_model(ModelOptions(str(package), "cpu", "fp32")).spec)


def test_a_file_of_hours_holds_no_daily_means(climate: tuple[Path, Path], tmp_path: Path) -> None:
    package, days = climate
    with xr.open_dataset(days) as file:
        hours = xr.concat([file, file.assign_coords(time=file.time + np.timedelta64(6, "h"))], "time")
        hours.to_netcdf(tmp_path / "hours.nc")
    source, spec = make_source(f"file:{tmp_path / 'hours.nc'}"), load_model(ModelOptions(str(package))).spec
    with pytest.raises(
        InputError, match=r"takes daily means, and the source .*hours.nc has fields of an hour"
    ):
        Inputs.of(source, source.cases("2037-09-06T12"), spec)


@pytest.fixture(scope="module")
def europe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A package of COSMO-REA6, and the name of a source with one time of its input."""
    folder = tmp_path_factory.mktemp("europe")
    make_cosmo(folder / "package")
    lat, lon = np.arange(44, 56.1, 0.5), np.arange(4, 18.1, 0.5)
    rng = np.random.default_rng(2)
    means = {"u10m": 0.0, "v10m": 0.0, "t2m": 280.0, "sp": 98000.0}
    data = {
        name: (("time", "lat", "lon"), rng.normal(mean, 3, (1, lat.size, lon.size)).astype("f4"))
        for name, mean in means.items()
    }
    time = np.array(["2024-07-24T12"], "datetime64[ns]")
    xr.Dataset(data, {"time": time, "lat": lat, "lon": lon}).to_netcdf(folder / "era5.nc")
    return folder / "package", f"file:{folder / 'era5.nc'}"


@pytest.mark.parametrize(
    ("mode", "region"), [("mean", None), ("diffusion", None), ("diffusion", "47.8,49.7,9.1,10.9")]
)
@pytest.mark.slow
def test_cosmo_in_both_modes_and_in_a_region(
    europe: tuple[Path, str], tmp_path: Path, mode: str, region: str | None
) -> None:
    """Each member is the model's own field of that seed; the mean is one; static fields fit the grid."""
    package, source = europe
    store, time = tmp_path / "out.zarr", "2024-07-24T12:00"
    options = ["--mode", mode, "--hub-heights", "40"] + ([] if region is None else [f"--region={region}"])
    words = (time, "--package", package, "--source", source, "--precision", "fp32", "--device", "cpu")
    status, said = command(run, *words, *options, "--seed", 3, "--output", store)
    assert status == 0, said
    ds = open_store(store)
    chosen = ModelOptions(str(package), "cpu", "fp32", mode=mode, hub_heights="40", region=region)
    model = load_model(chosen)
    spec = model.spec
    assert ds.sizes["sample"] == (1 if mode == "mean" else 2)
    assert ds["u40m"].shape[2:] == spec.output_grid.shape == ds["elevation"].shape
    np.testing.assert_array_equal(ds["lat"], spec.output_grid.lat)
    if region is not None:
        assert (NATIVE[0], NATIVE[1]) > ds["t2m"].shape[2:]
        assert float(ds["lat"].min()) < 47.9 and float(ds["lat"].max()) > 49.6
    made = make_source(source)
    coarse = Inputs.of(made, made.cases(time), spec).fetch(0, spec.inputs.names)
    seeds = [int(seed) for seed in ds["member_seed"][0]]
    wanted = model.downscaler(coarse[None], seeds, valid_times=[np.datetime64(time)])[0]
    for channel, name in enumerate(spec.output_variables):
        np.testing.assert_allclose(ds[name][0], wanted[:, channel], rtol=1e-5, atol=1e-5, err_msg=name)
    if mode == "diffusion" and region is None:
        ds[["ashfl_s"]].isel(sample=0, drop=True).load().to_netcdf(tmp_path / "truth.nc")
        words = (store, "--truth", tmp_path / "truth.nc", "--variables", "ashfl_s", "--no-report")
        status, said = command(verify, *words, "--package", package)
        assert status == 0 and "regression" in said, said


def test_options_that_do_not_fit_a_package(europe: tuple[Path, str], climate: tuple[Path, Path]) -> None:
    cosmo, cmip6 = str(europe[0]), str(climate[0])
    assert load_model(ModelOptions(f"{cosmo}/rea6", "cpu", mode="mean")).spec.inference_mode == "regression"
    for says, options in (
        ("leave out --samples, or use --mode diffusion", {"package": cosmo, "mode": "mean", "samples": 2}),
        ("'median' is not a valid mode", {"package": cosmo, "mode": "median"}),
        ("neither modes nor hub heights", {"package": cmip6, "mode": "mean"}),
        ("outside of the grid", {"package": cmip6, "region": "47,75,5,16"}),
        ("did you mean t2m", {"package": cmip6, "variables": "u10m,t2"}),
        ("--region takes south,north,west,east", {"package": cosmo, "region": "55,47,5,16"}),
        ("--hub-heights takes metres", {"package": cosmo, "hub_heights": "low"}),
        ("outside of the grid", {"package": cosmo, "region": "10,20,5,16"}),
    ):
        with pytest.raises(InputError, match=says):
            load_model(ModelOptions(device="cpu", **options))


@pytest.mark.slow
def test_some_variables_of_a_region_in_a_store(climate: tuple[Path, Path], tmp_path: Path) -> None:
    """The values of the whole run, cut; a store of other variables is not resumed."""
    package, days = climate
    words = ("2037-09-06T03", "--package", package, "--source", f"file:{days}", "--seed", 4, "--samples", 2)
    words += ("--precision", "fp32", "--device", "cpu")
    part = ("--variables", "q700,t2m", "--region=-20,33,25,100", "--output", tmp_path / "part.zarr")
    for more in (("--output", tmp_path / "all.zarr"), part):
        status, said = command(run, *words, *more)
        assert status == 0, said
    every, some = (open_store(tmp_path / name) for name in ("all.zarr", "part.zarr"))
    assert set(every) - set(some) == {"u10m"} and some.attrs["variables"] == "t2m, q700"
    assert some["lat"][0] == -18 and some["lat"][-1] == 30 and some["lon"].values.tolist()[::9] == [30, 97.5]
    cut = every.sel(lat=some["lat"], lon=some["lon"])
    for name in ("t2m", "q700", "orography"):
        np.testing.assert_array_equal(some[name], cut[name], err_msg=name)
    status, said = command(run, *words, "--variables", "t2m", *part[2:], "--resume")
    assert status == 2 and "variables t2m, q700 instead of t2m" in said


class Europe(CorrDiffCosmoEra5):
    """A subclass in a package of somebody else."""


def test_a_subclass_gets_the_options_of_its_package(
    europe: tuple[Path, str], climate: tuple[Path, Path]
) -> None:
    name = f"{__name__}:Europe"
    model = load_model(
        ModelOptions(f"{europe[0]}/rea6", "cpu", mode="diffusion", hub_heights="40", model=name)
    )
    assert type(model).__name__ == "Europe" and model.spec.inference_mode == "diffusion"
    assert model.spec.output_variables[-2:] == ("u40m", "v40m")
    assert load_model(ModelOptions(str(europe[0]), "cpu", model=name)).spec.inference_mode == "diffusion"
    with pytest.raises(InputError, match="neither modes nor hub heights"):
        load_model(ModelOptions(str(climate[0]), "cpu", mode="mean", model="earth2_corrdiff:CorrDiffCMIP6"))
    with pytest.raises(InputError, match="has no folder of a model"):
        load_model(ModelOptions(str(climate[0]), "cpu", model=name))


def test_names_of_packages() -> None:
    assert [default_source(name) for name in ("taiwan", "hrrr", "cosmo-rea2", "demo", "folder")] == [
        *("gfs", "arco", "arco", "demo", "gfs"),
    ]
    with pytest.raises(InputError, match="no default source; give a climate model"):
        default_source("cmip6")
    names = ("cosmo-rea2", "hrrr", "/data/rea6/", "hf://who/what/x_pred", "/data/taiwan")
    assert [variant(name) for name in names] == ["rea2", "", "rea6", "x_pred", ""]
    classes = [published(name).__name__ for name in PUBLISHED]
    kinds = ["Taiwan", "CMIP6", "CosmoEra5", "CosmoEra5", "Era5Hrrr"]
    assert classes == [f"CorrDiff{kind}" for kind in kinds]


def test_requests_of_the_service_may_have_gaps_where_files_may(climate: tuple[Path, Path]) -> None:
    spec = load_model(ModelOptions(str(climate[0]), "cpu", "fp32")).spec
    array = np.full((2, 3, 3, *COARSE), 280, dtype="f4")
    array[:, :, INPUTS.index("siconc"), 0] = np.nan
    for spoilt in (False, True):
        array[1, 2, INPUTS.index("t2m"), 3, 4] = np.nan if spoilt else 280
        file = io.BytesIO()
        np.save(file, array)
        if spoilt:
            with pytest.raises(ServiceError, match="NaN or infinity in t2m"):
                read_array(file.getvalue(), spec, 4)
        else:
            check_weather(read_array(file.getvalue(), spec, 4), spec)
