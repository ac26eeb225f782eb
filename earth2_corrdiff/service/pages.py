# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document as one plain page: no script, nothing from elsewhere, so that it works offline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

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
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def page(document: dict[str, Any], example: str) -> str:
    """The page of an OpenAPI document.

    Parameters
    ----------
    document : dict
        As FastAPI makes it
    example : str
        Shell commands that are shown on top
    """
    title, schemas = escape(document["info"]["title"]), document.get("components", {}).get("schemas", {})
    operations = [
        piece
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for piece in _operation(method, path, operation, schemas)
    ]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>',
            f"<h1>{title}</h1><p>{_text(document['info'].get('description', ''))}</p>",
            f"<pre>{escape(example)}</pre>",
            '<p>For programs: <a href="/openapi.json">openapi.json</a> (OpenAPI).</p>',
            *operations,
            "</html>",
        ]
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f'<h2><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code></h2>'
    yield f"<p>{_text(operation.get('description') or operation.get('summary', ''))}</p>"
    rows = [
        (item["name"], f"{item['in']}; {_kind(item.get('schema', {}))}", item.get("description", ""))
        for item in operation.get("parameters", [])
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        for name, field in schema.get("properties", {}).items():
            needed = "required" if name in schema.get("required", ()) else "optional"
            what = f"{kind.partition('/')[2]}; {needed}; {_kind(field)}"
            rows.append((name, what, field.get("description", "")))
    yield from _table(rows)
    answers = [(status, said["description"], "") for status, said in operation["responses"].items()]
    yield from _table(answers)


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
    """Plain text with its code between backticks; FastAPI takes descriptions from docstrings."""
    parts = escape(markdown.replace("``", "`")).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
