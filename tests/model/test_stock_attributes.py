# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of the stock class: they work, or setting them is refused; none is ignored."""

from __future__ import annotations

import ast
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import COARSE, INPUTS, make_downscaler, make_package, make_spec, relerr, weather

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.provenance import provenance

WORK = {
    "number_of_samples": 3,
    "number_of_steps": 5,
    "solver": "heun",
    "inference_mode": "diffusion",
    "seed": 7,
    "sigma_min": 0.01,
    "sigma_max": 60.0,
}


@pytest.fixture
def model() -> CorrDiff:
    return CorrDiff(make_downscaler(make_spec()), number_of_samples=2)


def stock_names(stock: Any, kind: str) -> set[str]:
    """What a stock class sets on itself, buffers included, read from its source."""
    tree = ast.parse(Path(stock.__file__).read_text(encoding="utf-8"))
    (body,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
    found = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.register_buffer":
            found.add(ast.literal_eval(node.args[0]))
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("kind", ["CorrDiff", "CorrDiffTaiwan"])
def test_none_of_the_stock_class_is_ignored(model: CorrDiff, stock: Any, kind: str) -> None:
    names = stock_names(stock, kind) - {"cache_size_limit", "profile_mode", "use_fp16"}  # of other objects
    assert len(names) > 8
    for name in sorted(names):
        if name in WORK:
            setattr(model, name, WORK[name])
            assert getattr(model, name) == WORK[name]
        else:
            with pytest.raises(InputError, match=f"^{name} cannot be set: .*; |^{name} cannot be set: set "):
                setattr(model, name, torch.nn.Identity())


def test_values_are_those_of_the_stock_class(stock: Any, tmp_path: Path) -> None:
    from earth2studio.models.auto import Package

    package = Package(str(make_package(tmp_path / "package")))
    ours, theirs = CorrDiff.load_model(package), stock.CorrDiff.load_model(package)
    for name in ("sampler_type", "hr_mean_conditioning", "inference_mode", "grid_bounds_margin"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("input_variables", "output_variables", "invariant_variables", "number_of_samples", "seed"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("in_center", "in_scale", "out_center", "out_scale", "invariants", "lat_output_grid"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("lat_input_numpy", "lon_input_numpy", "lon_output_numpy"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.regression_model is ours.downscaler.regression
    assert ours.residual_model is ours.downscaler.denoiser
    assert not hasattr(ours, "no_such_attribute")


@pytest.mark.parametrize("hr_mean", [True, False])
@pytest.mark.parametrize("sampler_type", ["stochastic", "deterministic"])
@pytest.mark.slow
def test_construction_from_networks_and_tensors(
    stock: Any, tmp_path: Path, sampler_type: str, hr_mean: bool
) -> None:
    from earth2studio.models.auto import Package

    spec = make_spec(sampling=Sampling("heun", 3), hr_mean_conditioning=hr_mean)
    theirs = stock.CorrDiff.load_model(Package(str(make_package(tmp_path / "package", spec))))
    names = ("input_variables", "output_variables", "residual_model", "regression_model", "lat_input_grid")
    names += ("lon_input_grid", "lat_output_grid", "lon_output_grid", "out_center", "out_scale")
    given = {name: getattr(theirs, name) for name in names} | {"number_of_steps": 3, "seed": 4}
    given |= {"in_center": theirs.in_center[0, :3, 0, 0], "in_scale": theirs.in_scale[0, :3, 0, 0]}
    given |= {"invariants": theirs.invariants_dict, "invariant_center": theirs.invariant_center}
    given |= {"invariant_scale": theirs.invariant_scale, "hr_mean_conditioning": hr_mean}
    given |= {"sampler_type": sampler_type, "solver": "heun", "number_of_samples": 2}
    ours = CorrDiff.from_tensors(**given)
    if sampler_type == "deterministic" and hr_mean:  # stock refuses it
        assert ours.sampler_type == sampler_type
        return
    coords = OrderedDict(batch=np.arange(2), variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    other = stock.CorrDiff(**given)
    want = torch.stack([other._forward(x) for x in weather(2)])  # its __call__ asks for a square domain
    got, _ = ours(weather(2), coords)
    assert relerr(got, want) < 1e-6
    for change in ({"solver": "rk4"}, {"sampler_type": "other"}, {"number_of_samples": 0}):
        with pytest.raises(InputError):
            CorrDiff.from_tensors(**given | change)
    with pytest.raises(TypeError, match="number_of_step"):
        CorrDiff.from_tensors(**given, number_of_step=3)


def test_a_seed_that_numpy_draws_is_repeatable(model: CorrDiff) -> None:
    model.seed = None
    drawn = []
    for _ in range(2):
        np.random.seed(5)
        drawn.append((model.member_seeds(), model.member_seeds()))
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]


def test_errors_are_also_those_of_the_stock_class(tmp_path: Path) -> None:
    from earth2studio.models.auto import Package

    folder = make_package(tmp_path / "package")
    package = Package(str(folder))

    def fails(*kinds: type[Exception]) -> None:
        for kind in (InputError, *kinds):
            with pytest.raises(kind) as raised:
                CorrDiff.load_model(package)
        assert "\n" not in str(raised.value) and not str(raised.value).startswith(("'", '"'))

    stats = (folder / "stats.json").read_text()
    (folder / "stats.json").write_text(stats.replace('"z500"', '"z700"'))
    fails(KeyError)
    (folder / "stats.json").write_text("{}")
    fails(KeyError)
    (folder / "stats.json").write_text("no")
    fails(ValueError)
    (folder / "stats.json").unlink()
    fails(FileNotFoundError, OSError)
    (folder / "metadata.json").write_text("{}")
    (folder / "stats.json").write_text(stats)
    fails(KeyError)


def test_the_inference_mode_is_that_of_the_next_call(model: CorrDiff) -> None:
    coords = OrderedDict(batch=np.arange(1), variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    fields = {}
    for mode in ("both", "regression", "diffusion"):
        model.inference_mode = mode
        fields[mode], _ = model(weather(1), coords)
        about = provenance(model.downscaler, model.downscaler.sampling, "test", False, 1, "")
        assert about.get("stages", "both") == mode
    center = model.out_center.view(-1, 1, 1)
    assert torch.equal(fields["regression"][0, 0], model.downscaler.mean(weather(1))[0])
    assert torch.allclose(fields["both"], fields["regression"] + fields["diffusion"] - center, atol=1e-4)
    with pytest.raises(InputError, match="inference_mode 'all' is none of both, regression, diffusion"):
        model.inference_mode = "all"
