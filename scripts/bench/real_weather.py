# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of real weather on held-out times: their data, their splits, and what they must reach.

Both are perfect prognosis: the coarse input is made of block means of the fine fields. Nothing here learns or
corrects a forecast model's error; one winter fortnight and three days of rain say nothing of other seasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bench.demo_acceptance import Criterion, octave_ratios
from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, time_text, to_times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.sources.formats import open_lazily
from earth2_corrdiff.store import reader
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.pairs import Channels
from earth2_corrdiff.verification import Bootstrap, Settings, Training, open_verification
from earth2_corrdiff.verification.baselines import Baselines
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.nearest import Nearest, TrainingFields
from earth2_corrdiff.verification.result import Estimate, Result, joined
from earth2_corrdiff.verification.scores import RESOLVED_CELLS
from earth2_corrdiff.verification.tables import Table, number, shown
from earth2_corrdiff.verification.targets import Target
from earth2_corrdiff.verification.truth import open_truth

Leads = Sequence[np.timedelta64]
HOUR = np.timedelta64(1, "h")
PIXELS = (1, 3, 9)
"""Windows of the fractions skill score."""


@dataclass(frozen=True)
class Study:
    """A package on real weather.

    Attributes
    ----------
    name, file : str
        Of the package, and of the agency's file
    inputs, outputs : tuple[str, ...]
        Variables of the pairs, as ``make-pairs`` takes them
    blocks : Blocks
        Of the pairs
    fit, validation, test : str
        Periods FIRST/LAST: for training, for the variance of the noise, and held out
    every : np.timedelta64
        Step of the test times
    least_lead : np.timedelta64 | None
        Of the runs in the file; None for analyses
    tile : int
        Of the spectra, see ``Settings``
    fewest : int
        Fewest times for an interval
    pictures : tuple[tuple[str, float], ...]
        Quantities with the threshold of their probability
    credit : str
        Who made the data
    """

    name: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blocks: Blocks
    fit: str
    validation: str
    test: str
    every: np.timedelta64
    least_lead: np.timedelta64 | None
    tile: int
    fewest: int
    criteria: Callable[[Result], Iterator[Criterion]]
    pictures: tuple[tuple[str, float], ...]
    credit: str

    @property
    def test_times(self) -> Times:
        """Held-out valid times."""
        first, last = (to_times(end)[0] for end in self.test.split("/"))
        return np.arange(first, last + HOUR, self.every)


def make_pairs(study: Study, data: Path, folder: Path) -> Path:
    """The pairs of a study, made or completed: for fits, truth and checks."""
    path = folder / f"{study.name}-pairs.zarr"
    channels = Channels(study.inputs, study.outputs)
    made = make_own_pairs(data / study.file, "all", channels, path, study.blocks, least_lead=study.least_lead)
    for _ in made:
        pass
    if made.failed:
        time, reason = next(iter(made.failed.items()))
        raise InputError(f"{study.file} at {time} cannot be used: {reason}")
    return path


@dataclass(frozen=True)
class Part:
    """A run with one lead time, or of analyses.

    Attributes
    ----------
    lead : np.timedelta64 | None
        Lead time
    valid : Times
        Valid times
    """

    lead: np.timedelta64 | None
    valid: Times

    @property
    def starts(self) -> Times:
        """What ``run-corrdiff`` takes as times."""
        return self.valid if self.lead is None else self.valid - self.lead

    @property
    def label(self) -> str:
        """In the names of stores."""
        return "" if self.lead is None else f"-lead-{int(self.lead / HOUR)}h"


def parts(study: Study, pairs: Path, leads: Sequence[int] | None, hours: int | None) -> list[Part]:
    """The held-out cases by lead time: those that the file has, or ``hours`` of the times, and some leads."""
    times = study.test_times
    if hours is not None:
        times = times[np.unique(np.linspace(0, len(times) - 1, hours).round().astype(int))]
    ds = open_lazily(pairs)
    there = ds["complete"].to_numpy() == 1
    valid = ds["time"].to_numpy().astype("datetime64[ns]")
    there &= np.isin(valid, times)
    if not there.any():
        raise InputError(f"{study.file} has none of the held-out times {study.test}")
    if study.least_lead is None:
        return [Part(None, valid[there])]
    lead = _leads(ds)
    wanted = np.unique(lead[there]) if leads is None else [np.timedelta64(n, "h") for n in leads]
    found = [Part(one, valid[there & (lead == one)]) for one in wanted]
    return [part for part in found if len(part.valid)]


def _leads(ds: xr.Dataset) -> Any:
    """Lead times of pairs, which hold seconds."""
    return ds["lead_time"].to_numpy().astype("timedelta64[s]").astype("timedelta64[ns]")


