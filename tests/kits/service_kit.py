# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the service: a tiny model behind a real socket, and what a client does."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import make_downscaler, make_spec, weather

from earth2_corrdiff import CorrDiff
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.service.app import create_app
from earth2_corrdiff.service.engine import Engine
from earth2_corrdiff.service.listening import listen
from earth2_corrdiff.service.queue import InferRequest, Member, Ticket
from earth2_corrdiff.service.server import Server
from earth2_corrdiff.service.settings import Settings

Array = NDArray[Any]
INFER = "/v1/infer"
EULER = Sampling("euler", 2)


def make_model(spec: CorrDiffSpec | None = None) -> CorrDiff:
    """A tiny model; the same weights every time."""
    return CorrDiff(make_downscaler(spec or make_spec(sampling=EULER)))


@cache
def reference() -> CorrDiff:
    """A model that no service owns."""
    return make_model()


def fields(
    coarse: Array, seeds: Sequence[int], steps: int = 2, solver: str = "euler", model: CorrDiff | None = None
) -> Array:
    """Members without any service: ``[B, C, h, w] → [B, M, Co, H, W]``."""
    downscaler = (model or reference()).downscaler
    sampling = replace(downscaler.sampling, steps=steps, solver=solver)
    return downscaler(torch.tensor(coarse), seeds, sampling=sampling).numpy()


@cache
def states(batch: int = 1, seed: int = 0) -> Array:
    """Weather ``[batch, 3, 6, 8]``; read-only."""
    array = weather(batch, seed).numpy()
    array.flags.writeable = False
    return array


