# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""End to end against the stock classes of the installed Earth2Studio, on random weights, in both layouts.

The stock classes need square grids, and the stock Taiwan class one of 448 x 448.
"""

from __future__ import annotations

import importlib.util
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto import Package
from tiny import (
    COARSE,
    INPUTS,
    OUTPUTS,
    SHARED,
    UNET,
    curved,
    hills,
    make_networks,
    make_spec,
    make_taiwan,
    upstream_save,
    upstream_wrapper,
    weather,
)
from torch import Tensor

from earth2_corrdiff import CorrDiff, CorrDiffTaiwan, save_package
from earth2_corrdiff.model.spec import Sampling

pytestmark = pytest.mark.filterwarnings("ignore")
TOOL = SHARED / "tools" / "make_taiwan_package.py"
N = 16


def write_package(folder: Path, invariants: bool = True, mean: bool = True, **meta: Any) -> Path:
    """A generic package made without this project: PhysicsNeMo's own checkpoints, and plain files."""
    folder.mkdir()
    common = {**UNET, "img_resolution": N, "img_out_channels": 2, "model_type": "SongUNetPosEmbd"}
    channels = 3 + (1 if invariants else 0) + 4
    regression = {**common, "img_in_channels": channels, "embedding_type": "zero"}
    diffusion = {**common, "img_in_channels": channels + (2 if mean else 0)}
    upstream_save(upstream_wrapper("UNet", regression, 1), folder / "regression.mdlus")
    upstream_save(upstream_wrapper("EDMPrecondSuperResolution", diffusion, 2), folder / "diffusion.mdlus")
    fine = curved(N, N)
    xr.Dataset({"lat": (("y", "x"), fine.lat), "lon": (("y", "x"), fine.lon)}).to_netcdf(
        folder / "output_latlon_grid.nc"
    )
    xr.Dataset({"lat": COARSE.lat, "lon": COARSE.lon}).to_netcdf(folder / "input_latlon_grid.nc")
    stats = {
        part: {
            n: {"mean": m, "std": s} for n, m, s in zip(table.names, table.center, table.scale, strict=True)
        }
        for part, table in (("input", INPUTS), ("output", OUTPUTS))
    }
    stats["invariants"] = {"orography": {"mean": 400.0, "std": 600.0}}
    metadata = {"input_variables": INPUTS.names, "output_variables": OUTPUTS.names, "seed": 5, **meta}
    if invariants:
        xr.Dataset({"orography": (("y", "x"), hills(fine)[0])}).to_netcdf(folder / "invariants.nc")
        metadata["invariant_variables"] = ["orography"]
    metadata |= {"hr_mean_conditioning": mean, "number_of_samples": 2, "number_of_steps": 3}
    (folder / "stats.json").write_text(json.dumps(stats))
    (folder / "metadata.json").write_text(json.dumps({**metadata, **meta}))
    return folder


def plain(package: Package, cls: type[CorrDiff] = CorrDiff, **settings: Any) -> CorrDiff:
    """With upstream's arithmetic, operation by operation."""
    return cls.load_model(package, precision="fp32", accelerated=False, **settings)


def run(model: Any, x: Tensor) -> Tensor:
    coords = OrderedDict(model.input_coords())
    coords["batch"] = np.arange(len(x))
    y, _ = model(x, coords)
    return y


