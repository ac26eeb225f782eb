# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of patch-trained denoisers, from their metadata to the ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_layouts import eager, theirs_of
from tiny import make_networks, make_spec, relerr, upstream_save, upstream_wrapper, weather

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.loaded import Loaded
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.region import Box, cropped
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Loading"
)
SHAPE, SEEDS = (40, 56), [3, 4]
PATCHES = PatchGeometry(SHAPE, (16, 24), 4, 2)
ENTRY = {"patch_shape_y": 16, "patch_shape_x": 24, "overlap_pix": 4, "boundary_pix": 2}
Package = tuple[Path, torch.nn.Module]


def specification(**what: Any) -> CorrDiffSpec:
    sampling = Sampling("heun", 3, sigma_max=80.0, double=False)
    return make_spec(SHAPE, bent=False, **{"sampling": sampling, **what})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package whose denoiser is shown the inputs of the whole domain too, and that denoiser of upstream."""
    folder, spec = tmp_path_factory.mktemp("patched"), specification(patching=PATCHES)
    regression, denoiser = make_networks(spec)
    args = dict(denoiser.origin.args)
    args |= {"gridtype": "learnable", "N_grid_channels": 8}
    args["img_in_channels"] += spec.condition_channels + 4
    theirs = upstream_wrapper("EDMPrecondSuperResolution", args, 5)
    save_package(folder, spec, regression, denoiser)
    upstream_save(theirs, folder / "diffusion.mdlus")
    return folder, theirs


def load(folder: Path, **change: Any) -> Loaded:
    """The package with other metadata."""
    path = folder / "metadata.json"
    old = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(old), **change}))
        return read_package(Folder(folder))
    finally:
        path.write_text(old)


def downscaler(loaded: Loaded, precision: str = "fp32", accelerated: bool = True) -> Downscaler:
    return Downscaler(loaded.spec, loaded.regression, loaded.denoiser, precision, accelerated)


@pytest.mark.slow
@pytest.mark.parametrize("accelerated", [False, True])
def test_equals_upstreams_patched_sampler(package: Package, accelerated: bool) -> None:
    from physicsnemo.diffusion.samplers.legacy_stochastic_sampler import stochastic_sampler
    from physicsnemo.diffusion.utils import StackedRandomGenerator

    folder, theirs = package
    model = downscaler(load(folder), accelerated=accelerated)
    assert model.domain.whole and model.spec.patching == PATCHES
    got = model(weather(), SEEDS)
    with torch.no_grad():
        cond = model.condition(weather())
        mean = model.normalised_mean(cond)
        noise = StackedRandomGenerator("cpu", SEEDS).randn([2, 2, *SHAPE])
        with eager():
            residual = stochastic_sampler(
                theirs,
                noise,
                cond.expand(2, -1, -1, -1),
                patching=theirs_of((SHAPE, PATCHES.patch, PATCHES.overlap, PATCHES.boundary)),
                mean_hr=mean,
                num_steps=3,
                sigma_max=80.0,
            )
        want, center = model.physical(mean + residual), model.center_out
    assert relerr(got[0] - center, want - center) < 1e-5 and residual.std() > 0.1
    assert torch.equal(model(weather(), SEEDS[1:])[:, 0], got[:, 1])


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 4])
def test_a_region_takes_the_patches_around_it(overlap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without overlap the same bits as the whole run has there; with it, patches farther away lack."""
    spec = specification(patching=PatchGeometry(SHAPE, (16, 24), overlap, 0))
    model = Downscaler(spec, *make_networks(spec), "fp32", accelerated=False)
    lat, lon = (axis.astype(float) for axis in (spec.output_grid.lat, spec.output_grid.lon))
    part = model.on(cropped(spec, Box(lat[4] - 0.01, lat[13], lon[26] - 0.01, lon[40])).only(["t2m"]))
    rows, columns = slice(4, 14), slice(26, 41)
    assert part.domain.chosen == ((range(1), range(1, 2)) if overlap == 0 else (range(2), range(3)))
    whole, calls = model(weather(), SEEDS)[:, :, 1:, rows, columns], []
    given = type(part.denoiser).given
    monkeypatch.setattr(type(part.denoiser), "given", lambda *a: calls.append(len(a[1])) or given(*a))
    region = part(weather(), SEEDS)
    assert region.shape == (1, 2, 1, 10, 15) and len(calls) == 2 * part.domain.patches
    if overlap == 0:
        assert torch.equal(region, whole)
    else:
        assert 0 < relerr(region - model.center_out[:, 1:], whole - model.center_out[:, 1:]) < 0.5


