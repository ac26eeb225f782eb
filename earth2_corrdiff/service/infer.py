# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/infer``: an array in, a tar of members out, in the form of the documented CorrDiff NIM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from fastapi import APIRouter, Request
from loguru import logger
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from earth2_corrdiff.model.diffusion.noise import fresh_seed
from earth2_corrdiff.service import archives, decode, forms
from earth2_corrdiff.service.engine import RETRY, Engine
from earth2_corrdiff.service.errors import GONE, ServiceError, faults, file_answer
from earth2_corrdiff.service.queue import InferRequest, Member
from earth2_corrdiff.service.security import MEMBERS, StalledError
from earth2_corrdiff.service.settings import Settings

GRACE = 1  # seconds to send what is there once nothing more will come
READERS = 2  # requests that are parsed at one time: each may need three times its size
SEED = {"schema": {"type": "integer"}, "description": "seed of the ensemble"}
TAR = "A tar of `{sample:03d}_{batch:03d}.npy`, float32 `(1, 1, variables, H, W)`"
OPENAPI: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": decode.FORM.json_schema()}},
        }
    },
    "responses": {
        **file_answer("application/x-tar", TAR, headers={"x-corrdiff-seed": SEED}),
        **faults(400, 401, 403, 408, 413, 422, 429, 500, 503, 504),
    },
}


def router(engine: Engine, settings: Settings) -> APIRouter:
    """The route of ``POST /v1/infer``."""
    routes = APIRouter()
    readers = ThreadPoolExecutor(READERS, "corrdiff-reader")

    @routes.post("/v1/infer", response_class=Response, **OPENAPI)
    async def infer(request: Request) -> Response:
        """Downscale one or more cases, each into an ensemble.

        The answer is a tar of npy files ``{sample:03d}_{batch:03d}.npy``, float32 of the shape
        ``(1, 1, variables, H, W)``; each is sent as soon as it is done.
        """
        deadline = asyncio.get_running_loop().time() + settings.seconds
        engine.check()
        seed, work = await read(request, deadline)
        request.scope[MEMBERS] = work.members
        members = Members(engine, work, request.receive, deadline)
        try:
            return TarResponse(members, await members.next(), seed)
        except BaseException:
            members.close()
            raise

    async def read(request: Request, deadline: float) -> tuple[int, InferRequest]:
        """The seed and all else of a request: received here, parsed and checked on a reader's thread."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                body = await forms.receive(request)
            with body:
                engine.metrics.stage("receive", settings.seconds - deadline + loop.time())
                return await loop.run_in_executor(readers, _checked, body, request.headers, engine, settings)
        except TimeoutError:
            raise ServiceError(408, "the request took too long to arrive") from None
        except OSError as error:
            logger.error("a request cannot be stored ({})", error)
            text = "there is no space to store the request now"
            raise ServiceError(503, text, retry_after=RETRY) from None

    return routes


def _checked(
    body: IO[bytes], headers: Headers, engine: Engine, settings: Settings
) -> tuple[int, InferRequest]:
    """The seed (drawn where the request has none) and all else that a form asks for."""
    data, texts = forms.take_apart(body, headers)
    spec, form = engine.spec, decode.read_form(data, texts, settings)
    coarse = decode.read_array(data, spec, settings.max_states)
    times = decode.read_times(form.get("time"), len(coarse), spec.needs_time)
    leads = decode.read_leads(form.get("lead_time"), len(coarse), times, spec)
    decode.check_weather(coarse, spec, times)
    seed = form.get("seed", fresh_seed())
    seeds = decode.seeds_of(seed, form.get("samples", 1), len(coarse), times, spec.drawn_seeds, leads)
    logger.debug("request for {} members, seed {}", sum(map(len, seeds)), seed)
    return seed, InferRequest(coarse, seeds, decode.read_sampling(form, engine.sampling), leads, times)


class Members:
    """The members of one request on the event loop, until its client leaves.

    Parameters
    ----------
    engine : Engine
        Makes the members
    work : InferRequest
        The request
    receive : Receive
        ASGI's channel of the request: the client's disconnection comes here
    deadline : float
        On the loop's clock

    Raises
    ------
    ServiceError
        429 or 503 where the engine refuses
    """

    def __init__(self, engine: Engine, work: InferRequest, receive: Receive, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.work, self.deadline = work, deadline
        self.sending: asyncio.Timeout | None = None
        self._items: asyncio.Queue[Member | ServiceError] = asyncio.Queue()
        self.ticket = engine.submit(work, self._deliver)
        self._watch = self._loop.create_task(self._leave_with(receive))

    def _deliver(self, item: Member | ServiceError) -> None:
        """Pass an item to the event loop; called on the owner thread."""
        self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: Member | ServiceError) -> None:
        self._items.put_nowait(item)
        if isinstance(item, ServiceError) and self.sending is not None and not self.sending.expired():
            # A client that does not read must not hold its connection until the deadline.
            self.sending.reschedule(min(self.deadline, self._loop.time() + GRACE))

    async def _leave_with(self, receive: Receive) -> None:
        """Cancel the request when its client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ticket.cancel()
        self._put(ServiceError(GONE, "the client has gone"))

    async def next(self) -> Member:
        """The next member.

        Raises
        ------
        ServiceError
            504 after the deadline; 499 where the client has gone; the engine's errors
        """
        try:
            async with asyncio.timeout_at(self.deadline):
                item = await self._items.get()
        except TimeoutError:
            raise ServiceError(504, "the request took longer than the service allows") from None
        if isinstance(item, ServiceError):
            raise item
        return item

    async def pieces(self, first: Member) -> AsyncIterator[bytes]:
        """The tar, piece by piece; raises as :meth:`next`."""
        member = first
        for left in reversed(range(self.work.members)):
            name = archives.member_name(member.sample, member.case)
            for piece in archives.member_pieces(name, member.values[None, None]):
                yield piece
            self.ticket.sent()
            if left:
                member = await self.next()
        yield archives.END

    def close(self) -> None:
        """Cancel what is left of the request."""
        self.sending = None
        self._watch.cancel()
        self.ticket.cancel()


class TarResponse(StreamingResponse):
    """Members as a tar. Where one fails, the answer breaks off: without its full length, without its end.

    Parameters
    ----------
    members : Members
        The members to send
    first : Member
        The first of them, finished
    seed : int
        Value of the header ``x-corrdiff-seed``
    """

    def __init__(self, members: Members, first: Member, seed: int) -> None:
        size = archives.member_size((1, 1, *first.values.shape))
        headers = {
            "content-disposition": 'attachment; filename="corrdiff.tar"',
            "content-length": str(members.work.members * size + len(archives.END)),
            "x-corrdiff-seed": str(seed),
        }
        self.members = members
        super().__init__(members.pieces(first), headers=headers, media_type="application/x-tar")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the tar; without its end where a member fails, so that the server closes the connection."""
        start: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
        try:
            async with asyncio.timeout_at(self.members.deadline) as self.members.sending:
                await send(start | {"headers": self.raw_headers})
                async for piece in self.body_iterator:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ServiceError as error:
            level = "DEBUG" if error.status_code == GONE else "WARNING"
            logger.log(level, "an answer was broken off: {}", error.detail)
        except TimeoutError:
            raise StalledError from None
        finally:
            self.members.close()
