# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of block means, run on an agency's fine files as they are: grids, gaps, attribution, names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from tiny import curved, make_networks, straight

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.cli.run import main
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages import names
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.plotting import plot_ensemble, plot_lowres, plot_member
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.service.job_runner import held
from earth2_corrdiff.sources import Inputs, make_forecast
from earth2_corrdiff.sources.mirror import Mirror
from earth2_corrdiff.store.reader import cases, open_store
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile
from earth2_corrdiff.verification import verify
from earth2_corrdiff.verification.report import html

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
        "seed": 5,
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


def as_sources(folder: Path, row: int) -> xr.Dataset:
    """The coarse fields of a pair as a file of their own, north first where they are not."""
    pairs = xr.open_zarr(folder / "pairs.zarr", consolidated=False)
    bent = pairs["lat_lowres"].ndim == 2
    plane, turn = ("y", "x") if bent else ("lat", "lon"), (slice(None, None, -1), slice(None))
    own = [(plane, turn)] * 2 if bent else [(plane[:1], turn[:1]), (plane[1:], turn[1:])]
    fields = {n: (("time", *plane), pairs[f"{n}_lowres"].values[[row], ::-1]) for n in INPUTS}
    axes = {
        n: (dims, pairs[f"{n}_lowres"].values[turn])
        for n, (dims, turn) in zip(("lat", "lon"), own, strict=True)
    }
    return xr.Dataset(fields, {"time": pairs["time"].values[[row]], **axes})


