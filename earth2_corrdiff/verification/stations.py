# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verification at weather stations: members are interpolated bilinearly to them.

No correction is made for the height of a station above or below the grid's terrain.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import whole, writing
from earth2_corrdiff.base.grid import Grid, lon_difference
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.forecasts import Forecast
from earth2_corrdiff.verification.pointwise import crps, rank_weights
from earth2_corrdiff.verification.reports import TOLERANCE, Reports
from earth2_corrdiff.verification.result import Result, Series
from earth2_corrdiff.verification.scores import SCORES
from earth2_corrdiff.verification.tables import NOTHING, Table, percent, shown
from earth2_corrdiff.verification.targets import Target, targets

Array = NDArray[np.float64]
SHOWN = ("crps", "rmse", "bias", "spread_skill")
NO_LAPSE = "Fields are interpolated bilinearly to the stations, without a correction for their height."
STEPS = 8  # of Newton's method, which doubles the digits in each


class Points:
    """Bilinear interpolation from a grid, rectilinear or curvilinear, to places.

    Parameters
    ----------
    grid : Grid
        ``[H, W]``
    lat, lon : np.ndarray
        ``[N]`` degrees

    Attributes
    ----------
    inside : np.ndarray
        ``[N]`` True if a place lies in a cell between four points of the grid
    """

    def __init__(self, grid: Grid, lat: Array, lon: Array) -> None:
        places, back = np.unique(np.stack([lat, lon], axis=1), axis=0, return_inverse=True)
        located = [self._located(grid, *place) for place in places.tolist()]
        found = [located[n] for n in back.ravel()]
        self.inside = np.array([cell is not None for cell in found], dtype=bool)
        cells = torch.tensor([cell or (0, 0, 0, 0) for cell in found], dtype=torch.float64).view(-1, 4)
        j, i, v, u = cells.T
        self._j, self._i = torch.stack([j, j, j + 1, j + 1]).long(), torch.stack([i, i + 1, i, i + 1]).long()
        self._weights = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u])

    @staticmethod
    def _located(grid: Grid, lat: float, lon: float) -> tuple[int, int, float, float] | None:
        """First row and column of the cell of a place, and how far into it the place lies, 0 to 1."""
        if not (np.isfinite(lat) and np.isfinite(lon)):
            return None
        flat = np.cos(np.radians(lat))
        if grid.curvilinear:
            away = np.hypot(grid.lat - lat, lon_difference(grid.lon, lon) * flat)
            j, i = (int(n) for n in np.unravel_index(int(away.argmin()), away.shape))
        else:
            j = int(np.abs(grid.lat - lat).argmin())
            i = int(np.abs(lon_difference(grid.lon, lon)).argmin())
        for row, column in ((j, i), (j - 1, i), (j, i - 1), (j - 1, i - 1)):
            if 0 <= row < grid.shape[0] - 1 and 0 <= column < grid.shape[1] - 1:
                mesh = grid.part(slice(row, row + 2), slice(column, column + 2)).mesh()
                corners = np.stack([lon_difference(mesh[1], lon) * flat, mesh[0].astype(np.float64) - lat])
                if (inside := _inverse(corners)) is not None:
                    return row, column, *inside
        return None

    def part(self, rows: NDArray[np.intp]) -> Points:
        """Some of the places."""
        made = copy(self)
        made.inside, made._weights = self.inside[rows], self._weights[:, rows]
        made._j, made._i = self._j[:, rows], self._i[:, rows]
        return made

    def __call__(self, field: Tensor) -> Tensor:
        """``[H, W] → [N]``, NaN outside and beside missing values."""
        values = (field[self._j, self._i].double() * self._weights).sum(0)
        return torch.where(torch.from_numpy(self.inside), values, torch.nan)