def truth_of(pairs: Path, part: Part) -> xr.Dataset:
    """The fine fields of the same runs: perfect prognosis has no error of a forecast."""
    ds = open_lazily(pairs)
    kept = [name for name in ds.data_vars if not str(name).endswith("_lowres")]
    return ds[kept].drop_vars(["lead_time", "complete"], errors="ignore").isel(time=_rows(ds, part))


def _rows(ds: xr.Dataset, part: Part) -> Any:
    """The pairs of a part, in the order of its times."""
    rows = np.isin(ds["time"].to_numpy().astype("datetime64[ns]"), part.valid)
    rows &= ds["complete"].to_numpy() == 1
    return np.flatnonzero(rows if part.lead is None else rows & (_leads(ds) == part.lead))


def check_input(store: Path, pairs: Path, part: Part) -> None:
    """Refuse a store whose coarse input is not that of the pairs: its truth would be other weather."""
    ds, mine = reader.open_store(store), open_lazily(pairs).isel(time=_rows(open_lazily(pairs), part))
    for i, time in enumerate(part.valid):
        for name in reader.coarse_variables(ds):
            want = mine[name + reader.COARSE].isel(time=i).to_numpy()
            got = reader.field(ds, name + reader.COARSE, i)
            if not np.allclose(got, want, rtol=1e-4, atol=1e-7, equal_nan=True):
                raise InputError(
                    f"the coarse {name} of {store} at {time_text(time)} is not that of the pairs"
                )


@dataclass
class Verified:
    """What a study found.

    Attributes
    ----------
    result : Result
        Of all parts
    nearest : Nearest | None
        Members against training fields, where the domain has no gaps
    """

    result: Result
    nearest: Nearest | None
    criteria: list[Criterion] = field(default_factory=list)


def verify(
    study: Study, stores: Sequence[tuple[Part, Path]], pairs: Path, model: Downscaler, bootstrap: Bootstrap,
    step: Callable[[], None],
) -> Verified:  # fmt: skip
    """Verify the stores of a study with all baselines."""
    first = reader.open_store(stores[0][1])
    grid = reader.grid_of(first)
    cell = float(np.prod(Domain.of(grid).spacing) ** 0.5)
    settings = Settings(
        scales=[n * cell for n in PIXELS], tile=min(study.tile, *grid.shape), bootstrap=bootstrap,
    )  # fmt: skip
    every = np.unique(np.concatenate([part.valid for part, _ in stores]))
    fitted = Baselines(Training(pairs, study.fit, study.validation), first, model, every)
    results: dict[np.timedelta64, Result] = {}
    for part, store in stores:
        truth = truth_of(pairs, part)
        verification = open_verification(store, truth, settings=settings, downscaler=model, training=fitted)
        for _ in verification:
            step()
        results[part.lead or 0 * HOUR] = verification.result()
    lone = stores[0][0].lead is None
    result = results[0 * HOUR] if lone else joined(results, by_valid=True)
    near = None if study.tile else _nearest(study, stores, pairs, model, fitted)
    return Verified(result, near, list(study.criteria(result)))


def _nearest(
    study: Study, stores: Sequence[tuple[Part, Path]], pairs: Path, model: Downscaler, fitted: Baselines
) -> Nearest:
    known = TrainingFields.of(model, fitted.pairs_of(model), fitted.rows)
    found = []
    for part, store in stores:
        ds = reader.open_store(store)
        one = ds if part.lead is None else reader.at_lead(ds, 0)
        found.append(known.nearest(one, open_truth(truth_of(pairs, part), reader.grid_of(one))))
    arrays = {
        name: np.concatenate([getattr(one, name) for one in found])
        for name in ("times", "truth", "members", "found")
    }
    return Nearest(**arrays, fields=found[0].fields)


# Bars


def _within(value: Estimate, low: float, high: float) -> bool:
    return bool(low <= float(value.value) <= high)


def _below(result: Result, target: Target, baseline: str, surely: bool) -> Criterion:
    """CRPS below a baseline's (of one field its MAE); with an interval that excludes zero if asked."""
    apart = result.difference("crps", result.forecasts[0], baseline, target)
    met = float(apart.high) < 0 if surely else float(apart.value) < 0
    return Criterion(target.name, f"CRPS below {baseline}'s", f"{shown(apart)} {target.units}", met)


def _spread(result: Result, target: Target, low: float, high: float) -> Criterion:
    ratio = result.score("spread_skill", result.forecasts[0], target)
    return Criterion(
        target.name, f"spread / skill {low:g} to {high:g}", shown(ratio), _within(ratio, low, high)
    )


def _power(result: Result, target: Target, off: float, longest: float = np.inf) -> Criterion:
    """Power in octaves from four cells up to a wavelength in km."""
    bands = [band for band in octave_ratios(result, target)[:-1] if band.shortest <= longest]
    met = bool(bands) and all(_within(band.ratio, 1 - off, 1 + off) for band in bands)
    found = ", ".join(map(str, bands)) or "no spectrum"
    return Criterion(target.name, f"power from {RESOLVED_CELLS} cells within {100 * off:.0f} %", found, met)


