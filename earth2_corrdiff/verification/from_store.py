# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verification of a store that ``run-corrdiff`` wrote, with its baselines and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import LeadLike, Leads, Times, chosen_leads, lead_text, time_text
from earth2_corrdiff.model.calibration import Calibration
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.store import reader
from earth2_corrdiff.verification.baselines import Baselines, Training
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.comparison import NothingToVerifyError, Settings, Verification
from earth2_corrdiff.verification.forecasts import (
    CalibratedEnsemble,
    Climatology,
    EnsembleMean,
    Forecast,
    Interpolation,
    NoisyRegression,
    StoreEnsemble,
    regression_of,
)
from earth2_corrdiff.verification.geometry import spacing
from earth2_corrdiff.verification.nearest import Nearest, TrainingFields
from earth2_corrdiff.verification.reports import open_reports
from earth2_corrdiff.verification.result import Result, joined
from earth2_corrdiff.verification.stations import StationResult, verify_stations
from earth2_corrdiff.verification.targets import targets
from earth2_corrdiff.verification.truth import Truth, open_truth

Part = TypeVar("Part")
ABOUT = (
    *("title", "model", "package", "package_sha256", "source", "attribution"),
    *("solver", "number_of_steps", "sigma_min", "sigma_max", "schedule", "seed", "precision"),
    *("calibration", "calibration_sha256"),
)


def open_verification(
    store: str | AnyPath,
    truth: Any,
    *,
    settings: Settings | None = None,
    downscaler: Downscaler | None = None,
    compare: Mapping[str, str | AnyPath] | None = None,
    truth_names: Mapping[str, str] | None = None,
    leads: LeadLike | Sequence[LeadLike] | None = None,
    training: Training | Baselines | None = None,
    calibration: Calibration | None = None,
) -> Verification | VerificationByLead:
    """Prepare the verification of a store against a truth and all available baselines.

    Parameters
    ----------
    store : str | Path | ObjectPath
        Store that ``run-corrdiff`` wrote
    truth : str | Path | xr.Dataset | DataSource
        See :func:`open_truth`
    settings : Settings, optional
        Variables, events, intervals
    downscaler : Downscaler, optional
        The model of the store: adds its regression alone, computed from the store's coarse input, and its
        training mean ("climatology")
    compare : Mapping[str, str | Path], optional
        Other stores on the same grid and at the same times, by their names in the tables: a run of the
        regression alone, or with another solver
    truth_names : Mapping[str, str], optional
        Names of variables in the truth where they differ
    leads : lead time or lead times, optional
        Of a store of forecasts, see ``times.to_leads``; by default all. Each is verified
        at its valid times; the result is that of all, and holds that of each as ``by_lead``
    training : Training | Baselines, optional
        Pairs to fit baselines on, or what was fitted: residual climatology, ridge regression and, with a
        model, the regression plus noise; the ensemble's mean is added as one field
    calibration : Calibration, optional
        Corrects the members, with a model

    Raises
    ------
    InputError
        If something cannot be read, or grids and times do not match
    """
    ds = reader.open_store(store)
    settings, grid = settings or Settings(), reader.grid_of(ds)
    domain, known = Domain.of(grid, settings.scales, settings.tile), open_truth(truth, grid, truth_names)
    others = [_Other(name, path, reader.open_store(path)) for name, path in (compare or {}).items()]
    every = reader.cases(ds).leads
    wanted = every if leads is None else chosen_leads(leads, every)
    fitted = Baselines(training, ds, downscaler) if isinstance(training, Training) else training

    def verification(one: xr.Dataset, lead: np.timedelta64 | None = None) -> Verification:
        how = (settings, downscaler, others, fitted, lead, calibration)
        return verification_of(one, known, domain, *how)

    return verification(ds) if every is None or wanted is None else by_lead(ds, wanted, verification)


def by_lead(ds: xr.Dataset, leads: Leads, verification: Callable[..., Verification]) -> VerificationByLead:
    """Treat each lead time like a store of analyses; lead times without anything to verify are left out."""
    every = ds["lead_time"].to_numpy()

    def part(lead: np.timedelta64) -> Verification:
        return verification(reader.at_lead(ds, int(np.flatnonzero(every == lead)[0])), lead)

    parts, missing = _verifiable(np.sort(leads), part)
    if missing:
        sentence = f"Left out, as the truth or members are missing: the lead times {', '.join(missing)}."
        next(iter(parts.values())).notes.append(sentence)
    return VerificationByLead(parts)


def _verifiable(
    leads: Iterable[np.timedelta64], make: Callable[[np.timedelta64], Part]
) -> tuple[dict[np.timedelta64, Part], list[str]]:
    """What can be made of each lead time, and the others as text; raises the first error if there is none."""
    parts: dict[np.timedelta64, Part] = {}
    faults: dict[str, NothingToVerifyError] = {}
    for lead in leads:
        try:
            parts[lead] = make(lead)
        except NothingToVerifyError as error:
            faults[lead_text(lead)] = error
            logger.warning("Lead time {} is left out: {}", lead_text(lead), error)
    if not parts:
        raise next(iter(faults.values()))
    return parts, list(faults)


