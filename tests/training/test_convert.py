# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from two data sources: cut out, trimmed, interpolated; resumed; and what is refused or left out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tiny import curved, hills
from training_kit import hours

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.make_pairs import main
from earth2_corrdiff.sources.windows import around, fine_window
from earth2_corrdiff.training.convert import Area, Conversion, TwoSources, make_pairs
from earth2_corrdiff.training.demo_set import demo_plan, make_demo_fields
from earth2_corrdiff.training.pair_writer import PairWriter, fill
from earth2_corrdiff.training.pairs import Channels, PairFile

TIMES = hours(4)
CHANNELS = Channels(("t2m", "u10m"), ("t2m", "mrr"))
PLAIN = Area()
PERIOD = "2020-01-01T00/2020-01-01T18/6h"


def field(name: str, time: int, lat: Any, lon: Any) -> Any:
    """Plausible, and linear in place, so that bilinear interpolation is exact."""
    start, slope = {"t2m": (280.0, 0.5), "u10m": (1.0, 0.2), "mrr": (5.0, 0.3)}[name]
    return start + time + slope * lat + 0.1 * slope * lon


def regular(names: list[str], lat: Any, lon: Any, count: int = 4) -> xr.Dataset:
    y, x = np.meshgrid(lat, lon, indexing="ij")
    data = {n: (("time", "lat", "lon"), np.stack([field(n, t, y, x) for t in range(count)])) for n in names}
    return xr.Dataset(data, {"time": TIMES[:count], "lat": lat, "lon": lon}).astype(np.float32)


def bent(names: list[str], grid: Grid) -> xr.Dataset:
    fields = {n: np.stack([field(n, t, grid.lat, grid.lon) for t in range(4)]) for n in names}
    data = {n: (("time", "y", "x"), values) for n, values in fields.items()}
    coords = {"time": TIMES, "lat": (("y", "x"), grid.lat), "lon": (("y", "x"), grid.lon)}
    return xr.Dataset(data, coords).astype(np.float32)


GLOBE = np.arange(90, -90.5, -2.0), np.arange(0, 360, 2.0)
FINE = np.arange(28.0, 12.0, -0.5), np.arange(112.0, 132.0, 0.5)  # 32 x 40


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    regular(["u10m", "t2m"], *GLOBE).to_netcdf(tmp_path / "coarse.nc")
    regular(["mrr", "t2m"], *FINE).to_netcdf(tmp_path / "fine.nc")
    return tmp_path / "coarse.nc", tmp_path / "fine.nc"


def make(files: tuple[Path, Path], area: Area = PLAIN, **more: Any) -> tuple[Conversion, PairFile]:
    coarse, fine = more.get("coarse", f"file:{files[0]}"), more.get("fine", files[1])
    made = make_pairs(coarse, fine, PERIOD, CHANNELS, files[0].parent / "p.zarr", area)
    assert list(made) == [3, 2, 1, 0] and made.failed == {}
    return made, PairFile(made.path, keep=4)


def check(file: PairFile) -> None:
    """Each field is where its coordinates say."""
    pairs = file.read([0, 1, 2, 3])
    for fields, names, grid in (
        (pairs.coarse, file.channels.inputs, file.coarse_grid),
        (pairs.fine, file.channels.outputs, file.fine_grid),
    ):
        lat, lon = (axis.astype(np.float64) for axis in grid.mesh())
        for c, name in enumerate(names):
            want = np.stack([field(name, time, lat, lon) for time in range(4)])
            np.testing.assert_allclose(fields[:, c].numpy(), want, atol=2e-4)
    assert file.channels.inputs == CHANNELS.inputs and file.channels.outputs == CHANNELS.outputs


@pytest.mark.slow
def test_the_coarse_source_is_cut_out_around_the_fine_one(files: tuple[Path, Path]) -> None:
    made, file = make(files)
    check(file)
    assert file.fine_grid.shape == (32, 32) and "trimmed from 32 x 40 to multiples of 16" in made.notes[0]
    assert np.array_equal(file.fine_grid.lon, FINE[1][4:36].astype(np.float32))
    low = file.coarse_grid
    assert (low.lat.max(), low.lat.min(), low.lon.min(), low.lon.max()) == (32, 10, 110, 132)
    assert not file.synthetic


