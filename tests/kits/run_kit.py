# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of runs, stores and the command: small packages of twelve inputs, and weather for them."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from tiny import make_networks

from earth2_corrdiff import CorrDiff, demo, save_package
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.run import main
from earth2_corrdiff.model.packages.reader import TAIWAN_ZIP
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import write_mdlus

ROOT = Path(__file__).parents[2]
NAMES = tuple("tcwv z500 t500 u500 v500 z850 t850 u850 v850 t2m u10m v10m".split())
CENTERS = (45.0, 57500.0, 268.0, 5.0, 0.0, 14600.0, 290.0, 0.0, 0.0, 298.0, -2.0, -2.0)
SCALES = (15.0, 600.0, 4.0, 9.0, 8.0, 400.0, 5.0, 9.0, 9.0, 5.0, 6.0, 6.0)
OUTPUTS = Statistics(("mrr", "t2m", "u10m", "v10m"), (5.0, 297.0, -2.0, -2.0), (10.0, 6.0, 7.0, 7.0))
STATIC = Statistics(("orography", "land_fraction"), (400.0, 0.4), (600.0, 0.5))
COARSE = Grid(np.linspace(19.25, 28, 36, dtype=np.float32), np.linspace(116, 125.75, 40, dtype=np.float32))
SHAPE = (24, 36)
TIMES = ("2024-07-24T12:00", "2024-07-25T00:00")


def bent(coarse: Grid = COARSE, shape: tuple[int, int] = SHAPE) -> Grid:
    """A curvilinear grid that fills most of a coarse one."""
    j, i = np.meshgrid(*(np.linspace(0.06, 0.94, n) for n in shape), indexing="ij")
    lat = coarse.lat.min() + np.ptp(coarse.lat) * (j + 0.04 * np.sin(5 * i))
    lon = coarse.lon.min() + np.ptp(coarse.lon) * (i + 0.04 * np.sin(4 * j))
    return Grid(lat.astype(np.float32), lon.astype(np.float32))


def straight(shape: tuple[int, int] = SHAPE) -> Grid:
    """A rectilinear grid inside ``COARSE``."""
    lat, lon = (
        np.linspace(a, b, n, dtype=np.float32) for a, b, n in ((20, 27, shape[0]), (117, 125, shape[1]))
    )
    return Grid(lat, lon)


def make_spec(fine: Grid | None = None, **what: Any) -> CorrDiffSpec:
    """Twelve inputs over Taiwan unless another ``input_grid`` is given, four outputs, two invariants."""
    fine = fine or bent(what.get("input_grid", COARSE))
    lat, lon = fine.mesh()
    height = 900 * (1 + np.sin(3 * lat) * np.cos(2 * lon))
    fields = np.stack([height, height > 700]).astype(np.float32)
    default = {
        "inputs": Statistics(NAMES, CENTERS, SCALES),
        "outputs": OUTPUTS,
        "input_grid": COARSE,
        "invariants": STATIC,
        "invariant_fields": fields,
        "sampling": Sampling("heun", 2),
        "number_of_samples": 3,
    }
    return CorrDiffSpec(output_grid=fine, **{**default, **what})


def make_package(folder: Path, fine: Grid | None = None, **what: Any) -> Path:
    """A package of the generic layout with random networks."""
    spec = make_spec(fine, **what)
    return save_package(folder, spec, *make_networks(spec))


