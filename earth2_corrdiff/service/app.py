# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The service as an ASGI application: ``create_app(settings, load)``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from earth2_corrdiff.base.errors import DamageError, InputError, UnavailableError
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.run.provenance import version_of
from earth2_corrdiff.service import infer, status_api
from earth2_corrdiff.service.engine import Engine
from earth2_corrdiff.service.errors import ServiceError, answer
from earth2_corrdiff.service.job_runner import sentence
from earth2_corrdiff.service.jobs_api import add_jobs
from earth2_corrdiff.service.pages import add_pages
from earth2_corrdiff.service.security import Gate
from earth2_corrdiff.service.settings import Settings

DESCRIPTION = (
    "CorrDiff downscaling of weather. Requests and answers of `/v1/infer` are compatible with the documented "
    "interface of NVIDIA's CorrDiff NIM."
)


def create_app(settings: Settings, load: Callable[[], CorrDiff]) -> FastAPI:
    """A service that loads its model when it starts, and is ready when the model is warmed up.

    Parameters
    ----------
    settings : Settings
        Its limits
    load : Callable[[], CorrDiff]
        Makes the model, on its device; called once, on the thread that owns the device

    Returns
    -------
    FastAPI
        The application; ``app.state.engine`` is its engine
    """
    engine = Engine(load, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close, settings.drain_seconds)
        jobs.close()

    app = FastAPI(
        title="earth2_corrdiff",
        description=DESCRIPTION,
        version=version_of("earth2_corrdiff"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.add_middleware(Gate, settings=settings, metrics=engine.metrics)
    _add_errors(app)
    app.include_router(infer.router(engine, settings))
    app.include_router(status_api.router(engine, settings))
    jobs = add_jobs(app, settings, engine)
    add_pages(app)
    app.openapi()  # takes a while, and is kept
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error)

    @app.exception_handler(InputError)
    async def unreadable(request: Request, error: InputError) -> JSONResponse:
        """Requests are checked before: what is left is a store that cannot be read."""
        logger.warning("the store of a job cannot be used: {}", error)
        return answer(ServiceError(503 if isinstance(error, UnavailableError) else 500, sentence(error)))

    @app.exception_handler(DamageError)
    async def damaged(request: Request, error: DamageError) -> JSONResponse:
        """The files of a job have changed on the disk; the log alone names the folder."""
        logger.error("a finished job is damaged: {}", error)
        return answer(ServiceError(500, "the results of this job are damaged; submit it again"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        """FastAPI's findings in the form of all other errors; nothing of the request is repeated."""
        first = error.errors()[0]
        field = str(first["loc"][1 if len(first["loc"]) > 1 else 0])
        return answer(ServiceError(422, f"{field}: {first['msg']}", field, str(first["msg"])))
