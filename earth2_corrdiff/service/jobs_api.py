# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Routes of ``/v1/downscale``: jobs from a time and a source to an ensemble."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, FastAPI, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from earth2_corrdiff import plotting
from earth2_corrdiff.base.errors import DamageError
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.service import job_fields
from earth2_corrdiff.service.archives import zipped
from earth2_corrdiff.service.bounded_threads import BoundedThreads
from earth2_corrdiff.service.engine import STOPPING, Engine
from earth2_corrdiff.service.errors import Responses, ServiceError, faults, file_answer
from earth2_corrdiff.service.job import Job
from earth2_corrdiff.service.job_overview import overview
from earth2_corrdiff.service.job_request import DownscaleRequest, read_order
from earth2_corrdiff.service.job_runner import Runner
from earth2_corrdiff.service.jobs import Jobs, Keeping, size_of
from earth2_corrdiff.service.security import MEMBERS, bearer
from earth2_corrdiff.service.settings import Settings

T = TypeVar("T")
ROOT = "/v1/downscale"
LOOK = 0.2  # seconds between two looks at a job that is watched
BEAT = 75  # looks after which a silent stream sends a comment, so that proxies keep it open
KINDS = {"done": "done", "failed": "error", "cancelled": "error"}
EXAMPLE = "2024-07-24T12:00"
NEEDED = "the token of the answer to the request, as 'X-Job-Token: TOKEN'"
USUAL = faults(401, 404, 422, 429, 503)
ZIP, PNG, NUMBERS = map(file_answer, ("application/zip", "image/png", "application/octet-stream"))
STREAM: Responses = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
    204: {"description": "The client has the last event"},
}


def add_jobs(app: FastAPI, settings: Settings, engine: Engine) -> Jobs:
    """Add the routes of jobs to a service.

    Returns
    -------
    Jobs
        Call its ``close`` when the service stops
    """
    keep = Keeping(settings.keep_jobs)
    jobs = Jobs(settings.jobs, keep, settings.max_jobs, engine.metrics, settings.stores)
    runner = Runner(jobs, engine, settings)
    app.include_router(_orders(jobs, runner, engine, settings))
    app.include_router(_watching(jobs, engine, settings))
    app.include_router(_results(jobs))
    return jobs


def _orders(jobs: Jobs, runner: Runner, engine: Engine, settings: Settings) -> APIRouter:
    """The routes that make jobs and remove them."""
    routes = APIRouter(prefix=ROOT)
    ordering = BoundedThreads("reading orders", 4, settings.clients)  # a source may answer slowly

    @routes.get("/options", responses=faults(401, 503))
    def options() -> dict[str, Any]:
        """What a job may have: sources, solvers, defaults, limits."""
        spec, sampling = engine.spec, engine.loaded.sampling
        limits = {"samples": settings.max_samples, "steps": settings.max_steps, "times": settings.max_times}
        return {
            "package": {"name": spec.name or spec.root, "synthetic": spec.synthetic},
            "lead_time_hours": list(spec.lead_time_hours),
            "sources": list(settings.sources),
            "solvers": list(sampling.solvers),
            "defaults": {
                "time": EXAMPLE,
                "samples": min(spec.number_of_samples, settings.max_samples),
                "steps": sampling.steps,
                "solver": sampling.solver,
            },
            "limits": limits,
        }

    @routes.post("", status_code=202, responses=faults(400, 401, 403, 413, 422, 429, 503))
    async def downscale(asked: DownscaleRequest, request: Request) -> JSONResponse:
        """Submit a job; the answer has its address, and the token that removes it."""

        def start() -> tuple[Job, str]:
            job = jobs.add(*read_order(asked, engine, settings, jobs.keep.bytes))
            token = job.give_token()
            runner.submit(job)
            return job, token

        job, token = await ordering(start)
        request.scope[MEMBERS] = job.order.members
        document = {**_document(job, request), "token": token}
        return JSONResponse(document, 202, {"location": document["links"]["self"]})

    @routes.delete("/{job}", status_code=204, responses={**USUAL, **faults(403)})
    def remove(
        job: str, request: Request, x_job_token: Annotated[str, Header(description=NEEDED)] = ""
    ) -> None:
        """Cancel a job if it waits or runs, and remove its results; needs its token."""
        found = jobs.get(job)
        # A token where an API key would be, too: curl --oauth2-bearer
        if not found.owned_by(x_job_token or bearer(request.headers)):
            raise ServiceError(403, f"only its owner can remove a job: this needs {NEEDED}", "X-Job-Token")
        jobs.remove(found)

    return routes