@pytest.mark.slow
def test_a_box_and_a_margin(files: tuple[Path, Path]) -> None:
    made, file = make(files, Area((16.0, 23.5, 115, 122.5), multiple=8, margin=2.5))
    check(file)
    assert file.fine_grid.shape == (16, 16) and len(made.notes) == 2 and "trimmed" not in made.notes[0]
    assert (file.coarse_grid.lat.min(), file.coarse_grid.lat.max()) == (14, 26)
    assert (file.coarse_grid.lon.min(), file.coarse_grid.lon.max()) == (114, 124)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "file:", "object"])
def test_a_curvilinear_source(files: tuple[Path, Path], kind: str) -> None:
    grid = curved(19, 37)
    bent(["t2m", "mrr"], grid).to_zarr(files[0].parent / "bent.zarr")
    path = files[0].parent / "bent.zarr"

    class Bent:
        """As Earth2Studio's HRRR: 2-D lat and lon."""

        def __call__(self, time: Any, variable: Any) -> xr.DataArray:
            data = bent(["mrr", "t2m"], grid).to_dataarray("variable").transpose("time", "variable", ...)
            return data.sel(time=time, variable=variable)

    xr.Dataset({"orography": (("y", "x"), hills(grid)[0])}, bent(["t2m"], grid).coords).to_netcdf(
        files[0].parent / "still.nc"
    )
    area = Area(invariants=files[0].parent / "still.nc", multiple=8)
    _, file = make(files, area, fine={"path": path, "file:": f"file:{path}", "object": Bent()}[kind])
    check(file)
    assert np.array_equal(file.fine_grid.lat, grid.lat[1:17, 2:34]) and file.fine_grid.curvilinear
    assert np.array_equal(file.invariant_fields[0], hills(grid)[0, 1:17, 2:34])


@pytest.mark.slow
def test_another_grid(files: tuple[Path, Path]) -> None:
    """The fine source interpolated to a curvilinear grid; invariants are on that."""
    grid = curved(16, 24)
    dims = ("y", "x")
    data = xr.Dataset({"lat": (dims, grid.lat), "lon": (dims, grid.lon), "orography": (dims, hills(grid)[0])})
    data.to_netcdf(files[0].parent / "grid.nc")
    path = files[0].parent / "grid.nc"
    made, file = make(files, Area(grid=path, invariants=path, multiple=8))
    check(file)
    assert np.array_equal(file.fine_grid.lat, grid.lat) and np.array_equal(file.invariant_fields, hills(grid))
    assert "interpolated to" in made.notes[0]


@pytest.mark.slow
def test_across_the_meridian(files: tuple[Path, Path]) -> None:
    path = files[0].parent / "round.nc"
    regular(["mrr", "t2m"], FINE[0], np.arange(0, 360, 1.0)).to_netcdf(path)
    _, file = make(files, Area((12, 28, -8, 8), multiple=8), fine=path)
    east = file.fine_grid.lon
    assert (east[0], east[-1]) == (-8, 7) and np.diff(east).max() == 1
    low, high = file.read([0]).coarse[0, 0].numpy(), file.read([0]).fine[0, 0].numpy()
    for fields, grid in ((low, file.coarse_grid), (high, file.fine_grid)):
        lat, lon = grid.mesh()
        np.testing.assert_allclose(fields, field("t2m", 0, lat, lon % 360), atol=2e-4)


