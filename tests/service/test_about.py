# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the service says of itself, and whom it answers: health, metadata, documentation, security."""

from __future__ import annotations

import io
import json
import re
import threading
from html.parser import HTMLParser
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from service_kit import INFER, Service, form, make_model, npy, running, service, states, until
from tiny import make_spec

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.service.settings import Settings

__all__ = ["service"]
KEY = "a key that nobody knows"


# what it says of itself


@pytest.mark.slow
def test_health_while_loading_and_warming_up() -> None:
    go = threading.Event()

    def load() -> CorrDiff:
        go.wait(30)
        return make_model()

    with running(load=load, ready=False) as service:
        get = service.client.get
        assert get("/v1/health/live").json() == {"status": "live"}
        for path in ("/v1/health/ready", "/v1/metadata", "/v1/grid/input/lat.npy"):
            assert get(path).status_code == 503 and get(path).headers["retry-after"] == "5"
        assert get("/v1/health/ready").json()["status"] == "loading"
        assert "it is loading" in service.infer(states(1)).json()["detail"]
        assert get("/v1/metrics").status_code == 200 and "corrdiff_ready 0.0" in get("/v1/metrics").text
        go.set()
        until(lambda: get("/v1/health/ready").status_code == 200)
        assert get("/v1/health/ready").json()["status"] == "ready"
        assert service.infer(states(1)).status_code == 200


@pytest.mark.slow
def test_a_service_whose_model_cannot_be_loaded_ends() -> None:
    def load() -> CorrDiff:
        raise InputError("there is no package folder x")

    with running(load=load, ready=False) as service:
        until(lambda: service.engine.state == "failed")


def test_metadata(service: Service) -> None:
    about = service.client.get("/v1/metadata").json()
    spec = make_spec()
    assert [v["name"] for v in about["input"]["variables"]] == list(spec.inputs.names)
    assert (
        about["input"]["variables"][0]["units"] == "K" and about["output"]["variables"][0]["units"] == "dBZ"
    )
    assert about["input"]["grid"]["shape"] == [6, 8] and about["output"]["grid"]["kind"] == "curvilinear"
    assert about["limits"]["max_samples"] == 64 and about["defaults"]["steps"] == 2
    assert about["device"] == "cpu" and about["precision"] == "fp32" and about["package"]["name"] == "tiny"
    for which, grid in (("input", spec.input_grid), ("output", spec.output_grid)):
        for axis in ("lat", "lon"):
            data = service.client.get(about[which]["grid"][axis]).content
            assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), getattr(grid, axis))


