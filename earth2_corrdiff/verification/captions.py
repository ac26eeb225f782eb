# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Captions and findings of the report: how to read it, how it is computed, the results in sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from earth2_corrdiff.verification.result import Result


def _paragraph(text: str) -> str:
    return " ".join(textwrap.dedent(text).split())


RELIABLE = (0.9, 1.1)  # spread over skill
TWENTY_PER_CENT = 0.8  # dB

GAINS = "Share by which the CRPS is lower than a baseline's: right of zero the ensemble is better."
PORTRAIT = _paragraph("""
    Top left: how often the truth has each rank among the members. Flat, at the dashed line, is reliable; a
    U is an ensemble that is too narrow, a dome one that is too wide, a slope a bias. Below it: the CRPS at
    each time, lower is better. Middle: power against wavelength, and its ratio to the truth's. A good member
    stays within the shaded ± 20 % at all wavelengths; what falls off to the right has lost its small scales,
    as means do. Right: how the values are distributed, and the share of the area above each value. A good
    forecast lies on the truth's curve, in the tail too.
""")
LEADS = "Fair CRPS against lead time: lower is better, and it rises with lead time as forecasts lose skill."
AS_ABOVE = "The panels are as above: good are flat ranks, a ratio within the band, and the truth's curves."
EVENTS = _paragraph("""
    Fractions skill score against the size of the window: higher is better. Above the dotted line, halfway
    between a random forecast and a perfect one, a forecast is called useful at that size (Roberts and Lean
    2008). Solid: the probabilities of the ensemble, or the one field. Dashed: the ensemble's members one by
    one.
""")
METHOD = tuple(
    map(
        _paragraph,
        (
            """Averages are weighted by the area of the cells and made over space first, then over times; a
            score is a function of these means, so RMSE and ratios are those of all times together.""",
            """CRPS: fair, as if the ensemble had infinitely many members (Ferro 2014). The output files hold
            the biased one of the empirical distribution as well.""",
            """Spread / skill: root of the mean unbiased variance, times sqrt((M + 1) / M), over the RMSE of
            the ensemble mean (Fortin et al. 2014).""",
            """Ranks: where members equal the truth, its possible ranks share the point. Reflectivity is
            ranked where the truth or any member has 5 dBZ: below that no radar shows it.""",
            """Spectra: cosine transform (Denis et al. 2002) of each member, averaged over rings as wide as
            the lowest wavenumber of the shorter side, then over members and times.""",
            """Fractions skill score: square windows inside the domain; numerator and denominator are summed
            over times before they are divided.""",
            """Intervals draw times again, each with all its points, and neighbours together where blocks are
            asked for. They hold the variety of the weather, not that of the members' seeds, nor errors of the
            truth. Gains and differences are paired: both forecasts at the same times drawn. Norms of the
            spectrum's error have no interval: draws of the same times only raise them. Intervals are somewhat
            too narrow: of reliable synthetic ensembles with 16 to 64 times, that of 95 % held spread / skill
            = 1 in 85 to 90 % of the cases.""",
        ),
    )
)


def findings(result: Result) -> list[str]:
    """The results in sentences."""
    baselines = [name for name in result.forecasts[1:] if name != "climatology"]
    return [*(_against(result, other) for other in baselines), *_spread(result), *_spectrum(result)]


def _spread(result: Result) -> Iterator[str]:
    first, (low, high) = result.forecasts[0], RELIABLE
    ratio = {
        target.name: result.score("spread_skill", first, target)
        for target in result.targets
        if result.has("spread_skill", first, target)
    }
    sides = (
        ("Spread over error is right within 10 %", low, high),
        ("The ensemble is underdispersive (spread over error below 0.9)", -np.inf, low),
        ("The ensemble is overdispersive (spread over error above 1.1)", high, np.inf),
    )
    for sentence, least, most in sides:
        names = [name for name, r in ratio.items() if least <= r.value <= most]
        unsure = [name for name in names if ratio[name].low < least or ratio[name].high > most]
        more = f" The interval reaches further for {', '.join(unsure)}." if unsure else ""
        yield from _about(sentence, names, more)


def _spectrum(result: Result) -> Iterator[str]:
    first = result.forecasts[0]
    error = {t.name: float(result.score("spectral_error", first, t).value) for t in result.targets}
    good = [name for name, value in error.items() if value <= TWENTY_PER_CENT]
    bad = [name for name, value in error.items() if value > TWENTY_PER_CENT]
    yield from _about("Over the resolved scales the power of its members is right within 20 %, RMS", good)
    yield from _about("Over the resolved scales the power of its members is off by more than 20 %, RMS", bad)


def _about(sentence: str, names: Sequence[str], more: str = "") -> Iterator[str]:
    if names:
        yield f"{sentence}: {', '.join(names)}.{more}"


def _against(result: Result, other: str) -> str:
    """A sentence that compares the CRPS with that of a baseline."""
    first = result.forecasts[0]
    targets = [target for target in result.targets if (other, target.name) in result.series]
    gains = {target.name: result.gain("crps", first, other, target) for target in targets}
    better = [name for name, gain in gains.items() if float(gain.value) > 0]
    worse = [name for name in gains if name not in better]
    sides = (("lower", better), ("higher", worse))
    parts = [f"{side} for {', '.join(names)}" for side, names in sides if names]
    text = f"Compared with {other}, the CRPS of the {first} is {' and '.join(parts)}."
    if not result.bootstrap.applies(result.draws):
        return f"{text} With so few times this may be chance."
    unsure = [name for name, gain in gains.items() if not (gain.low > 0 or gain.high < 0)]
    return text + (f" The interval of the difference holds zero for {', '.join(unsure)}." if unsure else "")
