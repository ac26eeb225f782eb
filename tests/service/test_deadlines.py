# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One client cannot stop the service: deadlines, shares, and limits of what it sends in which pieces."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from job_kit import ROOT, JobService
from matplotlib.figure import Figure
from run_kit import load
from service_kit import (
    EULER,
    INFER,
    Service,
    Valve,
    bytes_of,
    form,
    head,
    make_model,
    npy,
    raw,
    running,
    service,
    states,
    until,
)
from tiny import make_spec, small_package

from earth2_corrdiff import CorrDiff, plotting
from earth2_corrdiff.service import connection, forms, jobs_api, security
from earth2_corrdiff.service.job_fields import opened
from earth2_corrdiff.service.security import JSON
from earth2_corrdiff.service.settings import Settings

pytestmark = pytest.mark.slow

__all__ = ["service"]
POST = b"POST /v1/downscale HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def rest(client: socket.socket) -> bytes:
    """Everything until the service ends the connection."""
    found = b""
    try:
        while piece := client.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    for name in connection.SECONDS:
        monkeypatch.setitem(connection.SECONDS, name, 0.2)
    monkeypatch.setattr(security, "ANSWER_SECONDS", 0.3)


# reading


@pytest.mark.parametrize("sent", [b"", b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n", b"\x00"], ids=len)
def test_a_head_that_never_ends(brief: None, service: Service, sent: bytes) -> None:
    with raw(service) as client:
        client.sendall(sent)
        assert rest(client) in (b"",) or sent == b"\x00"


def test_the_next_head_on_a_connection_that_never_ends(brief: None, service: Service) -> None:
    """Uvicorn's own clock for idle connections stops at the first byte."""
    with raw(service) as client:
        client.sendall(b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"GET /v1/health/live HTT")
        assert rest(client).endswith(b'{"status":"live"}')


@pytest.mark.parametrize("length", [b"content-length: 9", b"transfer-encoding: chunked"])
def test_json_that_never_ends(length: bytes) -> None:
    with running(Settings(seconds=0.3)) as service, raw(service) as client:
        client.sendall(
            POST + length + b"\r\nconnection: close\r\n\r\n" + (b"" if b"chunk" in length else b"{")
        )
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"took too long to arrive" in answer


def test_what_never_comes_after_the_answer(brief: None, service: Service) -> None:
    """The answer is there before the body is: the rest is not waited for."""
    with raw(service) as client:
        client.sendall(POST + b"content-length: 99999999\r\n\r\n{")
        assert rest(client).startswith(b"HTTP/1.1 413 ")


def test_json_has_a_limit_of_its_own(service: Service) -> None:
    how = {"headers": {"content-type": "application/json"}}
    for body in (b"[" + b"[]," * JSON + b"]", iter([b" " * JSON, b"{}"])):
        answer = service.client.post(ROOT, content=body, **how)
        assert answer.status_code == 413 and answer.json()["expected"] == "65536 bytes or less"
    assert service.client.post(ROOT, content=b" " * (JSON - 2) + b"{}", **how).status_code == 422
    assert service.client.post(INFER, content=b"[" * JSON * 2, **how).status_code == 422


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("path", [INFER, ROOT])
def test_chunks_of_one_byte_are_refused_when_there_are_too_many(service: Service, path: str) -> None:
    kind = b"multipart/form-data; boundary=x" if path == INFER else b"application/json"
    start = head(kind, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    start = start.replace(INFER.encode(), path.encode())
    with raw(service) as client:
        client.sendall(start + chunked(bytes(20_000), 1))
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"small chunks" in answer
    until(service.idle)


@pytest.mark.parametrize(
    ("path", "host", "early"),
    [(INFER, "localhost", 422), (ROOT, "localhost", None), ("/v1/nope", "localhost", 404), (INFER, "x", 400)],
)
@pytest.mark.parametrize("answered", [False, True])
def test_a_body_in_broken_chunks_leaves_one_line(
    caplog: pytest.LogCaptureFixture, path: str, host: str, early: int | None, answered: bool
) -> None:
    """Whether they come before or after what the application answers from the head alone, where it does."""
    start = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    start += "transfer-encoding: chunked\r\n\r\n"
    with running(Settings(hosts=("localhost",))) as service, raw(service) as client:
        client.sendall(start.encode() + (b"" if answered else b"ZZ\r\n"))
        found = client.recv(12) if answered and early else b""
        if answered:
            client.sendall(b"ZZ\r\n")
        found += rest(client)
    assert found.startswith(b"HTTP/1.1 %d " % (early if answered and early else 400))
    assert found.count(b"HTTP/1.1 ") == 1
    assert [record.message for record in caplog.records] == ["Invalid HTTP request received."]


def test_chunks_of_a_fair_size_are_taken(service: Service) -> None:
    request = service.client.build_request("POST", INFER, **form(npy(states(1)), seed=1))
    body = request.read()
    start = head(request.headers["content-type"].encode(), 0)
    start = start.replace(b"content-length: 0", b"transfer-encoding: chunked")
    for size in (7, len(body)):
        with raw(service) as client:
            client.sendall(start + chunked(body, size))
            assert rest(client).startswith(b"HTTP/1.1 200 ")


def test_more_connections_than_there_may_be(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silent ones go, those that ask do not."""
    monkeypatch.setattr(connection, "MOST", 8)
    silent = [raw(service) for _ in range(20)]
    assert httpx.get(f"{service.client.base_url}/v1/health/live", timeout=30).status_code == 200
    assert sum(rest_or_open(client) for client in silent) <= 8
    for client in silent:
        client.close()


def rest_or_open(client: socket.socket) -> bool:
    """Whether a connection is still open."""
    client.settimeout(0.2)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


# writing


def test_an_answer_that_is_not_taken_is_given_up(brief: None) -> None:
    big = make_model(make_spec((128, 256), sampling=replace(EULER, steps=1), inference_mode="regression"))
    with running(model=big) as service, raw(service) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(bytes_of(service, samples=64))
        assert client.recv(12) == b"HTTP/1.1 200" and not service.idle()
        until(service.idle)  # although it has not read more
        with pytest.raises(ConnectionResetError):
            while client.recv(65536):
                pass


# shares


def test_half_a_body_takes_no_place_of_others() -> None:
    with running(Settings(clients=1)) as service, raw(service) as client:
        client.sendall(POST + b"content-length: 9\r\n\r\n{")
        until(lambda: service.client.post(ROOT, json={}).status_code == 429)
        assert service.client.get("/v1/metadata").status_code == 200
        assert service.client.get("/v1/metrics").status_code == 200


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def held(package: Path, tmp_path: Path) -> Iterator[tuple[JobService, Valve]]:
    """A service whose jobs do not go on, with places for two streams."""
    model: CorrDiff = load(package)
    valve = Valve(model)
    valve.allowed.release()
    settings = Settings(jobs=tmp_path / "jobs", drain_seconds=1, streams=2, seconds=300)
    with running(settings, model) as service:
        valve.wait()
        try:
            yield JobService(service), valve
        finally:
            valve.open()


def test_streams_have_places_of_their_own(held: tuple[JobService, Valve]) -> None:
    service, valve = held
    job = service.start(samples=1)
    path = f"{ROOT}/{job}/events"
    with service.client.stream("GET", path), service.client.stream("GET", path):
        answer = service.client.get(path)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert service.client.get(f"{ROOT}/{job}/store.zip").status_code == 429
        assert service.state(job) == "running" and service.client.get("/v1/metadata").status_code == 200
        assert service.post(time="never").status_code == 422
    valve.open()
    assert service.ended(job)["state"] == "done"
    until(lambda: service.get(job, "/store.zip").status_code == 200)


def test_a_stream_ends_and_is_taken_up_again(package: Path, tmp_path: Path) -> None:
    model = load(package)
    valve = Valve(model)
    valve.allowed.release()
    with running(Settings(jobs=tmp_path / "jobs", drain_seconds=1, seconds=0.5), model) as running_service:
        valve.wait()
        service = JobService(running_service)
        job = service.start(samples=1)
        assert {event.kind for event in service.events(job)} == {"progress"}  # it ends without an end
        valve.open()
        service.ended(job)
        assert service.events(job)[-1].kind == "done"


# off the event loop


def test_nothing_is_taken_apart_or_drawn_on_the_event_loop(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, str] = {}

    def noting(what: str, function: Any) -> Any:
        def noted(*args: Any, **how: Any) -> Any:
            threads[what] = threading.current_thread().name
            return function(*args, **how)

        return noted

    for owner, name in (
        *((forms, "take_apart"), (forms.decode, "read_array"), (plotting, "plot_lowres")),
        *((jobs_api, "overview"), (jobs_api.job_fields, "values"), (jobs_api.job_fields, "point")),
    ):
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))
    jobs_api._drawn.cache_clear()
    opened.cache_clear()
    with running(Settings(jobs=tmp_path / "jobs"), load(package)) as running_service:
        service = JobService(running_service)
        assert running_service.infer(states(1)).status_code == 200
        job = service.done(samples=1)
        (figure, *_) = service.get(job).json()["links"]["figures"]
        for path in (figure, *(f"{ROOT}/{job}/{rest}" for rest in ("fields", "fields/t2m"))):
            assert service.client.get(path).status_code == 200
        assert service.get(job, "/points/t2m", row=0, column=0).status_code == 200
    assert {name: thread.partition("_")[0] for name, thread in threads.items()} == {
        "take_apart": "corrdiff-reader",
        "read_array": "corrdiff-reader",
        "plot_lowres": "corrdiff-drawing",
        "overview": "corrdiff-reading",
        "values": "corrdiff-reading",
        "point": "corrdiff-reading",
    }


def test_figures_that_wait_hold_up_nothing_else(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where more are asked for than there are threads."""
    go = threading.Event()

    def slow(*_: Any) -> Figure:
        assert go.wait(60)
        return Figure(figsize=(0.1, 0.1))

    monkeypatch.setattr(plotting, "plot_member", slow)
    jobs_api._drawn.cache_clear()
    with running(Settings(jobs=tmp_path / "jobs"), load(package)) as running_service:
        service = JobService(running_service)
        job = service.done(samples=20)
        statuses: list[int] = []
        links = [link for link in service.get(job).json()["links"]["figures"] if "sample" in link]
        asking = [
            threading.Thread(target=lambda link=link: statuses.append(service.client.get(link).status_code))
            for link in links
        ]
        for thread in asking:
            thread.start()
        until(lambda: statuses.count(429) == len(links) - 16)
        assert service.state(job) == "done" and service.get(job, "/fields").status_code == 200
        assert json.loads(service.client.get("/openapi.json").text)
        go.set()
        for thread in asking:
            thread.join(60)
    jobs_api._drawn.cache_clear()
    assert statuses.count(200) == 16
