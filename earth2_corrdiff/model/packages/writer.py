# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages written in the generic layout, which stock Earth2Studio loads too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xarray as xr

from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.model.diffusion.patch_geometry import write_patching
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP
from earth2_corrdiff.model.packages.extensions import statistics_name, write_extensions
from earth2_corrdiff.model.packages.metadata import FLOW, TRIGFLOW
from earth2_corrdiff.model.spec import DEFAULT_SAMPLING, CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.architectures import EDM, REGRESSIONS
from earth2_corrdiff.networks.mdlus import write_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, DiTFlow, Regression


def save_package(
    folder: str | Path, spec: CorrDiffSpec, regression: Regression, denoiser: Denoiser, half: bool = False
) -> Path:
    """Write the generic layout, which the stock class loads too.

    Stock refuses one combination: Euler with the mean as conditioning. It does not read the entry
    ``patching``: there such a denoiser sees the whole domain. It calls networks as U-Nets, which fails for a
    DiT, and refuses the ``sampler_type`` of rectified flow, TrigFlow and networks of few calls: run such
    packages with this project.

    Parameters
    ----------
    folder : str | Path
        Directory to write into; made if it does not exist
    spec : CorrDiffSpec
        Metadata of the package
    regression, denoiser : Regression, Denoiser
        Its networks
    half : bool, optional
        Store weights as float16 (half the size, rounded to 11 bits), by default False

    Returns
    -------
    Path
        The directory

    Raises
    ------
    InputError
        If the generic layout has no entry for it: a regression that takes grid channels from its caller, or
        a solver that stock Earth2Studio does not have
    """
    if spec.beyond_generic:
        raise InputError(f"the generic layout has no entry for {listed(spec.beyond_generic)} of this package")
    flow = _flow(spec.sampling, denoiser) if isinstance(denoiser, DiTFlow) else {}
    meta = _metadata(spec, denoiser.angle) | flow
    if spec.regression_grid:
        raise InputError("the generic layout has no grid channels; this package stays in its own layout")
    _check_sampling(spec.sampling, denoiser)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, net in (("regression", regression), ("diffusion", denoiser)):
        weights = net.checkpoint_state()
        state = {k: v.half() if half and v.is_floating_point() else v.float() for k, v in weights.items()}
        origin, path = net.origin, folder / f"{name}.mdlus"
        write_mdlus(path, origin.name, _module(origin.name), origin.args, state, origin.version)
    _write_grids(folder, spec)
    (folder / "metadata.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    stats = {"input": spec.inputs, "output": spec.outputs, "invariants": spec.invariants}
    tables = {key: _rows(value, meta) for key, value in stats.items() if value.names}
    (folder / "stats.json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    return folder


def _module(name: str) -> str:
    known = {"DiT": "", EDM: "", **dict.fromkeys(REGRESSIONS, "physicsnemo.models.diffusion_unets.unet")}
    return known.get(name, "physicsnemo.diffusion.preconditioners.legacy")


def _rows(stats: Statistics, meta: dict[str, Any]) -> dict[str, dict[str, float]]:
    rows = zip(stats.names, stats.center, stats.scale, strict=True)
    return {statistics_name(meta, name): {"mean": center, "std": scale} for name, center, scale in rows}


def _check_sampling(s: Sampling, denoiser: Denoiser) -> None:
    """Refuse a sampler that the layout has no entry for."""
    if s.schedule == FEW_STEP:
        return
    flow, more = isinstance(denoiser, DiTFlow), [TRIGFLOW] if denoiser.angle else []
    if s.schedule != (FLOW if flow else "karras") or s.rho != 7:
        own = f"{FLOW} for a network of rectified flow" if flow else "karras with a rho of 7 alone"
        raise InputError(f"the generic layout knows the schedule {own}")
    if s.solver not in ("euler", "heun", *more) and s != DEFAULT_SAMPLING:
        raise InputError(f"the generic layout knows the solvers euler and heun, not {s.solver!r}")


def _sampling(s: Sampling, conditioned: bool, angle: bool) -> dict[str, Any]:
    """The metadata entries of a sampler, as upstream has them; of others it refuses the ``sampler_type``."""
    if s.schedule == FEW_STEP:
        entry = {"solver": FEW_STEP, "sigmas": list(s.levels)}
        kind = {"solver": FEW_STEP, "sampler_type": FEW_STEP}
        return {"number_of_steps": s.steps, **kind, "sampling": entry}
    if s == DEFAULT_SAMPLING and not angle:
        return {}
    # with the mean as conditioning, upstream has the "stochastic" path only, and that one is Heun
    own = "stochastic" if s.solver == "heun" and conditioned else "deterministic"
    return {
        "number_of_steps": s.steps,
        "solver": s.solver,
        "sampler_type": TRIGFLOW if angle else own,
        "sigma_min": s.sigma_min,
        "sigma_max": s.sigma_max,
    }


def _flow(s: Sampling, net: DiTFlow) -> dict[str, Any]:
    """The metadata entries of rectified flow, which upstream has not."""
    times = {"t_max": s.t_max, "shift": s.shift, "clip": s.clip}
    entry = {FLOW: {"prediction": net.prediction, "time_scale": net.time_scale, **times}}
    if s.schedule == FEW_STEP:
        return entry
    return {"number_of_steps": s.steps, "solver": s.solver, "sampler_type": FLOW, **entry}


def _metadata(spec: CorrDiffSpec, angle: bool) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "input_variables": list(spec.inputs.names),
        "output_variables": list(spec.outputs.names),
        "number_of_samples": spec.number_of_samples,
        **_sampling(spec.sampling, spec.hr_mean_conditioning, angle),
        **({"formulation": TRIGFLOW} if angle else {}),
        "inference_mode": spec.inference_mode,
        "hr_mean_conditioning": spec.hr_mean_conditioning,
        "grid_bounds_margin": spec.grid_bounds_margin,
    }
    texts = {"name": spec.name, "attribution": spec.attribution}
    meta |= {key: text for key, text in texts.items() if text}
    if spec.synthetic:
        meta["synthetic"] = True
    if spec.seed is not None:
        meta["seed"] = spec.seed
    if spec.patching is not None:
        meta["patching"] = write_patching(spec.patching)
    if spec.lead_time_hours:
        meta["lead_time_hours"] = list(spec.lead_time_hours)
    if spec.invariants.names:
        meta["invariant_variables"] = list(spec.invariants.names)
    return meta | write_extensions(spec)


def _write_grids(folder: Path, spec: CorrDiffSpec) -> None:
    for name, grid in (("input", spec.input_grid), ("output", spec.output_grid)):
        lat, lon = (("y", "x"), ("y", "x")) if grid.curvilinear else (("lat",), ("lon",))
        ds = xr.Dataset({"lat": (lat, grid.lat), "lon": (lon, grid.lon)})
        ds.to_netcdf(folder / f"{name}_latlon_grid.nc", engine="netcdf4")
    (folder / "invariants.nc").unlink(missing_ok=True)  # of a package that was here before
    if spec.invariant_fields is not None:
        fields = zip(spec.invariants.names, spec.invariant_fields, strict=True)
        ds = xr.Dataset({name: (("y", "x"), field) for name, field in fields})
        ds.to_netcdf(folder / "invariants.nc", engine="netcdf4")
