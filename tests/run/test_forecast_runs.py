# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs over forecasts: lead times, coarse members, the valid time in the store and in the seeds."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.io import ZarrBackend
from forecast_kit import LEADS, TIMES, Forecasts, forecast_file
from run_kit import Weather, command, contents, load, refused, same
from tiny import small_package

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.sources import make_forecast

pytestmark = pytest.mark.slow

SEED = 6


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


@pytest.fixture(scope="module")
def store(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reference times, three lead times, two coarse members, two members of each."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    sources = [Forecasts(0), Forecasts(1)]
    downscale(TIMES, load(package), sources, path, options=Options(seed=SEED), lead_time=LEADS)
    return path


def opened(path: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path).load()


def test_dimensions_and_coordinates(store: Path) -> None:
    """CF: reference time and lead time are axes, the valid time is an auxiliary coordinate of them."""
    ds = opened(store)
    assert ds.mrr.dims == ("time", "lead_time", "ensemble", "sample", "ilat", "ilon")
    assert ds.mrr.shape == (2, 3, 2, 2, 16, 24) and ds.mrr.notnull().all()
    assert ds.t2m_lowres.dims == ("time", "lead_time", "ensemble", "lat_lowres", "lon_lowres")
    assert ds.member_seed.dims == ("time", "lead_time", "ensemble", "sample")
    assert set(ds.mrr.coords) == {*ds.mrr.dims, "lat", "lon", "valid_time"}
    np.testing.assert_array_equal(ds.valid_time, ds.time.values[:, None] + ds.lead_time.values)
    assert ds.lead_time.dtype.kind == "m" and ds["ensemble"].values.tolist() == [0, 1]
    about = {name: ds[name].attrs["standard_name"] for name in ("time", "lead_time", "valid_time")}
    assert about == {"time": "forecast_reference_time", "lead_time": "forecast_period", "valid_time": "time"}
    later = ds.mrr.where(ds.valid_time >= np.datetime64("2024-07-24T12"), drop=True)
    assert later.sizes["lead_time"] == 2


def test_chunks_hold_one_member_of_one_case(store: Path) -> None:
    root = ZarrBackend(str(store)).root
    assert root["mrr"].chunks == (1, 1, 1, 1, 16, 24) and root["t2m_lowres"].chunks == (1, 1, 1, 6, 8)
    assert root["member_seed"].chunks == (1, 1, 1, 1)


def test_seeds_tell_apart_what_is_valid_at_one_time(store: Path) -> None:
    """The valid time, not the reference time; and lead time and coarse member beside it."""
    ds = opened(store)
    for t, lead, m, i in itertools.product(range(2), range(3), range(2), range(2)):
        hours = 6 * lead
        valid = ds.time.values[t] + np.timedelta64(hours, "h")
        seed = member_seed(SEED, valid, i, 3600 * hours, m)
        assert ds.member_seed[t, lead, m, i] == seed
    assert len(np.unique(ds.member_seed)) == ds.member_seed.size == 24


def test_seeds_of_analyses_are_what_they_were(package: Path, tmp_path: Path) -> None:
    downscale("2024-07-24T12", load(package), Weather(), tmp_path / "run.zarr", options=Options(seed=SEED))
    entropy = [SEED, int(np.datetime64("2024-07-24T12").astype("datetime64[s]").astype(int))]
    expected = [int(np.random.SeedSequence([*entropy, i]).generate_state(1, np.uint32)[0]) for i in range(2)]
    assert opened(tmp_path / "run.zarr").member_seed.values.tolist() == [expected]


def test_members_are_the_pipeline_called_by_hand(store: Path, package: Path) -> None:
    ds, model = opened(store), load(package)
    for t, lead, m in ((0, 2, 1), (1, 1, 0)):
        names = list(model.input_variables)
        field = Forecasts(m)(ds.time.values[t : t + 1], ds.lead_time.values[lead : lead + 1], names)
        grid = model.spec.input_grid
        field = field.sel(lat=grid.lat, lon=grid.lon)
        coarse = torch.from_numpy(field.values[:, 0].astype(np.float32))
        by_hand = model.downscaler(coarse, ds.member_seed.values[t, lead, m].tolist())[0]
        for i, name in enumerate(model.output_variables):
            np.testing.assert_array_equal(ds[name].values[t, lead, m], by_hand[:, i])
        np.testing.assert_array_equal(ds.z500_lowres[t, lead, m], coarse[0, 2])


def test_one_forecast_has_no_members(package: Path, tmp_path: Path) -> None:
    run = Downscaling(TIMES[0], load(package), Forecasts(), tmp_path / "run.zarr", lead_time="6h")
    assert [(str(valid)[:13], i) for valid, i in run] == [("2024-07-24T06", 0), ("2024-07-24T06", 1)]
    ds = opened(tmp_path / "run.zarr")
    assert ds.mrr.dims[:3] == ("time", "lead_time", "sample") and ds.mrr.shape[:3] == (1, 1, 2)
    assert run.members == 2 and ds.time.values[0] == np.datetime64(TIMES[0])


@pytest.mark.slow
def test_an_interrupted_run_of_forecasts_is_resumed(package: Path, store: Path, tmp_path: Path) -> None:
    sources, path = [Forecasts(0), Forecasts(1)], tmp_path / "run.zarr"
    model, options = load(package), Options(seed=SEED)
    part = iter(Downscaling(TIMES, model, sources, path, options, lead_time=LEADS))
    for _ in range(7):
        next(part)
    part.close()  # type: ignore[attr-defined]
    rest = Downscaling(TIMES, model, sources, path, Options(resume=True), lead_time=LEADS)
    assert len(list(rest)) == 24 - 7
    same(path, store)


@pytest.mark.parametrize(
    ("times", "members", "leads", "says"),
    [
        (TIMES, 2, "0/18/6h", "the lead times 0 h, 6 h, 12 h instead of 0 h, 6 h, 12 h, 18 h"),
        (TIMES, 3, LEADS, "the coarse members 0, 1 instead of 0, 1, 2"),
        (TIMES, 1, LEADS, "coarse members, which this run does not have"),
        (TIMES[:1], 2, LEADS, "the times 2024-07-24T00:00, 2024-07-24T06:00 instead of 2024-07-24T00:00"),
    ],
)
def test_another_forecast_is_not_resumed(
    package: Path, store: Path, times: tuple[str, ...], members: int, leads: str, says: str
) -> None:
    before = contents(store)
    with pytest.raises(InputError, match="belongs to another run") as caught:
        sources = [Forecasts(i) for i in range(members)]
        downscale(times, load(package), sources, store, options=Options(SEED, resume=True), lead_time=leads)
    assert says in str(caught.value) and contents(store) == before


def test_an_analysis_does_not_resume_a_forecast(package: Path, store: Path) -> None:
    class Analyses(Weather):
        pass

    Analyses.__name__ = "Forecasts"
    with pytest.raises(InputError, match="it has lead times, which this run does not have; coarse"):
        downscale(TIMES, load(package), Analyses(), store, options=Options(SEED, resume=True))


def test_one_lead_time_fails(package: Path, tmp_path: Path) -> None:
    def late(array: xr.DataArray, time: str, hours: int) -> None:
        if (time, hours) == ("2024-07-24T06", 6):
            raise FileNotFoundError("not there yet")

    run = Downscaling(
        *(TIMES, load(package), Forecasts(0, late), tmp_path / "run.zarr", Options(keep_going=True)),
        lead_time=LEADS,
    )
    assert len(list(run)) == 10 and list(run.failed) == [4] and "not there yet" in str(run.failed[4])
    missing = opened(tmp_path / "run.zarr").member_seed.values == -1
    assert missing.sum() == 2 and missing[1, 1].all()


def test_what_does_not_go_together(package: Path, tmp_path: Path) -> None:
    for source, leads, says in (
        (Weather(), "6h", "the source Weather has no lead times; leave out --lead, or use gfs_fx"),
        (Forecasts(), None, "the source Forecasts has forecasts; say which, as --lead 0/48/6h"),
    ):
        with pytest.raises(InputError, match=says):
            downscale(TIMES, load(package), source, tmp_path / "run.zarr", lead_time=leads)
    assert not list(tmp_path.iterdir())


# the command


@pytest.mark.slow
def test_the_command(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forecast_file(tmp_path / "forecast.nc", (0, 3))
    argv = ("2024-07-24T00/2024-07-24T06/6h", "--lead", "0/12/6h", "--coarse-members", "0,3")
    argv += ("--package", str(package), "--source", "file:forecast.nc", "--seed", str(SEED))
    status, out, err = command(capfd, *argv)
    name = "outputs/corrdiff-2024-07-24T0000-to-2024-07-24T0600-lead-0h-to-12h.zarr"
    extent = "2 forecasts x 3 lead times x 2 coarse members x 2 members"
    assert status == 0 and out.startswith(f"wrote {name}: {extent} of mrr") and extent in err
    ds = opened(Path(name))
    assert ds["ensemble"].values.tolist() == [0, 3] and ds.attrs["source"] == "file:forecast.nc"
    warmer = (ds.t2m_lowres[:, :, 1] - ds.t2m_lowres[:, :, 0]).values
    np.testing.assert_allclose(warmer, 3, atol=1e-3)
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and out.startswith("nothing to do")


def test_the_demo_forecasts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = command(
        capfd, "2024-07-24T12", "--demo", "--lead", "24h", "--samples", 1, "--steps", 1, "--seed", 1
    )
    assert (
        status == 0 and "1 forecast x 1 lead time x 1 member of " in out and "SYNTHETIC demo weather" in err
    )
    ds = opened(Path("outputs/corrdiff-2024-07-24T1200-lead-24h.zarr"))
    assert ds.valid_time.values.tolist() == [[int(np.datetime64("2024-07-25T12", "ns").astype(int))]]
    assert ds.attrs["source"] == "demo_fx" and ds.attrs["synthetic_source"] == 1 and "refc_lowres" in ds


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--coarse-members", "0-4"), "--coarse-members goes with --lead: only forecasts have them"),
        (("--lead", "6h"), "the source gfs has no lead times; leave out --lead, or use gfs_fx"),
        (("--source", "gfs_fx"), "the source gfs_fx has forecasts; say which, as --lead 0/48/6h"),
        (("--source", "gfs_fx", "--lead", "0/7/6h"), "the steps of '0/7/6h' end 1 h before its last value"),
        (("--source", "gfs_fx", "--lead", "6h", "--coarse-members", "1"), "has one forecast, no members"),
        (("--source", "gefs_fx", "--lead", "1h"), "has lead times every 3 hours to 240 h"),
        (("--demo", "--lead", "6h", "--source", "gfs_fx"), "--demo means --package demo --source demo"),
    ],
)
def test_what_the_command_refuses(
    argv: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capfd, "2024-07-24T12", *argv)


def test_the_forecast_of_a_source_by_name(package: Path, tmp_path: Path) -> None:
    """In Python: the same source that the command's name stands for."""
    source = make_forecast("demo_fx", "0-1")
    downscale("2024-07-24T12", load(package), source, tmp_path / "run.zarr", lead_time=[6])
    assert opened(tmp_path / "run.zarr").mrr.shape[:4] == (1, 1, 2, 2)
