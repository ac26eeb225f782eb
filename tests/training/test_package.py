# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a training leaves: a package that stock Earth2Studio loads too, and from which another starts."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from earth2studio.models.auto import Package
from tiny import curved, make_taiwan, relerr
from torch import Tensor
from training_kit import UNET, Watch, config, losses, train, weather, write_pairs

from earth2_corrdiff import CorrDiff
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.training.means import Means, balance, residual_scale
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import open_material, start

pytestmark = pytest.mark.filterwarnings("ignore")
SQUARE = curved(16, 16)
SAMPLING = {"steps": 3, "samples": 2, "sigma_max": 20.0}
NAMES = ("inputs", "outputs", "invariants", "sampling", "number_of_samples", "name")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr", fine=SQUARE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A trained package."""
    folder = tmp_path_factory.mktemp("trained")
    return train(
        config(
            folder,
            pairs,
            name="tiny",
            sampling=SAMPLING,
            regression__steps=20,
            regression__lr=1e-2,
            diffusion__steps=20,
            diffusion__lr=1e-2,
        )
    )


def run(model: Any, x: Tensor) -> Tensor:
    coords = OrderedDict(model.input_coords())
    coords["batch"] = np.arange(len(x))
    model.seed = 4
    y: Tensor = model(x, coords)[0]
    return y


def coarse(number: int) -> Tensor:
    return torch.from_numpy(weather(number, fine=SQUARE)[0])[None]


@pytest.mark.slow
def test_both_projects_make_the_same_fields(package: Path, stock: ModuleType) -> None:
    here = CorrDiff.load_model(Package(str(package)), precision="fp32", accelerated=False)
    there = stock.CorrDiff.load_model(Package(str(package)))
    ours, theirs = run(here, coarse(3)), run(there, coarse(3))
    assert ours.shape == theirs.shape == (1, 2, 2, 16, 16)
    assert relerr(ours, theirs) <= 1e-5 and not torch.equal(ours[:, 0], ours[:, 1])
    truth = torch.from_numpy(weather(3, fine=SQUARE)[1])
    assert float((ours[0].mean(0)[1] - truth[1]).abs().mean()) < 5  # K: it is the temperature of the time


@pytest.mark.slow
def test_what_the_package_says(package: Path, pairs: Path) -> None:
    spec, file = read_package(Folder(package)).spec, PairFile(pairs)
    assert spec.inputs.names == file.channels.inputs and spec.outputs.names == file.channels.outputs
    assert (spec.name, spec.number_of_samples, spec.sampling.steps) == ("tiny", 2, 3)
    assert (spec.sampling.solver, spec.sampling.sigma_min, spec.sampling.sigma_max) == ("heun", 0.002, 20.0)
    assert np.array_equal(spec.output_grid.lat, SQUARE.lat) and not spec.synthetic
    stats = json.loads((package.parent / "work" / "statistics.json").read_text())
    assert list(spec.inputs.center) == stats["inputs"][1] and list(spec.inputs.scale) == stats["inputs"][2]


@pytest.mark.slow
def test_the_residual_is_scaled_to_sigma_data(package: Path, pairs: Path) -> None:
    """Of all training times, in each channel; with the weights that the package has."""
    loaded = read_package(Folder(package))
    model = CorrDiff.load_model(Package(str(package)), precision="fp32", accelerated=False).downscaler
    some = PairFile(pairs).read(range(10))  # the first 80 % of twelve
    scale = torch.tensor(loaded.spec.outputs.scale).view(-1, 1, 1)
    rest = (some.fine - model.mean(some.coarse)).double() / scale
    assert rest.transpose(0, 1).flatten(1).std(1).tolist() == pytest.approx([0.5, 0.5], rel=1e-3)


@pytest.mark.slow
def test_balancing_leaves_the_physical_mean_as_it_is(tmp_path: Path, pairs: Path) -> None:
    told = config(tmp_path, pairs)
    (tmp_path / "work").mkdir()
    material = open_material(told, World(), lambda what, left: None)
    model = start(told, material, World())
    x, before = material.pairs.read([0, 5]).coarse, model.mean(material.pairs.read([0, 5]).coarse)
    train_on = material.pairs, material.splits.train
    scale = residual_scale(model, *train_on, Means(model, material.pairs))
    balanced = balance(model, scale, 0.5)
    assert relerr(balanced.mean(x), before) < 1e-6 and scale != (0.5, 0.5)
    again = residual_scale(balanced, *train_on, Means(balanced, material.pairs))
    assert again == pytest.approx((0.5, 0.5), rel=1e-5)
    assert balanced.spec.outputs.scale == pytest.approx(
        [s * r / 0.5 for s, r in zip(model.spec.outputs.scale, scale, strict=True)]
    )


