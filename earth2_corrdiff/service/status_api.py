# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Routes of health, metadata, grids and metrics."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.variables import cf_attributes
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.run.provenance import version_of
from earth2_corrdiff.service.engine import RETRY, Engine
from earth2_corrdiff.service.errors import faults, file_answer
from earth2_corrdiff.service.settings import Settings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LIMITS = ("max_samples", "max_steps", "max_states", "max_body", "queue", "clients", "seconds")
NPY = file_answer("application/octet-stream", "A npy file")
TEXT = file_answer("text/plain", "Prometheus' text format")


def router(engine: Engine, settings: Settings) -> APIRouter:
    """The routes that make no member."""
    routes = APIRouter()

    @routes.get("/v1/health/live", responses=faults(503))
    async def live() -> JSONResponse:
        """200 while the process works; 503 where only a new process can help."""
        failed = engine.state == "failed"
        return JSONResponse({"status": "failed" if failed else "live"}, 503 if failed else 200)

    @routes.get("/v1/health/ready", responses=faults(503))
    async def ready() -> JSONResponse:
        """200 while requests are accepted; 503 while the model is loaded or warmed up, and while it stops."""
        if engine.ready:
            return JSONResponse({"status": "ready", "description": "requests are accepted"})
        detail = f"the service is not ready, it is {engine.state}"
        return JSONResponse({"status": engine.state, "detail": detail}, 503, {"retry-after": str(RETRY)})

    @routes.get("/v1/metadata", responses=faults(401, 503))
    def metadata() -> dict[str, Any]:
        """The package, its variables in order with their units, its grids, and the service's limits."""
        return _metadata(engine, settings)

    @routes.get(
        "/v1/grid/{which}/{axis}.npy", response_class=Response, responses={**NPY, **faults(401, 422, 503)}
    )
    def grid(which: Literal["input", "output"], axis: Literal["lat", "lon"]) -> Response:
        """Latitudes or longitudes in degrees as npy: 1-D of a rectilinear grid, 2-D of a curvilinear one."""
        file = io.BytesIO()
        grid = engine.spec.input_grid if which == "input" else engine.spec.output_grid
        np.save(file, np.asarray(getattr(grid, axis)), allow_pickle=False)
        return Response(file.getvalue(), media_type="application/octet-stream")

    @routes.get("/v1/metrics", response_class=Response, responses={**TEXT, **faults(401)})
    async def metrics() -> Response:
        """Counters and clocks in Prometheus' text format."""
        return Response(engine.metrics.text(engine.ready, *engine.waiting), media_type=METRICS_TYPE)

    return routes


def _metadata(engine: Engine, settings: Settings) -> dict[str, Any]:
    spec, sampling, device, precision = engine.loaded
    return {
        "service": "earth2_corrdiff",
        "version": version_of("earth2_corrdiff"),
        "package": {
            "name": spec.name or spec.root,
            "sha256": spec.sha256,
            "synthetic": spec.synthetic,
            "attribution": spec.attribution,
            "stages": spec.inference_mode,
            "lead_time_hours": list(spec.lead_time_hours),
        },
        "input": {
            "variables": _variables(spec.inputs.names),
            "grid": _grid(spec.input_grid, "input"),
            **_times(spec),
        },
        "output": {"variables": _variables(spec.output_variables), "grid": _grid(spec.output_grid, "output")},
        "defaults": {"samples": 1, "steps": sampling.steps, "solver": sampling.solver, "seed": "drawn"},
        "solvers": list(sampling.solvers),
        "limits": {name: getattr(settings, name) for name in LIMITS},
        "device": device,
        "precision": precision,
    }


def _times(spec: CorrDiffSpec) -> dict[str, Any]:
    """Times of a case's fields, where they are not one field at its valid time."""
    if spec.daily_hour is None and len(spec.input_hours) == 1:
        return {}
    return {"hours": list(spec.input_hours), "daily_mean_hour": spec.daily_hour}


def _variables(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"name": name, **cf_attributes(name)} for name in names]


def _grid(grid: Grid, which: str) -> dict[str, Any]:
    """Shape, first and last cell of a grid, and the addresses of its coordinates."""
    lat, lon = grid.mesh()
    return {
        "shape": list(grid.shape),
        "kind": "curvilinear" if grid.curvilinear else "rectilinear",
        "first": [float(lat[0, 0]), float(lon[0, 0])],
        "last": [float(lat[-1, -1]), float(lon[-1, -1])],
        "lat": f"/v1/grid/{which}/lat.npy",
        "lon": f"/v1/grid/{which}/lon.npy",
    }