def of_taiwan(result: Result) -> Iterator[Criterion]:
    """Bars of the four variables."""
    for target in (target for target in result.targets if not target.derived):
        yield _below(result, target, "ridge regression", surely=False)
        yield _spread(result, target, 0.8, 1.2)
        yield _power(result, target, 0.25)


def of_conus(result: Result) -> Iterator[Criterion]:
    """Bars of precipitation."""
    (target,), first = result.targets, result.forecasts[0]
    for baseline in ("interpolation", "regression", "regression + noise"):
        yield _below(result, target, baseline, surely=True)
    yield _spread(result, target, 0.9, 1.1)
    yield _power(result, target, 0.2, 256.0)
    at, three = target.thresholds.index(5.0), min(1, len(result.domain.windows) - 1)
    fss = {
        name: float(result.score("fss", name, target).value[at, three])
        for name in ("ensemble mean", "interpolation", first)
    }
    single = float(result.score("member_fss", first, target).value[at, three])
    found = f"{fss['ensemble mean']:.3f}, interpolation {fss['interpolation']:.3f}"
    more = f" (probabilities {fss[first]:.3f}, single members {single:.3f})"
    met = fss["ensemble mean"] >= fss["interpolation"]
    yield Criterion(target.name, "FSS of the mean, ≥ 5 mm, 3 pixels", found + more, met)
    heavy = result.score("frequency_ratio", first, target)
    at = target.thresholds.index(20.0)
    ratio = Estimate(*(getattr(heavy, end)[at] for end in ("value", "low", "high")))
    yield Criterion(
        target.name, "pixels ≥ 20 mm within a factor 1.5", shown(ratio), _within(ratio, 1 / 1.5, 1.5)
    )


def bars(study: Study, found: Sequence[Criterion]) -> Table:
    """Pass or fail."""
    rows: list[tuple[str, ...]] = [(c.variable, c.name, "pass" if c.met else "FAIL", c.found) for c in found]
    return Table(
        f"{study.name}: what it must reach",
        f"On held-out times, {study.test}. Perfect prognosis: the coarse input is made of the truth's block "
        f"means. {study.credit}",
        ("", "bar", "", "found"),
        rows,
        labels=4,
    )


def extremes(result: Result) -> Table:
    """Frequencies of events, and the dry share, of the truth and of each forecast."""
    rows = []
    for target in result.targets:
        for k, value in enumerate(target.thresholds):
            names = [name for name in result.forecasts if result.has("frequency", name, target)]
            cells = [number(100 * float(result.score("frequency", n, target).value[k])) for n in names]
            truth = number(100 * float(result.score("frequency_truth", names[0], target).value[k]))
            rows.append((f"{target.name} ≥ {value:g} {target.units}", truth, *cells))
    return Table(
        "Frequencies, per cent",
        "Share of area and time at or above a value; the rest of the first one of precipitation is dry.",
        ("", "truth", *[name for name in result.forecasts if name != "climatology"]),
        [row[: 2 + len(result.forecasts) - 1] for row in rows],
        labels=1,
    )


CWA = "Data: Central Weather Administration (Taiwan), WRF 3 km M-A0064, Open Government Data License 1.0."
MRMS = "Data: NOAA/NSSL MRMS gauge-corrected hourly precipitation, public domain."
STUDIES = (
    Study(
        "taiwan-3km",
        "cwa_wrf3km_taiwan.nc",
        ("t2m", "u10m=u10", "v10m=v10", "tp06=tp6h", "r2m=rh2m"),
        ("t2m", "u10m=u10", "v10m=v10", "tp06=tp6h"),
        Blocks(8),
        fit="2026-02-04/2026-02-12",
        validation="2026-02-12T18/2026-02-13T12",
        test="2026-02-14T06/2026-02-18",
        every=6 * HOUR,
        least_lead=6 * HOUR,
        tile=0,
        fewest=5,
        criteria=of_taiwan,
        pictures=(("t2m", 15.0), ("ws10m", 8.0), ("tp06", 10.0)),
        credit=CWA,
    ),
    Study(
        "conus-3km",
        "mrms_qpe1h_conus.nc",
        ("tp=qpe1h",),
        ("tp=qpe1h",),
        Blocks(8, 3),
        fit="2016-09-20/2016-09-21T17",
        validation="2016-09-21T21/2016-09-22T02",
        test="2016-09-22T06/2016-09-22T17",
        every=HOUR,
        least_lead=None,
        tile=128,
        fewest=8,
        criteria=of_conus,
        pictures=(("tp", 10.0),),
        credit=MRMS,
    ),
)


def settings_of(study: Study, **how: Any) -> Bootstrap:
    """Intervals of a study."""
    return Bootstrap(fewest=study.fewest, **how)
