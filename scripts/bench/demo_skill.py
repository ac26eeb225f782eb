# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""How good a demo model is at times that it was not trained on: no store, nothing is kept but scores."""

from __future__ import annotations

from bench.drawn import Drawn, FetchedInput, interpolated
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.sources import make_source
from earth2_corrdiff.verification import Settings, Verification
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.forecasts import Climatology, Forecast, Regression
from earth2_corrdiff.verification.geometry import spacing
from earth2_corrdiff.verification.truth import open_truth


def demo_verification(
    model: Downscaler,
    times: Times,
    members: int,
    seed: int = 0,
    settings: Settings | None = None,
) -> Verification:
    """An ensemble of the demo's weather that is drawn as it is scored, with all baselines.

    Parameters
    ----------
    model : Downscaler
        The demo model, set to its solver
    times : np.ndarray
        Valid times to score
    members, seed : int
        Members per time and the run's seed: they are those of ``run-corrdiff --demo`` with this seed
    settings : Settings, optional
        Variables, events, intervals

    Raises
    ------
    InputError
        If the model does not take the demo's weather or is on another grid than its truth
    """
    source = make_source("demo")
    coarse = FetchedInput(source, model.spec, times)
    forecasts: list[Forecast] = [
        Drawn(model, coarse, members, seed),
        Regression(model, coarse),
        interpolated(source, model),
        Climatology(model),
    ]
    grid, settings = model.spec.output_grid, settings or Settings()
    domain = Domain.of(grid, settings.scales)
    verification = Verification(forecasts, open_truth("demo", grid), times, domain, settings)
    verification.coarse_km = max(spacing(model.spec.input_grid))
    verification.about = _about(model, seed)
    return verification


def _about(model: Downscaler, seed: int) -> dict[str, str]:
    s, spec = model.sampling, model.spec
    known: dict[str, object] = {"package": spec.name, "package_sha256": spec.sha256, "source": "demo"}
    known |= {"solver": s.solver, "number_of_steps": s.steps, "network_calls_per_member": s.calls}
    known |= {"sigma_min": s.sigma_min, "sigma_max": s.sigma_max, "seed": seed, "precision": model.precision}
    return {name: str(value) for name, value in known.items() if value is not None}