@pytest.mark.slow
def test_metrics() -> None:
    with running() as service:
        for samples in (2, 3):
            service.infer(states(1), samples=samples)
        service.refused(states(1), samples=0)
        text = service.client.get("/v1/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert numbers['corrdiff_requests_total{route="/v1/infer",status="200"}'] == "2.0"
    assert numbers['corrdiff_requests_total{route="/v1/infer",status="422"}'] == "1.0"
    assert numbers["corrdiff_members_total"] == "5.0" and numbers['corrdiff_queue{what="members"}'] == "0.0"
    assert numbers['corrdiff_stage_seconds_count{stage="compute"}'] == "5.0"
    for stage, count in (("receive", 3), ("wait", 2), ("total", 2)):
        assert float(numbers[f'corrdiff_stage_seconds_count{{stage="{stage}"}}']) == count
    assert float(numbers["process_resident_memory_bytes"]) > 1e6
    assert f'corrdiff_build_info{{version="{version("earth2-corrdiff")}"}}' in numbers
    assert numbers['corrdiff_failures_total{what="request"}'] == "0.0"
    assert float(numbers["corrdiff_members_per_second"]) > 0 and numbers["corrdiff_ready"] == "1.0"


@pytest.mark.slow
def test_one_line_for_each_request() -> None:
    from loguru import logger

    lines: list[str] = []
    with running() as service:
        handler = logger.add(lines.append, level="INFO", format="{message}")
        answer = service.infer(states(2), samples=3)
        service.refused(states(1), samples=0)
        service.client.get("/v1/no%0Aforged%20line")
        service.client.get("/v1/health/live")
        service.client.get("/v1/metrics")
        until(lambda: len(lines) == 3)
        logger.remove(handler)
    patterns = (
        rf"request {answer.headers['x-request-id']} POST /v1/infer: 200 in \d+\.\d{{3}} s, 6 members\n",
        r"request [0-9a-f]{12} POST /v1/infer: 422 in \d+\.\d{3} s\n",
        r"request [0-9a-f]{12} GET other: 404 in \d+\.\d{3} s\n",
    )
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


class Links(HTMLParser):
    """Everything that a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{tag} {v}" for k, v in attrs if k in ("src", "srcset", "style") or tag == "link"]
        self.loaded += [tag] * (tag == "script")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_documentation_loads_nothing(service: Service) -> None:
    answer, page = service.client.get("/docs"), Links()
    page.feed(answer.text)
    assert page.loaded == [] and "http" not in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    for said in ("/v1/infer", "input_array", "samples", "x-corrdiff-seed", "run-corrdiff", "/v1/metrics"):
        assert said in page.text
    document = service.client.get("/openapi.json").json()
    responses = document["paths"][INFER]["post"]["responses"]
    assert {"200", "401", "413", "422", "429", "503", "504"} < set(responses)


# security


def test_security_headers(service: Service) -> None:
    for path in ("/v1/metadata", "/v1/nothing", "/docs", INFER):
        headers = service.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer" and "server" not in headers


@pytest.mark.slow
def test_an_api_key(caplog: pytest.LogCaptureFixture) -> None:
    from loguru import logger

    lines: list[str] = []
    handler = logger.add(lines.append, level="TRACE")
    with running(Settings(api_key=KEY)) as service:
        get = service.client.get
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}, {"x-api-key": "é"}):
            sent = {name: value.encode() for name, value in headers.items()}
            answer = get("/v1/metadata", headers=sent)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert service.infer(states(1)).status_code == 401
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert get("/v1/metadata", headers=headers).status_code == 200
            sent = form(npy(states(1)))
            assert service.client.post(INFER, headers=headers, **sent).status_code == 200
        for path in ("/v1/health/live", "/v1/health/ready", "/docs", "/openapi.json"):
            assert get(path).status_code == 200
    logger.remove(handler)
    assert KEY not in repr(Settings(api_key=KEY)) and KEY not in "".join(lines) + caplog.text


@pytest.mark.slow
def test_other_hosts_and_pages_of_other_sites() -> None:
    with running(Settings(hosts=("127.0.0.1", "[::1]"))) as service:
        get, post = service.client.get, service.client.post
        for host in ("127.0.0.1", f"127.0.0.1:{service.port}", "[::1]:80", "[::1]"):
            assert get("/v1/metadata", headers={"host": host}).status_code == 200
        for host in ("rebound.example", "127.0.0.1.example:8000", ""):
            assert get("/v1/metadata", headers={"host": host}).status_code == 400
        sent, own = form(npy(states(1))), f"http://127.0.0.1:{service.port}"
        assert post(INFER, headers={"origin": own}, **sent).status_code == 200
        for origin in ("http://evil.example", "null", own.replace("127.0.0.1", "localhost")):
            assert post(INFER, headers={"origin": origin}, **sent).status_code == 403


@pytest.mark.parametrize(
    "what", [{"max_samples": 0}, {"seconds": -1.0}, {"queue": 0}, {"api_key": "short"}, {"max_body": 0}]
)
def test_settings_that_cannot_be(what: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(what)).replace('_', '.')}|API key"):
        Settings(**what)


def test_the_openapi_document_is_json(service: Service) -> None:
    assert json.loads(service.client.get("/openapi.json").text)["openapi"].startswith("3.")
