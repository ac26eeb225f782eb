# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The web page: a few files of this package, and no others."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router() -> APIRouter:
    """The routes of the page, which need no key: what it shows does."""
    routes = APIRouter(include_in_schema=False)
    folder = files("earth2_corrdiff.service") / "page"
    for file in folder.iterdir():
        ending = file.name.rpartition(".")[2]
        if ending in TYPES:
            place = "/" if file.name == "index.html" else f"/page/{file.name}"
            _serve(routes, place, file.read_bytes(), TYPES[ending])
    return routes


def _serve(routes: APIRouter, place: str, content: bytes, kind: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": POLICY}

    @routes.api_route(place, methods=["GET", "HEAD"])
    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)
