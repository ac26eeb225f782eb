# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Many clients, many requests, and requests that nobody thought of."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_kit import INFER, Service, check_members, form, make_model, npy, running, service, states
from tiny import make_spec

from earth2_corrdiff.service.queue import InferRequest, Member, Row, Ticket
from earth2_corrdiff.service.settings import Settings

pytestmark = pytest.mark.slow
__all__ = ["service"]
CLIENTS, REQUESTS = 16, 80
Check = Callable[[httpx.Response], None]


def good(rng: np.random.Generator) -> tuple[dict[str, Any], Check]:
    """A request, and what checks its answer."""
    x = states(int(rng.integers(1, 3)), int(rng.integers(5)))
    what = {"steps": int(rng.integers(1, 4)), "solver": str(rng.choice(["euler", "heun"]))}
    seed, samples = int(rng.integers(1000)), int(rng.integers(1, 3))

    def check(answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        check_members(answer.content, x, seed, samples, **what)

    return form(npy(x if rng.random() < 0.5 else x[None]), seed=seed, samples=samples, **what), check


def bad(rng: np.random.Generator) -> tuple[dict[str, Any], Check]:
    """A request that is refused, and the field that is at fault."""
    x = states(1)
    data, numbers, field = [
        (npy(x[..., :-1]), {}, "input_array"),
        (npy(np.full_like(x, np.nan)), {}, "input_array"),
        (npy(x)[: int(rng.integers(1, 700))], {}, "input_array"),
        (rng.bytes(500), {}, "input_array"),
        (npy(x), {"samples": 65 + int(rng.integers(100))}, "samples"),
        (npy(x), {"steps": -int(rng.integers(5))}, "steps"),
        (npy(x), {"seed": "NaN"}, "seed"),
        (npy(x), {"time": "never"}, "time"),
    ][int(rng.integers(8))]

    def check(answer: httpx.Response) -> None:
        assert answer.status_code == 422 and answer.json()["field"] == field, answer.text

    return form(data, **numbers), check


def test_many_requests_from_sixteen_clients() -> None:
    """Nothing is lost and nothing mixed up: every member is the one that its request asked for."""
    rng = np.random.default_rng(0)
    asked = [(good if rng.random() < 0.6 else bad)(rng) for _ in range(REQUESTS)]
    with running(Settings(queue=CLIENTS, max_batch=4)) as service, ThreadPoolExecutor(CLIENTS) as pool:
        post = partial(service.client.post, INFER)
        answers = list(pool.map(lambda request: post(**request[0]), asked))
        text = service.client.get("/v1/metrics").text
        assert service.idle()
    for (_, check), answer in zip(asked, answers, strict=True):
        check(answer)
    refused = sum(answer.status_code == 422 for answer in answers)
    assert f'route="/v1/infer",status="200"}} {REQUESTS - refused}.0' in text and 20 < refused < 45
    assert f'route="/v1/infer",status="422"}} {refused}.0' in text


def held() -> int:
    """Requests and members that something still refers to."""
    gc.collect()
    return sum(type(item) in (Ticket, InferRequest, Row, Member) for item in gc.get_objects())


def test_memory_is_flat_over_hundreds_of_requests() -> None:
    spec = make_spec((32, 32), invariants=False, inference_mode="regression")
    size, request, before = [], form(npy(states(1)), samples=1), held()
    with running(model=make_model(spec)) as service:
        for number in range(401):
            assert service.client.post(INFER, **request).status_code == 200
            if number in (100, 400):
                gc.collect()
                size.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert held() == before
    assert size[1] - size[0] < 1.5 * 2**20  # 5 kB a request, which brings and takes 10


# requests that nobody thought of


MINE = (
    "POST /v1/infer",
    "GET /v1/health/live",
    "GET /v1/health/ready",
    "GET /v1/metadata",
    "GET /v1/grid/{which}/{axis}.npy",
    "GET /v1/metrics",
)


@pytest.mark.parametrize("label", MINE)
def test_the_interface_is_what_its_document_says(service: Service, label: str) -> None:
    """No answer of 500 or more, and none that the document does not know."""
    schemathesis = pytest.importorskip("schemathesis", reason="the fuzzing of the interface needs it")
    hypothesis = pytest.importorskip("hypothesis")
    checks = pytest.importorskip("schemathesis.specs.openapi.checks")
    schema = schemathesis.openapi.from_url(f"{service.client.base_url}/openapi.json")
    operation = next(found.ok() for found in schema.get_all_operations() if found.ok().label == label)

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(max_examples=15, deadline=None, derandomize=True, database=None)
    def check(case: Any) -> None:
        answer = case.call()
        assert answer.status_code < 500
        # A schema cannot say what a npy file is: what it allows may be refused.
        case.validate_response(answer, excluded_checks=[checks.positive_data_acceptance])

    check()


@pytest.fixture(scope="module", autouse=True)
def still_well(service: Service) -> Iterator[None]:
    """After everything."""
    yield
    check_members(service.infer(states(1), seed=1).content, states(1), 1, 1)
