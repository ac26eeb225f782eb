# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``CorrDiffCMIP6`` against the stock class on tiny random packages, in patches, and what it refuses."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cmip6_kit import LEADS, OUTPUTS, SHAPE, TIMES, days, make_cmip6
from loguru import logger
from tiny import earth2studio_module, relerr

from earth2_corrdiff import CorrDiff, CorrDiffCMIP6, InputError, PatchGeometry
from earth2_corrdiff.base.studio import Package
from earth2_corrdiff.model.packages.reader import read_package

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(str(make_cmip6(tmp_path_factory.mktemp("cmip6") / "package")))


@pytest.fixture(scope="module")
def ours(package: Package) -> CorrDiffCMIP6:
    return CorrDiffCMIP6.load_model(package, LEADS, precision="fp32", accelerated=False)


@pytest.mark.slow
def test_fields_are_those_of_the_stock_class(package: Package, ours: CorrDiffCMIP6) -> None:
    stock = earth2studio_module("models.dx.corrdiff_cmip6").CorrDiffCMIP6
    theirs = stock.load_model(package, output_lead_times=LEADS)
    for mode, seed, cases, times in (("regression", 7, 2, 2), ("both", 7, 1, 2), ("both", None, 1, 1)):
        for model in (ours, theirs):
            model.seed, model.inference_mode, model.number_of_samples = seed, mode, times
        x, coords = days(ours, cases)
        x, coords["time"] = x[:, :times], TIMES[:times]
        given = x.clone()
        np.random.seed(5)  # without a seed, the stock class draws one for each valid time
        want, want_coords = theirs(x.clone(), OrderedDict(coords))
        np.random.seed(5)
        got, got_coords = ours(x, coords)
        assert torch.equal(x.nan_to_num(-1), given.nan_to_num(-1))  # the stock class writes to its input
        assert list(got_coords) == list(want_coords)
        for name, values in want_coords.items():
            assert np.array_equal(got_coords[name], values) and got_coords[name].dtype == values.dtype
        assert got.shape == want.shape == (cases, times, times, len(LEADS), len(OUTPUTS), *SHAPE)
        assert got.dtype == want.dtype and torch.isfinite(got).all()
        for c in range(len(OUTPUTS)):
            assert relerr(got[..., c, :, :], want[..., c, :, :]) < 1e-5
        assert (got[..., 1:, :, :] >= 0).all() and (got[..., 0, :, :] < 0).any()


def test_call(ours: CorrDiffCMIP6) -> None:
    """Coordinates, a labelled array, the other order of rows, results on the CPU, the pipeline below."""
    ours.inference_mode, ours.seed, ours.number_of_samples = "regression", 1, 1
    ours.output_lead_times = LEADS[1:]
    x, coords = days(ours)
    y, out = ours(x, coords)
    assert list(out) == ["batch", "sample", "time", "lead_time", "variable", "lat", "lon"]
    south = OrderedDict(coords, lat=coords["lat"][::-1])
    assert torch.equal(ours(x.flip(-2), south)[0], y)
    valid = TIMES + LEADS[1]
    want = ours.downscaler(x[0], [1], valid_times=valid)
    assert torch.equal(y[0, 0, :, 0], want[:, 0])
    ours.stream_samples_to_cpu = True
    assert torch.equal(ours(x, coords)[0], y)
    ours.stream_samples_to_cpu, ours.output_lead_times = False, LEADS
    coords["time"], lines = TIMES + np.timedelta64(6, "h"), []
    sink = logger.add(lines.append, level="WARNING")
    ours(x, coords)
    logger.remove(sink)
    assert len(lines) == 1 and "daily means have the time 12:00 UTC" in lines[0]
    with pytest.raises(InputError, match="lead times -24 hours, 0 hours, 24 hours of daily means"):
        ours(x, OrderedDict(coords, lead_time=LEADS[[0, 0, 0]]))


@pytest.mark.slow
def test_patches_see_the_padded_domain(package: Package, ours: CorrDiffCMIP6) -> None:
    """Patches of the size of the domain give its bits; smaller ones a field near it."""
    ours.inference_mode, ours.seed, ours.number_of_samples, ours.output_lead_times = "both", 1, 1, LEADS[:1]
    x, coords = days(ours)
    x, coords["time"] = x[:, :1], TIMES[:1]
    whole, _ = ours(x, coords)
    domain = ours.spec.domain
    assert domain == (SHAPE[0] + 47, SHAPE[1] + 96)
    for patch, limit in ((domain, 1e-6), ((36, 72), 0.3)):
        ours.patching = PatchGeometry(domain, patch, overlap=8 if patch != domain else 0)
        got, _ = ours(x, coords)
        assert got.shape == whole.shape and 0 < relerr(got, whole) + 1e-9 < limit
    with pytest.raises(InputError, match="the package's is 72 x 144"):
        ours.patching = PatchGeometry(SHAPE, SHAPE)
    ours.patching, ours.output_lead_times = None, LEADS
    fast = CorrDiffCMIP6.load_model(package, LEADS[:1], "cpu", "fp32")
    fast.seed, fast.number_of_samples = 1, 1
    assert relerr(fast(x, coords)[0], whole) < 1e-4


def test_settings(ours: CorrDiffCMIP6, package: Package) -> None:
    made = CorrDiffCMIP6.load_model(package, device="cpu")
    assert made.output_lead_times == [np.timedelta64(-12, "h")] and made.number_of_samples == 2
    assert made.seed is None and not made.stream_samples_to_cpu
    sampling = made.spec.sampling
    assert (sampling.solver, sampling.steps, sampling.sigma_min, sampling.sigma_max) == ("heun", 2, 1, 400)
    for leads in ([np.timedelta64(12, "h")], [np.timedelta64(-13, "h")], [], [3], LEADS[None]):
        with pytest.raises(InputError, match="output_lead_times must be"):
            ours.output_lead_times = leads
    assert ours.output_lead_times is LEADS
    with pytest.raises(InputError, match="not diffusion"):
        ours.inference_mode = "diffusion"
    assert ours.spec.beyond_generic and ours.spec.filters == ("sea_ice",) and ours.spec.needs_time


@pytest.mark.slow
def test_packages(tmp_path: Path) -> None:
    """Without sea ice; with entries that do not fit; that of another layout."""
    folder = make_cmip6(tmp_path / "dry", ["t2m", "u10m"], inference_mode="regression")
    assert read_package(Package(str(folder))).spec.filters == ()
    stats = json.loads((folder / "stats.json").read_text())
    meta = json.loads((folder / "metadata.json").read_text())

    def refused(text: str, name: str, content: Any) -> None:
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(InputError, match=text):
            CorrDiffCMIP6.load_model(Package(str(folder)))
        (folder / name).write_text(before)

    refused("not diffusion", "metadata.json", {**meta, "inference_mode": "diffusion"})
    refused("needs invariants", "metadata.json", {**meta, "invariant_variables": []})
    refused("positive in float32", "stats.json", {
        **stats, "input": {**stats["input"], "sza": {"mean": 0, "std": 0}}})  # fmt: skip
    refused("channels", "metadata.json", {**meta, "input_variables": ["t2m"]})
    del stats["input"]["hod"]
    refused("channels", "stats.json", stats)  # it is a package of the generic layout then
    model = CorrDiff.load_model(Package(str(folder)))
    coords = OrderedDict(time=TIMES[:1], **{k: v for k, v in model.input_coords().items() if k != "batch"})
    with pytest.raises(InputError, match="the input must have the shape"):
        model(torch.zeros(1, 2, 6, 9), coords)