@pytest.mark.slow
def test_the_windows_differ_a_little(package: Package) -> None:
    model = downscaler(load(package[0]))
    flat = model(weather(), SEEDS)
    model.domain.window = "cosine"
    smooth = model(weather(), SEEDS)
    assert not torch.equal(flat, smooth) and torch.isfinite(smooth).all()


@pytest.mark.slow
def test_one_patch_over_all_is_the_whole_domain() -> None:
    """A denoiser that sees its patch only, in one patch: the same bits as without patches."""
    made = []
    for patching in (None, PatchGeometry(SHAPE, (448, 448), 4, 2)):
        spec = specification(patching=patching)
        model = Downscaler(spec, *make_networks(spec), "fp32", accelerated=False)
        assert not model.domain.whole
        made.append(model(weather(2), SEEDS))
    assert torch.equal(*made)


@pytest.mark.slow
def test_the_metadata_come_back(tmp_path: Path) -> None:
    for patching in (PATCHES, None):
        spec = specification(patching=patching)
        save_package(tmp_path, spec, *make_networks(spec))
        told = json.loads((tmp_path / "metadata.json").read_text()).get("patching")
        assert told == (None if patching is None else ENTRY)
        assert read_package(Folder(tmp_path)).spec.patching == patching


def test_without_an_entry_the_message_names_it(package: Package) -> None:
    loaded = load(package[0], patching=None)
    with pytest.raises(InputError, match="diffusion network takes 12.*make 8.*metadata.json.*patch_shape_y"):
        downscaler(loaded)


BAD = {
    "no mapping": (16, "patch_shape_y"),
    "empty": ({}, "patch_shape_y"),
    "incomplete": ({"patch_shape_y": 16}, "patch_shape_x"),
    "unknown key": ({**ENTRY, "overlap": 4}, "overlap_pix"),
    "a fraction": ({**ENTRY, "overlap_pix": 4.5}, "whole pixels"),
    "a truth": ({**ENTRY, "overlap_pix": True}, "whole pixels"),
    "negative": ({**ENTRY, "patch_shape_x": -8}, "positive"),
    "too small": ({**ENTRY, "patch_shape_x": 8}, "for instance"),
}


@pytest.mark.parametrize(("entry", "words"), BAD.values(), ids=BAD.keys())
def test_entries_that_cannot_be(package: Package, entry: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        load(package[0], patching=entry)
    assert "\n" not in str(raised.value)


def test_a_patch_that_the_network_cannot_take(package: Package) -> None:
    loaded = load(package[0], patching={**ENTRY, "patch_shape_x": 23})
    with pytest.raises(InputError, match="steps of 2.*for instance 16 x 22"):
        downscaler(loaded)
    spec = specification(patching=PATCHES)
    regression, denoiser = make_networks(spec, additive_pos_embed=True)
    with pytest.raises(InputError, match="cannot take patches"):
        Downscaler(spec, regression, denoiser, "fp32")


@pytest.mark.parametrize("patching", [None, PATCHES])
def test_lead_times_need_an_entry(patching: PatchGeometry | None) -> None:
    spec = specification(patching=patching)
    regression, _ = make_networks(spec)
    late = {"lead_time_channels": 2, "model_type": "SongUNetPosLtEmbd"}
    _, denoiser = make_networks(spec, **late)
    said = "diffusion network was trained with 9 lead times: metadata.json needs"
    with pytest.raises(InputError, match=said):
        Downscaler(spec, regression, denoiser, "fp32")
