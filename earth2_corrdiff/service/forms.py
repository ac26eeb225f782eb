# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of ``multipart/form-data``: received on the event loop, parsed on another thread.

FastAPI's own forms are parsed on the event loop, where 6 MB of an input would hold up every other client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import IO

from loguru import logger
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from earth2_corrdiff.service import decode
from earth2_corrdiff.service.errors import ServiceError, wrong

LIMITS = {"max_files": 1, "max_fields": len(decode.FIELDS) + 8, "max_part_size": 4096}
IN_MEMORY = 2**20  # bytes of a body while it arrives; what is beyond is on disk
PIECE = 2**16
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1")


async def receive(request: Request) -> IO[bytes]:
    """The body of a request as a file, which the caller closes.

    Raises
    ------
    ServiceError
        422 where the body is declared as something else
    OSError
        If there is no space for it
    """
    check_type(request.headers)
    file: IO[bytes] = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - it is handed on
    try:
        async for piece in request.stream():
            file.write(piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def check_type(headers: Headers) -> None:
    """ServiceError 422 for anything but ``multipart/form-data`` in a charset that forms have."""
    kind = headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise ServiceError(422, "the body must be multipart/form-data", decode.ARRAY, "a file part")
    try:
        charset = parse_options_header(kind)[1].get(b"charset", b"utf-8").decode("ascii")
    except Exception as error:  # whatever a hostile header brings about in its parser
        raise _invalid("its Content-Type with boundary and charset cannot be read") from error
    if charset.lower() not in CHARSETS:
        raise _invalid(f"its charset must be utf-8, got {charset[:40]!r}")


def take_apart(file: IO[bytes], headers: Headers) -> tuple[bytes, dict[str, str]]:
    """The bytes of the array and the texts of the other fields; slow, so call it on another thread.

    Raises
    ------
    ServiceError
        422 for what is not such a form
    OSError
        If there is no space for it
    """
    parser = MultiPartParser(headers, _pieces(file), **LIMITS)
    parser.spool_max_size = 2**62  # all in memory: the caller needs it there
    try:
        return _parts(asyncio.run(parser.parse()))
    except MultiPartException as error:
        raise _invalid(error.message) from None
    except (ServiceError, OSError):
        raise
    except Exception as error:  # whatever a hostile body brings about in its parser
        logger.debug("a form cannot be read: {!r}", error)
        raise _invalid("it cannot be read") from None


async def _pieces(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := file.read(PIECE):
        yield piece


def _parts(form: FormData) -> tuple[bytes, dict[str, str]]:
    decode.check_names([name for name, _ in form.multi_items()])
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    array = files.pop(decode.ARRAY, None)
    for name in files:
        raise wrong(name, "a plain form field", "a file")
    if array is None:
        got = "a plain field (paths and URLs are not opened)" if decode.ARRAY in texts else "nothing"
        raise wrong(decode.ARRAY, "a file part with a npy file", got)
    return array.file.read(), texts


def _invalid(reason: str) -> ServiceError:
    return ServiceError(422, f"the body is not a valid multipart/form-data ({reason})")
