# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Scores as files: a CSV with one number a row, or a Zarr that has the statistics of each time as well."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_writable, whole, writing
from earth2_corrdiff.verification.case_statistics import POINTWISE
from earth2_corrdiff.verification.result import PAIRED, Estimate, Result
from earth2_corrdiff.verification.scores import SCORES, Score
from earth2_corrdiff.verification.targets import Target

Array = NDArray[np.float64]
Variable = tuple[tuple[str, ...], Array, dict[str, str]]
KIND = "earth2_corrdiff verification"
QUANTILES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
LEADING = ("forecast", "variable")
LIMITS = {"value": "", "low": "_low", "high": "_high"}
"""Parts of an estimate, with the ends of their names in a Zarr."""
COLUMNS = (
    *("variable", "units", "forecast", "baseline", "score"),
    *("threshold", "scale_km", "wavelength_km", "rank"),
)
LEAD = "lead_h"
"""A further column of several lead times; empty in the rows of all of them together."""
COLUMN_OF = {
    "threshold": "threshold",
    "scale": "scale_km",
    "wavelength": "wavelength_km",
    "octave": "wavelength_km",
    "rank": "rank",
}


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a path for scores that is taken or cannot be written, before anything is computed.

    Raises
    ------
    InputError
        If it is neither ``.csv`` nor ``.zarr``, exists and may not be replaced, or cannot be written
    """
    if path.suffix not in (".csv", ".zarr"):
        raise InputError(f"--output takes a file.csv or a store.zarr, got {path}")
    if path.exists():
        if not overwrite:
            raise InputError(f"the output {path} exists; use --overwrite, or another --output")
        if path.is_dir() and not _is_ours(path):
            raise InputError(
                f"{path} is not an output of a verification: not replaced; give another --output"
            )
    check_writable(path)


def _is_ours(path: Path) -> bool:
    try:
        return bool(xr.open_zarr(path, chunks=None).attrs.get("kind") == KIND)
    except Exception:  # of whatever class: then it is something else
        return False


def save(result: Result, path: Path) -> None:
    """Write all scores: ``.csv``, or ``.zarr`` with the statistics of each time.

    Raises
    ------
    InputError
        If it cannot be written
    """
    write = _write_csv if path.suffix == ".csv" else _write_zarr
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            write(result, part)


# CSV


def _write_csv(result: Result, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lead = (LEAD,) if result.by_lead else ()
        writer = csv.DictWriter(file, (*COLUMNS, *lead, *LIMITS), restval="")
        writer.writeheader()
        for row in records(result):
            writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})


def records(result: Result) -> Iterator[dict[str, object]]:
    """One row for each number: its coordinates, ``value``, ``low`` and ``high``; NaN if undefined."""
    yield from _records(result)
    for lead, part in result.by_lead.items():
        hours = float(lead / np.timedelta64(1, "h"))
        yield from ({**row, LEAD: hours} for row in _records(part))


def _records(result: Result) -> Iterator[dict[str, object]]:
    for target, forecast, score, estimate in result.estimates():
        row = _row(target, forecast, "", score.name)
        shape = estimate.value.shape
        axes = [
            (COLUMN_OF[dim], _axis(result, target, dim, n)) for dim, n in zip(score.dims, shape, strict=True)
        ]
        for index in np.ndindex(shape):
            own = {name: float(axis[i]) for (name, axis), i in zip(axes, index, strict=True)}
            yield row | own | _numbers(estimate, index)
    for pair in PAIRED:
        for target, baseline, estimate in result.paired(pair):
            yield _row(target, result.forecasts[0], baseline, f"crps_{pair}") | _numbers(estimate, ())


def _row(target: Target, forecast: str, baseline: str, score: str) -> dict[str, object]:
    return dict(zip(COLUMNS, (target.name, target.units, forecast, baseline, score), strict=False))


def _numbers(estimate: Estimate, index: tuple[int, ...]) -> dict[str, object]:
    return {part: float(getattr(estimate, part)[index]) for part in LIMITS}


def _axis(result: Result, target: Target, dim: str, length: int) -> Any:
    """Coordinate of a dimension of a score."""
    if dim == "threshold":
        return target.thresholds
    if dim == "rank":
        return range(length)
    return {
        "scale": result.domain.scales,
        "wavelength": result.domain.rings.wavelength,
        "octave": result.octaves,
    }[dim]


# Zarr


def _write_zarr(result: Result, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other readers may ignore the consolidated metadata
        to_dataset(result).to_zarr(path, mode="w", zarr_format=3, consolidated=True)


def to_dataset(result: Result) -> xr.Dataset:
    """Scores ``(forecast, variable, …)`` with ``_low`` and ``_high``, statistics ``time_… (time, …)``.

    Thresholds and ranks differ between variables and forecasts: they are numbered, and NaN beyond the last.
    """
    data: dict[str, Variable] = {}
    found: dict[str, dict[tuple[int, int], Estimate]] = defaultdict(dict)
    for target, forecast, score, estimate in result.estimates():
        found[score.name][_position(result, forecast, target)] = estimate
    for score in SCORES.values():
        data |= _score(result, score, found[score.name]) if found[score.name] else {}
    for how in PAIRED if len(result.forecasts) > 1 else ():
        data |= _paired(result, how)
    for name in (*POINTWISE, "weight"):
        attributes = {"long_name": f"{name.replace('_', ' ')}, area mean"}
        data[f"time_{name}"] = (("time", *LEADING), _by_time(result, name), attributes)
    data |= _by_lead(result) if result.by_lead else {}
    data["quantile"] = (("forecast_or_truth", "variable", "level"), _quantiles(result), {})
    attrs = {"kind": KIND, "truth": result.truth, "notes": " ".join(result.notes), **result.about}
    bootstrap = {f"bootstrap_{key}": value for key, value in vars(result.bootstrap).items()}
    return xr.Dataset(data, _coordinates(result), {**attrs, **bootstrap, "members": result.members})


def _coordinates(result: Result) -> dict[str, Any]:
    octaves = {"units": "km", "long_name": "shortest wavelength in the octave"}
    coords = {
        "forecast": list(result.forecasts),
        "baseline": list(result.forecasts[1:]),
        "variable": [target.name for target in result.targets],
        "units": ("variable", [target.units for target in result.targets]),
        "time": result.times,
        "wavelength": ("wavelength", result.domain.rings.wavelength, {"units": "km"}),
        "octave": ("octave", result.octaves, octaves),
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


def _position(result: Result, forecast: str, target: Target) -> tuple[int, int]:
    """Position of a forecast and a quantity along ``LEADING``."""
    return result.forecasts.index(forecast), [known.name for known in result.targets].index(target.name)


def _score(result: Result, score: Score, found: dict[tuple[int, int], Estimate]) -> dict[str, Variable]:
    """A score and its limits, padded with NaN to one shape."""
    own = np.max([estimate.value.shape for estimate in found.values()], axis=0).astype(int)
    attributes = {"long_name": score.title} | ({} if score.best is None else {"best": f"{score.best:g}"})
    out: dict[str, Variable] = {}
    for part, end in LIMITS.items():
        array = np.full((len(result.forecasts), len(result.targets), *own), np.nan)
        for position, estimate in found.items():
            values = getattr(estimate, part)
            index: tuple[int | slice, ...] = (*position, *(slice(n) for n in values.shape))
            array[index] = values
        out[score.name + end] = ((*LEADING, *score.dims), array, attributes)
    return out


def _by_lead(result: Result) -> dict[str, Variable]:
    """Scores of one number for each lead time: ``crps_by_lead (lead_time, forecast, variable)``, …"""
    scalars = [score for score in SCORES.values() if not score.dims]
    shape = (3, len(result.by_lead), len(result.forecasts), len(result.targets))
    arrays = {score.name: np.full(shape, np.nan) for score in scalars}
    for n, part in enumerate(result.by_lead.values()):
        for target, forecast, score, found in part.estimates(scalars):
            where = (slice(None), n, *_position(result, forecast, target))
            arrays[score.name][where] = found.value, found.low, found.high
    out: dict[str, Variable] = {}
    for score in scalars:
        attributes = {"long_name": f"{score.title}, by lead time"}
        for end, array in zip(LIMITS.values(), arrays[score.name], strict=True):
            out[f"{score.name}_by_lead{end}"] = (("lead_time", *LEADING), array, attributes)
    return out


def _paired(result: Result, how: str) -> dict[str, Variable]:
    """CRPS of what is verified against that of each baseline, with limits."""
    array = np.full((3, len(result.forecasts), len(result.targets)), np.nan)
    for target, baseline, found in result.paired(how):
        array[:, *_position(result, baseline, target)] = found.value, found.low, found.high
    title = f"paired {how} of the fair CRPS of {result.forecasts[0]} against the baseline"
    dims, about = ("baseline", "variable"), {"long_name": title}
    return {f"crps_{how}{end}": (dims, array[i, 1:], about) for i, end in enumerate(LIMITS.values())}


def _by_time(result: Result, statistic: str) -> Array:
    array = np.full((len(result.times), len(result.forecasts), len(result.targets)), np.nan)
    for forecast, target in product(result.forecasts, result.targets):
        series = result.series.get((forecast, target.name))
        if series is not None:
            array[:, *_position(result, forecast, target)] = series.column(statistic)
    return array


def _quantiles(result: Result) -> Array:
    """Quantiles of the truth, and of each forecast."""
    array = np.full((1 + len(result.forecasts), len(result.targets), len(QUANTILES)), np.nan)
    for k, target in enumerate(result.targets):
        histograms = {0: result.truth_values[target.name]}
        for i, forecast in enumerate(result.forecasts, 1):
            if (series := result.series.get((forecast, target.name))) is not None:
                histograms[i] = series.histogram
        for i, histogram in histograms.items():
            array[i, k] = [histogram.quantile(level) for level in QUANTILES]
    return array
