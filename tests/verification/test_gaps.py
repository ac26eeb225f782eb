# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Gaps in forecasts and in the truth, spectra of tiles, precipitation in mm, draws of valid times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from plotting_store import write
from verification_kit import QUICK, build, flat, value

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.verification import Bootstrap, verify
from earth2_corrdiff.verification.case_statistics import CaseTruth, Domain, Members, NotFiniteError, score
from earth2_corrdiff.verification.pointwise import crps
from earth2_corrdiff.verification.result import joined
from earth2_corrdiff.verification.spectrum import radial_power
from earth2_corrdiff.verification.targets import targets


def test_members_with_one_mask() -> None:
    """Scores of the points that all have; tiles without gaps; other gaps and infinite values are refused."""
    domain, (rain, _) = Domain.of(flat(), (0.0,), tile=8), targets(["tp06", "t2m"])
    assert (rain.units, rain.factor, rain.thresholds[0]) == ("mm", 1e3, 0.1)
    assert float(rain.field(lambda name: torch.tensor(0.002))) == pytest.approx(2)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 17, 26, generator=rng).double(), torch.rand(17, 26, generator=rng).double()
    x[:, :, 20:], y[0, 0] = torch.nan, torch.nan
    members = Members(lambda i: x[i], 3)
    case = CaseTruth(torch.where(members.there, y, torch.nan), domain, rain)
    found, _ = score(members, case)
    both = members.there & y.isfinite()
    w = domain.area[both]
    want = (crps(x[:, both], y[both])[0] * w).sum() / w.sum()
    assert float(found["crps"]) == pytest.approx(float(want))
    assert float(found["weight"]) == pytest.approx(float(w.sum() / domain.area.sum()))
    tiles = [(slice(a, a + 8), slice(b, b + 8)) for a, b in ((0, 8), (8, 0), (8, 8))]
    power = torch.stack([radial_power(m[part], domain.rings) for m in x for part in tiles]).mean(0)
    np.testing.assert_allclose(found["power"], power, rtol=1e-9)
    x[1, 3, 3] = torch.nan
    with pytest.raises(NotFiniteError, match="member 1"):
        score(Members(lambda i: x[i], 3), case)
    x[1, 3, 3] = torch.inf
    with pytest.raises(NotFiniteError, match="member 1"):
        score(Members(lambda i: x[i], 3), case)
    with pytest.raises(InputError, match="tiles .* 8 to 17 cells"):
        Domain.of(flat(), tile=20)


@pytest.mark.slow
def test_a_store_with_gaps(tmp_path: Path) -> None:
    """Baselines lose the same points; the notes have them."""
    store, truth = build(tmp_path / "s.zarr", flat(), members=3)
    ds = xr.open_zarr(store).load()
    ds["t2m"].values[..., :5] = np.nan
    write(ds, tmp_path / "gaps.zarr")
    how = replace(QUICK, variables=["t2m"])
    result = verify(tmp_path / "gaps.zarr", truth, settings=how)
    cut = truth.copy(deep=True)
    cut["t2m"].values[..., :5] = np.nan
    want = verify(store, cut, settings=how)
    for name in ("ensemble", "interpolation"):
        assert value(result, "crps", "t2m", name) == pytest.approx(value(want, "crps", "t2m", name))
    assert any("ensemble of t2m has no value at 19.2 % of the truth's points" in n for n in result.notes)
    assert any("known, and forecast by all" in note for note in result.notes)


@pytest.mark.slow
def test_few_valid_times_are_drawn_whole(tmp_path: Path) -> None:
    """Forecasts of different leads for one valid time are drawn together, and few of them if asked."""
    store, truth = build(tmp_path / "s.zarr", flat(), members=2)
    results = {}
    for lead, part in ((6, slice(0, 4)), (12, slice(2, 6))):
        some = truth.isel(time=part)
        results[np.timedelta64(lead, "h")] = verify(store, some, settings=replace(QUICK, variables=["t2m"]))
    whole = joined(results, by_valid=True)
    assert whole.draws == 6 and whole.starts is not None
    assert whole.starts.tolist() == [0, 1, 2, 3, 2, 3, 4, 5]
    target = whole.targets[0]
    assert not whole.score("crps", "ensemble", target).has_interval
    few = replace(whole, bootstrap=Bootstrap(100, fewest=5))
    assert few.score("crps", "ensemble", target).has_interval