@dataclass(frozen=True)
class _Other:
    """Another store to compare with, and its name in the tables."""

    name: str
    path: str | AnyPath
    ds: xr.Dataset

    def ensemble(self, verified: StoreEnsemble, lead: np.timedelta64 | None) -> StoreEnsemble:
        """Its members at a lead time; `InputError` if it is on another grid or lacks times."""
        other = StoreEnsemble(self._at(lead), self.name)
        if not reader.grid_of(other.ds).matches(reader.grid_of(verified.ds)):
            raise InputError(
                f"the store {self.path} is on another grid than what is verified; compare runs on one grid"
            )
        lacking: Times = verified.times[~np.isin(verified.times, other.times)]
        if len(lacking):
            raise InputError(
                f"the store {self.path} lacks the time {time_text(lacking[0])} of what is verified"
            )
        return other

    def _at(self, lead: np.timedelta64 | None) -> xr.Dataset:
        """Its fields at a lead time; analyses are compared at all lead times."""
        own = reader.cases(self.ds).leads
        if own is None:
            return self.ds
        if lead is None and len(own) > 1:
            raise InputError(
                f"the store {self.path} has {len(own)} lead times, what is verified has none; give a run of "
                "analyses"
            )
        if lead is None:
            return reader.at_lead(self.ds, 0)
        if lead not in own:
            raise InputError(f"the store {self.path} lacks the lead time {lead_text(lead)}")
        return reader.at_lead(self.ds, int(np.flatnonzero(own == lead)[0]))


class VerificationByLead:
    """The verification of a store of forecasts: one of each lead time, see :class:`Verification`.

    Parameters
    ----------
    parts : Mapping[np.timedelta64, Verification]
        By lead time
    """

    def __init__(self, parts: Mapping[np.timedelta64, Verification]) -> None:
        self.parts = dict(parts)

    @property
    def times(self) -> Times:
        """Valid times that are verified, of one lead time after the other."""
        return np.concatenate([part.times for part in self.parts.values()])

    @property
    def notes(self) -> list[str]:
        """Sentences for readers of the scores."""
        return list(dict.fromkeys(note for part in self.parts.values() for note in part.notes))

    def __iter__(self) -> Iterator[np.datetime64]:
        """Verify one time after the other, lead time by lead time; yield each valid time when it is done."""
        for part in self.parts.values():
            yield from part

    def result(self) -> Result:
        """The result of all lead times together, with that of each.

        Raises
        ------
        InputError
            If no time could be verified
        """
        return joined(_verifiable(self.parts, lambda lead: self.parts[lead].result())[0])


def _ensemble(
    ds: xr.Dataset,
    downscaler: Downscaler | None,
    calibration: Calibration | None,
    lead: np.timedelta64 | None,
) -> StoreEnsemble:
    """The members of analyses or of one lead time, corrected where there is a calibration."""
    if calibration is None:
        return StoreEnsemble(ds)
    if downscaler is None:
        raise InputError("a calibration corrects members about the regression; give its --package")
    return CalibratedEnsemble(ds, regression_of(ds, downscaler, lead), calibration)


def _forecasts(
    ensemble: StoreEnsemble,
    downscaler: Downscaler | None,
    others: Sequence[_Other],
    fitted: Baselines | None,
    lead: np.timedelta64 | None,
) -> list[Forecast]:
    """The ensemble and all baselines, of analyses or of one lead time."""
    ds = ensemble.ds
    forecasts: list[Forecast] = [ensemble]
    if downscaler is not None:
        known = ensemble.regression if isinstance(ensemble, CalibratedEnsemble) else None
        regression = known or regression_of(ds, downscaler, lead)
        forecasts.append(regression)
        if fitted is not None and fitted.deviation is not None:
            forecasts.append(NoisyRegression(regression, fitted.deviation, ensemble.size))
    forecasts += [other.ensemble(ensemble, lead) for other in others]
    interpolation = Interpolation.of_store(ds)
    forecasts += [interpolation] if interpolation is not None else []
    forecasts += [] if fitted is None else [*fitted.forecasts(ds), EnsembleMean(ensemble)]
    forecasts += [Climatology(downscaler)] if downscaler is not None else []
    names = [forecast.name for forecast in forecasts]
    if len(set(names)) < len(names):
        raise InputError(f"the names of what is compared must differ, got {', '.join(names)}")
    return forecasts