@pytest.mark.slow
def test_the_demo_gives_the_fields_of_the_demos_set(tmp_path: Path) -> None:
    want = demo_plan(2, 0, 0)
    list(fill(PairWriter(tmp_path / "want.zarr", want), make_demo_fields))
    times = [str(time) for time in want.times]
    names = [*("--inputs", ",".join(want.channels.inputs)), *("--outputs", ",".join(want.channels.outputs))]
    argv = ["--coarse", "demo", "--fine", "demo", "--times", *times, *names]
    assert main([*argv, "--output", str(tmp_path / "got.zarr")]) == 0
    got, ours = (PairFile(tmp_path / f"{name}.zarr") for name in ("got", "want"))
    assert got.channels == ours.channels and np.array_equal(got.times, ours.times) and got.synthetic
    for a, b in ((got.coarse_grid, ours.coarse_grid), (got.fine_grid, ours.fine_grid)):
        assert np.array_equal(a.lat, b.lat) and np.array_equal(a.lon, b.lon)
    assert np.array_equal(got.invariant_fields, ours.invariant_fields)
    for kind in ("coarse", "fine"):
        assert np.array_equal(getattr(got.read([0, 1]), kind), getattr(ours.read([0, 1]), kind)), kind


# what fails, and goes on


def words(files: tuple[Path, Path], **more: str) -> list[str]:
    told = {"coarse": f"file:{files[0]}", "fine": str(files[1]), "times": PERIOD, "inputs": "t2m,u10m"}
    told |= {"outputs": "t2m, mrr", "output": str(files[0].parent / "p.zarr"), **more}
    return [word for key, value in told.items() for word in (f"--{key}", value)]


