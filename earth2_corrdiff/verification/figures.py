# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of a verification: each function returns a ``Figure`` and neither shows nor saves it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.result import Result
from earth2_corrdiff.verification.scores import RESOLVED_CELLS
from earth2_corrdiff.verification.targets import Target

TRUTH = "#111111"
KNOWN = {"regression": "#c8641e", "interpolation": "#3f8f5f", "climatology": "#8c8c8c"}
FIRST, OTHERS = "#1f63a8", ("#8e4fb0", "#b8435c", "#7a6a00", "#00808a")
GOOD = "#dfeadf"
WAVELENGTHS = (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000)
TAIL = 1e-5  # share of values below which a curve of few fields is noise


def color(result: Result, forecast: str) -> str:
    """One colour for a forecast in all figures."""
    others = [name for name in result.forecasts[1:] if name not in KNOWN]
    if forecast in others:
        return OTHERS[others.index(forecast) % len(OTHERS)]
    return KNOWN.get(forecast, FIRST)


def _compared(result: Result, target: Target) -> list[str]:
    """Forecasts of a quantity but the training mean, which is constant."""
    return [f for f in result.forecasts if f != "climatology" and (f, target.name) in result.series]


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8.5)
    ax.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _explain(ax: Axes, title: str, sentence: str) -> None:
    """Fill an empty panel with the reason."""
    ax.text(0.5, 0.5, sentence, ha="center", va="center", transform=ax.transAxes, color="#555555")
    ax.set_xticks([])
    ax.set_yticks([])
    _finish(ax, title, "", "")


def _figure(result: Result, width: float, height: float) -> Figure:
    """An empty figure, with the makers of the training data in small print."""
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr,call-arg]
    if credit := result.about.get("attribution"):
        figure.supxlabel(credit, x=0.99, ha="right", fontsize=6.5, color="#555555", parse_math=False)
    return figure