def _watching(jobs: Jobs, engine: Engine, settings: Settings) -> APIRouter:
    """The routes of the progress of jobs."""
    routes = APIRouter(prefix=ROOT)

    @routes.get("", responses=faults(401, 503))
    def listed() -> dict[str, Any]:
        """State and progress of all jobs, the newest first; not their requests."""
        return {"jobs": [job.summary() for job in jobs.all()]}

    @routes.get("/{job}", responses=USUAL)
    def status(job: str, request: Request) -> dict[str, Any]:
        """State, progress and request of a job, and the addresses of its results."""
        return _document(jobs.get(job), request)

    @routes.get("/{job}/events", response_class=StreamingResponse, responses={**STREAM, **USUAL})
    async def events(
        job: str, request: Request, last_event_id: Annotated[str, Header(max_length=64)] = ""
    ) -> Response:
        """The job's document as server-sent events ``progress``, and at the end ``done`` or ``error``.

        A client that comes back with ``Last-Event-ID`` gets the newest state, if that is another one.
        """
        found = await run_in_threadpool(jobs.get, job)
        if found.ended and last_event_id == found.event_id:
            return Response(status_code=204)  # a browser does not come back then
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
    """An event for each look that finds a new version; the last one, or the time limit, ends the stream."""
    yield "retry: 1000\n\n"
    silent, clock = 0, asyncio.get_running_loop().time
    end = clock() + seconds
    while engine.state not in STOPPING and clock() < end:
        identity, silent = job.event_id, silent + 1
        if identity != seen:
            seen, silent = identity, 0
            document = _document(job, request)
            kind = KINDS.get(document["state"], "progress")
            yield f"event: {kind}\nid: {identity}\ndata: {json.dumps(document)}\n\n"
            if kind != "progress":
                return
        elif silent >= BEAT:
            silent = 0
            yield ": alive\n\n"
        await asyncio.sleep(LOOK)


def _document(job: Job, request: Request) -> dict[str, Any]:
    """The document of a job with the addresses of its results."""
    about = job.document()
    base = f"{request.scope.get('root_path', '')}{ROOT}/{job.id}"
    links: dict[str, Any] = {"self": base, "events": f"{base}/events"}
    if about["state"] == "done":
        links |= {"store": f"{base}/store.zip", "fields": f"{base}/fields"}
        links["figures"] = [f"{base}/figures/{name}.png" for name in _figures(job)]
    return {**about, "links": links}


