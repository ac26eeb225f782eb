# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``CorrDiffCMIP6`` against the stock class on tiny random packages."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from cmip6_kit import LEADS, OUTPUTS, SHAPE, TIMES, days, make_cmip6
from earth2studio.models.auto import Package
from tiny import earth2studio_module, relerr

from earth2_corrdiff.model.cmip6 import CorrDiffCMIP6

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(str(make_cmip6(tmp_path_factory.mktemp("cmip6") / "package")))


@pytest.fixture(scope="module")
def ours(package: Package) -> CorrDiffCMIP6:
    return CorrDiffCMIP6.load_model(package, LEADS, precision="fp32", accelerated=False)


@pytest.fixture(scope="module")
def theirs(package: Package) -> Any:
    stock = earth2studio_module("models.dx.corrdiff_cmip6").CorrDiffCMIP6
    return stock.load_model(package, output_lead_times=LEADS)


@pytest.mark.parametrize("mode", ["regression", "both"])
def test_fields_are_those_of_the_stock_class(ours: CorrDiffCMIP6, theirs: Any, mode: str) -> None:
    for model in (ours, theirs):
        model.seed, model.number_of_samples, model.inference_mode = 7, 2, mode
    x, coords = days(ours, 2 if mode == "regression" else 1)
    given = x.clone()
    want, want_coords = theirs(x.clone(), OrderedDict(coords))
    got, got_coords = ours(x, coords)
    assert torch.equal(x, given) or torch.equal(x.nan_to_num(9), given.nan_to_num(9))
    assert list(got_coords) == list(want_coords)
    for name, values in want_coords.items():
        assert np.array_equal(got_coords[name], values) and got_coords[name].dtype == values.dtype
    assert got.shape == want.shape == (len(x), 2, len(TIMES), len(LEADS), len(OUTPUTS), *SHAPE)
    assert got.dtype == want.dtype and torch.isfinite(got).all()
    for c in range(len(OUTPUTS)):
        assert relerr(got[..., c, :, :], want[..., c, :, :]) < 1e-5
