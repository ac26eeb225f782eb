# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The service under strain: full, slow, out of memory, and with clients that misbehave."""

from __future__ import annotations

import errno
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch
from service_kit import (
    EULER,
    Service,
    Valve,
    bytes_of,
    check_members,
    fail_from,
    head,
    make_model,
    raw,
    running,
    service,
    states,
    until,
)
from tiny import make_spec

from earth2_corrdiff.service.settings import Settings

pytestmark = pytest.mark.slow

__all__ = ["service"]


# load and faults


def test_a_full_line_is_answered_429() -> None:
    model = make_model()
    with running(Settings(queue=1), model) as service, ThreadPoolExecutor(1) as pool:
        valve = Valve(model)
        first = pool.submit(service.infer, states(1), seed=0)
        valve.wait()
        answer = service.infer(states(1))
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert service.client.get("/v1/health/ready").status_code == 200
        valve.open()
        check_members(first.result(30).content, states(1), 0, 1)


def test_too_many_clients_are_answered_429() -> None:
    model = make_model()
    with running(Settings(clients=1), model) as service, ThreadPoolExecutor(1) as pool:
        valve = Valve(model)
        first = pool.submit(service.infer, states(1), seed=0)
        valve.wait()
        answer = service.infer(states(1))
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert service.client.get("/v1/metrics").status_code == 200  # never refused
        valve.open()
        assert first.result(30).status_code == 200


def test_too_slow_is_answered_504() -> None:
    model = make_model()
    with running(Settings(seconds=0.2), model) as service:
        valve = Valve(model)
        answer = service.infer(states(1))
        assert answer.status_code == 504 and "longer than the service allows" in answer.json()["detail"]
        valve.open()
        until(service.idle)


def test_out_of_memory_is_answered_503(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    with running(model=model) as service:

        def full(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")

        with monkeypatch.context() as patch:
            patch.setattr(model.downscaler, "residual", full, raising=False)
            answer = service.infer(states(1))
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert "memory" in answer.json()["detail"] and "GiB" not in answer.text
        monkeypatch.undo()
        check_members(service.infer(states(1), seed=6).content, states(1), 6, 1)


def test_a_defect_is_answered_500_without_its_details(service: Service) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("/a/secret/path")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("earth2_corrdiff.service.infer.decode.read_array", broken)
        answer = service.infer(states(1))
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "internal error" in answer.json()["detail"] and answer.headers["x-frame-options"] == "DENY"
    assert service.infer(states(1)).status_code == 200


def test_a_fault_after_the_first_member_breaks_the_answer_off() -> None:
    """The client must see that members are missing: the length is not reached, the tar has no end."""
    model = make_model()
    with running(model=model) as service:
        fail_from(model, 2)
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message"):
            service.infer(states(1), samples=3)
        until(service.idle)
        assert service.client.get("/v1/health/ready").status_code == 200


def raw_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def reset(connection: socket.socket) -> None:
    """Close so that the other end gets an error, as when a client is killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("sent", [0, 3])
@pytest.mark.parametrize("how", [reset, socket.socket.close])
def test_a_client_that_vanishes_frees_its_place(how: Any, sent: int) -> None:
    """While it waits for the first member, or in the middle of its answer."""
    model = make_model()
    with running(Settings(queue=1), model) as service:
        valve = Valve(model)
        connection = raw(service)
        connection.sendall(bytes_of(service, samples=50))
        for _ in range(sent):
            valve.wait()
            valve.allowed.release()
        valve.wait()
        if sent:
            assert connection.recv(12) == b"HTTP/1.1 200"
        how(connection)
        until(service.idle)
        valve.open()
        check_members(service.infer(states(1), seed=3).content, states(1), 3, 1)
        assert len(valve.seeds) <= sent + 2


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    with running(Settings(clients=1)) as service:
        connection = raw(service)
        connection.sendall(bytes_of(service)[:-300])
        until(lambda: service.infer(states(1)).status_code == 429)
        reset(connection)
        until(lambda: service.infer(states(1)).status_code == 200)


def test_no_place_for_an_upload(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("starlette.formparsers.SpooledTemporaryFile", full)
        answer = service.infer(states(1))
    assert answer.status_code == 503 and "no space to store the request" in answer.json()["detail"]
    assert service.infer(states(1)).status_code == 200


def test_a_body_that_never_ends() -> None:
    with running(Settings(seconds=0.3)) as service, raw(service) as connection:
        connection.sendall(head(b"multipart/form-data; boundary=x", 10_000) + b"--x\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ") and b"took too long to arrive" in answer


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    """Neither other clients (its members are made as it takes them) nor the end of the service."""
    big = make_model(make_spec((128, 256), sampling=replace(EULER, steps=1), inference_mode="regression"))
    with raw_socket() as connection, running(Settings(drain_seconds=0.2), model=big) as service:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(bytes_of(service, samples=64))
        assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.3)
        assert service.infer(states(1), samples=2).status_code == 200
        assert service.engine.waiting[0] == 1 and service.engine.waiting[1] > 20
    assert service.engine.state == "stopped" and service.engine.waiting == (0, 0, 0)
