# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The gate in front of every route: who may ask, how much may be sent, and what every answer carries."""

from __future__ import annotations

import hmac
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earth2_corrdiff.service.errors import GONE, ServiceError, answer, internal
from earth2_corrdiff.service.metrics import Metrics
from earth2_corrdiff.service.settings import Settings

OPEN = "/v1/health/"  # asked by probes, which have no key
UNCOUNTED = (OPEN, "/v1/metrics")  # must be answered when the service is busiest
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
    """ASGI middleware: API key, host, origin, number of clients, size of the body, headers, counting.

    Parameters
    ----------
    app : ASGIApp
        What is behind it
    settings : Settings
        The service's limits
    metrics : Metrics
        Where requests are counted
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.clients = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, counted = perf_counter(), not scope["path"].startswith(UNCOUNTED)
        seen = _Seen(send)
        self.clients += counted
        self.metrics.open.inc(counted)
        try:
            await self._pass(scope, receive, seen, counted)
        finally:
            self.clients -= counted
            self.metrics.open.dec(counted)
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, seen.status, perf_counter() - start)
        return None

    async def _pass(self, scope: Scope, receive: Receive, seen: _Seen, counted: bool) -> None:
        try:
            self._admit(scope, counted)
            await self.app(scope, _limited(receive, self.settings.max_body), seen)
        except ServiceError as error:
            await answer(error)(scope, receive, seen)
        except ClientDisconnect:
            seen.status = GONE
        except Exception as error:
            fault = internal(error)
            if seen.status is None:
                await answer(fault)(scope, receive, seen)

    def _admit(self, scope: Scope, counted: bool) -> None:
        """Everything that can be said from the headers alone."""
        headers, path = Headers(scope=scope), scope["path"]
        if self.settings.hosts and _name(headers.get("host", "")) not in self.settings.hosts:
            raise ServiceError(400, "this host name is not served here; see serve-corrdiff --allow-host")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and not _same(origin, headers):
            raise ServiceError(403, "pages of other sites may not use this service")
        if path.startswith("/v1/") and not path.startswith(OPEN):
            _check_key(headers, self.settings.api_key)
        if counted and self.clients > self.settings.clients:
            raise ServiceError(429, f"{self.settings.clients} clients are served already", retry_after=1)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.settings.max_body:
            raise _too_large(self.settings.max_body)


class _Seen:
    """The way out: adds the headers of every answer, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self.send(message)


def _limited(receive: Receive, most: int) -> Receive:
    """A body that is longer than allowed is refused when that is seen, whatever its headers said."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise _too_large(most)
        return message

    return limited


def _too_large(most: int) -> ServiceError:
    return ServiceError(413, f"the body must have {most} bytes or less", expected=f"{most} bytes or less")


def _check_key(headers: Headers, key: str | None) -> None:
    if key is None:
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise ServiceError(401, "an API key is needed, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")


def _name(host: str) -> str:
    """A host name without its port, in small letters."""
    return host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()


def _same(origin: str, headers: Headers) -> bool:
    return origin.partition("://")[2].lower() == headers.get("host", "").lower()