def make_taiwan(folder: Path, size: int = 34) -> Path:
    """A package of the Taiwan layout: as published, but on a small grid and with small, random networks."""
    fine = bent(shape=(size - 2, size - 2))
    spec = replace(
        make_spec(fine, invariants=Statistics((), (), ()), invariant_fields=None), regression_grid=True
    )
    zipped = zarr.storage.MemoryStore()
    root = zarr.group(zipped, zarr_format=2)
    whole = bent(shape=(size, size))
    statistics = {
        "era5": (spec.inputs, [0, 1, 2, 3, 4, 9, 10, 11, 12, 17, 18, 19]),
        "cwb": (OUTPUTS, [0, 17, 18, 19]),
    }
    arrays = {"XLAT": whole.lat, "XLONG": whole.lon}
    for name, (stats, rows) in statistics.items():
        for part in ("center", "scale"):
            arrays[f"{name}_{part}"] = np.ones(20, dtype=np.float32)
            arrays[f"{name}_{part}"][rows] = getattr(stats, part)
    for name, values in arrays.items():
        root.create_array(name, data=values)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / TAIWAN_ZIP, "w") as archive:
        for name, net in zip(("regression", "diffusion"), make_networks(spec), strict=True):
            write_mdlus(
                folder / "one.mdlus", net.origin.name, "physicsnemo", net.origin.args, net.state_dict()
            )
            archive.write(folder / "one.mdlus", f"corrdiff_inference_package/checkpoints/{name}.mdlus")
        place = "corrdiff_inference_package/dataset/2023-01-24-cwb-4years_5times.zarr"
        for name, value in zipped._store_dict.items():
            archive.writestr(f"{place}/{name}", value.to_bytes())
    (folder / "one.mdlus").unlink()
    return folder


@lru_cache(maxsize=8)
def _loaded(package: Path, files: tuple[tuple[Path, int], ...]) -> CorrDiff:
    from earth2studio.models.auto import Package

    return CorrDiff.load_model(Package(str(package)), precision="fp32", accelerated=False)


def load(package: Path, **settings: Any) -> CorrDiff:
    """A model in reference mode, with attributes changed; a copy, where the files were read before."""
    files = sorted(path for path in package.rglob("*") if path.is_file())
    model = copy.deepcopy(_loaded(package, tuple((path, path.stat().st_mtime_ns) for path in files)))
    for name, value in settings.items():
        setattr(model, name, value)
    return model


@cache
def _weather(time: str) -> xr.DataArray:
    return demo.DemoWeather()(np.datetime64(time), list(demo.DemoWeather.VARIABLES))


class Weather:
    """The demo's weather as somebody's own data source: no vocabulary, no calendar; can be spoilt.

    Parameters
    ----------
    spoil : Callable, optional
        Changes the array before it is handed out
    """

    def __init__(self, spoil: Callable[[xr.DataArray], Any] | None = None) -> None:
        self.spoil, self.asked = spoil, []

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        self.asked.append(tuple(map(str, np.atleast_1d(variable))))
        array = _weather(str(np.atleast_1d(time)[0])).sel(variable=np.atleast_1d(variable)).copy()
        if self.spoil is not None:
            self.spoil(array)
        return array


def coarse(time: str, model: CorrDiff) -> torch.Tensor:
    """The demo's weather on the grid of a model, ``[1, C, h, w]``."""
    grid, array = model.spec.input_grid, _weather(time).sel(variable=list(model.input_variables))
    return torch.from_numpy(array.sel(lat=grid.lat, lon=grid.lon).values)


@cache
def _dataset(times: tuple[str, ...], names: tuple[str, ...]) -> xr.Dataset:
    return demo.DemoWeather()(np.array(times, dtype="datetime64[ns]"), list(names)).to_dataset("variable")


def weather_file(path: Path, times: Iterable[str] = TIMES, names: Sequence[str] = NAMES) -> Path:
    """The demo's weather as a NetCDF."""
    _dataset(tuple(times), tuple(names)).to_netcdf(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and its bytes; empty where there is no folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same(store: Path, other: Path) -> None:
    """Two stores have the same files with the same bytes."""
    ours, theirs = contents(store), contents(other)
    assert ours and ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def command(capfd: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Run the command in this process: exit status, stdout, stderr."""
    capfd.readouterr()
    try:
        status = main([str(arg) for arg in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capfd.readouterr()
    return status, out, err


def refused(capfd: pytest.CaptureFixture[str], *argv: object, expected: int = 2) -> str:
    """The one line on stderr of a command that must end with exit status 2, or another one."""
    status, out, err = command(capfd, *argv)
    return one_line(status, out, err, expected)


def one_line(status: int, out: str, err: str, expected: int = 2) -> str:
    assert status == expected and out == ""
    assert err.startswith("run-corrdiff: error: ") and err.endswith("\n") and err.count("\n") == 1
    assert "Traceback" not in err and len(err) < 600
    return err.removeprefix("run-corrdiff: error: ").rstrip("\n")
