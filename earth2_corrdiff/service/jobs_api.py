# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``/v1/downscale``: from a time and a source to an ensemble, as a job that is asked for and looked after."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response, StreamingResponse

from earth2_corrdiff import plotting
from earth2_corrdiff.base.errors import DamageError
from earth2_corrdiff.model.diffusion.solvers import SOLVERS
from earth2_corrdiff.service import job_fields, static
from earth2_corrdiff.service.bounded_threads import Beside
from earth2_corrdiff.service.engine import STOPPING, Engine
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.job import Job
from earth2_corrdiff.service.job_overview import overview
from earth2_corrdiff.service.job_request import DownscaleRequest, read_order
from earth2_corrdiff.service.job_runner import Runner
from earth2_corrdiff.service.jobs import Jobs, Keeping
from earth2_corrdiff.service.openapi import FAULT, faults
from earth2_corrdiff.service.security import MEMBERS
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.service.zipped import zipped

ROOT = "/v1/downscale"
LOOK = 0.2  # seconds between two looks at a job that is watched
BEAT = 75  # looks after which a silent stream says that it lives
KINDS = {"done": "done", "failed": "error", "cancelled": "error"}
EXAMPLE = "2024-07-24T12:00"
NEEDED = "the token of the answer to the order, as 'X-Job-Token: TOKEN'"
USUAL = faults(401, 404, 422, 429, 503)
NOT_DONE: dict[int | str, dict[str, Any]] = {
    409: {"description": "The job is not done", "content": {"application/json": {"schema": FAULT}}}
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
    204: {"description": "The last event was seen already"},
}
FIGURE = re.compile(r"corrdiff-(?P<state>.+)-(?:(?P<what>lowres|ensemble)|sample-(?P<sample>\d{1,6}))")


def add_jobs(app: FastAPI, settings: Settings, engine: Engine) -> Jobs:
    """Add the routes of jobs, and the page, to a service.

    Returns
    -------
    Jobs
        Call its ``open`` when the service starts, and its ``close`` when it stops
    """
    jobs = Jobs(settings.jobs, Keeping(settings.keep_jobs), settings.max_jobs, engine.metrics)
    runner = Runner(jobs, engine)
    app.include_router(_asking(jobs, runner, engine, settings))
    app.include_router(_watching(jobs, engine, settings))
    app.include_router(_results(jobs))
    app.include_router(static.router())
    return jobs


def _asking(jobs: Jobs, runner: Runner, engine: Engine, settings: Settings) -> APIRouter:
    """The routes that make jobs and remove them."""
    routes = APIRouter()
    ordering = Beside("reading orders", 4, settings.clients)  # a source may be slow to say what it has

    @routes.get(f"{ROOT}/options", responses=faults(401, 503))
    def options() -> dict[str, Any]:
        """What a job may ask for: sources, solvers, defaults, limits."""
        spec, sampling = engine.spec, engine.loaded.sampling
        limits = {"samples": settings.max_samples, "steps": settings.max_steps, "times": settings.max_times}
        return {
            "package": {"name": spec.name or spec.root, "synthetic": spec.synthetic},
            "lead_time_hours": list(spec.lead_time_hours),
            "sources": list(settings.sources),
            "solvers": list(SOLVERS),
            "defaults": {
                "time": EXAMPLE,
                "samples": min(spec.number_of_samples, settings.max_samples),
                "steps": sampling.steps,
                "solver": sampling.solver,
            },
            "limits": limits,
        }

    @routes.post(ROOT, status_code=202, responses=faults(400, 401, 403, 413, 422, 429, 503))
    async def downscale(asked: DownscaleRequest, request: Request) -> JSONResponse:
        """Ask for a job; the answer says where it can be followed, and has the token that removes it."""

        def start() -> tuple[Job, str]:
            job = jobs.add(*read_order(asked, engine, settings, jobs.keep.bytes))
            token = job.give_token()
            runner.submit(job)
            return job, token

        job, token = await ordering(start)
        request.scope[MEMBERS] = job.order.members
        document = {**_document(job, request), "token": token}
        return JSONResponse(document, 202, {"location": document["links"]["self"]})

    @routes.delete(f"{ROOT}/{{job}}", status_code=204, responses={**USUAL, **faults(403)})
    def remove(
        job: str, request: Request, x_job_token: Annotated[str, Header(description=NEEDED)] = ""
    ) -> None:
        """Cancel a job if it waits or runs, and remove what it has made; only for who has its token."""
        found = jobs.get(job)
        if not found.owned_by(x_job_token or _bearer(request.headers)):
            raise ServiceError(403, f"a job is its maker's: this needs {NEEDED}", "X-Job-Token")
        jobs.remove(found)

    return routes


