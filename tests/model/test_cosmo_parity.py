# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``CorrDiffCosmoEra5`` against Earth2Studio's class of that name, on a tiny package with random weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cosmo_kit as kit
import numpy as np
import pytest
import torch
from earth2studio.models.auto import Package
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5
from earth2_corrdiff.model.packages.cosmo import public_name

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BOX = (48.9, 50.3, 9.6, 11.3)
MODES = [
    ("mean", None, "linear"),
    ("mean", [40.0, 9.0], "log"),
    ("diffusion", [50.5], "linear"),
]


@pytest.fixture(scope="module")
def stock() -> Iterator[ModuleType]:
    with kit.stock_cosmo() as module:
        yield module


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(str(kit.make_cosmo(tmp_path_factory.mktemp("cosmo"))))


@pytest.fixture(scope="module", params=MODES, ids=lambda case: f"{case[0]} {case[1]}")
def pair(request: Any, stock: ModuleType, package: Package) -> tuple[Any, CorrDiffCosmoEra5]:
    """The stock model and ours, with a seed."""
    mode, heights, interp = request.param
    how = {"mode": mode, "resolution": "rea6", "hub_heights": heights, "hub_interp": interp}
    theirs = stock.CorrDiffCosmoEra5.load_model(package, **how)
    ours = CorrDiffCosmoEra5.load_model(package, **how, precision="fp32")
    for model in (theirs, ours):
        model.seed = 5
    return theirs, ours


def worst(ours: Tensor, theirs: Tensor) -> float:
    """Largest relative error of a variable, in the L2 norm; variables are the axis -3."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    error, size = ((x.double().transpose(0, -3).flatten(1).norm(dim=1)) for x in (ours - theirs, theirs))
    assert size.isfinite().all()
    assert (size > 0).all()
    return float((error / size).max())


def ask(model: Any, batch: int = 2) -> tuple[Tensor, OrderedDict[str, Any]]:
    coords = OrderedDict(model.input_coords())
    coords |= {"batch": np.arange(batch), "time": kit.TIMES}
    return kit.coarse(tuple(map(len, coords.values()))), coords


def compare(theirs: Any, ours: Any) -> float:
    x, coords = ask(theirs)
    want, there = theirs(x.clone(), coords.copy())
    got, here = ours(x, coords)
    assert list(here) == list(there)
    for name, values in there.items():
        assert np.array_equal(here[name], values), name
        assert name == "batch" or here[name].dtype == values.dtype, name
    return worst(got, want)


def test_the_whole_domain_and_a_part_of_it(pair: Any) -> None:
    theirs, ours = pair
    assert compare(theirs, ours) < 1e-5
    for how in ({"halo": 2}, {"margin_deg": 1.5}):
        parts = [model.set_domain(*BOX, **how) for model in pair]
        for name in ("lat_input_numpy", "lon_input_numpy"):
            assert np.array_equal(*(getattr(part, name) for part in parts))
        assert parts[1].seed == 5
        assert compare(*parts) < 1e-5
    assert compare(theirs, ours) < 1e-5  # the domain itself is as it was


def test_physical_fields_of_any_output(pair: Any) -> None:
    """Larger values than those of tiny networks, at times with all kinds of light."""
    theirs, ours = pair
    lat, lon = theirs.lat_output_numpy, theirs.lon_output_numpy
    for hour, clamp in ((4, True), (18, True), (12, True), (2, False)):
        time = np.datetime64("2024-07-24T00:30", "ns") + np.timedelta64(hour, "h")
        y = 20 * torch.randn(2, len(kit.OUTPUTS), *kit.NATIVE, generator=torch.Generator().manual_seed(hour))
        ours.physical_clamp = theirs.physical_clamp = clamp
        want = theirs.postprocess_output(y.clone(), time.astype("datetime64[us]").item(), lat, lon)
        got = ours.downscaler.physical(y, ours.downscaler.prepare(*case_of(ours), valid=time))
        assert worst(got, want) < 2e-5
    ours.physical_clamp = theirs.physical_clamp = True


def case_of(model: Any) -> tuple[Tensor]:
    x, _ = ask(model, 1)
    return (x[0, :1],)


def test_the_conditioning(pair: Any) -> None:
    theirs, ours = pair
    x, coords = ask(theirs, 1)
    for i, time in enumerate(coords["time"]):
        valid = time.astype("datetime64[us]").item()
        want = theirs.preprocess_input(x[0, i], valid, theirs.lat_output_grid, theirs.lon_output_grid)
        got = ours.downscaler.condition(x[0, i : i + 1], coords["time"][i : i + 1])
        assert worst(got, want) < 2e-6


def test_attributes(pair: Any) -> None:
    theirs, ours = pair
    names = ("mode", "resolution", "number_of_samples", "number_of_steps", "sigma_min", "sigma_max", "rho")
    names += ("solver", "amp", "physical_clamp", "check_inputs", "era5_variables", "output_variables")
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("regression_model", "diffusion_model"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
    for name in ("amp", "mode", "era5_center", "output_variables", "regression_model"):
        with pytest.raises(InputError, match="cannot be set"):
            setattr(ours, name, 1)


def test_names_are_those_of_the_lexicon() -> None:
    from earth2studio.lexicon import CosmoLexicon

    known = [name for names, _ in CosmoLexicon.VOCAB.values() for name in np.atleast_1d(names)]
    assert len(known) > 50
    for name in (*map(str, known), "UNKNOWN"):
        assert public_name(name) == CosmoLexicon.to_e2studio(name)