def _inverse(corners: Array) -> tuple[float, float] | None:
    """Where in a cell ``[2, 2, 2]`` (x and y of its corners) the origin lies; None outside it."""
    (a, b), (c, d) = corners[:, 0].T, corners[:, 1].T
    v, u = 0.5, 0.5
    for _ in range(STEPS):
        left = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
        slopes = np.stack([(1 - u) * (c - a) + u * (d - b), (1 - v) * (b - a) + v * (d - c)], axis=1)
        if abs(np.linalg.det(slopes)) < 1e-30:
            return None
        step = np.linalg.solve(slopes, left)
        v, u = v - float(step[0]), u - float(step[1])
    edge = 1e-6
    if not (-edge <= v <= 1 + edge and -edge <= u <= 1 + edge):
        return None
    return min(max(v, 0.0), 1.0), min(max(u, 0.0), 1.0)


@dataclass(frozen=True, eq=False)
class StationResult:
    """Scores at stations.

    Attributes
    ----------
    result : Result
        Statistics of the times, weighted by their reports; no spectra and no events
    used : dict[str, tuple[int, int]]
        Stations and reports by quantity
    notes : list[str]
        What was left out, and why
    """

    result: Result
    used: dict[str, tuple[int, int]]
    notes: list[str]

    def table(self) -> Table:
        """A row for each quantity and forecast."""
        result, first, rows = self.result, self.result.forecasts[0], []
        for target in result.targets:
            for name in result.forecasts:
                if (name, target.name) not in result.series:
                    continue
                has = (result.has(score, name, target) for score in SHOWN)
                cells = [
                    shown(result.score(score, name, target)) if there else NOTHING
                    for score, there in zip(SHOWN, has, strict=True)
                ]
                gain = "" if name == first else percent(result.gain("crps", first, name, target))
                counts = [str(n) for n in self.used[target.name]]
                rows.append((f"{target.name}, {target.units}", name, *counts, *cells, gain))
        return Table(
            f"At stations: {result.truth}",
            f"{NO_LAPSE} Intervals draw whole times. The gain is that of the {first}'s CRPS.",
            (
                "",
                "forecast",
                "stations",
                "reports",
                "fair CRPS",
                "RMSE of mean",
                "bias",
                "spread / skill",
                "gain",
            ),
            rows,
        )

    def text(self) -> str:
        """Table and notes for a terminal."""
        return "\n".join([self.table().text(), *(f"Note: {note}" for note in self.notes)])

    def save(self, path: Path) -> None:
        """Write a CSV with one score a row."""
        head = ("variable", "units", "forecast", "stations", "reports", "score", "value", "low", "high")
        with writing(path), whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(head)
            for target, name, score, e in self.result.estimates([SCORES[name] for name in SHOWN]):
                numbers = (f"{float(x):.7g}" for x in (e.value, e.low, e.high))
                counts = self.used[target.name]
                rows.writerow((target.name, target.units, name, *counts, score.name, *numbers))


def verify_stations(
    forecasts: Sequence[Forecast],
    reports: Reports,
    times: Times,
    grid: Grid,
    variables: Sequence[str],
    bootstrap: Bootstrap | None = None,
) -> StationResult:
    """Score forecasts against reports of stations.

    Parameters
    ----------
    forecasts : Sequence[Forecast]
        The forecast to verify, then the baselines
    reports : Reports
        Of the stations
    times : Times
        Valid times
    grid : Grid
        Of the forecasts
    variables : Sequence[str]
        That are verified, where the reports have them; a wind speed is added

    Raises
    ------
    InputError
        If no report can be used
    """
    chosen = [t for t in targets(variables) if _has(t, reports)]
    chosen = [replace(target, thresholds=()) for target in chosen]
    points = Points(grid, reports.lat, reports.lon)
    rows, left = _matched(reports, times, points)
    notes = list(
        _left_out(reports, left, [t.name for t in targets(variables) if t.name not in _names(chosen)])
    )
    series = {(f.name, t.name): Series(f.size) for f in forecasts for t in chosen if _has_all(f, t)}
    seen: dict[str, list[NDArray[np.str_]]] = {target.name: [] for target in chosen}
    for time, mine in rows:
        at = points.part(mine)
        for target in chosen:
            truth = _observed(target, reports, mine)
            drawn = {
                f.name: _drawn(f, target, time, at) for f in forecasts if (f.name, target.name) in series
            }
            known = truth.isfinite() & torch.stack([m.isfinite().all(0) for m in drawn.values()]).all(0)
            seen[target.name].append(reports.station[mine][known.numpy()])
            for name, members in drawn.items():
                row = _statistics(members[:, known], truth[known]) if known.any() else None
                series[name, target.name].rows.append(row)
    used = {name: (len(np.unique(np.concatenate(s))), sum(map(len, s))) for name, s in seen.items() if s}
    chosen = [target for target in chosen if used.get(target.name, (0, 0))[1]]
    if not chosen:
        raise InputError(f"no report of {reports.name} can be used: {' '.join(notes) or 'it has none'}")
    series = {key: some for key, some in series.items() if key[1] in _names(chosen)}
    result = Result(
        Domain.of(grid, (0.0,)), np.array([time for time, _ in rows]), chosen, [f.name for f in forecasts],
        series, {target.name: Histogram() for target in chosen}, bootstrap or Bootstrap(), reports.name,
    )  # fmt: skip
    return StationResult(result, used, notes)