def _results(jobs: Jobs) -> APIRouter:
    """The routes of the results of a job."""
    routes = APIRouter(prefix=ROOT, responses={**USUAL, **faults(409)})
    drawing = BoundedThreads("drawing figures", 1, 16)  # Matplotlib draws one figure at a time
    reading = BoundedThreads("reading fields", 2, 64)

    def done(name: str) -> Job:
        job = jobs.get(name)
        if job.state != "done":
            raise ServiceError(409, f"the job is {job.state}: there are results once it is done")
        return job

    async def read(name: str, work: Callable[[AnyPath], T]) -> T:
        """The value of ``work(store)``, on a thread, for the store of a job."""

        def look() -> T:
            with done(name).reading() as store:
                return work(store)

        return await reading(look)

    @routes.get("/{job}/store.zip", response_class=StreamingResponse, responses=ZIP)
    def store(job: str) -> StreamingResponse:
        """The Zarr store as a zip file, with the store at its root."""
        found = done(job)
        with found.reading() as path:
            if size_of(path) != found.size:
                raise DamageError(f"{path} has not the size that it had when it was complete")
        first = job_fields.in_order(found.order.cases)[0]
        name = f"corrdiff-{plotting.time_label(first.valid)}-{found.id[:8]}.zarr.zip"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_zip(found), headers=headers, media_type="application/zip")

    @routes.get("/{job}/figures/{name}.png", response_class=Response, responses=PNG)
    async def figure(job: str, name: str) -> Response:
        """A figure of ``plot-corrdiff``; the job's document lists their names."""

        def find() -> tuple[Job, tuple[Any, ...]]:
            found = done(job)
            figures = _figures(found)
            if name not in figures:
                raise ServiceError(404, "the job has no such figure; its document lists them", "name")
            return found, figures[name]

        def draw(found: Job, what: tuple[Any, ...]) -> bytes:
            with found.reading() as path:
                return _drawn(path, *what)

        return Response(await drawing(draw, *await reading(find)), media_type="image/png")

    @routes.get("/{job}/fields")
    async def fields(job: str) -> dict[str, Any]:
        """What a map needs: shape, cases, members, quantities with their colours, coastlines, provenance."""
        return await read(job, lambda store: overview(store))

    @routes.get("/{job}/fields/{quantity}", response_class=Response, responses=NUMBERS)
    async def field(
        job: str,
        quantity: str,
        time: Annotated[int, Query(ge=0)] = 0,
        show: Annotated[str, Query(pattern=f"^({job_fields.SHOW})$", max_length=16)] = "mean",
        part: Literal["value", "along", "up"] = "value",
    ) -> Response:
        """One field in displayed units: float32, little-endian, by rows of the mesh; NaN for no number."""
        values = await read(job, lambda store: job_fields.values(store, quantity, time, show, part))
        headers = {"x-corrdiff-shape": ",".join(map(str, values.shape))}
        return Response(values.astype("<f4").tobytes(), 200, headers, "application/octet-stream")

    @routes.get("/{job}/points/{quantity}")
    async def point(
        job: str, quantity: str, row: Annotated[int, Query(ge=0)], column: Annotated[int, Query(ge=0)]
    ) -> dict[str, Any]:
        """All members at one cell of the mesh in all cases, ``[T][M]``, and the coarse input there."""
        return await read(job, lambda store: job_fields.point(store, quantity, row, column))

    return routes


def _zip(job: Job) -> Iterator[bytes]:
    with job.reading() as path:
        yield from zipped(path)


def _figures(job: Job) -> dict[str, tuple[Any, ...]]:
    """The case's number and the drawing of each figure by the name that ``plot-corrdiff`` gives it."""
    samples = range(job.order.samples)
    kinds: dict[str, tuple[Any, ...]] = {"ensemble": ("plot_ensemble",)} if len(samples) > 1 else {}
    kinds["lowres"] = ("plot_lowres",)
    kinds |= {f"sample-{sample}": ("plot_member", sample) for sample in samples}
    return {
        f"corrdiff-{plotting.case_label(case)}-{kind}": (number, *drawing)
        for number, case in enumerate(job_fields.in_order(job.order.cases))
        for kind, drawing in kinds.items()
    }


@lru_cache(maxsize=32)
def _drawn(store: AnyPath, number: int, function: str, *sample: int) -> bytes:
    """The PNG of a figure."""
    ds = job_fields.opened(store)
    with io.BytesIO() as file:
        figure = getattr(plotting, function)(ds, job_fields.positions(ds)[number], *sample)
        figure.savefig(file, format="png", dpi="figure")
        return file.getvalue()
