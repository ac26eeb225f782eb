# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The main job on real GFS files, through the real GFS class over a mirror of its bucket (``gfs:DIR``)."""

from __future__ import annotations

from pathlib import Path

import gfs_files
import numpy as np
import pytest
import torch
import xarray as xr
from gfs_files import LATER, POLAND, WORLD, read
from run_kit import NAMES, bent, command, contents, load, make_package, refused
from scipy.interpolate import RegularGridInterpolator

from earth2_corrdiff import CorrDiff, demo
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.spec import Statistics

pytestmark = [gfs_files.needed, pytest.mark.slow]

BOX = Grid(np.linspace(48, 56, 33, dtype=np.float32), np.linspace(13, 25, 49, dtype=np.float32))
TAIWAN_TIME, POLAND_TIMES = "2024-07-24T12:00", ("2024-08-04T12:00", "2024-08-04T18:00")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its domain is exactly the native box."""
    return make_package(tmp_path_factory.mktemp("package"), bent(BOX, (40, 56)), input_grid=BOX)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over the same box a model of three inputs: global fields of a mirror take long to read."""
    inputs = Statistics(("t2m", "u10m", "z500"), (298.0, -2.0, 57500.0), (5.0, 6.0, 600.0))
    fine = bent(BOX, (16, 24))
    return make_package(tmp_path_factory.mktemp("few"), fine, input_grid=BOX, inputs=inputs)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))


