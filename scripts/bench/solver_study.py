# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Which solver, how many steps, which noise range: scores of one model with many settings of its sampler."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.drawn import Drawn
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP, Churn, check_solver, network_calls
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import Sampling, check_count
from earth2_corrdiff.verification.bootstrap import Bootstrap
from earth2_corrdiff.verification.case_statistics import Domain, NotFiniteError
from earth2_corrdiff.verification.comparison import Settings, Verification
from earth2_corrdiff.verification.forecasts import Coarse
from earth2_corrdiff.verification.result import Result
from earth2_corrdiff.verification.targets import Target
from earth2_corrdiff.verification.truth import Truth

TWICE = ("heun", "stochastic")  # solvers that take 2 N - 1 calls for N steps
MEASURED = ("crps", "spread_skill", "spectral_error", "rmse", "bias")
MARGIN = 0.01  # share by which a cheap setting's CRPS may be above the reference's
REFERENCE_CALLS, STOCK_STEPS = 35, 8


@dataclass(frozen=True)
class Setting:
    """A solver with its steps and noise range; of a generator of few calls the start of its checksum."""

    solver: str
    steps: int
    sigma_min: float
    sigma_max: float
    churn: float | None = None  # S_churn of the solver stochastic, where it is not the default
    package: str = ""

    @property
    def calls(self) -> int:
        """Evaluations of the network for each member."""
        return network_calls(self.solver, self.steps)

    @property
    def family(self) -> str:
        """What settings share that differ in their steps alone."""
        return f"{self.solver}, sigma {self.sigma_min:g} to {self.sigma_max:g}{self._more}"

    def __str__(self) -> str:
        return f"{self.solver} {self.steps} ({self.sigma_min:g}–{self.sigma_max:g}{self._more})"

    @property
    def _more(self) -> str:
        churn = "" if self.churn is None else f", churn {self.churn:g}"
        return churn + (self.package and f", {self.package}")

    def sampling(self, own: Sampling) -> Sampling:
        """The sampling of a package with this setting."""
        if self.solver == FEW_STEP:
            return replace(own, steps=self.steps)
        churn = own.churn if self.churn is None else Churn(self.churn)
        low, high = self.sigma_min, self.sigma_max
        return replace(own, solver=self.solver, steps=self.steps, churn=churn, sigma_min=low, sigma_max=high)


@dataclass(frozen=True)
class Bench:
    """A model and what its settings are measured on.

    Attributes
    ----------
    downscaler : Downscaler
        The model
    coarse : Callable
        Its input at a time
    truth : Truth
        On its output grid
    times : np.ndarray
        Held-out times
    members, seed : int
        Of the ensemble; all settings get the same noise
    """

    downscaler: Downscaler
    coarse: Coarse
    truth: Truth
    times: Times
    members: int
    seed: int = 0

    @property
    def conditions(self) -> dict[str, Any]:
        """What two measurements must share to be compared."""
        return {
            "package_sha256": self.downscaler.spec.sha256,
            "precision": self.downscaler.precision,
            "truth": self.truth.name,
            "times": [str(time) for time in np.unique(self.times).astype("datetime64[s]")],
            "members": self.members,
            "seed": self.seed,
        }

    @property
    def default(self) -> Setting:
        """The package's own."""
        s = self.downscaler.spec.sampling
        return Setting(s.solver, s.steps, s.sigma_min, s.sigma_max)

    def measure(self, setting: Setting) -> Iterator[dict[str, Any] | None]:
        """Scores of one setting: yields None after each time, and the record at last."""
        start = perf_counter()
        sampling = setting.sampling(self.downscaler.spec.sampling)
        domain = Domain.of(self.downscaler.spec.output_grid)
        drawn = Drawn(self.downscaler, self.coarse, self.members, self.seed, sampling)
        verification = Verification([drawn], self.truth, self.times, domain, Settings(bootstrap=Bootstrap(0)))
        record = {"setting": asdict(setting), "calls": setting.calls, "conditions": self.conditions}
        try:
            for _ in verification:
                yield None
        except NotFiniteError as error:  # a setting that does not work is a finding
            yield {**record, "scores": {}, "failed": str(error)}
            return
        found = verification.result()
        yield {
            **record,
            "seconds": round(perf_counter() - start, 1),
            "scores": {target.name: _scores(found, target) for target in found.targets},
            "crps_by_time": {
                target.name: found.series["ensemble", target.name].column("crps").tolist()
                for target in found.targets
            },
        }