def _names(chosen: Sequence[Target]) -> list[str]:
    return [target.name for target in chosen]


def _has(target: Target, reports: Reports) -> bool:
    return target.name in reports.values or set(target.components) <= set(reports.values)


def _has_all(forecast: Forecast, target: Target) -> bool:
    return set(target.components) <= set(forecast.variables)


def _matched(
    reports: Reports, times: Times, points: Points
) -> tuple[list[tuple[np.datetime64, NDArray[np.intp]]], Counter[str]]:
    """For each valid time the reports to use, one of each station, and why others are left out."""
    left: Counter[str] = Counter()
    left["outside the domain"] = int((~points.inside).sum())
    free, found = points.inside.copy(), []
    for time in np.sort(times):
        away = np.abs(reports.time - time)
        near = np.flatnonzero(free & (away <= TOLERANCE))
        near = near[np.argsort(away[near], kind="stable")]
        _, first = np.unique(reports.station[near], return_index=True)
        if len(first):
            found.append((time, np.sort(near[first])))
        left["another report of the station is nearer in time"] += len(near) - len(first)
        free[near] = False
    left[f"more than {TOLERANCE} from a valid time"] = int(free.sum())
    return found, left


def _left_out(reports: Reports, left: Counter[str], without: Sequence[str]) -> Iterator[str]:
    total = len(np.unique(reports.station))
    yield f"{reports.name} has {len(reports)} reports of {total} stations. {NO_LAPSE}"
    for reason, count in left.items():
        if count:
            yield f"{count} reports are left out: {reason}."
    for name, count in reports.refused.items():
        if count:
            yield f"{count} values of {name} are left out: they are not plausible."
    for name in without:
        yield f"The reports have no {name}: it is not verified."


def _observed(target: Target, reports: Reports, rows: NDArray[np.intp]) -> Tensor:
    """Measured values ``[N]``, in the quantity's units."""
    if target.name in reports.values and target.derived:
        return torch.from_numpy(reports.values[target.name][rows])
    return target.field(lambda name: torch.from_numpy(reports.values[name][rows]))


def _drawn(forecast: Forecast, target: Target, time: np.datetime64, at: Points) -> Tensor:
    """Members ``[M, N]`` at places; wind components are interpolated before their speed is taken."""
    members = [
        target.field(lambda name, m=m: at(forecast.field(time, name, m)))  # type: ignore[misc]
        for m in range(forecast.size)
    ]
    return torch.stack(members)


def _statistics(members: Tensor, truth: Tensor) -> dict[str, Array]:
    """Statistics of a time, as those of fields: ``[M, N]`` and ``[N]``."""
    fair, biased = crps(members, truth)
    error = members.mean(0) - truth
    variance = members.var(0) if len(members) > 1 else torch.full_like(truth, torch.nan)
    parts = {"error": error, "absolute_error": error.abs(), "squared_error": error.square()}
    parts |= {"variance": variance, "crps": fair, "crps_biased": biased}
    found = {name: part.mean() for name, part in parts.items()}
    found["rank"] = rank_weights(members, truth, torch.ones_like(truth)) / len(truth)
    return {name: part.numpy() for name, part in found.items()} | {"weight": np.array(float(len(truth)))}
