# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""All scores as one xarray Dataset, with the statistics of each time that they are made of."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.verification.case_statistics import POINTWISE
from earth2_corrdiff.verification.result import PAIRED, Estimate, Result
from earth2_corrdiff.verification.scores import SCORES, Score

Array = NDArray[np.float64]
Variable = tuple[tuple[str, ...], Array, dict[str, str]]
KIND = "earth2_corrdiff verification"
QUANTILES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
LEADING = ("forecast", "variable")


def to_dataset(result: Result) -> xr.Dataset:
    """Scores ``(forecast, variable, …)`` with ``_low`` and ``_high``, statistics ``time_… (time, …)``.

    Thresholds and ranks differ between variables and forecasts: they are counted, and NaN beyond the last.
    """
    data: dict[str, Variable] = {}
    for score in SCORES.values():
        data |= _score(result, score)
    for how in PAIRED if len(result.forecasts) > 1 else ():
        data |= _paired(result, how)
    for name in (*POINTWISE, "weight"):
        about = {"long_name": f"{name.replace('_', ' ')}, area mean"}
        data[f"time_{name}"] = (("time", *LEADING), _by_time(result, name), about)
    data |= _by_lead(result)
    data["quantile"] = (("forecast_or_truth", "variable", "level"), _quantiles(result), {})
    attrs = {"kind": KIND, "truth": result.truth, "notes": " ".join(result.notes), **result.about}
    bootstrap = {f"bootstrap_{key}": value for key, value in vars(result.bootstrap).items()}
    return xr.Dataset(data, _coordinates(result), {**attrs, **bootstrap, "members": result.members})


def _coordinates(result: Result) -> dict[str, Any]:
    coords = {
        "forecast": list(result.forecasts),
        "baseline": list(result.forecasts[1:]),
        "variable": [target.name for target in result.targets],
        "units": ("variable", [target.units for target in result.targets]),
        "time": result.times,
        "wavelength": ("wavelength", result.domain.rings.wavelength, {"units": "km"}),
        "octave": (
            "octave",
            result.octaves,
            {"units": "km", "long_name": "shortest wavelength in the octave"},
        ),
        "scale": ("scale", result.domain.scales, {"units": "km"}),
        "forecast_or_truth": ["truth", *result.forecasts],
        "level": list(QUANTILES),
    }
    if result.starts is not None:
        lead = [np.full(len(part.times), lead) for lead, part in result.by_lead.items()]
        coords["time_lead"] = ("time", np.concatenate(lead), {"long_name": "lead time"})
        coords["lead_time"] = np.array(list(result.by_lead))
    longest = max(len(target.thresholds) for target in result.targets)
    if longest:
        values = [[*t.thresholds, *[np.nan] * (longest - len(t.thresholds))] for t in result.targets]
        coords["threshold_value"] = (("variable", "threshold"), np.array(values))
    return coords


def _score(result: Result, score: Score) -> dict[str, Variable]:
    """A score and its limits, padded with NaN to one shape; nothing if no forecast has it."""
    found: dict[tuple[int, int], Estimate] = {}
    for (i, forecast), (k, target) in product(enumerate(result.forecasts), enumerate(result.targets)):
        if result.has(score.name, forecast, target):
            found[i, k] = result.score(score.name, forecast, target)
    if not found:
        return {}
    own = np.max([estimate.value.shape for estimate in found.values()], axis=0).astype(int)
    about = {"long_name": score.title} | ({} if score.best is None else {"best": f"{score.best:g}"})
    out: dict[str, Variable] = {}
    for part, end in (("value", ""), ("low", "_low"), ("high", "_high")):
        array = np.full((len(result.forecasts), len(result.targets), *own), np.nan)
        for place, estimate in found.items():
            values = getattr(estimate, part)
            index: tuple[int | slice, ...] = (*place, *(slice(n) for n in values.shape))
            array[index] = values
        out[score.name + end] = ((*LEADING, *score.dims), array, about)
    return out


def _by_lead(result: Result) -> dict[str, Variable]:
    """Scores that are one number, of each lead time: ``crps_by_lead (lead_time, forecast, variable)``, ..."""
    shape = (len(result.by_lead), len(result.forecasts), len(result.targets))
    data: dict[str, Variable] = {}
    for score in SCORES.values() if result.by_lead else ():
        if score.dims:
            continue
        arrays = np.full((3, *shape), np.nan)
        for n, part in enumerate(result.by_lead.values()):
            there = [target.name for target in part.targets]
            for (i, name), (k, target) in product(enumerate(part.forecasts), enumerate(result.targets)):
                if target.name in there and part.has(score.name, name, target):
                    found = part.score(score.name, name, target)
                    arrays[:, n, i, k] = found.value, found.low, found.high
        for end, array in zip(("", "_low", "_high"), arrays, strict=True):
            about = {"long_name": f"{score.title}, by lead time"}
            data[f"{score.name}_by_lead{end}"] = (("lead_time", *LEADING), array, about)
    return data


def _paired(result: Result, how: str) -> dict[str, Variable]:
    """CRPS of what is verified against that of each baseline, with limits."""
    places = {name: i for i, name in enumerate(result.forecasts[1:])}
    names = {target.name: k for k, target in enumerate(result.targets)}
    array = np.full((3, len(places), len(names)), np.nan)
    for target, baseline, estimate in result.paired(how):
        array[:, places[baseline], names[target.name]] = estimate.value, estimate.low, estimate.high
    about = {"long_name": f"paired {how} of the fair CRPS of {result.forecasts[0]} against the baseline"}
    ends = ("", "_low", "_high")
    return {f"crps_{how}{end}": (("baseline", "variable"), array[i], about) for i, end in enumerate(ends)}


def _by_time(result: Result, statistic: str) -> Array:
    array = np.full((len(result.times), len(result.forecasts), len(result.targets)), np.nan)
    for (i, forecast), (k, target) in product(enumerate(result.forecasts), enumerate(result.targets)):
        series = result.series.get((forecast, target.name))
        if series is not None:
            array[:, i, k] = series.column(statistic)
    return array


def _quantiles(result: Result) -> Array:
    """Of the truth, and of each forecast."""
    array = np.full((1 + len(result.forecasts), len(result.targets), len(QUANTILES)), np.nan)
    for k, target in enumerate(result.targets):
        array[0, k] = [result.truth_values[target.name].quantile(level) for level in QUANTILES]
        for i, forecast in enumerate(result.forecasts, 1):
            series = result.series.get((forecast, target.name))
            if series is not None:
                array[i, k] = [series.histogram.quantile(level) for level in QUANTILES]
    return array
