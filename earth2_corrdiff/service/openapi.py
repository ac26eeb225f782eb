# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the OpenAPI document says of requests, beyond what FastAPI finds out by itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

FAULT = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {"type": "string", "description": "what is wrong, what was got, what to do"},
        "field": {"type": "string", "description": "field of the request that is at fault"},
        "expected": {"type": "string", "description": "what that field takes"},
    },
}
MEANING = {
    400: "The host name, or the request as such, is not accepted",
    401: "The API key is missing or wrong",
    403: "A page of another site has asked",
    404: "There is no such thing",
    408: "The request took too long to arrive",
    413: "The body is too large",
    422: "A field is missing or cannot be used",
    429: "Too many requests are waiting; see the header Retry-After",
    500: "A defect of the service; the answer has an id for its log",
    503: "Not ready, stopping, or out of memory; see the header Retry-After",
    504: "The request took longer than the service allows",
}


def own_version() -> str:
    """Of this package; ``unknown`` in a checkout that is not installed."""
    try:
        return version("earth2-corrdiff")
    except PackageNotFoundError:
        return "unknown"


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses."""
    content = {"application/json": {"schema": FAULT}}
    return {status: {"description": MEANING[status], "content": content} for status in statuses}


def _number(what: str, **more: Any) -> dict[str, Any]:
    return {"type": "integer", "description": what, **more}


_FORM = {
    "type": "object",
    "required": ["input_array"],
    "additionalProperties": False,
    "properties": {
        "input_array": {
            "type": "string",
            "format": "binary",
            "description": "npy file, float32 `(batch, variables, h, w)` or `(1, batch, variables, h, w)`, "
            "in physical units; variables and grid as in /v1/metadata",
        },
        "samples": _number("members per state", minimum=1, default=1),
        "steps": _number("steps of the solver; by default the package's", minimum=1),
        "seed": _number("of the ensemble; by default one is drawn, see the header x-corrdiff-seed"),
        "solver": {"type": "string", "description": "euler, heun, stochastic, dpmpp_2m or trigflow"},
        "time": {
            "type": "string",
            "description": "valid time, UTC, as 2024-07-24T12:00; for several states as many, with commas. "
            "With it the members are those of run-corrdiff for this seed and time",
        },
        "lead_time": {
            "type": "string",
            "description": "lead time in hours, as 6 or 90min, one for each state; needed by packages that "
            "were trained with lead times (see /v1/metadata). `time` is the valid time all the same",
        },
    },
}
_TAR = {
    "description": "A tar of `{sample:03d}_{batch:03d}.npy`, float32 `(1, 1, variables, H, W)`",
    "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {"x-corrdiff-seed": {"schema": {"type": "integer"}, "description": "seed of the ensemble"}},
}
INFER: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
    },
    "responses": {200: _TAR, **faults(400, 401, 403, 408, 413, 422, 429, 500, 503, 504)},
}
"""For the route of ``/v1/infer``."""
