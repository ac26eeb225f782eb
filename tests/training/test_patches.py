# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the networks are shown in training is what they are shown at sampling: whole domains and patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training_kit import UNET, config, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.training.config import Patches
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.losses import EDMLoss, generator
from earth2_corrdiff.training.means import Means
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import Material, open_material, start
from earth2_corrdiff.training.stages import (
    Batch,
    DiffusionStage,
    Images,
    RegressionStage,
    position_of,
)

PLACED = {**UNET, "model_type": "SongUNetPosEmbd", "gridtype": "learnable", "N_grid_channels": 8}
PATCHES = Patches((8, 12), per_time=3)
KEYS = [(0, 7, 0, 0, place) for place in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    write_pairs(folder / "pairs.zarr", 5)
    (folder / "work").mkdir()
    return folder


def prepared(folder: Path, **more: Any) -> tuple[Downscaler, Material]:
    told = config(folder, folder / "pairs.zarr", **more)
    material = open_material(told, World(), lambda what, left: None)
    return start(told, material, World()), material


def patched(folder: Path, shape: tuple[int, int] = (8, 12), **more: Any) -> tuple[Downscaler, Material]:
    patches = {"shape": list(shape), "per_time": 3, **more}
    return prepared(folder, diffusion__patches=patches, diffusion__network=PLACED)


def batch(pairs: PairFile, indices: Sequence[int], keys: Sequence[tuple[int, ...]]) -> Batch:
    return Batch(indices, pairs.read(indices), keys)


def stages(model: Downscaler, material: Material) -> tuple[DiffusionStage, RegressionStage]:
    means = Means(model, material.pairs)
    return DiffusionStage(model, Cutter(PATCHES), EDMLoss(), means), RegressionStage(model, Cutter(PATCHES))


@pytest.mark.slow
def test_patches_are_cut_out_of_all_fields_alike(folder: Path) -> None:
    model, material = patched(folder)
    diffusion, regression = stages(model, material)
    some = batch(material.pairs, [3, 1], KEYS[:2])
    cond = model.condition(some.pairs.coarse)
    truth = (some.pairs.fine - model.center_out) / model.scale_out
    mean = Means(model, material.pairs)([3, 1], cond)
    got, plain = diffusion.images(some), regression.images(some)
    assert got.corner is not None and got.noise is not None and len(got) == len(plain) == 6
    assert torch.equal(got.corner, plain.corner) and len({*map(tuple, got.corner.tolist())}) > 3
    for i, (y, x) in enumerate(got.corner.tolist()):
        assert 0 <= y <= 8 and 0 <= x <= 12
        here = (i // 3, slice(None), slice(y, y + 8), slice(x, x + 12))
        assert torch.equal(got.target[i], (truth - mean)[here]) and torch.equal(plain.target[i], truth[here])
        assert torch.equal(got.cond[i, :2], mean[here]) and torch.equal(got.cond[i, 2:6], cond[here])
        assert torch.equal(plain.cond[i], cond[here])
    assert got.cond.shape == (6, 10, 8, 12) and got.noise.shape == got.target.shape == (6, 2, 8, 12)


def test_random_numbers_are_those_of_the_time_whatever_its_batch(folder: Path) -> None:
    model, material = patched(folder)
    diffusion, _ = stages(model, material)
    both = diffusion.images(batch(material.pairs, [3, 1], KEYS[:2]))
    alone = diffusion.images(batch(material.pairs, [1], KEYS[1:2]))
    for name in ("target", "noise", "sigma", "corner"):
        assert torch.allclose(getattr(both, name)[3:], getattr(alone, name), atol=1e-6), name
    other = diffusion.images(batch(material.pairs, [1], KEYS[2:3]))
    assert not torch.equal(other.noise, alone.noise) and not torch.equal(other.corner, alone.corner)
    source = generator(*KEYS[1], 0)
    z = torch.randn(3, generator=source)
    assert torch.equal(alone.sigma, (1.2 * z).exp())
    assert torch.equal(alone.noise, torch.randn(3, 2, 8, 12, generator=source))


class Everywhere(Cutter):
    """Patches of 8 x 8 side by side."""

    def cuts(self, fine: torch.Tensor, keys: Sequence[tuple[int, ...]]) -> torch.Tensor:
        return torch.tensor([(y, x, 0) for y in (8, 0) for x in (16, 8, 0)])


@pytest.mark.parametrize("whole", [True, False])
def test_a_patch_is_conditioned_as_at_sampling(folder: Path, whole: bool) -> None:
    """Conditioning, channels of the whole domain and embedding of place, to the bit."""
    model, material = patched(folder, (8, 8), whole=whole)
    assert model.domain.whole == whole
    stage = DiffusionStage(model, Cutter(Patches((8, 8), 6)), EDMLoss(), Means(model, material.pairs))
    stage._cutter = Everywhere(Patches((8, 8), 6))
    images = stage.images(batch(material.pairs, [2], KEYS[:1]))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def given(cond: torch.Tensor, position: torch.Tensor) -> Any:
        seen.append((cond, position))
        return lambda x, sigma: x

    model.denoiser.given = given  # type: ignore[assignment, method-assign]
    cond = model.condition(material.pairs.read([2]).coarse)
    mean = Means(model, material.pairs)([2], cond)
    model.domain.given(cond, mean)(torch.zeros(1, 2, 16, 24), 1.0)
    assert len(seen) == 6
    assert torch.equal(torch.cat([c for c, _ in seen]), images.cond)
    place = position_of(model.denoiser, images.corner, (8, 8))
    assert place is not None and torch.equal(torch.cat([p for _, p in seen]), place)
    assert len({tuple(p.flatten().tolist()) for p in place}) == 6


def test_whole_domains(folder: Path) -> None:
    model, material = prepared(folder)
    stage = DiffusionStage(model, Cutter(), EDMLoss(), Means(model, material.pairs))
    images = stage.images(batch(material.pairs, [4, 0], KEYS[:2]))
    assert images.corner is None and images.cond.shape == (2, 6, 16, 24)
    assert torch.equal(images.cond[:, 2:], model.condition(material.pairs.read([4, 0]).coarse))
    assert position_of(model.denoiser, None, (16, 24)) is None


def test_images_are_split_without_loss() -> None:
    images = Images(*(torch.arange(7.0).view(7, 1) + i for i in range(4)))
    parts = images.split(3)
    assert [len(part) for part in parts] == [3, 3, 1] and all(part.corner is None for part in parts)
    for name in ("cond", "target", "noise", "sigma"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(images, name))
    assert images.split(None) == images.split(7) == [images]


def test_means_are_kept_and_read_again(folder: Path, tmp_path: Path) -> None:
    model, material = prepared(folder)
    cond = model.condition(material.pairs.read([4, 1]).coarse)
    plain = Means(model, material.pairs)
    want = torch.cat([plain([n], c[None]) for n, c in zip([4, 1], cond, strict=True)])
    first, second = (Means(model, material.pairs, tmp_path) for _ in range(2))
    assert torch.equal(first([4, 1], cond), want) and torch.equal(second([4], cond[:1] * 0), want[:1])
    assert torch.equal(second([1, 4], cond), want.flip(0))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".done", ".f32"]
    (done,) = tmp_path.glob("*.done")
    assert list(done.read_bytes()) == [0, 1, 0, 0, 1]
    with torch.no_grad():
        next(model.regression.parameters()).add_(0.1)
    Means(model, material.pairs, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4  # of another regression


ADDED = {**UNET, "additive_pos_embed": True}
BAD = {
    "larger than the domain": (
        {"diffusion__patches": {"shape": [8, 32]}},
        "larger than the domain of 16 x 24",
    ),
    "of the regression": ({"regression__patches": {"shape": [32, 8]}}, "regression.patches of 32 x 8"),
    "no multiple": ({"regression__patches": {"shape": [7, 8]}}, "in steps of 2"),
    "no multiple either": ({"diffusion__patches": {"shape": [8, 9]}}, "in steps of 2"),
    "empty": ({"diffusion__patches": {"shape": [0, 8]}}, "shape and per_time must be a whole number of 1"),
    "an added embedding": (
        {"regression__patches": {"shape": [8, 8]}, "regression__network": ADDED},
        "leave out regression.patches",
    ),
}


@pytest.mark.parametrize(("more", "message"), BAD.values(), ids=BAD.keys())
def test_patches_that_are_refused(folder: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(folder, **more)