# fine-tuning


def fine_tuned(folder: Path, pairs: Path, package: Path, **more: Any) -> Any:
    none = {"regression__network": {}, "diffusion__network": {}, "start_from": str(package)}
    return config(folder, pairs, **{**none, **more})


@pytest.mark.slow
def test_fine_tuning_keeps_what_was_learnt(tmp_path: Path, pairs: Path, package: Path) -> None:
    few = {"regression__steps": 2, "diffusion__steps": 2, "regression__warmup": 50, "diffusion__warmup": 50}
    made = train(fine_tuned(tmp_path, pairs, package, **few, sampling={"steps": 5}))
    old, new = (read_package(Folder(folder)).spec for folder in (package, made))
    assert replace(old, sampling=new.sampling).sampling == replace(old.sampling, steps=5)
    for name in NAMES:
        assert name == "sampling" or getattr(old, name) == getattr(new, name), name
    for stage in ("regression", "diffusion"):
        first, last = losses(package.parent, stage)[0], losses(package.parent, stage)[-6:]
        assert max(losses(tmp_path, stage)) < max(max(last) * 1.5, 0.9 * first)
    assert losses(tmp_path, "regression")[0] < 0.8 * losses(package.parent, "regression")[0]


@pytest.mark.slow
def test_a_stage_of_no_steps_keeps_its_network(tmp_path: Path, pairs: Path, package: Path) -> None:
    watch = Watch()
    made = train(fine_tuned(tmp_path, pairs, package, regression__steps=0), watch)
    assert watch.stages == ["diffusion"]
    regressions, denoisers = (
        [(folder / name).read_bytes() for folder in (package, made)]
        for name in ("regression.mdlus", "diffusion.mdlus")
    )
    assert regressions[0] == regressions[1] and denoisers[0] != denoisers[1]


@pytest.mark.slow
def test_fine_tuning_a_patch_trained_package_in_another_domain(tmp_path: Path, pairs: Path) -> None:
    patches = {"shape": [8, 8], "per_time": 2, "overlap": 2}
    few = {"regression__steps": 1, "diffusion__steps": 1}
    made = train(config(tmp_path / "a", pairs, **few, diffusion__patches=patches, diffusion__sigma_data=0.7))
    larger = write_pairs(tmp_path / "larger.zarr", 5, fine=curved(24, 32))
    with pytest.raises(InputError, match=r"trained on patches; set .* the shape \[8, 8\]"):
        train(fine_tuned(tmp_path / "b", larger, made, **few))
    again = train(fine_tuned(tmp_path / "b", larger, made, **few, diffusion__patches=patches))
    loaded = read_package(Folder(again))
    assert loaded.spec.patching is not None and loaded.spec.patching.domain == (24, 32)
    assert loaded.denoiser.sigma_data == 0.7


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other inputs": ({"data__inputs": ["t2m"]}, "the inputs of start_from are t2m, u10m, z500"),
    "a network": ({"regression__network": UNET}, "leave out regression.network"),
    "no package": ({"start_from": "nowhere"}, "nowhere"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_fine_tuning_that_is_refused(
    tmp_path: Path, pairs: Path, package: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(fine_tuned(tmp_path, pairs, package, **more))


@pytest.mark.slow
def test_a_package_of_noise_levels_without_a_solver(tmp_path: Path, pairs: Path, package: Path) -> None:
    """This project runs it, and could not write it again: refused before the training, not after it."""
    other = Path(shutil.copytree(package, tmp_path / "other"))
    said = json.loads((other / "metadata.json").read_text())
    for name in ("sampler_type", "solver", "number_of_steps"):
        del said[name]
    (other / "metadata.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="names no solver; set sampling.solver"):
        train(fine_tuned(tmp_path, pairs, other))


@pytest.mark.slow
def test_a_package_of_the_other_layout_is_no_start(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(InputError):
        train(fine_tuned(tmp_path, pairs, make_taiwan(tmp_path / "taiwan")))
