# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""From measured settings of the sampler to the cheapest good one: a table, a curve, and the choice."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.demo_acceptance import SPREAD_SKILL
from bench.solver_study import MARGIN, Setting, reference, stock
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.tables import TERMINAL, Table, number

COLORS = {
    "euler": "#b8435c",
    "heun": "#1f63a8",
    "stochastic": "#7a6a00",
    "dpmpp_2m": "#8e4fb0",
    "trigflow": "#3f8f5f",
    "few_step": "#d9822b",
}
STYLES = ("-", "--", ":", "-.")
CALLS = (2, 4, 6, 8, 12, 18, 24, 35)


@dataclass(frozen=True)
class Measured:
    """A setting beside the reference.

    Attributes
    ----------
    setting : Setting
        What was measured
    crps : dict[str, float]
        CRPS over the reference's, minus 1, by quantity
    spread_skill, spectrum : dict[str, float]
        By quantity
    seconds : float
        It took
    by_time : dict[str, np.ndarray]
        CRPS at each time
    """

    setting: Setting
    crps: dict[str, float]
    spread_skill: dict[str, float]
    spectrum: dict[str, float]
    seconds: float
    by_time: dict[str, Any]

    @property
    def excess(self) -> float:
        """The mean excess of the CRPS over the reference's, of all quantities."""
        return float(np.mean(list(self.crps.values())))

    @property
    def worst(self) -> float:
        """The largest excess of the CRPS over the reference's, of all quantities."""
        return max(self.crps.values())

    @property
    def off(self) -> float:
        """How far the spread is from the error: mean absolute logarithm of their ratio."""
        return float(np.mean([abs(math.log(value)) for value in self.spread_skill.values()]))

    @property
    def mean_spread(self) -> float:
        """Geometric mean of spread / skill over the quantities."""
        return math.exp(float(np.mean([math.log(value) for value in self.spread_skill.values()])))


def measured(records: Sequence[dict[str, Any]], default: Setting) -> list[Measured]:
    """All records beside the reference, cheapest first.

    Raises
    ------
    InputError
        If the reference has not been measured
    """
    base = next((r for r in records if Setting(**r["setting"]) == reference(default)), None)
    if base is None or not base["scores"]:
        raise InputError(f"the reference, {reference(default)}, has not been measured yet")
    found = [_beside(record, base) for record in records if record["scores"]]
    return sorted(found, key=lambda m: (m.setting.calls, m.excess))


def _beside(record: dict[str, Any], base: dict[str, Any]) -> Measured:
    scores, names = record["scores"], list(base["scores"])
    return Measured(
        setting=Setting(**record["setting"]),
        crps={n: scores[n]["crps"] / base["scores"][n]["crps"] - 1 for n in names},
        spread_skill={n: scores[n]["spread_skill"] for n in names},
        spectrum={n: scores[n]["spectral_error"] for n in names},
        seconds=record["seconds"],
        by_time={n: np.array(record["crps_by_time"][n]) for n in names},
    )


def chosen(found: Sequence[Measured], default: Setting) -> Measured | None:
    """The cheapest setting that is good enough; None if there is none.

    Its CRPS over the reference's, averaged over the quantities, is at most 1 + ``MARGIN``, and its spread is
    closer to the error than stock's (Euler, 8 steps). Of equally cheap ones the one with the lowest CRPS.
    """
    euler = next((m for m in found if m.setting == stock(default)), None)
    good = [m for m in found if m.excess <= MARGIN and (euler is None or m.off < euler.off)]
    return min(good, key=lambda m: (m.setting.calls, m.excess), default=None)


def advice(found: Sequence[Measured], default: Setting) -> str:
    """The choice in sentences, with the interval of its CRPS against the reference."""
    best, euler = chosen(found, default), next((m for m in found if m.setting == stock(default)), None)
    rule = f"CRPS within {100 * MARGIN:g} % of that of {reference(default)}, mean over the quantities"
    rule += "" if euler is None else f", spread / skill closer to one than {stock(default)}"
    if best is None:
        others = [m for m in found if m.setting != reference(default)]
        near = min(others, key=lambda m: m.excess, default=None)
        text = f"No setting keeps the rule: {rule}."
        text += "" if near is None else f" Nearest in CRPS: {near.setting}, {_percent(near.excess)}."
        return textwrap.fill(text, TERMINAL)
    lines = [f"Cheapest that keeps the rule ({rule}): {best.setting}, {best.setting.calls} network calls."]
    base = next(m for m in found if m.setting == reference(default))
    each = ", ".join(f"{name} {_excess(best, base, [name])}" for name in best.crps)
    spread = ", ".join(f"{name} {number(value)}" for name, value in best.spread_skill.items())
    lines += [f"Its CRPS against the reference's: {_excess(best, base, list(best.crps))}; {each}."]
    lines += [f"Its spread / skill: {spread}."]
    if euler is not None:
        lines.append(f"Spread / skill of {euler.setting}: {number(euler.mean_spread)} on average.")
    lines.append(_reliable(found))
    return "\n".join(textwrap.fill(line, TERMINAL) for line in lines)


