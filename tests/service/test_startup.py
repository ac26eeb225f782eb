# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Who answers while the service is imported, from the moment the port accepts."""

from __future__ import annotations

import ast
import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from service_kit import make_model, running, until

from earth2_corrdiff.service import startup
from earth2_corrdiff.service.app import create_app
from earth2_corrdiff.service.listening import bind
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.service.startup import DETAIL, StartupAnswers


@contextmanager
def opened() -> Iterator[tuple[StartupAnswers, str, socket.socket]]:
    """A door, its address, and its socket."""
    with bind("127.0.0.1", 0) as sock:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(sock.getsockname()).close()
        with StartupAnswers(sock) as door:
            yield door, f"http://127.0.0.1:{sock.getsockname()[1]}", sock


@pytest.mark.slow
def test_it_says_what_the_service_would() -> None:
    with opened() as (_, url, _), running(load=lambda: until_ready(), ready=False) as service:
        for path in ("/v1/health/live", "/v1/health/live?x=1", "/v1/health/ready", "/v1/metadata"):
            early, late = (httpx.get(base + path, timeout=30) for base in (url, str(service.client.base_url)))
            assert (early.status_code, early.json()) == (late.status_code, late.json()), path
            assert early.headers.get("retry-after") == late.headers.get("retry-after")
            assert early.headers["cache-control"] == "no-store"
        loading.append(1)


loading: list[int] = []


def until_ready() -> object:
    until(lambda: bool(loading))
    return make_model()


def test_anything_else_is_told_to_wait() -> None:
    with opened() as (_, url, sock):
        answer = httpx.post(f"{url}/v1/infer", content=bytes(2**20), timeout=30)
        assert answer.status_code == 503 and answer.json() == {"detail": DETAIL}
        for nonsense in (b"\r\n\r\n", b"GET\r\n\r\n", bytes(100) + b"\r\n\r\n", b"x" * 2**18):
            with socket.create_connection(
                (url.split("/")[2].split(":")[0], int(url.rsplit(":")[-1]))
            ) as client:
                client.sendall(nonsense)
        assert httpx.get(f"{url}/v1/health/live", timeout=30).status_code == 200


def test_the_service_takes_over_on_the_same_socket() -> None:
    """The door ends by itself, and whoever comes then is the service's."""
    with opened() as (door, url, sock):
        assert httpx.get(f"{url}/v1/health/live", timeout=30).status_code == 200
        sock.listen(16)
        door.close()
        process = door._process
        until(lambda: process is not None and process.poll() == 0)
        sock.settimeout(30)
        with socket.create_connection(sock.getsockname(), timeout=30) as late:
            served, _ = sock.accept()
            served.close()
            assert late.recv(1) == b""


def test_it_ends_with_the_service(tmp_path: Path) -> None:
    """Also where that is killed: its end of the line is closed then."""
    with opened() as (door, url, _):
        process = door._process
        assert process is not None and httpx.get(f"{url}/v1/health/live", timeout=30).status_code == 200
        process.send_signal(2)
        process.send_signal(15)
        time.sleep(0.1)
        assert process.poll() is None  # signals to the group are the service's
    assert process.returncode == 0


def test_a_port_that_another_one_took_meanwhile() -> None:
    """Two sockets can have one address as long as neither listens."""
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        second.listen(1)
        with pytest.raises(OSError, match="in use") as caught:
            StartupAnswers(first)
        assert caught.value.errno == errno.EADDRINUSE


def test_it_needs_nothing_but_the_standard_library() -> None:
    """Or it could not answer before the service can."""
    tree = ast.parse(Path(startup.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_the_document_is_made_before_anybody_asks() -> None:
    assert create_app(Settings(), make_model).openapi_schema is not None