@pytest.mark.slow
def test_the_input_is_that_of_the_pairs(folder: Path) -> None:
    """Bit for bit, of both lead times of the second run; the output is missing where its coarse cell is."""
    root: Any = zarr.open_group(str(folder / "run.zarr"), mode="r")
    pairs: Any = zarr.open_group(str(folder / "pairs.zarr"), mode="r")
    last = {int(lead) // 3600: row for row, lead in enumerate(pairs["lead_time"][:])}
    for name in INPUTS:
        want = pairs[f"{name}_lowres"][:][[last[6], last[12]]]
        assert np.array_equal(root[f"{name}_lowres"][0], want, equal_nan=True)
    for name in OUTPUTS:
        own = np.isnan(root[f"{name}_lowres"][0]).repeat(4, -2).repeat(4, -1)[:, None]
        assert np.array_equal(np.isnan(root[name][0]), np.broadcast_to(own, root[name].shape[1:]))
    gaps = np.isnan(root["t2m_lowres"][0, 0]).mean()
    assert root.attrs["attribution"] == CREDIT
    assert (f"{100 * gaps:.3g} % at {RUN}:00 + 6 h" in root.attrs.get("missing_values", "")) is bool(gaps)


@pytest.mark.slow
def test_a_run_with_gaps_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A complete store is complete; a field with other gaps is found, and computed again to the same bits."""
    assert run(folder, "run.zarr", "--resume", "--check") == 0
    assert "nothing to do" in capsys.readouterr().out
    root: Any = zarr.open_group(str(folder / "run.zarr"), mode="r+", use_consolidated=False)
    whole = root["t2m"][:]
    root["t2m"][0, 1, 1, 2:4] = np.nan
    assert run(folder, "run.zarr", "--resume", "--check") == 0
    assert "1 of 4 members were missing" in capsys.readouterr().out
    assert np.array_equal(root["t2m"][:], whole, equal_nan=True)


@pytest.mark.slow
def test_means_and_scores_of_members_with_gaps(folder: Path) -> None:
    """What is kept of members that are not written is missing where they are; scores leave it out."""
    truth = folder / "pairs.zarr"
    more = ("--keep", "mean", "--score", str(truth), "--score-variables", "t2m", "--variables", "t2m")
    assert run(folder, "mean.zarr", *more, leads="6h") == 0
    kept: Any = zarr.open_group(str(folder / "mean.zarr"), mode="r")
    members = open_store(folder / "run.zarr")["t2m"].values[:, :1]
    for end, want in (("mean", members.mean(2)), ("spread", members.std(2, ddof=1))):
        assert np.allclose(kept[f"t2m_{end}"][:], want, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_other_grids(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Coarse fields on the package's cells are taken as they are, in rows of either order; others refused."""
    low = as_sources(folder, 2)
    low.to_netcdf(folder / "low.nc")
    low.isel({low["t2m"].dims[1]: slice(1, None)}).to_netcdf(folder / "other.nc")
    argv = [str(low["time"].values[0])[:16], "--package", str(folder / "package"), "--device", "cpu"]
    argv += ["--seed", "3", "--precision", "fp32", "--overwrite", "--output", str(folder / "low.zarr")]
    assert main([*argv, "--source", f"file:{folder / 'low.nc'}"]) == 0
    there: Any = zarr.open_group(str(folder / "low.zarr"), mode="r")
    for name in INPUTS:
        assert np.array_equal(there[f"{name}_lowres"][0], low[name].values[0, ::-1], equal_nan=True)
    capsys.readouterr()
    assert main([*argv, "--source", f"file:{folder / 'other.nc'}"]) == 2
    assert "hold neither the points whose means the package takes nor its" in capsys.readouterr().err


@pytest.mark.slow
def test_copies_of_the_input(folder: Path) -> None:
    """The block means as files of their own, and as a job of the service holds them, are the same input."""
    spec = read_package(Folder(folder / "package")).spec
    job: Any = SimpleNamespace(order=SimpleNamespace(times=[RUN], lead_time="6h"), stopped=False)
    source = make_forecast(f"file:{folder / 'agency.nc'}")
    list(Mirror(Inputs.of(source, source.cases(RUN, "6h"), spec), folder / "mirror"))
    metrics: Any = SimpleNamespace(fetch=lambda name, worked: None)
    copies = make_forecast(f"file:{folder / 'mirror'}"), held(source, job, spec, metrics)
    want, *found = (Inputs.of(one, one.cases(RUN, "6h"), spec).fetch(0, INPUTS) for one in (source, *copies))
    assert all(np.array_equal(want, fields, equal_nan=True) for fields in found)


@pytest.mark.slow
def test_labelled_calls(folder: Path) -> None:
    """Of a DataArray on the coarse cells, curvilinear ones, too; rows may run the other way."""
    model = CorrDiff.load_model(Folder(folder / "package"), precision="fp32")
    x = as_sources(folder, 2).to_dataarray("variable").transpose("time", "variable", ...)
    made = model(x.isel(variable=[2, 0, 1]))
    plain = torch.from_numpy(x.values[:, :, ::-1].copy())
    want = model.downscaler(plain, model.member_seeds(), valid_times=x["time"].values)
    assert model.seed is not None and np.array_equal(made.values, want.numpy(), equal_nan=True)
    assert np.isnan(made.values).any() == np.isnan(plain.numpy()).any()
    grid, shifted = model.spec.input_grid, x.assign_coords(lat=x["lat"] + 1)
    assert [model.input_coords()[n].shape for n in ("lat", "lon")] == [grid.lat.shape, grid.lon.shape]
    with pytest.raises(InputError, match="the model takes .* latitudes from .*; cut them out first"):
        model(shifted)


@pytest.mark.slow
def test_pictures_and_scores(folder: Path) -> None:
    """Gaps have no colour of a value, and are no part of a score; the data's makers are named."""
    ds = open_store(folder / "run.zarr")
    for figure in (plot_member(ds, 0), plot_lowres(ds, 0), plot_ensemble(ds, 0, {"tp06": 0.001})):
        assert CREDIT in [text.get_text() for text in figure.texts]
        figure.canvas.draw()
    truth = xr.open_zarr(folder / "pairs.zarr", consolidated=False)
    truth = truth[[*OUTPUTS, "lat", "lon"]].isel(time=[0]).assign_coords(time=cases(ds).valid_times[0, :1])
    result = verify(folder / "run.zarr", truth, leads="6h")
    assert CREDIT in html(result, "run") and result.about["attribution"] == CREDIT
    gaps = float(ds["t2m"].isel(time=0, lead_time=0, sample=0).isnull().mean())
    weight = result.series["ensemble", "t2m"].column("weight")
    assert (weight[0] < 1) == (gaps > 0) and np.isfinite(
        result.score("crps", "ensemble", result.targets[0]).value
    )


@pytest.mark.slow
def test_packages_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped package has a name, and no default source; its folder of the same name is no package."""
    _, pairs = prepared(tmp_path, straight(16, 24), Blocks(4), False)
    monkeypatch.setitem(names.SHIPPED, "tiny-3km", tmp_path / "package")
    monkeypatch.setattr(names, "KNOWN", (*names.KNOWN, "tiny-3km"))
    names.check_name("tiny-3km")
    spec = load_model(ModelOptions("tiny-3km", "cpu")).spec
    assert spec.attribution == CREDIT and spec.blocks == pairs.blocks and spec.name == "agency"
    with pytest.raises(InputError, match="tiny-3km has no default source; give"):
        names.default_source("tiny-3km")
    for wrong in (
        {"attribution": "two\nlines"},
        {"block_means": {"coarse": 8}},
        {"block_means": {"coarse": 2, "fine": 1}},
    ):
        path = tmp_path / "package" / "metadata.json"
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(kept | wrong))
        with pytest.raises(InputError, match="attribution must be a line|must be like|do not make the input"):
            load_model(ModelOptions("tiny-3km", "cpu"))
        path.write_text(json.dumps(kept))