def _reliable(found: Sequence[Measured]) -> str:
    """The cheapest by the criterion of CRPS whose spread is right for every quantity as well."""
    low, high = SPREAD_SKILL
    good = [m for m in found if m.excess <= MARGIN and all(low <= r <= high for r in m.spread_skill.values())]
    best = min(good, key=lambda m: (m.setting.calls, m.excess), default=None)
    which = "none" if best is None else f"{best.setting}, {_percent(best.excess)}"
    rule = f"Cheapest with such a CRPS and spread / skill within {low:g} to {high:g} for every quantity"
    return f"{rule}: {which}."


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _excess(one: Measured, base: Measured, names: Sequence[str]) -> str:
    """Mean excess of the CRPS, with an interval where there are times enough; the same times drawn."""

    def excess(counts: Any) -> Any:
        return np.mean([counts @ one.by_time[n] / (counts @ base.by_time[n]) - 1 for n in names], axis=0)

    low, high = Bootstrap().interval(excess, len(one.by_time[names[0]]))
    text = _percent(float(np.mean([one.crps[n] for n in names])))
    return text if not np.isfinite(low) else f"{text} [{100 * float(low):+.1f}, {100 * float(high):+.1f}]"


def table(found: Sequence[Measured], default: Setting) -> Table:
    """All settings: CRPS against the reference, spread and spectrum."""
    best = chosen(found, default)
    names = list(found[0].crps) if found else []
    rows = []
    for m in found:
        spread = (number(m.spread_skill[name]) for name in names)
        mark = "*" if best is not None and m.setting == best.setting else ""
        spectrum = number(float(np.mean(list(m.spectrum.values()))))
        row = (f"{m.setting}{mark}", str(m.setting.calls), _percent(m.excess), _percent(m.worst))
        rows.append((*row, *spread, spectrum, f"{m.seconds:.0f}"))
    header = ("setting", "calls", "CRPS", "worst", *(f"s/s {name}" for name in names), "dB", "seconds")
    return Table(
        "Settings of the sampler",
        f"CRPS over that of {reference(default)}: mean over the quantities, and the worst of them; s/s: "
        "spread over skill, 1 is right; dB: spectral error, mean over the quantities. * is the choice.",
        header,
        rows,
        labels=1,
    )


def curves(found: Sequence[Measured], title: str) -> Figure:
    """CRPS, spread and spectrum against network calls, a line for each solver and noise range."""
    figure = Figure(figsize=(14, 4.8), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    families = sorted({m.setting.family for m in found})
    kinds = sorted({_kind(m.setting) for m in found})
    for family in families:
        few = [m for m in found if m.setting.family == family]
        s = few[0].setting
        style = {"color": COLORS[s.solver], "linestyle": STYLES[kinds.index(_kind(s)) % 4]}
        calls = [m.setting.calls for m in few]
        values = (
            [100 * m.excess for m in few],
            [m.mean_spread for m in few],
            [float(np.mean(list(m.spectrum.values()))) for m in few],
        )
        for ax, row in zip(axes, values, strict=True):
            ax.plot(calls, row, marker="o", markersize=4, linewidth=1.4, label=family, **style)
    axes[0].set_yscale("symlog", linthresh=2)  # from a hundred per cent to one, and below none
    _dress(axes[0], "CRPS over the reference's, %", (0.0, 100 * MARGIN), (-5, 100))
    _dress(axes[1], "spread / skill", (1.0,), (0.3, 1.7))
    _dress(axes[2], "spectral error, dB", (0.8,), (0, 5))
    axes[0].yaxis.set_major_locator(FixedLocator((-5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=11)
    return figure


def _kind(s: Setting) -> tuple[float, float, float]:
    """What settings of one line style share: noise range and churn."""
    return s.sigma_min, s.sigma_max, s.churn or 0.0


def _dress(ax: Axes, title: str, lines: Sequence[float], view: tuple[float, float]) -> None:
    """Axes in logarithmic network calls, with the lines that matter, not wider than is readable."""
    for value in lines:
        ax.axhline(value, color="#555555", linewidth=0.9, linestyle=":")
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, view[0]), min(high, view[1]))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(CALLS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("network calls per member")
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    ax.grid(alpha=0.25)
