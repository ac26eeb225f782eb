# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verification while a run computes: sums of each state in its store, merged into the result of all.

A state is the members of one valid time, or of one start and lead time. Its sums are what ``Verification``
keeps of a time: statistics and histograms, no fields.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, renamed
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.states import read_sums
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.comparison import NothingToVerifyError, Settings, Verification
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.from_store import by_lead, verification_of
from earth2_corrdiff.verification.result import Result
from earth2_corrdiff.verification.truth import Truth, open_truth

Sums = dict[str, Any]


class Scorer:
    """Scores of states against a truth, with the baselines that a store has.

    Parameters
    ----------
    truth : str | Path | xr.Dataset | DataSource
        See :func:`open_truth`
    names : Mapping[str, str], optional
        Names of variables in the truth where they differ
    settings : Settings, optional
        Variables and events
    """

    def __init__(
        self, truth: Any, names: Mapping[str, str] | None = None, settings: Settings | None = None
    ) -> None:
        self.truth, self.names, self.settings = truth, names, settings or Settings()
        self._opened: tuple[Truth, Domain] | None = None

    def check(self, grid: Grid, variables: Sequence[str]) -> None:
        """Open the truth on the grid of a run.

        Raises
        ------
        InputError
            If there is no such truth, or it lacks a variable
        """
        known = open_truth(self.truth, grid, self.names)
        wanted = list(self.settings.variables or variables)
        if unknown := [name for name in wanted if name not in variables]:
            raise InputError(f"there is no {', '.join(unknown)} to score; there is {', '.join(variables)}")
        try:
            known.check_variables(wanted)
        except InputError as error:
            raise renamed(error, str(error).replace("--variables", "--score-variables")) from error
        self._opened = known, Domain.of(grid, self.settings.scales, self.settings.tile)

    def __call__(self, ds: xr.Dataset) -> str:
        """Sums of the one state of a dataset that is laid out as a store."""
        if self._opened is None:
            self.check(reader.grid_of(ds), reader.output_variables(ds))
        assert self._opened is not None  # noqa: S101 (for mypy)
        truth, domain = self._opened
        leads, before = reader.cases(ds).leads, dict(truth.replaced)
        lead = None if leads is None else leads[0]
        one = ds if lead is None else reader.at_lead(ds, 0)
        sums: Sums = {"truth": truth.name}
        try:
            verification = verification_of(one, truth, domain, self.settings, None, [], None, lead)
            sums |= _static(verification)
            for _ in verification:
                pass
            sums |= _dynamic(verification)
        except NothingToVerifyError as error:
            logger.info("not scored: {}", error)
        sums["replaced"] = {name: n - before.get(name, 0) for name, n in truth.replaced.items()}
        return base64.b64encode(zlib.compress(json.dumps(sums).encode())).decode()


def _static(verification: Verification) -> Sums:
    """What is the same for all states of a run."""
    settings, forecasts = verification.settings, verification.forecasts
    thresholds = {t.name: list(t.thresholds) for t in verification.targets if t.thresholds}
    note = verification.truth.note
    return {
        "note": note,
        "notes": verification.notes[1:] if note else verification.notes,
        "about": verification.about,
        "coarse_km": verification.coarse_km,
        "scales": list(settings.scales),
        "tile": settings.tile,
        "thresholds": thresholds,
        "variables": settings.variables and list(settings.variables),
        "forecasts": [(f.name, f.size, list(f.variables)) for f in forecasts],
    }


def _dynamic(verification: Verification) -> Sums:
    """What is known of the one time of a verification that is done."""
    found = [
        {
            "forecast": forecast,
            "target": target,
            "row": None if (row := series.rows[0]) is None else {k: v.tolist() for k, v in row.items()},
            "values": _of(series.histogram),
            "lacking": verification.lacking.get((forecast, target), []),
        }
        for (forecast, target), series in verification.series.items()
    ]
    return {"series": found, "known": {name: _of(h) for name, h in verification.truth_values.items()}}


def _of(histogram: Histogram) -> tuple[int, int, list[float]]:
    return histogram.exponent, histogram.first, histogram.counts.tolist()


