# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""HTML pages that work offline: the web page, and the OpenAPI document as one page without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

EXAMPLE = """serve-corrdiff --package demo --write-example input.npy   # for the package that is served
curl -F input_array=@input.npy -F samples=2 -F steps=12 -F seed=0 -o members.tar {url}/v1/infer
curl {url}/v1/metadata"""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1f24}
h2{margin-top:2.5rem;border-top:1px solid #ccd2da;padding-top:1rem;font-size:1.15rem}
code,pre{font:0.9em/1.4 ui-monospace,monospace}
pre{background:#f2f4f7;padding:.8rem;overflow-x:auto;border-radius:4px}
table{border-collapse:collapse;width:100%;margin:.6rem 0 1.2rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #e3e7ec}
td:first-child{white-space:nowrap;width:1%}
b.get{color:#0b5fa5}b.post{color:#1a7f37}b.delete{color:#b3261e}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
DOCS_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def add_pages(app: FastAPI) -> None:
    """Add the web page at ``/`` and the documentation at ``/docs``; neither needs a key."""
    app.include_router(_web_page())

    @app.get("/docs", include_in_schema=False)
    async def documentation(request: Request) -> HTMLResponse:
        example = EXAMPLE.format(url=str(request.base_url).rstrip("/"))
        content = documentation_page(app.openapi(), example)
        return HTMLResponse(content, headers={"content-security-policy": DOCS_POLICY})


def _web_page() -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    page = StaticFiles(packages=[("earth2_corrdiff.service", "page")])

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return await file("index.html", request)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def part(name: str, request: Request) -> Response:
        if name == "index.html":  # it has one address
            raise HTTPException(404)
        return await file(name, request)

    async def file(name: str, request: Request) -> Response:
        answer = await page.get_response(name, request.scope)
        answer.headers.update({"cache-control": "no-cache", "content-security-policy": PAGE_POLICY})
        if name.endswith(".js"):  # what Python takes for a script's type depends on its version
            answer.headers["content-type"] = "text/javascript; charset=utf-8"
        return answer

    return routes


def documentation_page(document: dict[str, Any], example: str) -> str:
    """The page of an OpenAPI document.

    Parameters
    ----------
    document : dict
        From FastAPI
    example : str
        Shell commands, shown first
    """
    title, schemas = escape(document["info"]["title"]), document["components"]["schemas"]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>',
        f"<h1>{title}</h1><p>{_text(document['info']['description'])}</p>",
        f"<pre>{escape(example)}</pre>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a> (OpenAPI).</p>',
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method, path, operation, schemas)
    return "\n".join([*parts, "</html>"])


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f'<h2><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code></h2>'
    yield f"<p>{_text(operation.get('description') or operation.get('summary', ''))}</p>"
    rows = [
        (item["name"], f"{item['in']}; {_kind(item.get('schema', {}))}", item.get("description", ""))
        for item in operation.get("parameters", [])
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        for name, field in schema["properties"].items():
            needed = "required" if name in schema.get("required", ()) else "optional"
            what = f"{kind.partition('/')[2]}; {needed}; {_kind(field)}"
            rows.append((name, what, field.get("description", "")))
    yield from _table(rows)
    yield from _table([(status, it["description"], "") for status, it in operation["responses"].items()])


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kinds = [_kind(one) for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    kind = " or ".join(kinds) or str(schema.get("format", schema.get("type", "")))
    item = f" of {_kind(schema['items'])}" if "items" in schema else ""
    default = f", by default {schema['default']}" if schema.get("default") else ""
    return f"{kind}{item}{default}"


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield "<table>"
    for name, kind, what in rows:
        cells = f"<td><code>{escape(name)}</code></td><td>{_text(kind)}</td>"
        yield f"<tr>{cells}<td>{_text(what)}</td></tr>" if what else f"<tr>{cells}</tr>"
    yield "</table>"


def _text(markdown: str) -> str:
    """HTML of plain text with code between backticks; FastAPI takes descriptions from docstrings."""
    parts = escape(markdown.replace("``", "`")).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
