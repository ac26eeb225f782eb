# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals of the service: their exception, their JSON answer, and their description in OpenAPI."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from loguru import logger
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

GONE = 499  # the client left before it was answered: as web servers log it
MEANING = {
    400: "The host name, or the request as such, is not accepted",
    401: "The API key is missing or wrong",
    403: "The request comes from a page of another site, or the token of the job is missing or wrong",
    404: "It does not exist",
    408: "The request took too long to arrive",
    409: "The job is not done",
    413: "The body is too large",
    422: "A field is missing or cannot be used",
    429: "Too many requests are waiting; see the header Retry-After",
    500: "A defect of the service; the answer has an id for its log",
    503: "Not ready, stopping, or out of memory; see the header Retry-After",
    504: "The request took longer than the service allows",
}
Responses = dict[int | str, dict[str, Any]]
"""OpenAPI responses by their status, as FastAPI takes them."""


class Fault(BaseModel):
    """The JSON answer to a request that is refused or fails."""

    detail: str = Field(description="what is wrong, what was found, what to do")
    field: str | None = Field(None, description="field of the request that is at fault")
    expected: str | None = Field(None, description="what that field takes")


class ServiceError(HTTPException):
    """A request that is answered with an HTTP status of 400 or more.

    Parameters
    ----------
    status : int
        HTTP status
    detail : str
        One sentence: what is wrong, what was found, what to do
    field : str | None, optional
        Field of the request that is at fault
    expected : str | None, optional
        What that field takes
    retry_after : int | None, optional
        Seconds after which another try may succeed
    """

    def __init__(
        self,
        status: int,
        detail: str,
        field: str | None = None,
        expected: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.field, self.expected, self.retry_after = field, expected, retry_after

    def __str__(self) -> str:
        return self.detail


def wrong(field: str, expected: str, got: object) -> ServiceError:
    """Status 422 for a field that cannot be used, with what it takes and what was found."""
    text = str(got)
    text = text if len(text) <= 80 else f"{text[:80]}…"
    return ServiceError(422, f"{field} must be {expected}, got {text}", field, expected)


def internal(error: BaseException) -> ServiceError:
    """Status 500 for a defect of this package: an id for the client, everything else for the log."""
    number = uuid4().hex[:12]
    logger.opt(exception=error).error("internal error {}", number)
    return ServiceError(500, f"internal error {number}; the log of the service has more")


def answer(error: HTTPException) -> JSONResponse:
    """The answer to a request that ends with an error; see `Fault`."""
    headers, body = dict(error.headers or {}), {"detail": str(error.detail)}
    if isinstance(error, ServiceError):
        details = {"field": error.field, "expected": error.expected}
        body |= {name: text for name, text in details.items() if text is not None}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
    if error.status_code == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, error.status_code, headers)


def faults(*statuses: int) -> Responses:
    """OpenAPI responses of these statuses."""
    return {status: {"description": MEANING[status], "model": Fault} for status in statuses}


def file_answer(media_type: str, description: str = "The file", **more: Any) -> Responses:
    """The OpenAPI response 200 of a route that answers with a file."""
    schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
    return {200: {"description": description, "content": {media_type: {"schema": schema}}, **more}}
