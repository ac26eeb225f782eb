# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of jobs and of the page: a service with a tiny package, and what its clients do."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from run_kit import TIMES, load
from service_kit import Service, running

from earth2_corrdiff import CorrDiff, downscale, make_source
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.service.settings import Settings

ROOT = "/v1/downscale"
COMMAND = "POST /v1/downscale"
ORDER: dict[str, Any] = {"time": TIMES[0], "samples": 2, "seed": 7}
CALLS = 3  # network evaluations of a member: heun with two steps


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    kind: str
    id: str
    data: dict[str, Any]


class JobService:
    """A service that runs, and what a client does with jobs."""

    def __init__(self, service: Service) -> None:
        self.service, self.client = service, service.client
        self.tokens: dict[str, str] = {}

    def post(self, **order: Any) -> httpx.Response:
        """Ask for a job."""
        return self.client.post(ROOT, json=order)

    def start(self, **order: Any) -> str:
        """The id of a job that is accepted; ``ORDER`` with changes."""
        answer = self.post(**{**ORDER, **order})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == answer.json()["links"]["self"] == f"{ROOT}/{answer.json()['id']}"
        document = answer.json()
        self.tokens[document["id"]] = document["token"]
        return str(document["id"])

    def remove(self, job: str) -> int:
        """The status of the answer to its owner's wish to be rid of a job."""
        return self.client.delete(f"{ROOT}/{job}", headers={"x-job-token": self.tokens[job]}).status_code

    def get(self, job: str, path: str = "", **query: Any) -> httpx.Response:
        """What there is below a job."""
        return self.client.get(f"{ROOT}/{job}{path}", params=query)

    def state(self, job: str) -> str:
        """Of a job."""
        return str(self.get(job).json()["state"])

    def ended(self, job: str) -> dict[str, Any]:
        """The document of a job once it has ended."""
        end = time.monotonic() + 60
        while (document := dict(self.get(job).json()))["state"] in ("queued", "running"):
            assert time.monotonic() < end, document
            time.sleep(0.03)
        return document

    def done(self, **order: Any) -> str:
        """The id of a job that is done."""
        job = self.start(**order)
        document = self.ended(job)
        assert document["state"] == "done", document
        return job

    def refused(self, status: int = 422, /, **order: Any) -> dict[str, str]:
        """The answer to an order that must be refused."""
        answer = self.post(**order)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def events(self, job: str, seen: str | None = None) -> list[Event]:
        """All events until the stream ends."""
        headers = {} if seen is None else {"last-event-id": seen}
        with self.client.stream("GET", f"{ROOT}/{job}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            return list(read_events(answer))

    def unzipped(self, job: str, folder: Path) -> Path:
        """The store of a job that is done, in a folder."""
        answer = self.get(job, "/store.zip")
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            archive.extractall(folder)
        return folder

    def field(self, job: str, quantity: str, **query: Any) -> NDArray[np.float32]:
        """One field ``[H, W]``."""
        answer = self.get(job, f"/fields/{quantity}", **query)
        assert answer.status_code == 200, answer.text
        shape = tuple(map(int, answer.headers["x-corrdiff-shape"].split(",")))
        return np.frombuffer(answer.content, "<f4").reshape(shape)


def read_events(answer: httpx.Response) -> Iterator[Event]:
    """The events of a stream as they come."""
    said: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            said[name] = value
        elif "data" in said:
            yield Event(said["event"], said["id"], json.loads(said["data"]))
            said = {}
        else:
            said = {}


@contextmanager
def serving(folder: Path, model: CorrDiff, **settings: Any) -> Iterator[JobService]:
    """A service with its jobs in a folder."""
    chosen = Settings(**{"jobs": folder / "jobs", "drain_seconds": 5, **settings})
    with running(chosen, model) as service:
        yield JobService(service)


def by_command(folder: Path, package: Path, times: Any = TIMES[0], source: str = "demo", **what: Any) -> Path:
    """The store that a run without a service writes for ``ORDER`` with changes."""
    settings = {"number_of_samples": ORDER["samples"], **what}
    options = Options(seed=settings.pop("seed", ORDER["seed"]), command=COMMAND)
    downscale(times, load(package, **settings), make_source(source), folder, options=options)
    return folder
