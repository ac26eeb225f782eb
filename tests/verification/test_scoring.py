# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""All statistics of one case: against slow loops, Earth2Studio's averages, and themselves in small blocks."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from verification_kit import bent, flat, smooth

from earth2_corrdiff.verification import case_statistics
from earth2_corrdiff.verification.case_statistics import CaseTruth, Domain, Members, NotFiniteError, score
from earth2_corrdiff.verification.geometry import cell_areas
from earth2_corrdiff.verification.spectrum import radial_power
from earth2_corrdiff.verification.targets import Target, targets

M = 5
RADAR = Target("mrr", "radar", "dBZ", ("mrr",), (5.0, 12.0), 5.0)
DOMAIN = Domain.of(bent(), (0, 120, 300))


def fields(seed: int = 0, members: int = M) -> tuple[torch.Tensor, torch.Tensor]:
    """Members ``[M, H, W]`` and a truth, rain-like."""
    made = np.maximum(8 * smooth(np.random.default_rng(seed), (members + 1, *DOMAIN.grid.shape)), 0)
    return torch.from_numpy(made[1:]), torch.from_numpy(made[0])


def scored(x: torch.Tensor, y: torch.Tensor, target: Target = RADAR) -> dict[str, np.ndarray]:
    return score(Members(lambda i: x[i], len(x)), CaseTruth(y, DOMAIN, target))[0]


def test_against_slow_loops() -> None:
    x, y = fields()
    found, w = scored(x, y), cell_areas(bent()).numpy()
    H, W = y.shape
    sums = dict.fromkeys(case_statistics.POINTWISE, 0.0)
    rank = np.zeros(M + 1)
    for r in range(H):
        for c in range(W):
            e, t = x[:, r, c].numpy(), float(y[r, c])
            error = e.mean() - t
            pairs = np.abs(e[:, None] - e[None]).sum()
            near = np.abs(e - t).mean()
            values = (error, abs(error), error**2, e.var(ddof=1), near - pairs / 40, near - pairs / 50)
            for name, value in zip(case_statistics.POINTWISE, values, strict=True):
                sums[name] += value * w[r, c]
            if max(t, e.max()) >= 5.0:  # dry points have no ranks
                e, t = np.maximum(e, 5.0), max(t, 5.0)
                below, equal = int((e < t).sum()), int((e == t).sum())
                rank[below : below + equal + 1] += w[r, c] / (equal + 1)
    for name, total in sums.items():
        near = 1e-7 if name == "variance" else 1e-10  # upstream's running variance counts in float32
        assert float(found[name]) == pytest.approx(total / w.sum(), rel=near), name
    np.testing.assert_allclose(found["rank"], rank / w.sum(), atol=1e-12)
    np.testing.assert_allclose(
        found["power"], torch.stack([radial_power(m, DOMAIN.rings) for m in x]).mean(0), rtol=1e-12
    )
    assert float(found["weight"]) == 1.0


def test_against_earth2studio() -> None:
    """On the one kind of coordinates that its averages take with weights."""
    x, y = fields()
    found, w = scored(x, y), cell_areas(bent())
    coords = OrderedDict(y=np.arange(y.shape[0]), x=np.arange(y.shape[1]))
    ensemble = OrderedDict(sample=np.arange(M), **coords)
    from earth2studio import statistics  # takes seconds

    with pytest.warns(UserWarning, match="non-tuple sequence"):  # why its weights are not used
        for name, kind in (("absolute_error", statistics.mae), ("squared_error", statistics.rmse)):
            metric = kind(["y", "x"], weights=w, ensemble_dimension="sample")
            value = metric(x, ensemble, y, coords)[0].item()
            assert float(found[name]) == pytest.approx(value if name == "absolute_error" else value**2)


