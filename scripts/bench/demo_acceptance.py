# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Does a model do what it is for? Four criteria for each variable, with their numbers.

==============  =======================================================================================
regression      the ensemble's fair CRPS is below the MAE of the regression alone: the interval of the
                paired difference lies below zero
interpolation   the same against the interpolated coarse input
spread / skill  within 0.9 to 1.1, by the convention of :func:`scores.spread_skill`
power           variance of the members over the truth's, within 0.8 to 1.2 in each octave of wavelength that
                the grid resolves: from four cells to the length of the domain
==============  =======================================================================================

Why four cells: of a wave of two cells the grid shows anything between nothing and all, as its crests lie
between the points or on them; of one of four cells at least 71 % of the amplitude (cos 45°), wherever
they lie. Why the domain's length: of a longer wave it shows a part, as a slope. Why octaves: single rings
of the spectrum hold few waves; those of rain have intervals of 10 to 20 % to either side with 64 times,
and the farthest of fifty is mostly chance. Longer waves, the octave of two to four cells and the farthest
single rings are shown and not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from earth2_corrdiff.verification.result import Estimate, Result
from earth2_corrdiff.verification.scores import RESOLVED_CELLS, octaves, resolved
from earth2_corrdiff.verification.tables import Table, interval_text, number, shown
from earth2_corrdiff.verification.targets import Target

BASELINES = ("regression", "interpolation")
SPREAD_SKILL, POWER = (0.9, 1.1), (0.8, 1.2)


@dataclass(frozen=True)
class Criterion:
    """One of the four for one variable.

    Attributes
    ----------
    variable, name : str
        Which
    found : str
        The number, as text
    met : bool
        Whether it is met
    """

    variable: str
    name: str
    found: str
    met: bool


def judged(result: Result) -> list[Target]:
    """The model's own variables: the wind speed follows from two of them."""
    return [target for target in result.targets if not target.derived]


def criteria(result: Result) -> list[Criterion]:
    """All criteria, variable after variable.

    Parameters
    ----------
    result : Result
        Of an ensemble of two members or more, with regression and interpolation as baselines

    Raises
    ------
    KeyError
        If a baseline or the spread is missing
    """
    return [criterion for target in judged(result) for criterion in _of(result, target)]


def _of(result: Result, target: Target) -> Iterator[Criterion]:
    first = result.forecasts[0]
    for baseline in BASELINES:
        apart = result.difference("crps", first, baseline, target)
        found = f"{shown(apart)} {target.units}"
        yield Criterion(target.name, f"CRPS below that of {baseline}", found, bool(apart.high < 0))
    ratio = result.score("spread_skill", first, target)
    low, high = SPREAD_SKILL
    yield Criterion(target.name, "spread / skill", _exact(ratio), bool(low <= ratio.value <= high))
    bands = [band for band in octave_ratios(result, target)[:-1] if _fits(result, band)]
    met = all(POWER[0] <= float(band.ratio.value) <= POWER[1] for band in bands)
    yield Criterion(target.name, f"power, {RESOLVED_CELLS} cells and more", _between(bands), met)


class Octave(NamedTuple):
    """A ratio of variances, and the wavelengths in km that it is of."""

    ratio: Estimate
    longest: float
    shortest: float

    def __str__(self) -> str:
        waves = (
            f"{self.shortest:.0f}–{self.longest:.0f}"
            if self.shortest < self.longest
            else f"{self.longest:.0f}"
        )
        return f"{self.ratio.value:.2f} ({waves} km)"


def octave_ratios(result: Result, target: Target) -> list[Octave]:
    """Variance of the members over the truth's by octaves, long waves first; the last is of 2 to 4 cells."""
    found = result.score("octave_ratio", result.forecasts[0], target)
    waves = result.domain.rings.wavelength
    return [
        Octave(Estimate(*limits), waves[band.start], waves[band.stop - 1])
        for band, *limits in zip(octaves(len(waves)), found.value, found.low, found.high, strict=True)
    ]


def _fits(result: Result, band: Octave) -> bool:
    """Whether its waves are no longer than the domain, but for rounding."""
    grid = result.domain.grid.shape
    length = max(n * cell for n, cell in zip(grid, result.domain.spacing, strict=True))
    return band.longest < 1.01 * length


def _between(bands: Sequence[Octave]) -> str:
    low, high = (pick(bands, key=lambda band: float(band.ratio.value)) for pick in (min, max))
    return f"{low} to {high}"


def _exact(ratio: Estimate) -> str:
    """To three decimals: what is judged must not look as if it were met."""
    ends = f" [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio.has_interval else ""
    return f"{ratio.value:.3f}{ends}"


def tables(result: Result) -> list[Table]:
    """CRPS with its paired differences, and spread and power."""
    return [_crps_table(result), _spread_table(result)]


def _crps_table(result: Result) -> Table:
    first = result.forecasts[0]
    rows = []
    for target in judged(result):
        cells = [shown(result.score("crps", first, target))]
        cells += [number(float(result.score("crps", name, target).value)) for name in BASELINES]
        cells += [shown(result.difference("crps", first, name, target)) for name in BASELINES]
        rows.append((target.name, target.units, *cells))
    return Table(
        "Fair CRPS",
        "Of a single field it is its mean absolute error. Differences are paired, of the same times drawn: "
        f"the {first} is better where the whole interval is below zero. {interval_text(result)}",
        ("", "", first, *BASELINES, *(f"minus {name}" for name in BASELINES)),
        rows,
    )


def _spread_table(result: Result) -> Table:
    first, rows = result.forecasts[0], []
    for target in judged(result):
        *bands, last = octave_ratios(result, target)
        longer = [band for band in bands if not _fits(result, band)]
        bands = [band for band in bands if _fits(result, band)]
        rings = result.score("power_ratio", first, target).value
        rings = rings[: resolved(len(rings))]
        cells = [_exact(result.score("spread_skill", first, target)), _between(bands), shown(last.ratio)]
        beyond = ", ".join(map(str, longer))
        rows.append((target.name, *cells, f"{rings.min():.2f} to {rings.max():.2f}", beyond))
    four = RESOLVED_CELLS * max(result.domain.spacing)
    return Table(
        "Spread, and power of the members over the truth's",
        "Spread / skill: root of the mean unbiased variance, times sqrt((M + 1) / M), over the RMSE of the "
        f"mean. Power: lowest and highest ratio in octaves of wavelength, from four cells ({four:.0f} km) to "
        "the domain's length, which the grid resolves; in the octave below; in single rings of four cells "
        "and more; and of waves longer than the domain.",
        (
            "",
            "spread / skill",
            "power by octaves, 4 cells and more",
            "2 to 4 cells",
            "single rings",
            "longer",
        ),
        rows,
        labels=1,
    )


def verdict(found: Sequence[Criterion]) -> str:
    """Which criteria are met, in sentences."""
    missed = [c for c in found if not c.met]
    if not missed:
        return f"All {len(found)} criteria are met."
    lines = [f"{len(found) - len(missed)} of {len(found)} criteria are met. Not met:"]
    return "\n".join([*lines, *(f"  {c.variable}: {c.name}: {c.found}" for c in missed)])