def compare(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    """The issue's 1e-5 in the physical fields, and 1e-4 of each variable's own spread."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float32
    a, b = ours.double(), theirs.double()
    assert torch.isfinite(b).all() and float(b.std()) > 0.1
    whole = float((a - b).norm() / b.norm())
    spread = [float((a - b)[..., i, :, :].abs().max() / b[..., i, :, :].std()) for i in range(b.shape[-3])]
    print(
        f"{name}: relative error {whole:.1e}, worst over spread {max(spread):.1e}, equal {torch.equal(a, b)}"
    )
    assert whole <= 1e-5 and max(spread) <= 1e-4


GENERIC: dict[str, dict[str, Any]] = {
    "stochastic, top 800": {"sampler_type": "stochastic"},
    "stochastic by default": {},
    "solver is ignored": {"sampler_type": "stochastic", "solver": "heun"},
    "sigma_max of the metadata": {"sigma_max": 120.0, "sigma_min": 0.01},
    "euler": {"sampler_type": "deterministic", "mean": False},
    "heun": {"sampler_type": "deterministic", "solver": "heun", "mean": False},
    "euler, other range": {"sampler_type": "deterministic", "mean": False, "sigma_max": 300.0},
    "no invariants": {"invariants": False},
    "no mean": {"mean": False},
    "regression alone": {"inference_mode": "regression"},
    "residual alone": {"inference_mode": "diffusion"},
    "margin": {"grid_bounds_margin": 0.1},
}


QUICK = "stochastic by default"


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, id=name, marks=[] if name == QUICK else pytest.mark.slow)
        for name, what in GENERIC.items()
    ],
)
def test_generic_layout(tmp_path: Path, stock: ModuleType, what: dict[str, Any]) -> None:
    package = Package(str(write_package(tmp_path / "package", **what)))
    x = weather(2)
    ours, theirs = run(plain(package), x), run(stock.CorrDiff.load_model(package), x)
    assert ours.shape == (2, 2, 2, N, N)
    compare(ours, theirs, str(what))
    if what.get("inference_mode") != "regression":
        assert not torch.equal(ours[:, 0], ours[:, 1])


@pytest.mark.slow
def test_arguments_of_the_loader_and_attributes(tmp_path: Path, stock: ModuleType) -> None:
    package = Package(str(write_package(tmp_path / "package", sigma_max=200.0)))
    bounds = {"sigma_min": 0.005, "sigma_max": 90.0}
    ours = plain(package, **bounds)
    models = [ours, stock.CorrDiff.load_model(package, **bounds)]
    for model in models:
        model.seed, model.number_of_samples = 2**32 - 2, 3
    compare(run(models[0], weather()), run(models[1], weather()))


@pytest.mark.slow
def test_coordinates_of_both_classes(tmp_path: Path, stock: ModuleType) -> None:
    package = Package(str(write_package(tmp_path / "package")))
    ours, theirs = plain(package), stock.CorrDiff.load_model(package)
    assert list(ours.input_coords()) == list(theirs.input_coords())
    for (name, a), b in zip(ours.input_coords().items(), theirs.input_coords().values(), strict=True):
        assert np.array_equal(a, b) and a.dtype == b.dtype, name
    coords = ours.input_coords()
    coords["batch"] = np.arange(2)
    for (name, a), b in zip(
        ours.output_coords(coords).items(), theirs.output_coords(coords).values(), strict=True
    ):
        assert np.array_equal(a, b), name


WRITTEN = {
    "heun": {"sampling": Sampling("heun", 3, double=False)},
    "euler": {"sampling": Sampling("euler", 3), "hr_mean_conditioning": False},
    "range": {"sampling": Sampling("heun", 3, 0.01, 300.0, double=False), "number_of_samples": 3},
    "no invariants": {"sampling": Sampling("heun", 3, double=False), "invariants": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("half", [False, True])
def test_the_stock_class_loads_what_is_written(
    tmp_path: Path, stock: ModuleType, what: dict[str, Any], half: bool
) -> None:
    spec = make_spec((N, N), **what)
    package = Package(str(save_package(tmp_path / "package", spec, *make_networks(spec), half=half)))
    ours, theirs = plain(package), stock.CorrDiff.load_model(package)
    compare(run(ours, weather()), run(theirs, weather()))


@pytest.mark.slow
def test_the_stock_class_cannot_condition_euler_on_the_mean(tmp_path: Path, stock: ModuleType) -> None:
    """An upstream limit: that one combination is this project's alone."""
    spec = make_spec((N, N), sampling=Sampling("euler", 3))
    package = Package(str(save_package(tmp_path / "package", spec, *make_networks(spec))))
    assert plain(package).spec.sampling == spec.sampling
    with pytest.raises(NotImplementedError):
        stock.CorrDiff.load_model(package)


@pytest.mark.slow
def test_taiwan_layout(tmp_path: Path, stock: ModuleType) -> None:
    """One member, as upstream allows 448 x 448 only; weights are rounded to half as there."""
    package = Package(
        str(
            make_taiwan(tmp_path / "package", (448, 448), channel_mult=[1, 1, 1, 1, 1], attn_resolutions=[28])
        )
    )
    ours, theirs = plain(package, CorrDiffTaiwan), stock.CorrDiffTaiwan.load_model(package)
    for a, b in (
        (ours.downscaler.regression, theirs.regression_model),
        (ours.downscaler.denoiser, theirs.residual_model),
    ):
        rounded = a.state_dict()
        for name, value in b.state_dict().items():
            assert value.dtype == torch.float16 and torch.equal(rounded[name], value.float()), name
    x = taiwan_weather()
    assert (ours.solver, ours.number_of_steps, ours.sigma_max) == (theirs.solver, 8, 80.0)
    for model in (ours, theirs):
        model.number_of_samples, model.number_of_steps, model.seed = 1, 2, 3
    compare(run(ours, x), run(theirs, x), "Taiwan")
    theirs.number_of_samples = ours.number_of_samples = 3
    seeds = torch.randint(0, 2**32, (3,), generator=torch.Generator().manual_seed(3)).tolist()
    assert ours.member_seeds() == seeds


def taiwan_weather(batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 12, 36, 40, generator=generator)
    return 5 * torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script beside the checkout that writes packages of the published architecture."""
    if not TOOL.exists():
        pytest.skip(f"{TOOL.name} is not beside the checkout (shared/tools)")
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        {"invariants": True},
        {"sampler_type": "deterministic", "hr_mean_conditioning": False, "solver": "heun"},
    ],
    ids=["stochastic", "deterministic"],
)
def test_generic_look_alike_of_the_published_networks(
    tmp_path: Path, stock: ModuleType, tool: ModuleType, what: dict[str, Any]
) -> None:
    tool.write_generic_package(tmp_path, "small", 3, resolution=32, steps=2, samples=2, **what)
    package = Package(str(tmp_path))
    x = tool.example_input(1, 1)
    compare(
        run(plain(package), x),
        run(stock.CorrDiff.load_model(package), x),
        "look-alike",
    )


@pytest.mark.slow
def test_precision_of_the_whole_pipeline(tmp_path: Path) -> None:
    """bfloat16 against float32, over several members: small beside the spread of the ensemble."""
    package = Package(str(write_package(tmp_path / "package")))
    full, half = (CorrDiff.load_model(package, precision=p) for p in ("fp32", "bf16"))
    full.number_of_samples = half.number_of_samples = 4
    a, b = run(full, weather()), run(half, weather())
    assert b.dtype == torch.float32
    for i in range(2):
        error = (a - b)[:, :, i].double()
        assert 0 < error.std() < 0.05 * a[:, :, i].double().std()


@pytest.mark.slow
def test_specification_of_a_package_of_upstream(tmp_path: Path) -> None:
    model = CorrDiff.load_model(Package(str(write_package(tmp_path / "package", seed=None))))
    assert replace(model.spec.sampling, steps=18) == Sampling("heun", 18, 0.002, 800.0, double=False)
    assert model.seed is None and model.number_of_samples == 2
