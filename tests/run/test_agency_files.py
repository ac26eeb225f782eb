# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of block means, run on an agency's fine files as they are: grids, gaps, attribution, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from tiny import curved, make_networks, straight

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.run import main
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile

CREDIT = "Data: the agency, CC BY 4.0"
INPUTS, OUTPUTS = ("t2m", "tp06", "r2m"), ("t2m", "tp06")
RUN = "2026-02-01T06"


def agency(path: Path, grid: Grid, gaps: bool) -> xr.Dataset:
    """Two runs of three lead times with an agency's names and units; packed, with fill values in a corner."""
    (H, W), rng = grid.shape, np.random.default_rng(0)
    start, lead = np.array(["2026-02-01T00", RUN], "datetime64[ns]"), np.array([0, 6, 12])
    fields = {
        "t2m": (285 + rng.normal(0, 1, (2, 3, H, W)), "K", 0.005),
        "rh2m": (rng.uniform(20, 90, (2, 3, H, W)), "%", 0.005),
        "tp6h": (rng.gamma(0.5, 2, (2, 3, H, W)), "kg m-2", 0.02),
    }
    fields["tp6h"][0][:, 0] = np.nan
    if gaps:
        for values, *_ in fields.values():
            values[..., : H // 3, : W // 4] = np.nan
    plane = ("y", "x") if grid.curvilinear else ("lat", "lon")
    own = (plane, plane) if grid.curvilinear else (("lat",), ("lon",))
    data = xr.Dataset(
        {
            n: (("init_time", "lead", *plane), values, {"units": unit})
            for n, (values, unit, _) in fields.items()
        },
        {
            "init_time": start,
            "lead": lead,
            "valid_time": (("init_time", "lead"), start[:, None] + lead * np.timedelta64(1, "h")),
            "lat": (own[0], grid.lat),
            "lon": (own[1], grid.lon),
        },
    )
    packed: dict[str, Any] = {
        n: {"dtype": "i2", "scale_factor": step, "_FillValue": -32768} for n, (*_, step) in fields.items()
    }
    packed["t2m"]["add_offset"] = 285.0
    data.to_netcdf(path, encoding=packed)
    return xr.open_dataset(path).load()


def spec_of(pairs: PairFile, gaps: bool, **more: Any) -> CorrDiffSpec:
    center, scale = {"t2m": 285.0, "tp06": 1e-3, "r2m": 60.0}, {"t2m": 1.0, "tp06": 2e-3, "r2m": 20.0}
    inputs, outputs = (
        Statistics(some, tuple(center[n] for n in some), tuple(scale[n] for n in some))
        for some in (INPUTS, OUTPUTS)
    )
    what: dict[str, Any] = {
        "sampling": Sampling("heun", 2, sigma_max=80.0),
        "number_of_samples": 2,
        "regridding": "index",
        "missing_inputs": gaps,
        "blocks": pairs.blocks,
        "attribution": CREDIT,
        "name": "agency",
    }
    return CorrDiffSpec(inputs, outputs, pairs.coarse_grid, pairs.fine_grid, **{**what, **more})


def prepared(folder: Path, grid: Grid, blocks: Blocks, gaps: bool) -> tuple[xr.Dataset, PairFile]:
    """The agency's file, the pairs made of it, and a package that could have been trained with them."""
    data = agency(folder / "agency.nc", grid, gaps)
    channels = Channels(("t2m", "tp06=tp6h", "r2m=rh2m"), ("t2m", "tp06=tp6h"))
    lead = np.timedelta64(6, "h")
    path = folder / "pairs.zarr"
    list(make_own_pairs(folder / "agency.nc", "all", channels, path, blocks, Area(multiple=8), lead))
    pairs = PairFile(path, INPUTS, OUTPUTS, gaps=gaps)
    assert pairs.blocks == blocks
    spec = spec_of(pairs, gaps)
    save_package(folder / "package", spec, *make_networks(spec, attn_resolutions=[]))
    return data, pairs


def run(folder: Path, output: str, *more: str, source: str = "agency.nc", leads: str = "6/12/6h") -> int:
    argv = [
        RUN,
        "--package",
        str(folder / "package"),
        "--source",
        f"file:{folder / source}",
        "--device",
        "cpu",
    ]
    argv += ["--precision", "fp32", "--output", str(folder / output), "--seed", "3"]
    return main([*argv, *(("--lead", leads) if leads else ()), *more])


CASES = {
    "curved": (curved(18, 26), Blocks(4), False),
    "means of means": (straight(53, 100), Blocks(4, 3), True),
}


@pytest.fixture(scope="module", params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agency")
    prepared(made, *CASES[request.param])
    assert run(made, "run.zarr") == 0
    return made


@pytest.mark.slow
def test_the_input_is_that_of_the_pairs(folder: Path) -> None:
    """Bit for bit, of both lead times of the second run; the output is missing where its coarse cell is."""
    root: Any = zarr.open_group(str(folder / "run.zarr"), mode="r")
    pairs: Any = zarr.open_group(str(folder / "pairs.zarr"), mode="r")
    rows = (
        [int(np.flatnonzero(hours == h)[-1]) for h in (6, 12)]
        if (hours := pairs["lead_time"][:] / 3600) is not None
        else []
    )
    for i, row in enumerate(rows):
        for name in INPUTS:
            assert np.array_equal(root[f"{name}_lowres"][0, i], pairs[f"{name}_lowres"][row], equal_nan=True)
    for name in OUTPUTS:
        own = np.isnan(root[f"{name}_lowres"][0]).repeat(4, -2).repeat(4, -1)[:, None]
        assert np.array_equal(np.isnan(root[name][0]), np.broadcast_to(own, root[name].shape[1:]))
    assert root.attrs["attribution"] == CREDIT
    gaps = np.isnan(root["t2m_lowres"][0, 0]).any()
    assert ("missing_values" in root.attrs) is bool(gaps)


@pytest.mark.slow
def test_a_run_with_gaps_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A complete store is complete; a lost field is found, and computed again to the same bits."""
    assert run(folder, "run.zarr", "--resume", "--check") == 0
    assert "nothing to do" in capsys.readouterr().out
    root: Any = zarr.open_group(str(folder / "run.zarr"), mode="r+", use_consolidated=False)
    whole = root["t2m"][:]
    root["t2m"][0, 1, 1, 2:4] = np.nan
    assert run(folder, "run.zarr", "--resume", "--check") == 0
    assert "1 of 4 members were missing" in capsys.readouterr().out
    assert np.array_equal(root["t2m"][:], whole, equal_nan=True)


@pytest.mark.slow
def test_other_grids(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Coarse fields on the package's cells are taken as they are, north first, too; others are refused."""
    pairs = xr.open_zarr(folder / "pairs.zarr")
    row = int(
        np.flatnonzero(
            pairs["lead_time"] == 6 * 3600
            if pairs["lead_time"].dtype.kind != "m"
            else pairs["lead_time"] == np.timedelta64(6, "h")
        )[-1]
    )
    low = xr.Dataset(
        {
            n: (
                ("time", "y", "x") if pairs["lat_lowres"].ndim == 2 else ("time", "lat", "lon"),
                pairs[f"{n}_lowres"].values[[row]][:, ::-1],
            )
            for n in INPUTS
        },
        {"time": pairs["time"].values[[row]]},
    )
    dims = (("y", "x"),) * 2 if pairs["lat_lowres"].ndim == 2 else (("lat",), ("lon",))
    low = low.assign_coords(
        lat=(dims[0], pairs["lat_lowres"].values[::-1]),
        lon=(
            dims[1],
            pairs["lon_lowres"].values[::-1] if pairs["lon_lowres"].ndim == 2 else pairs["lon_lowres"].values,
        ),
    )
    low.to_netcdf(folder / "low.nc")
    capsys.readouterr()
    argv = [str(low["time"].values[0])[:16], "--package", str(folder / "package"), "--device", "cpu"]
    argv += ["--seed", "3", "--precision", "fp32", "--overwrite", "--output", str(folder / "low.zarr")]
    assert main([*argv, "--source", f"file:{folder / 'low.nc'}"]) == 0
    there: Any = zarr.open_group(str(folder / "low.zarr"), mode="r")
    for name in INPUTS:
        want = pairs[f"{name}_lowres"].values[row]
        assert np.array_equal(there[f"{name}_lowres"][0], want, equal_nan=True)
    low.isel({dims[0][0]: slice(1, None)}).to_netcdf(folder / "other.nc")
    capsys.readouterr()
    assert main([*argv, "--source", f"file:{folder / 'other.nc'}"]) == 2
    assert "hold neither the points whose means the package takes nor its" in capsys.readouterr().err
