# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the service says of itself: health, metadata, grids, metrics."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.variables import cf_attributes
from earth2_corrdiff.model.diffusion.solvers import SOLVERS
from earth2_corrdiff.service.engine import RETRY, Engine
from earth2_corrdiff.service.openapi import faults, own_version
from earth2_corrdiff.service.settings import Settings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHOWN = ("max_samples", "max_steps", "max_states", "max_body", "queue", "clients", "seconds")


def router(engine: Engine, settings: Settings) -> APIRouter:
    """The routes that make no member."""
    routes = APIRouter()

    @routes.get("/v1/health/live", responses=faults(503))
    async def live() -> JSONResponse:
        """Whether the process should go on; 503 where only a new one can help."""
        dead = engine.state == "failed"
        return JSONResponse({"status": "failed" if dead else "live"}, 503 if dead else 200)

    @routes.get("/v1/health/ready", responses=faults(503))
    async def ready() -> JSONResponse:
        """Whether requests are accepted: 503 while the model is loaded and warmed up, and while it stops."""
        state = engine.state
        if engine.ready:
            return JSONResponse({"status": "ready", "description": "requests are accepted"})
        said = {"status": state, "detail": f"the service is not ready, it is {state}"}
        return JSONResponse(said, 503, {"retry-after": str(RETRY)})

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


NPY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A npy file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def _metadata(engine: Engine, settings: Settings) -> dict[str, Any]:
    spec, sampling, device, precision = engine.loaded
    return {
        "service": "earth2_corrdiff",
        "version": own_version(),
        "package": {
            "name": spec.name or spec.root,
            "sha256": spec.sha256,
            "synthetic": spec.synthetic,
            "stages": spec.inference_mode,
            "lead_time_hours": list(spec.lead_time_hours),
        },
        "input": {"variables": _variables(spec.inputs.names), "grid": _grid(spec.input_grid, "input")},
        "output": {"variables": _variables(spec.outputs.names), "grid": _grid(spec.output_grid, "output")},
        "defaults": {"samples": 1, "steps": sampling.steps, "solver": sampling.solver, "seed": "drawn"},
        "solvers": list(SOLVERS),
        "limits": {name: getattr(settings, name) for name in SHOWN},
        "device": device,
        "precision": precision,
    }


def _variables(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"name": name, **cf_attributes(name)} for name in names]


def _grid(grid: Grid, which: str) -> dict[str, Any]:
    """Shape and box of a grid, and where its coordinates are; their rows are in the order of the arrays."""
    lat, lon = grid.mesh()
    return {
        "shape": list(grid.shape),
        "kind": "curvilinear" if grid.curvilinear else "rectilinear",
        "first": [float(lat[0, 0]), float(lon[0, 0])],
        "last": [float(lat[-1, -1]), float(lon[-1, -1])],
        "lat": f"/v1/grid/{which}/lat.npy",
        "lon": f"/v1/grid/{which}/lon.npy",
    }
