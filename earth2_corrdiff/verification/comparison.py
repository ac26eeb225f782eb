# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verification of forecasts against a truth, time after time: iterate over a ``Verification`` to run it.

A row of numbers is kept of each time for the bootstrap, no fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import DamageError, InputError, UnavailableError
from earth2_corrdiff.base.times import Times, lead_text, time_text
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.case_statistics import (
    SCALES_KM,
    Array,
    CaseTruth,
    Domain,
    Members,
    NotFiniteError,
    score,
)
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.forecasts import Forecast, StoreEnsemble
from earth2_corrdiff.verification.result import Result, Series
from earth2_corrdiff.verification.targets import Target, targets
from earth2_corrdiff.verification.truth import Truth


class NothingToVerifyError(InputError):
    """None of the times of a forecast can be verified."""


@dataclass(frozen=True)
class Settings:
    """Variables, events and intervals of a verification.

    Attributes
    ----------
    variables : Sequence[str] | None
        Variables of the output, by default all; the wind speed of u and v is added
    thresholds : Mapping[str, Sequence[float]]
        Events by quantity, in place of the defaults
    scales : Sequence[float]
        Windows of the fractions skill score in km, 0 for a single cell
    tile : int
        Side in cells of the squares without gaps that spectra are taken of; 0 for the whole domain
    bootstrap : Bootstrap
        Settings of the intervals
    skip_incomplete : bool
        Leave out times with members that are missing or not finite; by default they are refused
    """

    variables: Sequence[str] | None = None
    thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    scales: Sequence[float] = SCALES_KM
    tile: int = 0
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    skip_incomplete: bool = False


