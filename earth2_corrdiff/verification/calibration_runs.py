# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fit of a calibration to stores that ``run-corrdiff`` wrote, and to their truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.model.calibration import SETTINGS, Calibration, check_uncalibrated, differences
from earth2_corrdiff.model.calibration_network import NetworkCorrection, place_of
from earth2_corrdiff.model.correction import Correction
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.store import reader
from earth2_corrdiff.verification.calibration_fit import HeldOut, Pairs, bounds_of, fitted, fitted_network
from earth2_corrdiff.verification.forecasts import StoreEnsemble, regression_of
from earth2_corrdiff.verification.geometry import cell_areas
from earth2_corrdiff.verification.tables import NOTHING, Table, number
from earth2_corrdiff.verification.truth import open_truth

VALUES = 2**19
"""Values of members of a variable that are fitted on, about: each time gives as many random points."""
FEWEST_POINTS = 64
FOLDS = 5


class _Run:
    """A store at one lead time, or of analyses."""

    def __init__(self, ds: Any, downscaler: Downscaler, lead: Any = None) -> None:
        self.ensemble = StoreEnsemble(ds)
        self.regression = regression_of(ds, downscaler, lead)

    def fields(self, time: np.datetime64, name: str, points: Tensor) -> tuple[Tensor, Tensor]:
        """Regression and members at some points, ``[1 or M, P]`` and ``[M, P]``."""
        M, E = self.ensemble.size, self.regression.size
        members = [self.ensemble.field(time, name, i).flatten()[points] for i in range(M)]
        means = [self.regression.field(time, name, i).flatten()[points] for i in range(E)]
        mean = torch.stack(means).double()
        return mean.repeat_interleave(M // E, 0) if E > 1 else mean, torch.stack(members).double()


class CalibrationFit:
    """The fit of a calibration: iterate to read the runs, then take its result.

    Parameters
    ----------
    stores : Sequence[str | AnyPath]
        Stores of run-corrdiff, of one package, grid, solver and number of members
    truth : Any
        See :func:`open_truth`
    downscaler : Downscaler
        The model that made them
    variables : Sequence[str], optional
        By default all that the truth has
    truth_names : Mapping[str, str], optional
        Names of variables in the truth where they differ
    folds : int, optional
        Blocks of time of the cross-validation
    network : bool, optional
        Fit networks, too; each is taken where it is the better one on held-out times

    Raises
    ------
    InputError
        If the stores do not fit each other, the model or the truth
    """

    def __init__(
        self,
        stores: Sequence[str | AnyPath],
        truth: Any,
        downscaler: Downscaler,
        variables: Sequence[str] | None = None,
        truth_names: Mapping[str, str] | None = None,
        folds: int = FOLDS,
        network: bool = False,
    ) -> None:
        self.spec, self.folds, self.network = downscaler.spec, folds, network
        self.notes: list[str] = []
        opened = [(store, reader.open_store(store)) for store in stores]
        self.attributes = dict(opened[0][1].attrs)
        self.grid = reader.grid_of(opened[0][1])
        self.truth = open_truth(truth, self.grid, truth_names)
        runs = [run for store, ds in opened for run in self._runs(store, ds, downscaler)]
        self.members = runs[0].ensemble.size
        if {run.ensemble.size for run in runs} != {self.members} or self.members < 2:
            raise InputError("the stores must have one number of members, two or more; give others")
        self.variables = self._common(variables or runs[0].ensemble.variables, variables is not None)
        self.cases = [(run, time) for run in runs for time in self._times(run)]
        self.times: Times = np.unique([time for _, time in self.cases])
        if folds < 2 or len(self.times) < folds:
            raise InputError(
                f"{len(self.times)} times with a truth do not make {folds} folds; give more runs, or 2 or "
                "more --folds"
            )
        self.area = cell_areas(self.grid).flatten()
        self._found: dict[str, list[Pairs]] = {name: [] for name in self.variables}

    def _runs(self, store: object, ds: Any, downscaler: Downscaler) -> Iterator[_Run]:
        """The lead times of a store, checked."""
        check_uncalibrated(ds.attrs, store)
        if ds.attrs.get("package_sha256") != self.spec.sha256:
            raise InputError(f"{store} was made with another package; give --package with that one")
        if "stages" in ds.attrs:
            raise InputError(
                f"{store} has members of the {ds.attrs['stages']} alone; give runs of both networks"
            )
        if other := differences(ds.attrs, self.attributes):
            raise InputError(f"{store} was made with {other}, the first store; give runs of one kind")
        leads = reader.cases(ds).leads
        for position, lead in enumerate([None] if leads is None else leads):
            yield _Run(ds if lead is None else reader.at_lead(ds, position), downscaler, lead)

    def _common(self, variables: Sequence[str], asked: bool) -> list[str]:
        """Variables that the truth has; those that are asked for it must have."""
        found: list[str] = []
        for name in variables:
            try:
                self.truth.check_variables([name])
            except InputError as error:
                if asked or isinstance(error, UnavailableError):
                    raise
                self.notes.append(f"{name} is left as it is: {error}.")
            else:
                found.append(name)
        if not found:
            raise InputError(f"the truth {self.truth.name} has none of {', '.join(variables)}")
        return found

    def _times(self, run: _Run) -> list[np.datetime64]:
        """Times with a truth and all members."""
        try:
            known = self.truth.available(run.ensemble.times)
        except UnavailableError:
            raise
        except InputError as error:
            logger.warning("{}", error)
            return []
        whole = [time for time in known if not run.ensemble.missing(time)]
        if len(whole) < len(run.ensemble.times):
            left = len(run.ensemble.times) - len(whole)
            self.notes.append(
                f"{left} of {len(run.ensemble.times)} times of a store lack the truth or members."
            )
        return whole

    def __iter__(self) -> Iterator[np.datetime64]:
        """Read; yield each valid time."""
        size = max(FEWEST_POINTS, VALUES // (len(self.cases) * self.members))
        for seed, (run, time) in enumerate(self.cases):
            every = np.random.default_rng(seed).permutation(len(self.area))[:size]
            for name in self.variables:
                self._read(run, time, name, torch.from_numpy(np.sort(every)))
            yield time

    def _read(self, run: _Run, time: np.datetime64, name: str, points: Tensor) -> None:
        mean, members = run.fields(time, name, points)
        truth = self.truth.field(time, name).flatten()[points].double()
        when = torch.full(truth.shape, int(np.searchsorted(self.times, time)))
        known = truth.isfinite() & mean.isfinite().all(0) & members.isfinite().all(0)
        place = place_of(self.grid, time).flatten(2)[..., points].double()
        self._found[name].append(Pairs(truth, self.area[points], when, place, mean, members).at(known))

    def result(self) -> tuple[Calibration, Table]:
        """The calibration and a table of it, fitted on all times where held-out ones improve."""
        scores: dict[str, HeldOut] = {}
        corrections: dict[str, Correction] = {}
        for name, parts in self._found.items():
            pairs = Pairs(*(torch.cat(some, dim=-1) for some in zip(*parts, strict=True)))
            if len(set(pairs.time.tolist())) < self.folds:
                self.notes.append(f"{name} is left as it is: the truth has it at fewer times than folds.")
                continue
            bounds = bounds_of(self.spec, name, pairs.truth)
            scores[name], corrections[name] = self._best(name, pairs, bounds)
        if not corrections:
            raise InputError(f"the truth {self.truth.name} has no variable at {self.folds} times or more")
        settings = {key: self.attributes[key] for key in SETTINGS if key in self.attributes}
        return Calibration(corrections, settings, self._about(scores)), _table(corrections, scores)

    def _best(self, name: str, pairs: Pairs, bounds: tuple[float, float]) -> tuple[HeldOut, Correction]:
        """The fit with the best score on held-out times, or none, with a note."""
        fit: Callable[[Pairs], Correction] = partial(fitted, bounds=bounds)
        score = HeldOut.of(pairs, self.folds, fit)
        if self.network:
            other: Callable[[Pairs], Correction] = partial(fitted_network, bounds=bounds)
            tried = HeldOut.of(pairs, self.folds, other)
            if tried.after < score.after:
                fit, score = other, tried
            else:
                self.notes.append(f"{name} has no network: its CRPS on held-out times is no better.")
        if score.better:
            return score, fit(pairs)
        self.notes.append(f"{name} is left as it is: no better CRPS is shown on held-out times.")
        return score, Correction(low=bounds[0], high=bounds[1])

    def _about(self, scores: Mapping[str, HeldOut]) -> dict[str, Any]:
        """What the file records of the fit."""
        return {
            "source": self.attributes.get("source"),
            "shape": list(self.grid.shape),
            "truth": self.truth.name,
            "times": [len(self.times), time_text(self.times[0]), time_text(self.times[-1])],
            "members": self.members,
            "folds": self.folds,
            "held_out_crps": {
                name: {
                    "before": score.before,
                    "after": score.after,
                    "change": [_known(part) for part in _ends(score)],
                }
                for name, score in scores.items()
            },
        }


def _ends(score: HeldOut) -> tuple[Any, Any, Any]:
    """The change with its limits."""
    return score.change.value, score.change.low, score.change.high


def _table(corrections: Mapping[str, Correction], scores: Mapping[str, HeldOut]) -> Table:
    """Corrections with the scores of held-out times."""
    rows = []
    for name, one in corrections.items():
        found = scores[name]
        ends = (f"{100 * part:+.2f}" if math.isfinite(part) else NOTHING for part in _ends(found))
        numbers = map(number, (one.offset, one.slope, one.spread, found.before, found.after))
        label = f"{name} (network)" if isinstance(one, NetworkCorrection) else name
        rows.append((label, *numbers, "{} % [{}, {}]".format(*ends)))
    return Table(
        "Calibration",
        "A member x becomes a + b r + c (x - r), r the regression. Fair CRPS on held-out blocks of times, "
        "and its change, with the 95 % interval where times are enough. With 0, 1, 1 nothing is changed; a "
        "network adds to a and multiplies c, by place, hour and r.",
        ("", "a", "b", "c", "CRPS before", "after", "change"),
        rows,
        labels=1,
    )


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