def npy(array: Array, **how: Any) -> bytes:
    """The bytes of a npy file."""
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def untar(data: bytes) -> dict[tuple[int, int], Array]:
    """Members by sample and state, in the order of the tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member_key(m.name): _member(tar, m) for m in tar.getmembers()}


def member_key(name: str) -> tuple[int, int]:
    sample, state = name.removesuffix(".npy").split("_")
    return int(sample), int(state)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Array:
    file = tar.extractfile(member)
    assert file is not None
    return np.load(io.BytesIO(file.read()), allow_pickle=False)


def form(data: bytes, **numbers: Any) -> dict[str, Any]:
    """What httpx needs to post a form."""
    return {"files": {"input_array": ("input.npy", data)}, "data": {k: str(v) for k, v in numbers.items()}}


def check_members(data: bytes, coarse: Array, seed: int, samples: int, **sampling: Any) -> None:
    """The answer holds exactly the members that the model makes without a service, bit for bit."""
    members = untar(data)
    want = fields(coarse, consecutive_seeds(seed, samples), **sampling)
    assert list(members) == [(m, b) for b in range(len(coarse)) for m in range(samples)]
    for (m, b), values in members.items():
        assert values.dtype == np.float32 and np.array_equal(values, want[b, m][None, None])


class Valve:
    """Stands in front of a model's network: lets calls through only as they are allowed.

    Parameters
    ----------
    model : CorrDiff
        Whose denoiser is held up
    """

    def __init__(self, model: CorrDiff) -> None:
        self.allowed, self.seeds = threading.Semaphore(0), list[list[int]]()
        self.entered = threading.Semaphore(0)
        self._residual = model.downscaler.residual
        model.downscaler.residual = self._held  # type: ignore[method-assign]

    def _held(self, cond: Any, mean: Any, seeds: Sequence[int], *how: Any) -> Any:
        self.seeds.append(list(seeds))
        self.entered.release()
        self.allowed.acquire(timeout=30)
        return self._residual(cond, mean, seeds, *how)

    def open(self) -> None:
        """Let everything through from now on."""
        self.allowed.release(100_000)

    def wait(self) -> None:
        """Until the next call has begun."""
        assert self.entered.acquire(timeout=30)


class Inbox:
    """Takes what an engine delivers, for a client that is no web client."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, item: Any) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, number: int) -> list[Any]:
        """The first items, when there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.items) >= number, timeout=30), self.items
            return self.items[:number]

    def members(self, number: int) -> list[tuple[int, int]]:
        """State and sample of the first members."""
        items = self.wait(number)
        assert all(isinstance(item, Member) for item in items), items
        return [(item.case, item.sample) for item in items]


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that no event tells of."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def request(samples: int = 1, batch: int = 1, seed: int = 0, sampling: Sampling = EULER) -> InferRequest:
    """What engines are asked for."""
    return InferRequest(states(batch).copy(), (tuple(consecutive_seeds(seed, samples)),) * batch, sampling)


@contextmanager
def owned(model: CorrDiff | None = None, **limits: Any) -> Iterator[tuple[Engine, Valve]]:
    """A ready engine whose network is held up."""
    model = model or make_model()
    engine = Engine(lambda: model, Settings(**limits))
    engine.start()
    until(lambda: engine.ready or engine.failure)
    valve = Valve(model)
    try:
        yield engine, valve
    finally:
        valve.open()
        engine.close(5)
    assert engine.state == "stopped" and engine.waiting == (0, 0, 0)


def submit(engine: Engine, work: InferRequest) -> tuple[Ticket, Inbox]:
    """A request in the line, and where its members arrive."""
    inbox = Inbox()
    return engine.submit(work, inbox), inbox


def take_all(ticket: Ticket, inbox: Inbox) -> list[tuple[int, int]]:
    """All members of a request, taken one by one."""
    for number in range(1, ticket.request.members + 1):
        inbox.wait(number)
        ticket.sent()
    return inbox.members(ticket.request.members)


def fail_from(model: CorrDiff, number: int) -> None:
    """No memory for this member and those after it."""
    inner, calls = model.downscaler.residual, []

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) >= number:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(*args)

    model.downscaler.residual = failing  # type: ignore[method-assign]


@contextmanager
def running(
    settings: Settings | None = None,
    model: CorrDiff | None = None,
    load: Callable[[], CorrDiff] | None = None,
    ready: bool = True,
) -> Iterator[Service]:
    """A service on a socket of this machine, on a thread of its own."""
    with listen("127.0.0.1", 0) as sock:
        settings, url = settings or Settings(drain_seconds=5), f"http://127.0.0.1:{sock.getsockname()[1]}"
        app = create_app(settings, load or (lambda: model or make_model()))
        server = Server(app, settings.drain_seconds, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        with httpx.Client(base_url=url, timeout=30) as client:
            try:
                until(lambda: server.engine.ready if ready else server.started)
                yield Service(server, client)
            finally:
                server.should_exit = True
                thread.join(30)
    assert not thread.is_alive()


class Service:
    """A service that runs, and a client of it."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self.server, self.client = server, client
        self.engine: Engine = server.engine

    @property
    def port(self) -> int:
        return int(self.client.base_url.port or 0)

    def infer(self, array: Array | bytes, **numbers: Any) -> httpx.Response:
        """One request."""
        data = array if isinstance(array, bytes) else npy(array)
        return self.client.post(INFER, **form(data, **numbers))

    def refused(self, array: Array | bytes, **numbers: Any) -> dict[str, str]:
        """The JSON of a request that is answered 422."""
        answer = self.infer(array, **numbers)
        assert answer.status_code == 422, answer.text
        body: dict[str, str] = answer.json()
        assert set(body) == {"detail", "field", "expected"} and body["expected"] in body["detail"]
        return body

    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return self.engine.waiting == (0, 0, 0)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service that the tests of a module share."""
    with running() as service:
        yield service


def raw(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def head(kind: bytes, length: int) -> bytes:
    lines = (b"POST /v1/infer HTTP/1.1", b"host: x", b"connection: close", b"content-type: " + kind)
    return b"\r\n".join((*lines, b"content-length: %d" % length, b"", b""))


def bytes_of(service: Service, **numbers: Any) -> bytes:
    """A whole request as it goes over the wire."""
    request = service.client.build_request("POST", INFER, **form(npy(states(1)), **numbers))
    body = request.read()
    return head(request.headers["content-type"].encode(), len(body)) + body
