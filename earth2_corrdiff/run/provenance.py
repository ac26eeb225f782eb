# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Provenance of a run: the attributes of its store that describe how its members were made."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from earth2_corrdiff.model.diagnostic import Diagnostic
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import SCHEDULES, CorrDiffSpec, Sampling
from earth2_corrdiff.networks.kernels import tuned


def provenance(
    downscaler: Downscaler | Diagnostic,
    sampling: Sampling,
    source: str,
    synthetic: bool,
    seed: int,
    command: str,
) -> dict[str, Any]:
    """Attributes of a run's store: all of ``store.layout.IDENTITY`` that applies, and more.

    Parameters
    ----------
    downscaler : Downscaler or Diagnostic
        The pipeline, or another model of Earth2Studio
    sampling : Sampling
        How its members are sampled
    source : str
        Name of the coarse weather's source
    synthetic : bool
        True if that weather is synthetic; whether the model was trained on such is the package's entry
    seed, command : int, str
        Of the run
    """
    spec = downscaler.spec
    what = downscaler.name.rpartition(":")[2] if isinstance(downscaler, Diagnostic) else "CorrDiff"
    some = {"variables": ", ".join(spec.written)} if spec.written else {}
    packages = ("earth2_corrdiff", "earth2studio", "torch", "numpy", "zarr")
    attributes = {
        "title": f"{what} downscaling{synthetic_note(spec, synthetic)}",
        "source": source,
        "package": spec.name or spec.root,
        "package_sha256": spec.sha256,
        **({"attribution": spec.attribution} if spec.attribution else {}),
        "synthetic": int(synthetic or spec.synthetic),
        "synthetic_source": int(synthetic),
        "seed": seed,
        "device": downscaler.device.type,
        "versions": json.dumps({name: version_of(name) for name in packages}),
        "command": command,
        **some,
    }
    if isinstance(downscaler, Diagnostic):
        return attributes | {"model": downscaler.name, "acceleration": "none"}
    return attributes | _pipeline(downscaler, sampling)


def _pipeline(downscaler: Downscaler, sampling: Sampling) -> dict[str, Any]:
    """Attributes of the pipeline's own arithmetic."""
    spec = downscaler.spec
    attributes: dict[str, Any] = {
        "solver": sampling.solver,
        "number_of_steps": int(sampling.steps),
        **_levels(sampling),
        "precision": downscaler.precision,
    }
    if sampling.solver == "stochastic":
        attributes["churn"] = str(sampling.churn)
    if sampling.noise == "device" and downscaler.device.type != "cpu":  # there it is the same
        attributes["noise"] = f"drawn on {downscaler.device.type}"
    kernels = tuned.arithmetic(downscaler.device, downscaler.precision) if downscaler.accelerated else ""
    if kernels:
        attributes["kernels"] = kernels
    if spec.inference_mode != "both":
        attributes["stages"] = spec.inference_mode
    if spec.daily_hour is not None:
        attributes["coarse"] = "daily means"
    if downscaler.domain.patching is not None:
        attributes["patches"] = str(downscaler.domain)
    if downscaler.calibration is not None:
        attributes |= downscaler.calibration.attributes
    return attributes


def _levels(sampling: Sampling) -> dict[str, Any]:
    """The settings of its noise levels."""
    if sampling.schedule == "karras" and sampling.rho == 7:
        return {"sigma_min": float(sampling.sigma_min), "sigma_max": float(sampling.sigma_max)}
    if sampling.schedule == FEW_STEP:
        return {"schedule": ", ".join([FEW_STEP, *map("{:g}".format, sampling.levels[: sampling.steps])])}
    settings = (f"{name} {getattr(sampling, name):g}" for name in SCHEDULES[sampling.schedule])
    return {"schedule": ", ".join([sampling.schedule, *settings])}


def synthetic_note(spec: CorrDiffSpec, synthetic: bool) -> str:
    """Words that say what is synthetic about an output, after "downscaling" or "points"; or none."""
    if synthetic:
        return " of synthetic demo weather"
    return " by a demo model trained on synthetic weather" if spec.synthetic else ""


def version_of(package: str) -> str:
    """Version of an installed package; ``unknown`` of a checkout that is not installed."""
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"
