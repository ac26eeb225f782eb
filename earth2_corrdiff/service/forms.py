# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of ``multipart/form-data``: received on the event loop, taken apart beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from tempfile import SpooledTemporaryFile
from typing import IO, Any

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
HEADERS = 2**13  # bytes of the headers of one part
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1")


async def receive(request: Request) -> IO[bytes]:
    """The body of a request as a file, which the caller closes.

    Raises
    ------
    ServiceError
        422 where it is announced as something else
    OSError
        If there is no place for it
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
    """The array's bytes and the other fields; takes a while, so call it on another thread.

    Raises
    ------
    ServiceError
        422 for what is no such form
    OSError
        If there is no place for it
    """
    try:
        form = _finished(_Parser(headers, _pieces(file), **LIMITS).parse())
    except MultiPartException as error:
        raise _invalid(error.message) from None
    except OSError:
        raise
    except Exception as error:  # whatever a hostile body brings about in its parser
        logger.debug("a form cannot be read: {!r}", error)
        raise _invalid("it cannot be read") from None
    return _parts(form)


class _Parser(MultiPartParser):
    """Starlette's, all in memory, with headers of parts that have a limit."""

    spool_max_size = 2**62

    def on_part_begin(self) -> None:
        """The count begins anew."""
        self._header_bytes = 0
        super().on_part_begin()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Part of a header's name."""
        self._count(end - start)
        super().on_header_field(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Part of a header's value."""
        self._count(end - start)
        super().on_header_value(data, start, end)

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > HEADERS:
            raise MultiPartException(f"the headers of a part exceed {HEADERS} bytes")


async def _pieces(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := file.read(PIECE):
        yield piece


def _finished(work: Coroutine[Any, Any, FormData]) -> FormData:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        form: FormData = stop.value
        return form
    raise AssertionError("the parser waits for something")


def _parts(form: FormData) -> tuple[bytes, dict[str, str]]:
    decode.refuse_unknown([name for name, _ in form.multi_items()])
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    array = files.pop(decode.ARRAY, None)
    for name in files:
        raise wrong(name, "a plain form field", "a file")
    if array is None:
        got = "a plain field (paths and URLs are not opened)" if decode.ARRAY in texts else "nothing"
        raise wrong(decode.ARRAY, "a file part with a npy file", got)
    array.file.seek(0)
    return array.file.read(), texts


def _invalid(said: str) -> ServiceError:
    return ServiceError(422, f"the body is no valid multipart/form-data ({said})")
