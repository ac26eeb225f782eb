# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of scores, for the terminal and for the report."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earth2_corrdiff.base.times import lead_text, time_text
from earth2_corrdiff.verification.bootstrap import FEWEST, fitting_block
from earth2_corrdiff.verification.result import Estimate, Result, Series
from earth2_corrdiff.verification.targets import Target

NOTHING = "–"
TERMINAL = 110  # columns that text is wrapped to
LEAD_COLUMNS = ("bias", "rmse", "spread_skill")
TAILS = (0.99, 0.999, 0.9999)
FEWEST_BEYOND = 25  # values of the truth above a quantile
ENSEMBLE_COLUMNS = (  # score, title, whether its interval is shown: the files have them all
    ("mae", "MAE of mean", False),
    ("rmse", "RMSE of mean", False),
    ("bias", "bias", False),
    ("spread", "spread", False),
    ("spread_skill", "spread / skill", True),
    ("outliers", "outliers", True),
    ("spectral_error", "spectrum, dB", False),
)


@dataclass(frozen=True)
class Table:
    """A table with its title and caption.

    Attributes
    ----------
    title, caption : str
        Its subject, and how to read it
    header : tuple[str, ...]
        Names of the columns; the first ``labels`` of them are text
    rows : list[tuple[str, ...]]
        Cells as text
    labels : int
        Number of columns of text, aligned left
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    labels: int = 2

    def text(self) -> str:
        """For a terminal: title, caption, and columns set with spaces."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        body = ["  ".join(self._cell(line, i, n) for i, n in enumerate(widths)).rstrip() for line in lines]
        return "\n".join([self.title, *textwrap.wrap(self.caption, TERMINAL), "", *body]) + "\n"

    def markdown(self) -> str:
        """For a README: the columns alone."""
        rule = [":---" if i < self.labels else "---:" for i in range(len(self.header))]
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.header, rule, *self.rows)) + "\n"

    def _cell(self, line: Sequence[str], i: int, width: int) -> str:
        return line[i].ljust(width) if i < self.labels else line[i].rjust(width)


def number(value: float) -> str:
    """Three significant digits, three decimals at most; a dash for NaN."""
    size = abs(value)
    if not math.isfinite(value):
        return NOTHING
    if 0 < size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{min(max(2 - math.floor(math.log10(size)), 0), 3) if size else 2}f}"


def shown(estimate: Estimate) -> str:
    """A number with its interval, if it has one."""
    value, low, high = (number(float(part)) for part in (estimate.value, estimate.low, estimate.high))
    return value if low == NOTHING else f"{value} [{low}, {high}]"


def percent(estimate: Estimate) -> str:
    """A share in per cent with its sign and its interval, if it has one."""
    parts = [100 * float(part) for part in (estimate.value, estimate.low, estimate.high)]
    value, low, high = (f"{part:+.0f}" if math.isfinite(part) else NOTHING for part in parts)
    if value == NOTHING:
        return NOTHING
    return f"{value} %" if low == NOTHING else f"{value} % [{low}, {high}]"


def _score(result: Result, score: str, forecast: str, target: Target, interval: bool) -> str:
    if not result.has(score, forecast, target):
        return NOTHING
    estimate = result.score(score, forecast, target)
    return shown(estimate) if interval else number(float(estimate.value))


def interval_text(result: Result) -> str:
    """Meaning of the brackets, or the reason why there are none."""
    b, kind = result.bootstrap, "times" if result.starts is None else "starts"
    if not b.applies(result.draws):
        return f"No intervals: there are too few {kind}." if b.replicates else "No intervals were asked for."
    what = kind if b.block == 1 else f"blocks of {b.block} {kind}"
    text = f"In brackets the {100 * b.level:g} % interval of {b.replicates} bootstrap draws of {what}."
    return f"{text} {_memory_text(result)}".rstrip()


def _memory_text(result: Result) -> str:
    """Autocorrelation of neighbouring times, and the blocks that the intervals need for it."""
    (correlation, name), T = result.memory(), result.draws
    if not math.isfinite(correlation):
        return ""
    text = f"The CRPS of neighbouring times has an autocorrelation of {correlation:.2f} at most ({name})"
    fitting = fitting_block(T, correlation)
    if fitting <= result.bootstrap.block:
        return f"{text}."
    few = f", which needs {FEWEST * fitting} times or more" if T < FEWEST * fitting else ""
    return f"{text}: the intervals are too narrow; draw blocks of {fitting} times (--block {fitting}){few}."


def head(result: Result) -> str:
    """Members, points, times and truth in one sentence."""
    T = len(result.times)
    when = time_text(result.times.min())
    if result.by_lead:
        first, *more = map(lead_text, result.by_lead)
        leads = f"{1 + len(more)} lead times from {first} to {more[-1]}" if more else f"the lead time {first}"
        when = f"{leads} of {result.draws} start{'' if result.draws == 1 else 's'}, valid {when}"
        when += f" to {time_text(result.times.max())}" if T > 1 else ""
    elif T > 1:
        when = f"{T} times from {when} to {time_text(result.times[-1])}"
    H, W = result.domain.grid.shape
    members = f"{result.members} member{'' if result.members == 1 else 's'}"
    return f"{members} on {H} x {W} points at {when} (UTC), against the truth {result.truth}"