def truth(grib: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rising lat, lon and the field straight from the file by another reader; geopotential, not height."""
    found = read(grib)[name]
    return found.lat[::-1], found.lon, found.values[::-1] * (9.81 if name[0] == "z" else 1.0)


def coarse(ds: xr.Dataset, time: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.stack([ds[f"{name}_lowres"][time].values for name in NAMES]))[None]


def test_main_job_over_the_demos_domain(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (TAIWAN_TIME, "--package", "demo", "--source", f"gfs:{world}", "--samples", 2, "--steps", 2)
    status, out, err = command(capfd, *argv)
    assert (
        status == 0
        and "1 time x 2 members of mrr, t2m, u10m, v10m on 112 x 112 points by a demo model" in out
    )
    assert "a demo model trained on SYNTHETIC weather: its output is no forecast" in err
    ds = xr.open_zarr("outputs/corrdiff-2024-07-24T1200.zarr").load()
    assert ds.attrs["source"] == f"gfs:{world}" and ds.attrs["synthetic"] == 1
    assert all(ds[name].notnull().all() for name in ("mrr", "t2m", "u10m", "v10m"))
    assert "refc_lowres" not in ds  # the global file has none
    points = np.stack(np.meshgrid(ds.lat_lowres, ds.lon_lowres, indexing="ij"), axis=-1).astype(np.float64)
    fine = np.stack([ds.lat.values, ds.lon.values], axis=-1).astype(np.float64)
    regridded = CorrDiff.load_model(demo.package()).downscaler.regrid(coarse(ds))[0]
    for i, name in enumerate(NAMES):
        lat, lon, field = truth(WORLD, name)
        expected = RegularGridInterpolator((lat, lon), field)(points)
        scale = np.ptp(expected)
        np.testing.assert_allclose(ds[f"{name}_lowres"][0], expected, rtol=0, atol=1e-3 * scale)
        on_coarse = ds[f"{name}_lowres"][0].values.astype(np.float64)
        axes = (ds.lat_lowres.values.astype(np.float64), ds.lon_lowres.values.astype(np.float64))
        again = RegularGridInterpolator(axes, on_coarse)(fine)
        np.testing.assert_allclose(regridded[i], again, rtol=0, atol=2e-6 * np.abs(again).max())


def test_main_job_over_the_native_box(poland: Path, package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (*POLAND_TIMES, "--package", package, "--source", f"gfs:{poland}", "--seed", 1)
    status, out, err = command(capfd, *argv)
    assert status == 0 and "2 times x 3 members of mrr, t2m, u10m, v10m on 40 x 56 points; seed 1" in out
    assert "interpolated" not in err and "SYNTHETIC" not in err
    ds = xr.open_zarr("outputs/corrdiff-2024-08-04T1200-to-2024-08-04T1800.zarr").load()
    assert ds.attrs["synthetic"] == 0 and ds.mrr.notnull().all()
    for t, grib in enumerate((POLAND, LATER)):
        for name in (*NAMES, "refc"):
            lat, lon, field = truth(grib, name)
            np.testing.assert_allclose(ds[f"{name}_lowres"][t], field, rtol=2e-7, atol=1e-5)
            np.testing.assert_allclose([*ds.lat_lowres, *ds.lon_lowres], [*lat, *lon])
    assert ds.refc_lowres.max() > 20  # dBZ: there was rain
    regridded = load(package).downscaler.regrid(coarse(ds, 1))[0]
    fine = np.stack([ds.lat.values, ds.lon.values], axis=-1).astype(np.float64)
    for i, name in enumerate(NAMES):
        lat, lon, field = truth(LATER, name)
        expected = RegularGridInterpolator((lat, lon), field)(fine)
        np.testing.assert_allclose(regridded[i], expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_a_grib_file_gives_the_same_members(
    poland: Path, few: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``file:PATH`` on the GRIB of one time, and the mirror with that time's true date."""
    time = "2020-08-04T18:00"
    argv = ("--package", few, "--seed", 1, "--samples", 1)
    assert command(capfd, time, *argv, "--source", f"file:{POLAND}", "--output", "file.zarr")[0] == 0
    ds = xr.open_zarr("file.zarr").load()
    command(capfd, POLAND_TIMES[0], *argv, "--source", f"gfs:{poland}", "--output", "mirror.zarr")
    other = xr.open_zarr("mirror.zarr").load()
    for name in ("t2m", "u10m", "z500", "refc"):
        np.testing.assert_allclose(ds[f"{name}_lowres"], other[f"{name}_lowres"], rtol=2e-7, atol=1e-5)
    assert ds.mrr.notnull().all() and not np.array_equal(ds.mrr, other.mrr)  # other times, other noise


def test_a_run_over_a_mirror_is_resumed(poland: Path, few: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (*POLAND_TIMES, "--package", few, "--source", f"gfs:{poland}", "--seed", 1, "--samples", 1)
    assert command(capfd, *argv, "--output", "run.zarr")[0] == 0
    before = contents(Path("run.zarr"))
    (Path("run.zarr") / "member_seed/c/1/0").unlink()
    for name in ("refc_lowres/c/1/0/0", "t2m/c/1/0/0/0"):
        (Path("run.zarr") / name).unlink()
    assert command(capfd, *argv, "--output", "run.zarr", "--resume")[0] == 0
    assert contents(Path("run.zarr")) == before


def test_a_cut_off_file(poland: Path, few: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As an interrupted copy leaves it; whole again, the same command works."""
    name = "gfs.20240804/12/atmos/gfs.t12z.pgrb2.0p25.f000"
    copy = tmp_path / "copy" / name
    copy.parent.mkdir(parents=True)
    data = (poland / name).read_bytes()
    copy.write_bytes(data[: len(data) // 3])
    copy.with_name(copy.name + ".idx").write_bytes((poland / f"{name}.idx").read_bytes())
    argv = (POLAND_TIMES[0], "--package", few, "--source", f"gfs:{tmp_path}/copy", "--samples", 1)
    message = refused(capfd, *argv)
    assert message.startswith(f"could not fetch 2024-08-04T12:00 from gfs:{tmp_path}/copy (")
    assert message.endswith("; the data may be damaged or incomplete: copy it again")
    assert not Path("outputs").exists()
    copy.write_bytes(data)
    assert command(capfd, *argv)[0] == 0


def test_what_a_mirror_does_not_have(
    poland: Path, winds: Path, few: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = {
        (
            "2024-08-05T00:00",
            f"gfs:{poland}",
            str(few),
        ): "gfs.t00z.pgrb2.0p25.f000 is missing; the folder has",
        (
            "2024-08-04T13:00",
            f"gfs:{poland}",
            str(few),
        ): "has analyses at 00, 06, 12 and 18 UTC since 2021-01-01",
        (
            POLAND_TIMES[0],
            f"gfs:{poland}",
            "demo",
        ): "no values at all; the source does not cover the model's domain",
        (
            "2024-01-06T00:00",
            f"gfs:{winds}",
            "demo",
        ): "it has no tcwv, z500, t500, z850, t850, t2m (NaN everywhere)",
        (
            "2020-08-04T18:00",
            f"file:{POLAND}",
            "demo",
        ): "covers 48 to 56 N and 13 to 25 E, but the model needs",
    }
    for (time, source, which), says in cases.items():
        assert says in refused(capfd, time, "--package", which, "--source", source)
    assert not Path("outputs").exists()
