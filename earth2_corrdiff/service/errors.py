# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception of the service: an answer that is not the one that was hoped for."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from loguru import logger
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

GONE = 499  # the client has left before it was answered: as web servers log it


class ServiceError(HTTPException):
    """A request that is answered with an HTTP status of 400 or more.

    Parameters
    ----------
    status : int
        HTTP status
    detail : str
        One sentence: what is wrong, what was got, what to do
    field : str | None, optional
        Field of the request that is at fault
    expected : str | None, optional
        What that field takes
    retry_after : int | None, optional
        Seconds after which another try may do better
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
    """The answer to a field that cannot be used: 422, with what it takes and what it was."""
    text = str(got)
    text = text if len(text) <= 80 else f"{text[:80]}…"
    return ServiceError(422, f"{field} must be {expected}, got {text}", field, expected)


def internal(error: BaseException) -> ServiceError:
    """The answer to a defect of this package: an id for the client, everything else for the log."""
    number = uuid4().hex[:12]
    logger.opt(exception=error).error("internal error {}", number)
    return ServiceError(500, f"internal error {number}; the log of the service has more")


def answer(error: HTTPException) -> JSONResponse:
    """An error as ``{"detail": …}``, with the field at fault and what it takes where there is one."""
    headers, body = dict(error.headers or {}), {"detail": str(error.detail)}
    if isinstance(error, ServiceError):
        said: dict[str, Any] = {"field": error.field, "expected": error.expected}
        body |= {key: value for key, value in said.items() if value is not None}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
    if error.status_code == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, error.status_code, headers)
