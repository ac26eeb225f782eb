# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Scores as files: a CSV with one number a row, or a Zarr that keeps the statistics of each time as well."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_writable, whole, writing
from earth2_corrdiff.verification.dataset import KIND, to_dataset
from earth2_corrdiff.verification.result import PAIRED, Estimate, Result
from earth2_corrdiff.verification.scores import SCORES
from earth2_corrdiff.verification.targets import Target

COLUMNS = (
    *("variable", "units", "forecast", "baseline", "score"),
    *("threshold", "scale_km", "wavelength_km", "rank"),
)
LEAD = "lead_h"
"""A further column where there are several lead times: empty for all of them together."""
COLUMN_OF = {
    "threshold": "threshold",
    "scale": "scale_km",
    "wavelength": "wavelength_km",
    "octave": "wavelength_km",
    "rank": "rank",
}


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a place for scores that is taken or cannot be written, before anything is computed.

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
            raise InputError(f"{path} is no output of a verification: not replaced; give another --output")
    check_writable(path)


def _is_ours(path: Path) -> bool:
    try:
        return bool(xr.open_zarr(path, chunks=None).attrs.get("kind") == KIND)
    except Exception:  # whatever it is, it is not ours
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


def records(result: Result) -> Iterator[dict[str, object]]:
    """One row for each number: where it belongs, ``value``, ``low`` and ``high``; NaN where there is none."""
    yield from _records(result)
    for lead, part in result.by_lead.items():
        hours = float(lead / np.timedelta64(1, "h"))
        yield from ({**row, LEAD: hours} for row in _records(part))


def _records(result: Result) -> Iterator[dict[str, object]]:
    for target, forecast, score in product(result.targets, result.forecasts, SCORES.values()):
        if not result.has(score.name, forecast, target):
            continue
        estimate = result.score(score.name, forecast, target)
        about = _about(target, forecast, "", score.name)
        places = [_places(result, target, dim, estimate.value.shape[i]) for i, dim in enumerate(score.dims)]
        for index in np.ndindex(estimate.value.shape):
            own = {COLUMN_OF[d]: places[i][index[i]] for i, d in enumerate(score.dims)}
            yield about | own | _numbers(estimate, index)
    for pair in PAIRED:
        for target, baseline, estimate in result.paired(pair):
            yield _about(target, result.forecasts[0], baseline, f"crps_{pair}") | _numbers(estimate, ())


def _about(target: Target, forecast: str, baseline: str, score: str) -> dict[str, object]:
    return dict(zip(COLUMNS, (target.name, target.units, forecast, baseline, score), strict=False))


def _numbers(estimate: Estimate, index: tuple[int, ...]) -> dict[str, object]:
    return {part: float(getattr(estimate, part)[index]) for part in ("value", "low", "high")}


def _places(result: Result, target: Target, dim: str, length: int) -> list[float]:
    """Coordinate of a score's own dimension."""
    places = {
        "threshold": list(target.thresholds),
        "scale": result.domain.scales.tolist(),
        "wavelength": result.domain.rings.wavelength.tolist(),
        "octave": result.octaves.tolist(),
        "rank": list(range(length)),
    }
    return [float(place) for place in places[dim]]


def _write_csv(result: Result, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lead = (LEAD,) if result.by_lead else ()
        writer = csv.DictWriter(file, (*COLUMNS, *lead, "value", "low", "high"), restval="")
        writer.writeheader()
        for row in records(result):
            writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})


def _write_zarr(result: Result, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other readers may ignore the consolidated metadata
        to_dataset(result).to_zarr(path, mode="w", zarr_format=3, consolidated=True)