def _bearer(headers: Headers) -> str:
    """A token where an API key would be, too: with ``curl --oauth2-bearer``."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _watching(jobs: Jobs, engine: Engine, settings: Settings) -> APIRouter:
    """The routes that tell how far jobs are."""
    routes = APIRouter()

    @routes.get(ROOT, responses=faults(401, 503))
    def listed() -> dict[str, Any]:
        """The states of all jobs that are kept, the newest first; what they are for is not said."""
        return {"jobs": [job.summary() for job in jobs.all()]}

    @routes.get(f"{ROOT}/{{job}}", responses=USUAL)
    def status(job: str, request: Request) -> dict[str, Any]:
        """How far a job is, and where its results are."""
        return _document(jobs.get(job), request)

    @routes.get(f"{ROOT}/{{job}}/events", response_class=StreamingResponse, responses={**STREAM, **USUAL})
    async def events(
        job: str, request: Request, last_event_id: Annotated[str, Header(max_length=64)] = ""
    ) -> Response:
        """The job's document as server-sent events ``progress``, and at the end ``done`` or ``error``.

        A client that comes back with ``Last-Event-ID`` gets what it has not seen: the newest state.
        """
        found = await run_in_threadpool(jobs.get, job)
        if found.ended and last_event_id == _event_id(found, found.version):
            return Response(status_code=204)  # tells a browser not to come back
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(
            _events(found, request, last_event_id, engine, settings.seconds),
            headers=headers,
            media_type="text/event-stream",
        )

    return routes


async def _events(
    job: Job, request: Request, seen: str, engine: Engine, seconds: float
) -> AsyncIterator[str]:
    """An event for each look that finds something new; the last one, or the time, ends the stream.

    A client that has not seen the end comes back, and gets what it has missed.
    """
    yield "retry: 1000\n\n"
    silent, clock = 0, asyncio.get_running_loop().time
    end = clock() + seconds
    while engine.state not in STOPPING and clock() < end:
        identity, silent = _event_id(job, job.version), silent + 1
        if identity != seen:
            seen, silent = identity, 0
            document = _document(job, request)
            kind = KINDS.get(document["state"], "progress")
            yield f"event: {kind}\nid: {identity}\ndata: {json.dumps(document)}\n\n"
            if kind != "progress":
                return
        elif silent >= BEAT:
            silent = 0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK)


def _event_id(job: Job, version: int) -> str:
    return f"{job.mark}-{version}"


def _document(job: Job, request: Request) -> dict[str, Any]:
    """What the service tells of a job, and the addresses of what there is of it."""
    about = job.document()
    base = f"{request.scope.get('root_path', '')}{ROOT}/{job.id}"
    links: dict[str, Any] = {"self": base, "events": f"{base}/events"}
    if about["state"] == "done":
        links |= {"store": f"{base}/store.zip", "fields": f"{base}/fields"}
        links["figures"] = [f"{base}/figures/{name}.png" for name in _figure_names(job)]
    return {**about, "links": links}


def _results(jobs: Jobs) -> APIRouter:
    """The routes of what a job has made."""
    routes = APIRouter(responses={**NOT_DONE, **USUAL})
    drawing = Beside("drawing figures", 1, 16)  # Matplotlib draws one figure at a time
    reading = Beside("reading fields", 2, 64)

    def done(name: str) -> Job:
        job = jobs.get(name)
        if job.state != "done":
            raise ServiceError(409, f"the job is {job.state}: there are results once it is done")
        return job

    @routes.get(f"{ROOT}/{{job}}/store.zip", response_class=StreamingResponse, responses=_file("zip"))
    def store(job: str) -> StreamingResponse:
        """The Zarr store as a zip file, with the store at its root."""
        found = done(job)
        with found.reading() as path:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if size != found.size:
            raise DamageError(f"{path} has not the size that it had when it was complete")
        first = job_fields.in_order(found.order.states)[0]
        name = f"corrdiff-{plotting.time_label(first.valid)}-{found.id[:8]}.zarr.zip"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_zip(found), headers=headers, media_type="application/zip")

    @routes.get(f"{ROOT}/{{job}}/figures/{{name}}.png", response_class=Response, responses=_file("png"))
    async def figure(job: str, name: str) -> Response:
        """A picture as ``plot-corrdiff`` makes it; the job's document lists them."""

        def check() -> Job:
            found = done(job)
            if name not in _figure_names(found):
                raise ServiceError(404, "the job has no such figure; its document lists them", "name")
            return found

        def draw(found: Job) -> bytes:
            with found.reading() as path:
                return _drawn(path, name)

        return Response(await drawing(draw, await reading(check)), media_type="image/png")

    @routes.get(f"{ROOT}/{{job}}/fields")
    async def fields(job: str) -> dict[str, Any]:
        """What a map needs: shape, states, members, quantities with their colours, coastlines, provenance."""

        def look() -> dict[str, Any]:
            with done(job).reading() as path:
                return overview(path)

        return await reading(look)

    @routes.get(f"{ROOT}/{{job}}/fields/{{quantity}}", response_class=Response, responses=_file("bin"))
    async def field(
        job: str,
        quantity: str,
        time: Annotated[int, Query(ge=0)] = 0,
        show: Annotated[str, Query(pattern=f"^({job_fields.SHOW.pattern})$", max_length=16)] = "mean",
        part: Literal["value", "along", "up"] = "value",
    ) -> Response:
        """One field in displayed units: float32, little-endian, by rows of the mesh; NaN for no number."""

        def look() -> tuple[str, bytes]:
            with done(job).reading() as path:
                values = job_fields.values(path, quantity, time, show, part)
            return ",".join(map(str, values.shape)), values.astype("<f4").tobytes()

        shape, data = await reading(look)
        return Response(data, 200, {"x-corrdiff-shape": shape}, "application/octet-stream")

    @routes.get(f"{ROOT}/{{job}}/points/{{quantity}}")
    async def point(
        job: str, quantity: str, row: Annotated[int, Query(ge=0)], column: Annotated[int, Query(ge=0)]
    ) -> dict[str, Any]:
        """All members at one cell of the mesh in all states, ``[T][M]``, and the coarse input there."""

        def look() -> dict[str, Any]:
            with done(job).reading() as path:
                return job_fields.point(path, quantity, row, column)

        return await reading(look)

    return routes


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    types = {"zip": "application/zip", "png": "image/png", "bin": "application/octet-stream"}
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": "The file", "content": {types[kind]: schema}}}


