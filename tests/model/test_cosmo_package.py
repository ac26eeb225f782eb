# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages in COSMO's layout: what is read, and what is refused."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cosmo_kit as kit
import numpy as np
import pytest
import torch
import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5
from earth2_corrdiff.model.packages.cosmo import Variant, read_cosmo
from earth2_corrdiff.model.packages.files import Folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make_cosmo(tmp_path_factory.mktemp("cosmo"))


def put(*keys: Any, to: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def test_what_is_read(package: Path) -> None:
    heights = Variant(mode="diffusion", hub_heights=(50.0,), hub_interp="log")
    spec = read_cosmo(Folder(package), heights).spec
    assert spec.output_variables[2:5] == ("tp", "tcc", "aswdir_s")
    assert spec.output_variables[-2:] == ("u50m", "v50m")
    assert spec.invariants.names == ("elevation", "land_fraction", "z0_lu")
    assert spec.invariants.scale == (250.0, 1.0, 0.4)
    assert [channel.name for channel in spec.channels][-3:] == ["land_fraction", "cos_zenith_hour", "z0_lu"]
    assert (spec.sampling.solver, spec.sampling.steps, spec.sampling.rho) == ("heun", 3, 6.0)
    assert spec.inference_mode == "diffusion"
    assert spec.surroundings is not None
    assert spec.surroundings.least == kit.KERNEL * kit.PATCH
    mean = read_cosmo(Folder(package)).spec  # in this mode the output has no transforms
    assert all(rule.transform.kind == "identity" for rule in mean.rules)
    assert [rule.bounds for rule in mean.rules] == [rule.bounds for rule in spec.rules]
    assert mean.sha256 != spec.sha256


def test_the_older_layout_has_normalised_invariants_of_the_domain_alone(
    package: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(package, tmp_path / "older") / "rea6"
    new = read_cosmo(Folder(package)).spec
    fields = new.invariant_fields
    assert fields is not None
    normalised = {
        name: (("y", "x"), (field - c) / s)
        for name, field, c, s in zip(
            ["elevation_norm", "land_fraction", "z0_lu_norm"],
            fields,
            new.invariants.center,
            new.invariants.scale,
            strict=True,
        )
    }
    xr.Dataset(normalised).to_netcdf(home / "invariants.nc")
    kit.edit(home / "metadata.json", lambda meta: meta.pop("invariants"))
    old, x = CorrDiffCosmoEra5.load_model(Folder(home.parent), precision="fp32"), kit.coarse((1, 4, 20, 21))
    model = CorrDiffCosmoEra5.load_model(Folder(package), precision="fp32")
    assert old.spec.surroundings is not None
    assert old.spec.surroundings.grid.shape == kit.NATIVE
    got, want = (m.downscaler.condition(x, kit.TIMES[:1]) for m in (old, model))
    np.testing.assert_allclose(got, want, atol=2e-6)


META = "metadata.json"
OUTPUTS = kit.OUTPUTS
WRONG: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("mean", META, put("output_variables", to=[]), "output"),
    ("mean", META, put("output_variables", to="U_10M"), "list"),
    ("mean", META, put("output_variables", to=[*OUTPUTS[:-1], "U_10M"]), "once|twice"),
    ("mean", META, put("era5_variables", to=[1, 2]), "names"),
    ("mean", META, put("era5_variables", to=["u10m", "v10m", "t2m", "none"]), "era5 statistics"),
    ("mean", META, put("modes", to={"diffusion": {}}), "no entry mean"),
    ("mean", META, put("modes", "mean", "stats", to="none"), "output statistics"),
    ("mean", META, put("pre_invariant_variables", to=["none"]), "no none"),
    ("mean", META, put("constraints", "bounds", "CLCT", "mode", to="sigmoid"), "clamp"),
    ("mean", META, put("constraints", "bounds", "CLCT", "min", to=200.0), "bounds"),
    (
        "mean",
        META,
        put("constraints", "sza_gate", "channels", "ASWDIR_S", to={"half_width": 0}),
        "half_width",
    ),
    ("mean", META, put("output_variables", to=["ASWDIFD_S", *OUTPUTS[1:]]), "sza_gate"),
    ("mean", META, put("checkpoints", to={}), "rea6_mean"),
    ("mean", META, put("checkpoints", "rea6_mean", to="../../secret.mdlus"), "name of a file"),
    ("mean", META, put("checkpoints", "rea6_mean", to="/etc/passwd"), "name of a file"),
    ("mean", META, put("checkpoints", "rea6_mean", to="none.mdlus"), "no rea6/none.mdlus"),
    ("mean", META, put("checkpoints", "rea6_mean", to="diffusion.mdlus"), "mode mean"),
    ("diffusion", META, put("checkpoints", "rea6_diffusion", to="mean.mdlus"), "mode diffusion"),
    ("mean", META, put("invariants", "file", to="~/x.nc"), "no rea6"),
    ("mean", META, put("invariants", "native_offset", to=[6, 5]), "not that of grids.nc"),
    ("mean", META, put("invariants", "native_shape", to=[14, 17]), "not that of grids.nc"),
    ("mean", META, put("invariants", "native_offset", to=[-1, 4]), "native_offset"),
    ("mean", META, put("invariants", "native_offset", to=[20, 4]), "native_offset"),
    ("mean", META, put("invariants", "native_shape", to=[14.0, 18]), "whole numbers"),
    ("mean", META, put("regression", to={"patch_size": 0, "attn_kernel_size": 3}), "patch_size"),
    ("mean", META, put("regression", to=[]), "regression"),
    ("mean", META, put("number_of_samples", to=10**9), "number_of_samples"),
    ("mean", META, put("sampler", "num_steps", to=0), "steps"),
    ("mean", META, put("sampler", "rho", to=10**400), "cannot be read"),
    ("mean", META, put("modes", "mean", "stats", to=[]), "stats must be a text"),
    ("mean", META, put("sampler", "solver", to="rk4"), "solver"),
    ("mean", META, put("sampler", "rho", to=-1), "rho"),
    ("mean", META, put("sampler", "sigma_min", to=900.0), "sigma_min"),
    ("diffusion", META, put("channel_transforms", "CLCT", to="logit_eps"), "channel_transforms"),
    ("diffusion", META, put("channel_transforms", "CLCT", "transform", to="cube"), "transform"),
    ("diffusion", META, put("channel_transforms", "CLCT", "eps", to=0.7), "eps"),
    ("mean", "stats.json", put("era5", to={}), "era5 statistics"),
    ("mean", "stats.json", put("output_mean", "T_2M", "std", to=0.0), "not positive"),
    ("mean", "norm.json", put("channels", "elevation", "std", to=0.0), "not positive"),
    ("mean", "norm.json", put("channels", "elevation", to={"method": "zscore"}), "finite"),
    ("mean", "norm.json", put("channels", to=3), "channels"),
    ("mean", "grids.nc", lambda ds: ds.drop_vars("lat_output"), "lat_output"),
    ("mean", "grids.nc", lambda ds: ds.isel(la=slice(None, None, -1)), "even steps"),
    ("mean", "grids.nc", lambda ds: ds.isel(la=[0, 1, 3, 4]), "even steps"),
    ("mean", "grids.nc", lambda ds: ds.isel(la=slice(8)), "does not cover"),
    ("mean", "invariants_ext.nc", lambda ds: ds.drop_vars("z0_lu"), "no z0_lu"),
    ("mean", "invariants_ext.nc", lambda ds: ds.assign(z0_lu=ds.z0_lu[0]), "shape"),
    ("mean", "invariants_ext.nc", lambda ds: ds.assign(z0_lu=ds.z0_lu * np.nan), "finite"),
]


@pytest.mark.parametrize(("mode", "name", "change", "word"), WRONG)
def test_a_package_that_is_not_valid_is_refused(
    package: Path, tmp_path: Path, mode: str, name: str, change: Any, word: str
) -> None:
    home = shutil.copytree(package, tmp_path / "copy") / "rea6"
    kit.edit(home / name, change)
    with pytest.raises(InputError, match=word):
        CorrDiffCosmoEra5.load_model(Folder(home.parent), mode=mode)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"mode": "both"}, "mode"),
        ({"resolution": "rea7"}, "resolution"),
        ({"resolution": "rea2"}, "no rea2/metadata.json"),
        ({"hub_heights": [-3.0]}, "hub_heights"),
        ({"hub_heights": [30.0], "hub_interp": "cubic"}, "hub_interp"),
    ],
)
def test_arguments_that_are_not_valid_are_refused(package: Path, how: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        CorrDiffCosmoEra5.load_model(Folder(package), **how)


def test_hub_winds_need_levels(package: Path, tmp_path: Path) -> None:
    for key, to, word in (
        (["wind_levels"], None, "wind_levels"),
        (["wind_levels", "elevation_invariant"], "none", "elevation_invariant"),
        (["wind_levels", "levels", 0, "u"], "none", "no output"),
        (["wind_levels", "levels", 0, "b"], 1e6, "monotonic"),
    ):
        home = shutil.copytree(package, tmp_path / str(len(key)) / word) / "rea6"
        kit.edit(home / META, put(*key, to=to))
        with pytest.raises(InputError, match=word):
            CorrDiffCosmoEra5.load_model(Folder(home.parent), hub_heights=[30.0])


def test_a_subclass_cannot_replace_what_is_not_called() -> None:
    with pytest.raises(InputError, match="_denoise"):
        type("Guided", (CorrDiffCosmoEra5,), {"_denoise": lambda self, background, seed: background})


def test_devices_and_copies_of_a_region(package: Path) -> None:
    """A region and the whole domain have their own settings and the same weights."""
    model = CorrDiffCosmoEra5.load_model(Folder(package), mode="diffusion", hub_heights=[30.0])
    model.physical_clamp, model.number_of_steps, model.check_inputs = False, 2, False
    part = model.set_domain(48.9, 50.3, 9.6, 11.3, halo=2)
    assert (part.physical_clamp, part.number_of_steps, part.check_inputs) == (False, 2, False)
    part.number_of_steps, part.physical_clamp = 5, True
    assert (model.number_of_steps, model.physical_clamp) == (2, False)
    assert part.diffusion_model is model.diffusion_model
    assert model.downscaler.conditioning.lat.shape == kit.NATIVE
    weights = {value.data_ptr() for value in model.parameters()}
    assert {value.data_ptr() for value in part.parameters()} == weights
    x = kit.coarse((1, 4, *part.spec.input_grid.shape))
    with pytest.raises(InputError, match="valid time"):
        part.downscaler(x, [1])
    assert part.to("cpu").downscaler(x, [1], valid_times=kit.TIMES[:1]).shape[2] == len(kit.OUTPUTS) + 2


def test_input_that_is_not_finite_is_logged(package: Path) -> None:
    lines: list[str] = []
    logger.add(lines.append, format="{message}")
    model = CorrDiffCosmoEra5.load_model(Folder(package))
    coords = OrderedDict(list(model.input_coords().items())[1:]) | {"time": kit.TIMES[:1]}
    y, out = model(torch.full([len(values) for values in coords.values()], torch.nan), coords)
    assert list(out) == ["sample", "time", "variable", "lat", "lon"]
    assert y.shape == (2, 1, len(kit.OUTPUTS), *kit.NATIVE)
    assert any("finite" in line for line in lines)