def crps_table(result: Result) -> Table:
    """CRPS of the forecast and of its baselines."""
    first = result.forecasts[0]
    others = [name for name in result.forecasts[1:] if name != "climatology"]
    rows = []
    for target in result.targets:
        values = (_score(result, "crps", f, target, interval=f == first) for f in result.forecasts)
        row = [target.name, target.units, *values]
        for other in others:
            there = (other, target.name) in result.series
            row.append(percent(result.gain("crps", first, other, target)) if there else NOTHING)
        rows.append(tuple(row))
    gains = tuple(f"gain over {other}" for other in others)
    return Table(
        "Fair CRPS",
        "Lower is better; of a single field it is its mean absolute error. The gain is the share by which "
        f"the {first}'s CRPS is lower at the same times. {interval_text(result)}",
        ("", "", *result.forecasts, *gains),
        rows,
    )


def lead_table(result: Result) -> Table:
    """Scores by lead time."""
    first, rows = result.forecasts[0], []
    for target in result.targets:
        for lead, part in result.by_lead.items():
            if target.name in [known.name for known in part.targets]:
                crps = (_score(part, "crps", f, target, interval=f == first) for f in part.forecasts)
                own = (_score(part, score, first, target, False) for score in LEAD_COLUMNS)
                row = (f"{target.name}, {target.units}", lead_text(lead), str(len(part.times)), *crps, *own)
                rows.append(row)
    return Table(
        "By lead time",
        f"Fair CRPS of all; then bias and RMSE of the {first}'s mean, and its spread / skill.",
        ("", "lead", "times", *result.forecasts, "bias", "RMSE of mean", "spread / skill"),
        rows,
    )


def ensemble_table(result: Result) -> Table:
    """The ensemble's mean, spread and spectrum."""
    first = result.forecasts[0]
    rows = []
    for target in result.targets:
        cells = (_score(result, score, first, target, ends) for score, _, ends in ENSEMBLE_COLUMNS)
        rows.append((target.name, target.units, *cells))
    return Table(
        f"The {first}: mean, spread and spectrum",
        "Spread / skill and outliers are 1 if the ensemble is reliable: the spread (root of the mean "
        "unbiased variance) times sqrt((M + 1) / M), over the RMSE of the mean; how often the truth lies "
        "outside all members, over 2 / (M + 1). With a ratio below 1 the ensemble is too sure of itself. "
        "The spectrum's error is the RMS difference to the truth's in dB over wavelengths of four cells and "
        "more; 20 % is 0.8 dB.",
        ("", "", *(title for _, title, _ in ENSEMBLE_COLUMNS)),
        rows,
    )


def event_table(result: Result, forecasts: Sequence[str]) -> Table:
    """Fractions skill score and frequency of each event."""
    rows = [
        _event_row(result, target, k, value, name)
        for target in result.targets
        for k, value in enumerate(target.thresholds)
        for name in forecasts
        if result.has("fss", name, target)
    ]
    scales = tuple(f"{scale:.0f} km" for scale in result.domain.scales)
    return Table(
        "Events: fractions skill score",
        "1 is perfect, 0 no skill; the score rises with the windows in which fractions are compared. An "
        "ensemble's fractions are those of its probabilities. The ratio of frequencies (of area and time) is "
        "1 if the event is forecast as often as it happens.",
        ("event", "forecast", "happens", "forecast / truth", *scales),
        rows,
    )


def _event_row(result: Result, target: Target, k: int, value: float, name: str) -> tuple[str, ...]:
    ratio, scores = (result.score(score, name, target) for score in ("frequency_ratio", "fss"))
    happens = float(result.score("frequency_truth", name, target).value[k])
    cells = [number(float(score)) for score in scores.value[k]]
    ends = Estimate(ratio.value[k], ratio.low[k], ratio.high[k])
    return (f"{target.name} ≥ {value:g} {target.units}", name, f"{100 * happens:.2g} %", shown(ends), *cells)


def tail_table(result: Result) -> Table:
    """High quantiles of the truth, and the frequency with which each forecast exceeds them."""
    forecasts = [name for name in result.forecasts if name != "climatology"]
    values = len(result.times) * result.domain.area.numel()
    levels = [level for level in TAILS if values * (1 - level) >= FEWEST_BEYOND]
    rows = []
    for target in result.targets:
        for level in levels:
            truth = result.truth_values[target.name].quantile(level)
            cells = (_tail(result, name, target, level, truth) for name in forecasts)
            rows.append((target.name, f"{100 * level:g} %", f"{truth:.4g} {target.units}", *cells))
        highest = [_highest(result.series.get((name, target.name))) for name in forecasts]
        truth = result.truth_values[target.name].quantile(1.0)
        rows.append((target.name, "maximum", f"{truth:.4g} {target.units}", *highest))
    return Table(
        "Tails",
        "The truth's high quantiles over all points and times; of each forecast the same quantile and, in "
        "brackets, how often it exceeds the truth's, over how often it should: 1 is right, less is too few "
        "extremes. Extremes come in storms: with few times these numbers say little.",
        ("", "quantile", "truth", *forecasts),
        rows,
    )


def _highest(series: Series | None) -> str:
    return NOTHING if series is None else f"{series.histogram.quantile(1.0):.4g}"


def _tail(result: Result, forecast: str, target: Target, level: float, truth: float) -> str:
    series = result.series.get((forecast, target.name))
    if series is None:
        return NOTHING
    ratio = float(series.histogram.exceedance(np.array(truth))) / (1 - level)
    return f"{series.histogram.quantile(level):.4g} ({ratio:.2f})"


def report_text(result: Result) -> str:
    """The text for the terminal."""
    tables = [crps_table(result), *([lead_table(result)] if result.by_lead else []), ensemble_table(result)]
    if any(target.thresholds for target in result.targets):
        tables.append(event_table(result, result.forecasts[:1]))
    notes = [line for note in result.notes for line in textwrap.wrap(f"Note: {note}", TERMINAL)]
    return "\n".join(
        [*textwrap.wrap(head(result), TERMINAL), *notes, "", *(table.text() for table in tables)]
    ).rstrip("\n")
