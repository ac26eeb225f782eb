# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""From a store that ``run-corrdiff`` wrote to its verification: its baselines, and what to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.errors import InputError
from earth2_corrdiff.plotting import fields
from earth2_corrdiff.times import Times, time_text
from earth2_corrdiff.verification.comparison import Settings, Verification
from earth2_corrdiff.verification.forecasts import (
    Climatology,
    Forecast,
    Interpolation,
    Regression,
    StoreEnsemble,
    grid_of,
    same_grid,
    stored_input,
)
from earth2_corrdiff.verification.geometry import spacing
from earth2_corrdiff.verification.result import Result
from earth2_corrdiff.verification.scoring import Domain
from earth2_corrdiff.verification.truth import open_truth

ABOUT = (
    *("title", "package", "package_sha256", "source"),
    *("solver", "number_of_steps", "sigma_min", "sigma_max", "seed", "precision"),
)


def open_verification(
    store: str | Path,
    truth: Any,
    *,
    settings: Settings | None = None,
    downscaler: Downscaler | None = None,
    compare: Mapping[str, str | Path] | None = None,
    truth_names: Mapping[str, str] | None = None,
) -> Verification:
    """A store that ``run-corrdiff`` wrote, against a truth and the baselines that are at hand.

    Parameters
    ----------
    store : str | Path
        What is verified
    truth : str | Path | xr.Dataset | DataSource
        See :func:`open_truth`
    settings : Settings, optional
        Variables, events, intervals
    downscaler : Downscaler, optional
        The model of the store: adds its regression alone, computed from the store's coarse input, and its
        training mean ("climatology")
    compare : Mapping[str, str | Path], optional
        Other stores on the same grid and at the same times, by the name that the tables shall use: a run of
        the regression alone, or with another solver
    truth_names : Mapping[str, str], optional
        Names of variables in the truth where they differ

    Raises
    ------
    InputError
        If anything cannot be read or does not fit together
    """
    ds = _open(store)
    grid = grid_of(ds)
    ensemble = StoreEnsemble(ds)
    forecasts: list[Forecast] = [ensemble]
    if downscaler is not None:
        forecasts.append(Regression(downscaler, stored_input(ds, downscaler)))
    forecasts += [_other(name, path, ensemble) for name, path in (compare or {}).items()]
    interpolation = Interpolation.of_store(ds)
    forecasts += [interpolation] if interpolation is not None else []
    forecasts += [Climatology(downscaler)] if downscaler is not None else []
    names = [forecast.name for forecast in forecasts]
    if len(set(names)) < len(names):
        raise InputError(f"the names of what is compared must differ, got {', '.join(names)}")
    settings = settings or Settings()
    domain = Domain.of(grid, settings.scales)
    verification = Verification(
        forecasts, open_truth(truth, grid, truth_names), ensemble.times, domain, settings
    )
    twins = {} if interpolation is None else interpolation.twins
    verification.notes += _notes(ds, downscaler, ensemble, twins)
    if interpolation is not None:
        verification.coarse_km = max(spacing(grid_of(ds, fields.COARSE)))
    verification.about = {name: str(ds.attrs[name]) for name in ABOUT if name in ds.attrs}
    return verification


def _open(path: str | Path) -> xr.Dataset:
    """A store with its valid times as ``time``; InputError if it has several lead times or coarse members."""
    ds = fields.open_store(path)
    for axis, what in (("lead_time", "lead times"), ("ensemble", "coarse members")):
        if ds.sizes.get(axis, 1) > 1:
            raise InputError(f"the store {path} has {ds.sizes[axis]} {what}; verify one of them at a time")
    if "lead_time" in ds.dims:
        ds = ds.assign_coords(time=ds["time"] + ds["lead_time"].to_numpy()[0])
    return ds


def verify(store: str | Path, truth: Any, **how: Any) -> Result:
    """Verify a store at once: :func:`open_verification`, with its parameters, done to the end."""
    verification = open_verification(store, truth, **how)
    for _ in verification:
        pass
    return verification.result()


def _other(name: str, path: str | Path, ensemble: StoreEnsemble) -> StoreEnsemble:
    """Another store to compare with; InputError if it is on another grid or lacks times."""
    ds = _open(path)
    other = StoreEnsemble(ds, name)
    if not same_grid(grid_of(ds), grid_of(ensemble.ds)):
        raise InputError(
            f"the store {path} is on another grid than what is verified; compare runs on one grid"
        )
    lacking: Times = ensemble.times[~np.isin(ensemble.times, other.times)]
    if len(lacking):
        raise InputError(f"the store {path} lacks the time {time_text(lacking[0])} of what is verified")
    return other


def _notes(
    ds: xr.Dataset, downscaler: Downscaler | None, ensemble: StoreEnsemble, twins: Mapping[str, str]
) -> list[str]:
    """Sentences on what was verified and what could not be."""
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