def _histogram(exponent: int, first: int, counts: list[float]) -> Histogram:
    made = Histogram()
    made.exponent, made.first, made.counts = exponent, first, np.array(counts)
    return made


@dataclass(frozen=True)
class _Scored:
    """A forecast whose fields are gone."""

    name: str
    size: int
    variables: Sequence[str]

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """Raise: no field is left."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Known:
    """A truth of which only sums are left."""

    name: str
    times: Times
    note: str
    replaced: Mapping[str, int]

    def check_variables(self, variables: Sequence[str]) -> None:
        """Do nothing: they were checked by the run."""

    def available(self, times: Times) -> Times:
        """Those of these times that were scored."""
        known: Times = times[np.isin(times, self.times)]
        return known


def scored(store: str | AnyPath, bootstrap: Bootstrap | None = None, skip_incomplete: bool = False) -> Result:
    """The result of the sums in a store: that of ``verify`` on its fields.

    Parameters
    ----------
    store : str | AnyPath
        Store of a run with a scorer
    bootstrap : Bootstrap, optional
        Settings of the intervals
    skip_incomplete : bool, optional
        Leave out states without sums; by default they are refused

    Raises
    ------
    InputError
        If the store has no sums, or not all
    """
    ds, found = reader.open_store(store, fields=False), read_sums(store)
    if not found:
        raise InputError(f"{store} has no scores; give the truth with --truth")
    docs = {state: json.loads(zlib.decompress(base64.b64decode(text))) for state, text in found.items()}
    cases = reader.cases(ds)
    if len(docs) < len(cases) and not skip_incomplete:
        raise InputError(
            f"{len(cases) - len(docs)} of {len(cases)} states are not scored; finish the run with "
            "run-corrdiff --resume, or leave them out with --skip-incomplete"
        )
    grid = reader.grid_of(ds)

    def verification(one: xr.Dataset, lead: np.timedelta64 | None = None) -> Verification:
        own = {cases[i].valid: doc for i, doc in sorted(docs.items()) if cases[i].lead == lead}
        return _merged(own, grid, bootstrap or Bootstrap(), lead)

    made = verification(ds) if cases.leads is None else by_lead(ds, cases.leads, verification)
    return made.result()


def _merged(
    docs: Mapping[np.datetime64, Sums], grid: Grid, bootstrap: Bootstrap, lead: np.timedelta64 | None
) -> Verification:
    """The verification of analyses, or of one lead time, as it is once its times are done."""
    whole = {time: doc for time, doc in docs.items() if "series" in doc}
    if not whole:
        raise NothingToVerifyError("none of the states that were scored has a truth")
    first, replaced = next(iter(whole.values())), dict[str, int]()
    for doc in docs.values():
        for name, count in doc["replaced"].items():
            replaced[name] = replaced.get(name, 0) + count
    keys = ("variables", "thresholds", "scales", "tile")
    settings = Settings(**{key: first[key] for key in keys}, bootstrap=bootstrap)
    truth: Any = _Known(first["truth"], np.array(list(whole)), first["note"], replaced)
    domain = Domain.of(grid, settings.scales, settings.tile)
    forecasts = [_Scored(*about) for about in first["forecasts"]]
    made = Verification(forecasts, truth, np.array(list(docs)), domain, settings, lead)
    made.notes += first["notes"]
    made.about, made.coarse_km = first["about"], first["coarse_km"]
    for time, doc in sorted(whole.items()):
        _add(made, time, doc)
    return made


def _add(made: Verification, time: np.datetime64, doc: Sums) -> None:
    """Add the sums of one time."""
    for entry in doc["series"]:
        key, row = (entry["forecast"], entry["target"]), entry["row"]
        made.series[key].rows.append(None if row is None else {k: np.array(v) for k, v in row.items()})
        made.series[key].histogram.merge(_histogram(*entry["values"]))
        if entry["lacking"]:
            made.lacking.setdefault(key, []).extend(entry["lacking"])
    for name, values in doc["known"].items():
        made.truth_values[name].merge(_histogram(*values))
    made.done.append(time)