def _zip(job: Job) -> Iterator[bytes]:
    with job.reading() as path:
        yield from zipped(path)


def _figure_names(job: Job) -> list[str]:
    """The names of ``plot-corrdiff``, for each state."""
    kinds = ["ensemble"] if job.order.samples > 1 else []
    kinds += ["lowres", *(f"sample-{member}" for member in range(job.order.samples))]
    labels = map(plotting.case_label, job_fields.in_order(job.order.states))
    return [f"corrdiff-{label}-{kind}" for label in labels for kind in kinds]


@lru_cache(maxsize=32)
def _drawn(store: Path, name: str) -> bytes:
    """The PNG of a figure."""
    match = FIGURE.fullmatch(name)
    assert match is not None  # noqa: S101 - the name is one of ours
    ds = job_fields.opened(store)
    labels = list(map(plotting.case_label, plotting.cases(ds)))
    index = labels.index(match["state"])
    draw = {
        "lowres": partial(plotting.plot_lowres, ds, index),
        "ensemble": partial(plotting.plot_ensemble, ds, index),
        None: partial(plotting.plot_member, ds, index, int(match["sample"] or 0)),
    }
    with io.BytesIO() as file:
        draw[match["what"]]().savefig(file, format="png", dpi="figure")
        return file.getvalue()
