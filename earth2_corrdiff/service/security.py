# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Admission of requests in front of all routes: keys, hosts, limits and deadlines, headers and log.

What Starlette and FastAPI have for this is not used: ``TrustedHostMiddleware`` answers in plain text what the
other errors answer in JSON, and ``fastapi.security`` asks for the key after a body was read, and only on
paths that have a route.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections import Counter
from secrets import token_hex
from time import perf_counter

from fastapi.security.utils import get_authorization_scheme_param
from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earth2_corrdiff.service.connection import ABORT
from earth2_corrdiff.service.errors import GONE, ServiceError, answer, internal
from earth2_corrdiff.service.metrics import Metrics
from earth2_corrdiff.service.settings import Settings

OPEN = "/v1/health/"  # for probes, which have no key
UNCOUNTED = (OPEN, "/v1/metrics")  # must be answered when the service is busiest
LARGE = "/v1/infer"  # may have a body of any size; all others take JSON
JSON = 64 * 1024  # bytes of their body
STREAM = re.compile(r"/v1/downscale/[^/]+/(events|store\.zip)")  # may take minutes to be sent
BODY_SECONDS, ANSWER_SECONDS = 10.0, 20.0  # for a client to send a body, and to take an answer
PACE = 32 * 1024  # bytes: each adds a second to these times
MEMBERS = "corrdiff.members"
"""Key in the scope for the number of members of a request, for the log."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Gate:
    """ASGI middleware: API key, host, origin, shares, deadlines, size of the body, headers, counting, log.

    Requests with a body, streams, and other requests have a limit each, so that none displaces the others.

    Parameters
    ----------
    app : ASGIApp
        The application behind it
    settings : Settings
        The service's limits
    metrics : Metrics
        Counts requests
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.clients: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, share = perf_counter(), _share(scope)
        sender = _Sender(send, token_hex(6), min(ANSWER_SECONDS, self.settings.seconds))
        self.clients[share] += 1
        self.metrics.open.inc(bool(share))
        try:
            await self._pass(scope, self._limited(scope, receive), sender, share)
        finally:
            self.clients[share] -= 1
            self.metrics.open.dec(bool(share))
            seconds, route = perf_counter() - start, getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, sender.status, seconds)
            members = f", {scope[MEMBERS]} members" if MEMBERS in scope else ""
            # The route and not the path, in which a client could forge lines or send a secret.
            logger.log(
                "INFO" if share else "DEBUG",
                "request {} {} {}: {} in {:.3f} s{}",
                *(sender.id, scope["method"][:8], route, sender.status or "no answer", seconds, members),
            )
        return None

    async def _pass(self, scope: Scope, receive: Receive, sender: _Sender, share: str) -> None:
        try:
            self._admit(scope, share)
            await self.app(scope, receive, sender)
        except ServiceError as error:
            await answer(error)(scope, receive, sender)
        except StalledError:
            scope.get("state", {}).get(ABORT, lambda: None)()
            await asyncio.sleep(0)  # until the connection is closed
            logger.warning("request {} was broken off: the client reads too slowly", sender.id)
        except (ClientDisconnect, asyncio.CancelledError):  # cancelled where the service must end now
            sender.status = sender.status or GONE
        except Exception as error:
            fault = internal(error)
            if sender.status is None:
                await answer(fault)(scope, receive, sender)

    def _admit(self, scope: Scope, share: str) -> None:
        """Refuse what the headers alone show to be wrong."""
        headers, path = Headers(scope=scope), scope["path"]
        if self.settings.hosts and _host_name(headers) not in self.settings.hosts:
            raise ServiceError(400, "this host name is not served here; see serve-corrdiff --allow-host")
        if scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            raise ServiceError(403, "pages of other sites may not use this service")
        if path.startswith("/v1/") and not path.startswith(OPEN):
            _check_key(headers, self.settings.api_key)
        most = self.settings.streams if share == "streams" else self.settings.clients
        if share and self.clients[share] > most:
            raise ServiceError(429, f"{most} clients are served already", retry_after=1)
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 20 or int(length) > self._most(scope)):
            raise _too_large(self._most(scope))

    def _most(self, scope: Scope) -> int:
        return self.settings.max_body if scope["path"] == LARGE else min(JSON, self.settings.max_body)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Refuse a body as soon as it is longer or slower than allowed, whatever its headers say."""
        loop, most, received, complete = asyncio.get_running_loop(), self._most(scope), 0, False
        start, seconds = loop.time(), min(BODY_SECONDS, self.settings.seconds)

        async def limited() -> Message:
            nonlocal received, complete
            if complete:  # the next message is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(start + seconds + received / PACE):
                    message = await receive()
            except TimeoutError:
                raise ServiceError(408, "the request took too long to arrive") from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > most:
                raise _too_large(most)
            return message

        return limited


class StalledError(ClientDisconnect):
    """The client takes too long to take its answer."""


def _share(scope: Scope) -> str:
    """The limit that a request counts for; empty for what is always answered."""
    if scope["path"].startswith(UNCOUNTED):
        return ""
    if STREAM.fullmatch(scope["path"]):
        return "streams"
    return "looks" if scope["method"] in ("GET", "HEAD") else "bodies"


class _Sender:
    """``send`` of ASGI with the headers of every answer and a deadline; keeps the status."""

    def __init__(self, send: Send, name: str, seconds: float) -> None:
        self.send, self.id, self._most = send, name, seconds
        self.status: int | None = None
        self._left, self._loop = seconds, asyncio.get_running_loop()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in {**HEADERS, "x-request-id": self.id}.items():
                headers.setdefault(name, value)
        start, more = self._loop.time(), len(message.get("body", b"")) / PACE
        try:
            async with asyncio.timeout(self._left + more):
                await self.send(message)
        except TimeoutError:
            raise StalledError from None
        self._left = min(self._left + more - (self._loop.time() - start), self._most)


def _too_large(most: int) -> ServiceError:
    return ServiceError(413, f"the body must have {most} bytes or less", expected=f"{most} bytes or less")


def bearer(headers: Headers) -> str:
    """The token of ``Authorization: Bearer TOKEN``; empty where there is none."""
    scheme, token = get_authorization_scheme_param(headers.get("authorization"))
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_key(headers: Headers, key: str | None) -> None:
    given = bearer(headers) or headers.get("x-api-key", "").strip()
    if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
        raise ServiceError(401, "an API key is needed, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")


def _host_name(headers: Headers) -> str:
    """The host name of a request without its port, in small letters."""
    return re.sub(r":[^:\]]*$", "", headers.get("host", "").lower())


def _is_foreign(headers: Headers) -> bool:
    """True if a page of another site sends the request."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