def _legend(figure: Figure, ax: Axes) -> None:
    """Add the legend of a panel below all panels."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)


def gains(result: Result) -> Figure:
    """Gain of the CRPS over each baseline, with intervals."""
    first = result.forecasts[0]
    baselines = [f for f in result.forecasts[1:] if f != "climatology"]
    figure = _figure(result, 9.5, 0.9 + 0.42 * len(result.targets) + 0.3)
    ax = figure.add_subplot()
    for i, baseline in enumerate(baselines):
        shift = 0.16 * (i - (len(baselines) - 1) / 2)
        rows = [k for k, t in enumerate(result.targets) if (baseline, t.name) in result.series]
        found = [result.gain("crps", first, baseline, result.targets[k]) for k in rows]
        where = np.array(rows) + shift
        values = np.array([100 * float(e.value) for e in found])
        ends = np.array([[100 * float(e.low), 100 * float(e.high)] for e in found]).reshape(-1, 2)
        ax.hlines(where, ends[:, 0], ends[:, 1], color=color(result, baseline), linewidth=2)
        ax.plot(values, where, "o", color=color(result, baseline), markersize=6, label=f"over {baseline}")
    ax.axvline(0, color=TRUTH, linewidth=1)
    ax.set_yticks(range(len(result.targets)), [target.name for target in result.targets])
    ax.set_ylim(len(result.targets) - 0.5, -0.5)
    _finish(ax, f"CRPS gain of the {first}", "per cent; right of 0 the ensemble is better", "")
    ax.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def by_lead(result: Result) -> Figure:
    """The CRPS of each forecast against lead time, a panel for each quantity."""
    N = len(result.targets)
    columns = min(N, 3)
    figure = _figure(result, 4.3 * columns, 0.5 + 2.9 * -(-N // columns))
    axes = figure.subplots(-(-N // columns), columns, squeeze=False).ravel()
    for ax, target in zip(axes, result.targets, strict=False):
        for name in _compared(result, target):
            parts = {
                lead: part for lead, part in result.by_lead.items() if (name, target.name) in part.series
            }
            found = [part.score("crps", name, target) for part in parts.values()]
            hours, shade = [lead / np.timedelta64(1, "h") for lead in parts], color(result, name)
            ax.plot(hours, [float(e.value) for e in found], "o-", color=shade, markersize=4, label=name)
            if all(estimate.has_interval for estimate in found):
                low, high = ([float(getattr(e, end)) for e in found] for end in ("low", "high"))
                ax.fill_between(hours, low, high, color=shade, alpha=0.15, linewidth=0)
        ax.set_ylim(bottom=0)
        _finish(ax, target.name, "lead time, h", f"CRPS, {target.units}")
    for ax in axes[N:]:
        ax.set_visible(False)
    _legend(figure, axes[0])
    return figure


def portrait(result: Result, target: Target) -> Figure:
    """Ranks, spectrum, distribution, tail and the score at each time of one quantity."""
    figure = _figure(result, 13.0, 7.0)
    axes = figure.subplots(2, 3)
    _ranks(axes[0, 0], result, target)
    _times(axes[1, 0], result, target)
    _spectrum(axes[0, 1], result, target)
    _ratio(axes[1, 1], result, target)
    _density(axes[0, 2], result, target)
    _tail(axes[1, 2], result, target)
    _legend(figure, axes[0, 2])
    return figure


def _ranks(ax: Axes, result: Result, target: Target) -> None:
    first = result.forecasts[0]
    if not result.has("rank", first, target):
        return _explain(ax, "Rank histogram", "one member has no ranks")
    found = result.score("rank", first, target)
    ranks = np.arange(len(found.value))
    ax.bar(ranks, found.value, width=0.9, color=color(result, first), alpha=0.75)
    if found.has_interval:
        ax.vlines(ranks, found.low, found.high, color=TRUTH, linewidth=1)
    ax.axhline(1, color=TRUTH, linewidth=1, linestyle="--")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    floor = f" where it or a member has {target.floor:g} {target.units}" if target.floor is not None else ""
    return _finish(ax, "Rank histogram", f"rank of the truth{floor}", "frequency / expected")


def _times(ax: Axes, result: Result, target: Target) -> None:
    highest = 0.0
    for name in _compared(result, target):
        values = result.series[name, target.name].column("crps")
        ax.plot(result.times, values, "o", color=color(result, name), markersize=4, alpha=0.8)
        highest = np.nanmax([highest, *values])
    ax.set_ylim(0, 1.08 * highest or 1)
    if len(result.times) > 1:
        locator = AutoDateLocator(minticks=3)  # type: ignore[no-untyped-call]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    else:
        ax.set_xticks(result.times, [time_text(result.times[0])])
    _finish(ax, "CRPS at each time", "valid time (UTC)", target.units)


def _wavelength_axis(ax: Axes, result: Result, named: bool) -> None:
    """Set an axis of wavelengths in km, with marks at two limits of resolution, named if asked."""
    waves = result.domain.rings.wavelength
    ax.set_xscale("log")
    ax.set_xlim(waves[0] * 1.1, waves[-1] / 1.05)  # long waves on the left, as spectra are read
    ax.xaxis.set_major_locator(FixedLocator([w for w in WAVELENGTHS if waves[-1] <= w <= waves[0]]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    marks = {RESOLVED_CELLS * max(result.domain.spacing): f"{RESOLVED_CELLS} cells"}
    if result.coarse_km is not None:
        marks[2 * result.coarse_km] = "2 coarse cells"
    for place, text in marks.items():
        if waves[-1] < place < waves[0]:
            ax.axvline(place, color="#777777", linewidth=0.8, linestyle=":")
            ax.annotate(
                text if named else "", (place, 0.98), (3, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=7.5, color="#555555", rotation=90, va="top",
            )  # fmt: skip


def _spectrum(ax: Axes, result: Result, target: Target) -> None:
    waves = result.domain.rings.wavelength
    truth = result.score("power_truth", result.forecasts[0], target).value
    if not np.isfinite(truth).any():
        return _explain(ax, "Radially averaged power", "the truth has gaps: no spectrum")
    ax.plot(waves, truth, color=TRUTH, linewidth=2.2)
    for name in _compared(result, target):
        power = result.score("power", name, target)
        ax.plot(waves, power.value, color=color(result, name), linewidth=1.5)
    ax.set_yscale("log")
    _wavelength_axis(ax, result, named=True)
    units = f"({target.units})²" if "/" in target.units else f"{target.units}²"
    return _finish(ax, "Radially averaged power", "wavelength, km", f"variance per mode, {units}")


def _ratio(ax: Axes, result: Result, target: Target) -> None:
    waves = result.domain.rings.wavelength
    ax.axhspan(0.8, 1.2, color=GOOD)
    ax.axhline(1, color=TRUTH, linewidth=1)
    for name in _compared(result, target):
        ratio = result.score("power_ratio", name, target)
        ax.plot(waves, ratio.value, color=color(result, name), linewidth=1.5)
        if name == result.forecasts[0] and ratio.has_interval:
            ax.fill_between(waves, ratio.low, ratio.high, color=color(result, name), alpha=0.2, linewidth=0)
    ax.set_yscale("log")
    ax.set_ylim(0.03, 5)
    ticks = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _wavelength_axis(ax, result, named=False)
    _finish(ax, "Power over the truth's", "wavelength, km", "forecast / truth, shaded: ± 20 %")


def _curves(result: Result, target: Target) -> list[tuple[str, str, float, Histogram]]:
    """Name, colour, line width and values of the truth and of each forecast."""
    forecasts = [
        (name, color(result, name), 1.5, result.series[name, target.name].histogram)
        for name in _compared(result, target)
    ]
    return [("truth", TRUTH, 2.2, result.truth_values[target.name]), *forecasts]


def _density(ax: Axes, result: Result, target: Target) -> None:
    for name, shade, width, histogram in _curves(result, target):
        edges, density = histogram.density(90)
        ax.stairs(np.where(density > 0, density, np.nan), edges, color=shade, linewidth=width, label=name)
    ax.set_yscale("log")
    _finish(ax, "Distribution", target.units, f"share of area per {target.units}")


def _tail(ax: Axes, result: Result, target: Target) -> None:
    curves = _curves(result, target)
    low = result.truth_values[target.name].quantile(0.5)
    low = low if target.floor is None else max(low, target.floor)
    high = max(histogram.quantile(1 - TAIL) for *_, histogram in curves)
    values = np.linspace(low, max(high, low + 1e-6), 200)
    for _, shade, width, histogram in curves:
        share = histogram.exceedance(values)
        ax.plot(values, np.where(share > 0, share, np.nan), color=shade, linewidth=width)
    ax.set_yscale("log")
    ax.set_ylim(bottom=TAIL)
    _finish(ax, "Upper tail", target.units, "share of area above")


def events(result: Result, target: Target) -> Figure:
    """Fractions skill score against the size of the windows, a panel for each threshold."""
    K = len(target.thresholds)
    figure = _figure(result, 4.3 * K, 3.8)
    axes = figure.subplots(1, K, sharey=True, squeeze=False)[0]
    first, lowest = result.forecasts[0], 1.0
    happens = result.score("frequency_truth", first, target).value
    scales = result.domain.scales
    for k, ax in enumerate(axes):
        ax.set_xlim(0, 1.05 * scales[-1])
        for name in _compared(result, target):
            found, shade = result.score("fss", name, target), color(result, name)
            ax.plot(scales, found.value[k], "o-", color=shade, markersize=4, linewidth=1.5, label=name)
            lowest = np.nanmin([lowest, *found.value[k]])
            if found.has_interval and name == first:
                ax.fill_between(scales, found.low[k], found.high[k], color=shade, alpha=0.15, linewidth=0)
        if result.members > 1:
            single = result.score("member_fss", first, target).value[k]
            ax.plot(scales, single, "--", color=color(result, first), linewidth=1.2, label="single members")
        ax.axhline(0.5 + happens[k] / 2, color="#777777", linewidth=0.9, linestyle=":")
        title = f"{target.name} ≥ {target.thresholds[k]:g} {target.units}"
        share = f"{100 * happens[k]:.2g} % of the area" if happens[k] > 0 else "it does not happen"
        _finish(ax, f"{title} ({share})", "window, km", "FSS" if k == 0 else "")
    axes[0].set_ylim(np.floor(10 * max(lowest - 0.1, 0)) / 10, 1.02)
    _legend(figure, axes[0])
    return figure