def _scores(found: Result, target: Target) -> dict[str, float]:
    return {name: float(found.score(name, "ensemble", target).value) for name in MEASURED}


def settings(
    solvers: Sequence[str],
    calls: Iterable[int],
    ranges: Sequence[tuple[float, float]],
    default: Setting,
    churns: Sequence[float | None] = (None,),
) -> list[Setting]:
    """All settings, cheapest first, with the two that the others are judged by.

    Parameters
    ----------
    solvers : Sequence[str]
        Names
    calls : Iterable[int]
        Network evaluations; a solver that calls twice a step takes as many steps as stay within them
    ranges : Sequence[tuple[float, float]]
        Smallest and largest sigma
    default : Setting
        Its noise range is that of the reference (Heun) and of stock's default (Euler)
    churns : Sequence[float | None], optional
        ``S_churn`` of the stochastic solver; by default that of ``Churn``

    Raises
    ------
    InputError
        For an unknown solver, no calls, or an empty range
    """
    found = {reference(default), stock(default)}
    for solver in solvers:
        check_solver(solver)
        for count in calls:
            check_count("the number of network calls", count)
            steps = (count + 1) // 2 if solver in TWICE else count
            own = churns if solver == "stochastic" else (None,)
            some = [Setting(solver, steps, *sigmas, churn) for sigmas in ranges for churn in own]
            found |= {setting for setting in some if setting.calls > 1}  # one call is the regression's job
    for low, high in ranges:
        if not 0 < low < high < math.inf:
            raise InputError(f"a noise range must be MIN:MAX with 0 < MIN < MAX, got {low:g}:{high:g}")
    return sorted(found, key=lambda s: (s.calls, s.solver, s.sigma_max, s.sigma_min, s.churn or 0.0))


def few_steps(bench: Bench) -> list[Setting]:
    """The settings of a generator of few calls: from one to all that it was trained for.

    Raises
    ------
    InputError
        If the package is not one
    """
    spec = bench.downscaler.spec
    levels, package = spec.sampling.levels, spec.sha256[:8]
    if not levels:
        raise InputError(f"{spec.name or spec.root} is not a package of few_step; give it as --package")
    return [
        Setting(FEW_STEP, n, levels[n - 1], levels[0], package=package) for n in range(1, len(levels) + 1)
    ]


def reference(default: Setting) -> Setting:
    """What is as good as it gets: Heun with 35 evaluations, in this noise range."""
    return replace(default, solver="heun", steps=(REFERENCE_CALLS + 1) // 2)


def stock(default: Setting) -> Setting:
    """The default of stock CorrDiff-Taiwan: Euler with 8 steps."""
    return replace(default, solver="euler", steps=STOCK_STEPS)


class Log:
    """Finished measurements in a file, a line of JSON each: what is there is not measured again.

    Parameters
    ----------
    path : Path
        Of the file; it need not exist
    conditions : dict
        Of the bench

    Raises
    ------
    InputError
        If it was measured under other conditions, or cannot be read
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        self.path, self.records = path, []
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        self.records = [record for line in lines if (record := _parsed(line)) is not None]
        for record in self.records:
            other = [k for k, v in conditions.items() if record["conditions"].get(k) != v]
            if other:
                raise InputError(
                    f"{path} was measured with other {', '.join(other).replace('_', ' ')}; "
                    "give another --json, or remove it"
                )

    def has(self, setting: Setting) -> bool:
        """Whether a setting is measured."""
        return any(Setting(**record["setting"]) == setting for record in self.records)

    def append(self, record: dict[str, Any]) -> None:
        """Keep a record: on the disk before it returns."""
        self.records.append(record)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                # what a killed write left is a line of its own, which is skipped
                file.write(("\n" if broken and self.path.stat().st_size else "") + json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error


def _parsed(line: str) -> dict[str, Any] | None:
    """A record; None for a line that is none, which is what a killed write leaves."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "setting" in record else None