class Verification:
    """Forecasts and a truth, on one grid.

    Parameters
    ----------
    forecasts : Sequence[Forecast]
        The forecast to verify, then the baselines, which may lack variables
    truth : Truth
        On the same grid
    times : np.ndarray
        Valid times; those that the truth lacks are left out, with a note
    domain : Domain
        The grid
    settings : Settings, optional
        Variables, events, intervals
    lead : np.timedelta64 | None, optional
        Lead time of the valid times, for messages; by default they are times of analyses

    Raises
    ------
    InputError
        If no variable or no time is common, or the forecast lacks members
    """

    def __init__(
        self,
        forecasts: Sequence[Forecast],
        truth: Truth,
        times: Times,
        domain: Domain,
        settings: Settings | None = None,
        lead: np.timedelta64 | None = None,
    ) -> None:
        self.forecasts, self.truth, self.domain, self.lead = list(forecasts), truth, domain, lead
        self.settings = settings or Settings()
        self.notes = [truth.note] if truth.note else []
        self.about: dict[str, str] = {}
        self.coarse_km: float | None = None
        variables = self._variables()
        truth.check_variables(variables)
        self.targets = targets(variables, self.settings.thresholds)
        self.times = self._complete(self._common(np.unique(times)))
        self.done: list[np.datetime64] = []
        self.series = {
            (forecast.name, target.name): Series(forecast.size)
            for forecast in self.forecasts
            for target in self.targets
            if set(target.components) <= set(forecast.variables)
        }
        self.truth_values = {target.name: Histogram() for target in self.targets}
        self.lacking: dict[tuple[str, str], list[float]] = {}

    def _variables(self) -> list[str]:
        have = list(self.forecasts[0].variables)
        wanted = have if self.settings.variables is None else list(dict.fromkeys(self.settings.variables))
        unknown = [name for name in wanted if name not in have]
        if unknown or not wanted:
            asked = ", ".join(unknown) or "(none)"
            raise InputError(f"there is no variable {asked} to verify; there is {', '.join(have)}")
        return wanted

    def _common(self, times: Times) -> Times:
        """The times that the truth has."""
        try:
            common = self.truth.available(times)
        except UnavailableError:
            raise
        except InputError as error:
            raise NothingToVerifyError(str(error)) from error
        if not len(common):
            raise NothingToVerifyError(
                f"the truth {self.truth.name} has none of the times that are verified "
                f"({time_text(times[0])} to {time_text(times[-1])})"
            )
        if len(common) < len(times):
            self._note(
                f"{len(times) - len(common)} of {len(times)} times are left out: the truth lacks them."
            )
        return common

    def _complete(self, times: Times) -> Times:
        """The times at which no member is missing."""
        missing = {
            time: lacking
            for forecast in self.forecasts
            if isinstance(forecast, StoreEnsemble)
            for time in times
            if (lacking := forecast.missing(time))
        }
        if not missing:
            return times
        first, members = next(iter(missing.items()))
        said = f"{_these(members)} of {self._when(first)} {'is' if len(members) == 1 else 'are'} not written"
        if not self.settings.skip_incomplete:
            others = len(missing) - 1
            more = f", and more of {others} other time{'' if others == 1 else 's'}" if others else ""
            raise InputError(
                f"{said}{more}; finish the run with run-corrdiff --resume, or leave such times out with "
                "--skip-incomplete"
            )
        if len(missing) == len(times):
            raise NothingToVerifyError(
                f"no time is complete: {said}; finish the run with run-corrdiff --resume"
            )
        self._note(f"{len(missing)} of {len(times)} times are left out: members are missing.")
        return np.array([time for time in times if time not in missing])

    def _when(self, time: np.datetime64) -> str:
        """A valid time; of a forecast its start and lead time."""
        if self.lead is None:
            return time_text(time)
        return f"{time_text(time - self.lead)} + {lead_text(self.lead)}"

    def _note(self, sentence: str) -> None:
        sentence = sentence if self.lead is None else f"Lead time {lead_text(self.lead)}: {sentence}"
        self.notes.append(sentence)
        logger.warning(sentence)

    def __iter__(self) -> Iterator[np.datetime64]:
        """Verify one time after the other; yield each when it is done; none is repeated.

        Raises
        ------
        InputError
            If a field cannot be read, is not finite, or is not on the grid
        """
        for time in [time for time in self.times if time not in self.done]:
            try:
                self._add(time)
            except (NotFiniteError, DamageError) as error:
                if not self.settings.skip_incomplete:
                    raise
                self._note(f"{self._when(time)} is left out: {str(error).partition('; ')[0]}.")
            yield time

    def _add(self, time: np.datetime64) -> None:
        """Add all statistics of one time, or none if one of them fails."""
        variables = {name for target in self.targets for name in target.components}
        known = {name: self.truth.field(time, name) for name in sorted(variables)}
        found: dict[tuple[str, str], tuple[dict[str, Array], Histogram]] = {}
        lacking: dict[tuple[str, str], float] = {}
        cases = []
        for target in self.targets:
            members = {
                forecast.name: self._members(forecast, target, time)
                for forecast in self.forecasts
                if (forecast.name, target.name) in self.series
            }
            truth = target.field(known.__getitem__)
            there = torch.isfinite(truth)
            if there.any():
                lacking |= {
                    (n, target.name): 1 - float(m.there[there].double().mean()) for n, m in members.items()
                }
                truth = _only(truth, [some.there for some in members.values()])
            cases.append(CaseTruth(truth, self.domain, target))
            if cases[-1].known:
                found |= {(name, target.name): score(some, cases[-1]) for name, some in members.items()}
        for key, share in lacking.items():
            self.lacking.setdefault(key, []).append(share)
        for case in cases:
            self.truth_values[case.target.name].add(case.truth, case.weights)
        for key, series in self.series.items():
            statistics, values = found.get(key, (None, Histogram()))
            series.rows.append(statistics)
            series.histogram.merge(values)
        self.done.append(time)

    def _members(self, forecast: Forecast, target: Target, time: np.datetime64) -> Members:
        def read(member: int) -> Tensor:
            return target.field(lambda name: forecast.field(time, name, member))

        return Members(read, forecast.size, f"the {forecast.name} of {target.name} at {self._when(time)}")

    def result(self) -> Result:
        """The result of the times that are done.

        Raises
        ------
        InputError
            If no time could be verified
        """
        blank = [key for key, series in self.series.items() if all(row is None for row in series.rows)]
        if len(blank) == len(self.series):
            raise NothingToVerifyError(
                "no time could be verified: members or the truth are incomplete at all of them"
            )
        series = {key: value for key, value in self.series.items() if key not in blank}
        shown = [target for target in self.targets if (self.forecasts[0].name, target.name) in series]
        return Result(
            domain=self.domain,
            times=np.array(self.done),
            targets=shown,
            forecasts=[forecast.name for forecast in self.forecasts],
            series=series,
            truth_values=self.truth_values,
            bootstrap=self.settings.bootstrap,
            truth=self.truth.name,
            about=self.about,
            coarse_km=self.coarse_km,
            notes=[*self.notes, *self._gaps(series)],
        )

    def _gaps(self, series: Mapping[tuple[str, str], Series]) -> Iterator[str]:
        """A sentence for each quantity that the truth lacks or has gaps of."""
        for name, count in sorted(self.truth.replaced.items()):
            if count:
                values = "value of the truth stands" if count == 1 else "values of the truth stand"
                yield f"{count} {values} for missing ones of {name} (-999, 9999, 1e20, …): not verified."
        for (forecast, name), shares in self.lacking.items():
            if share := sum(shares) / len(shares):
                lack = f"The {forecast} of {name} has no value at {100 * share:.3g} % of the truth's points"
                yield f"{lack}: they are left out for all."
        for target in self.targets:
            found = series.get((self.forecasts[0].name, target.name))
            if found is None:
                yield f"{target.name} is left out: the truth has no value of it at any time."
            elif (known := np.nan_to_num(found.column("weight")).mean()) < 1:
                part = f"{100 * known:.3g} % of it is {self._used(target)}"
                yield f"The truth of {target.name} has gaps: {part}."
        yield from self._tiles()

    def _used(self, target: Target) -> str:
        """What is done with the part of the truth that counts."""
        less = any(sum(shares) for (_, name), shares in self.lacking.items() if name == target.name)
        return "known, and forecast by all" if less else "known"

    def _tiles(self) -> Iterator[str]:
        """What the spectra of tiles are taken of."""
        n, (H, W) = self.domain.tile, self.domain.grid.shape
        if n:
            yield f"Spectra are those of the squares of {n} x {n} cells without gaps, of {H // n * (W // n)}."


def _only(truth: Tensor, there: Sequence[Tensor]) -> Tensor:
    """The truth, NaN where one of the forecasts has no value: all are compared at the same points."""
    for some in there:
        truth = truth if some.all() else torch.where(some, truth, torch.nan)
    return truth


def _these(members: Sequence[int]) -> str:
    shown = ", ".join(map(str, members[:6])) + (", …" if len(members) > 6 else "")
    return f"{'member' if len(members) == 1 else 'members'} {shown}"