@pytest.mark.slow
def test_times_that_fail_are_reported_and_tried_again(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = xr.load_dataset(files[1])
    spoilt = data.copy(deep=True)
    spoilt["mrr"][2, 10, 10], spoilt["t2m"][3] = np.nan, data["t2m"][3] - 273.15
    spoilt.to_netcdf(files[1])
    assert main(words(files)) == 2
    err = capsys.readouterr().err.splitlines()
    said = [line for line in err if line.startswith("make-pairs: ")]
    assert "2020-01-01T12:00: the input from" in said[0] and "mrr is NaN or infinite" in said[0]
    assert "2020-01-01T18:00" in said[1] and "degrees Celsius" in said[1]
    assert said[2].startswith("make-pairs: error: 2 of 4 times could not be made") and len(said) == 3
    assert np.array_equal(PairFile(files[0].parent / "p.zarr").times, TIMES[:2])
    gc.collect()  # closes the file that was read
    data.to_netcdf(files[1])
    assert main(words(files)) == 0 and "has 4 pairs" in capsys.readouterr().out
    check(PairFile(files[0].parent / "p.zarr"))


@pytest.mark.slow
def test_a_fine_file_in_its_own_units(files: tuple[Path, Path]) -> None:
    data = xr.load_dataset(files[1])
    data["t2m"] = (data["t2m"].astype("f8") - 273.15).assign_attrs(units="degC")
    data.to_netcdf(files[1])
    assert main(words(files)) == 0
    check(PairFile(files[0].parent / "p.zarr"))


@pytest.mark.slow
def test_what_cannot_be_made_leaves_nothing_behind(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing values are said to be some, as NaN or as numbers; the folders that were made are gone, too."""
    data = xr.load_dataset(files[1])
    data["mrr"][:, 10, 10] = -999.0
    data["mrr"][1, 10, 11] = np.nan
    data.to_netcdf(files[1])
    before = sorted(files[0].parent.rglob("*"))
    assert main(words(files, output=str(files[0].parent / "new" / "folder" / "p.zarr"))) == 2
    err = capsys.readouterr().err
    assert "none of the 4 times could be made, as said above; nothing was written" in err
    assert "missing values" in err and "stand for missing ones" in err
    assert sorted(files[0].parent.rglob("*")) == before


def test_what_is_there_is_kept(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told = (f"file:{files[0]}", files[1], PERIOD, CHANNELS, files[0].parent / "p.zarr")
    first = iter(make_pairs(*told))
    assert [next(first), next(first)] == [3, 2]
    first.close()  # type: ignore[attr-defined]
    again, wanted = make_pairs(*told), []
    real = TwoSources.fields
    monkeypatch.setattr(
        TwoSources, "fields", lambda self, case: wanted.append(case.valid) or real(self, case)
    )
    assert len(again) == 2 and list(again) == [1, 0] and wanted == list(TIMES[2:])
    check(PairFile(files[0].parent / "p.zarr"))
    with pytest.raises(InputError, match="holds other pairs"):
        list(make_pairs(*told, Area(multiple=8)))


@pytest.mark.slow
def test_further_times_are_appended(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(files), "--append"]) == 2
    assert "there are no pairs" in capsys.readouterr().err
    assert main(words(files, times="2020-01-01T00/2020-01-01T06/6h")) == 0
    assert main([*words(files), "--append", "--multiple", "8"]) == 2
    assert "holds other pairs" in capsys.readouterr().err
    assert main([*words(files, times="2020-01-01T06/2020-01-01T18/6h"), "--append"]) == 0
    assert capsys.readouterr().out.endswith("p.zarr has 4 pairs\n")
    check(PairFile(files[0].parent / "p.zarr"))


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "an input": ({"inputs": "t2m,z500"}, "has no z500"),
    "an output": ({"outputs": "snow"}, "has no snow; it has"),
    "a time of the coarse one": ({"times": "2020-01-09"}, "2020-01-09"),
    "no source": ({"coarse": "moon"}, "there is no source 'moon'"),
    "no file": ({"fine": "nowhere.nc"}, "there is no file nowhere.nc"),
    "a forecast": ({"coarse": "gfs_fx"}, "forecasts"),
    "an empty box": ({"box": "50,60,0,10"}, "has no part of the fine grid"),
    "a box upside down": ({"box": "28,12,110,130"}, "a box is south,north,west,east"),
    "too small": ({"box": "14,16,114,118"}, "smaller than 16 pixels"),
    "a margin": ({"margin": "-1"}, "margin must be 0 degrees or more"),
    "a period": ({"times": "2020-01-01/2020-01-02"}, "not a valid period"),
    "invariants elsewhere": ({"invariants": "COARSE"}, "not on the fine grid"),
}


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], more: dict[str, str], message: str
) -> None:
    assert main(words(files, **{k: v.replace("COARSE", str(files[0])) for k, v in more.items()})) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err, err
    assert not (files[0].parent / "p.zarr").exists()


def test_a_coarse_source_that_ends_too_early(files: tuple[Path, Path]) -> None:
    regular(["u10m", "t2m"], np.arange(20, 30, 1.0), np.arange(100, 140, 1.0)).to_netcdf(files[0])
    with pytest.raises(InputError, match="does not cover"):
        make_pairs(f"file:{files[0]}", files[1], PERIOD, CHANNELS, files[0].parent / "p.zarr")


# windows


def test_windows_of_curvilinear_grids() -> None:
    grid = curved(20, 30)
    window = fine_window(grid, (21.5, 23.0, 480.0, 482.0))  # 120 to 122
    inside = (grid.lat >= 21.5) & (grid.lat <= 23) & (grid.lon >= 120) & (grid.lon <= 122)
    rows, columns = np.nonzero(inside)
    assert (window.rows[0], window.rows[-1]) == (rows.min(), rows.max())
    assert (window.columns[0], window.columns[-1]) == (columns.min(), columns.max())
    assert np.array_equal(window.cut(grid.lat), window.grid.lat)
    small = window.trimmed(4)
    assert small.grid.shape == tuple(n - n % 4 for n in window.grid.shape)
    assert np.array_equal(small.cut(grid.lon), small.grid.lon)


def test_a_coarse_grid_around_one_at_the_date_line() -> None:
    fine = Grid(np.linspace(-20, -10, 5), np.linspace(175, 185, 6))
    got = around(fine, Grid(*GLOBE)).grid
    assert got.lat.tolist() == [-6, -8, -10, -12, -14, -16, -18, -20, -22, -24]
    assert got.lon.tolist() == [172, 174, 176, 178, 180, 182, 184, 186, 188]


def test_the_names_of_the_package() -> None:
    """Whatever was imported before, a name is what it says, and no module."""
    from types import ModuleType

    import earth2_corrdiff.training as training

    assert all(not isinstance(getattr(training, name), ModuleType) for name in training.__all__)
    assert training.make_pairs is make_pairs and dir(training) == sorted(training.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        training.nothing  # noqa: B018