def verification_of(
    ds: xr.Dataset,
    truth: Truth,
    domain: Domain,
    settings: Settings,
    downscaler: Downscaler | None,
    others: Sequence[_Other],
    fitted: Baselines | None = None,
    lead: np.timedelta64 | None = None,
    calibration: Calibration | None = None,
) -> Verification:
    """Prepare the verification of analyses, or of one lead time of forecasts at its valid times."""
    ensemble = _ensemble(ds, downscaler, calibration, lead)
    interpolation = Interpolation.of_store(ds)
    forecasts = _forecasts(ensemble, downscaler, others, fitted, lead)
    verification = Verification(forecasts, truth, ensemble.times, domain, settings, lead)
    twins = {} if interpolation is None else interpolation.twins
    verification.notes += _notes(ds, downscaler, ensemble, twins) + ([] if fitted is None else fitted.notes)
    if interpolation is not None:
        verification.coarse_km = max(spacing(reader.grid_of(ds, reader.COARSE)))
    verification.about = {name: str(ds.attrs[name]) for name in ABOUT if name in ds.attrs}
    verification.about |= {} if calibration is None else calibration.attributes
    return verification


def verify_at_stations(
    store: str | AnyPath,
    stations: str,
    *,
    settings: Settings | None = None,
    downscaler: Downscaler | None = None,
    compare: Mapping[str, str | AnyPath] | None = None,
    leads: LeadLike | Sequence[LeadLike] | None = None,
    training: Training | None = None,
    calibration: Calibration | None = None,
) -> Iterator[tuple[np.timedelta64 | None, StationResult]]:
    """Verify a store at stations: of forecasts one lead time after the other, with it.

    Parameters
    ----------
    stations : str
        ``isd``, ``ghcn`` or the path of a CSV, see :func:`reports.open_reports`
    store, settings, downscaler, compare, leads, training, calibration
        As for :func:`open_verification`

    Raises
    ------
    InputError
        If something cannot be read, or no report can be used
    """
    ds, settings = reader.open_store(store), settings or Settings()
    grid, every = reader.grid_of(ds), reader.cases(ds)
    others = [_Other(name, path, reader.open_store(path)) for name, path in (compare or {}).items()]
    fitted = None if training is None else Baselines(training, ds, downscaler)
    variables = list(settings.variables or StoreEnsemble(ds).variables)
    wanted = [name for target in targets(variables) for name in (*target.components, target.name)]
    reports = open_reports(stations, every.valid_times.ravel(), grid, list(dict.fromkeys(wanted)))
    chosen: Sequence[np.timedelta64 | None] = [None]
    if every.leads is not None:
        chosen = list(every.leads if leads is None else chosen_leads(leads, every.leads))
    for lead in chosen:
        one = ds if lead is None else reader.at_lead(ds, int(np.flatnonzero(ds["lead_time"] == lead)[0]))
        ensemble = _ensemble(one, downscaler, calibration, lead)
        forecasts = _forecasts(ensemble, downscaler, others, fitted, lead)
        whole = [time for time in ensemble.times if not ensemble.missing(time)]
        if len(whole) < len(ensemble.times) and not settings.skip_incomplete:
            raise InputError(
                "members are missing; finish the run with run-corrdiff --resume, or leave such times out "
                "with --skip-incomplete"
            )
        how = (np.array(whole), grid, variables, settings.bootstrap)
        yield lead, verify_stations(forecasts, reports, *how)


def nearest_in_training(
    store: str | AnyPath,
    truth: Any,
    downscaler: Downscaler,
    training: Training,
    truth_names: Mapping[str, str] | None = None,
) -> Nearest:
    """Distances of a store's members to the nearest field of its model's training; see :class:`Nearest`.

    Parameters are those of :func:`open_verification`; ``training.fit`` has the times of the training.

    Raises
    ------
    InputError
        If the store has lead times, fields have gaps, or something cannot be read
    """
    ds = reader.open_store(store)
    if reader.cases(ds).leads is not None:
        raise InputError("members are compared with training fields in stores of analyses only")
    fitted, known = Baselines(training, ds), open_truth(truth, reader.grid_of(ds), truth_names)
    return TrainingFields.of(downscaler, fitted.pairs_of(downscaler), fitted.rows).nearest(ds, known)


def verify(store: str | AnyPath, truth: Any, **how: Any) -> Result:
    """Verify a store; the parameters are those of :func:`open_verification`."""
    verification = open_verification(store, truth, **how)
    for _ in verification:
        pass
    return verification.result()


def _notes(
    ds: xr.Dataset, downscaler: Downscaler | None, ensemble: StoreEnsemble, twins: Mapping[str, str]
) -> list[str]:
    """Sentences on the store and on baselines that are missing."""
    notes = []
    if ds.attrs.get("synthetic_source"):
        notes.append("What is verified is synthetic demo weather: its scores say nothing of real weather.")
    if ensemble.size == 1:
        notes.append("There is one member: its CRPS is its absolute error; spread and ranks are undefined.")
    sha256 = ds.attrs.get("package_sha256")
    if downscaler is not None and sha256 not in (None, downscaler.spec.sha256):
        notes.append("The regression is that of another package than the one that made the store.")
    bare = [name for name in ensemble.variables if name not in twins]
    if bare:
        notes.append(f"The store keeps no coarse input of {', '.join(bare)}: it has no interpolation there.")
    for name, twin in twins.items():
        if twin != name:
            notes.append(
                f"The interpolation of {name} is that of the coarse {twin}, which the model is not given: "
                "it knows where rain is."
            )
    return notes