def test_small_blocks_are_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = fields()
    whole = scored(x, y)
    sizes: list[int] = []
    reads: list[int] = []
    original = case_statistics.crps

    def watched(block: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(block.numel())
        return original(block, truth)

    monkeypatch.setattr(case_statistics, "crps", watched)
    monkeypatch.setattr(case_statistics, "BLOCK_BYTES", 3 * M * y.shape[1] * 8)  # three rows of all members

    def read(i: int) -> torch.Tensor:
        reads.append(i)
        return x[i]

    streamed = score(Members(read, M), CaseTruth(y, DOMAIN, RADAR))[0]
    assert max(sizes) == 3 * M * y.shape[1] and len(sizes) == -(-y.shape[0] // 3)
    assert len(reads) > 5 * M  # nothing was held
    for name, value in whole.items():
        np.testing.assert_allclose(streamed[name], value, atol=1e-13, err_msg=name)


def test_members_that_fit_are_read_once() -> None:
    x, y = fields()
    reads: list[int] = []

    def read(i: int) -> torch.Tensor:
        reads.append(i)
        return x[i]

    score(Members(read, M), CaseTruth(y, DOMAIN, RADAR))
    assert reads == list(range(M))


def test_one_field_is_its_absolute_error() -> None:
    x, y = fields(members=1)
    found = scored(x, y)
    assert found["crps"] == found["crps_biased"] == found["absolute_error"]
    assert np.isnan(found["variance"])


def test_gaps_in_the_truth() -> None:
    """The rest is scored; spectra need all of it."""
    x, y = fields()
    gap = y.clone()
    gap[:, 20:] = torch.nan
    found = scored(x, gap)
    w = cell_areas(bent())[:, :20]
    error = ((x.mean(0) - y)[:, :20].abs() * w).sum() / w.sum()
    assert float(found["absolute_error"]) == pytest.approx(error.item())
    assert float(found["weight"]) == pytest.approx((w.sum() / cell_areas(bent()).sum()).item())
    assert np.isnan(found["power"]).all() and np.isnan(found["power_truth"]).all()
    assert np.isfinite(found["fbs"]).all() and 0 < found["rank"].sum() < 1
    case = CaseTruth(torch.full_like(y, torch.nan), DOMAIN, RADAR)
    assert case.known == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_members_that_are_not_finite_are_never_averaged(bad: float) -> None:
    x, y = fields()
    x[3, 4, 5] = bad
    with pytest.raises(NotFiniteError, match="member 3 of the forecast is NaN or infinite at 0.179 %"):
        scored(x, y)


def test_domain_of_a_grid() -> None:
    domain = Domain.of(flat(), (0, 60, 1e4))
    assert domain.windows == (1, 3) and domain.area.shape == (17, 26)
    np.testing.assert_allclose(domain.scales, np.array([1, 3]) * np.prod(domain.spacing) ** 0.5)
    with pytest.raises(ValueError, match="lengths in km"):
        Domain.of(flat(), (-1,))
    with pytest.raises(ValueError, match="is not on the grid"):
        CaseTruth(torch.zeros(3, 4), domain, RADAR)


def test_targets() -> None:
    found = {target.name: target for target in targets(["u10m", "mrr", "v10m", "t2m"], {"t2m": [303, 300]})}
    assert list(found) == ["u10m", "mrr", "v10m", "t2m", "ws10m"]
    assert found["t2m"].thresholds == (300, 303) and found["ws10m"].units == "m/s"
    speed = found["ws10m"].field(lambda name: torch.tensor({"u10m": 3.0, "v10m": -4.0}[name]))
    assert speed.item() == 5.0 and found["ws10m"].derived and not found["mrr"].derived
    assert found["mrr"].floor == 5.0 and found["ws10m"].floor is None
    with pytest.raises(ValueError, match="there is no rain to set a threshold for"):
        targets(["mrr"], {"rain": [1]})
    with pytest.raises(ValueError, match="must be finite"):
        targets(["mrr"], {"mrr": [np.nan]})
