# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The service as a client meets it, over a real socket: answers, refusals, health, limits, the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from lead_kit import arguments, specification
from service_kit import (
    EULER,
    INFER,
    Service,
    Valve,
    check_members,
    fields,
    form,
    make_model,
    npy,
    running,
    service,
    states,
    untar,
)
from tiny import make_spec, randomise

from earth2_corrdiff import CorrDiff
from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.times import parse_time, to_leads
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds, drawn_seeds, member_seed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import create
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.store.layout import member_seeds

__all__ = ["service"]


# good requests


def test_members_have_the_bits_of_the_model(service: Service) -> None:
    answer = service.infer(states(2), samples=3, steps=4, seed=5, solver="heun")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["x-corrdiff-seed"] == "5"
    assert int(answer.headers["content-length"]) == len(answer.content)
    check_members(answer.content, states(2), 5, 3, steps=4, solver="heun")
    assert untar(answer.content)[0, 0].shape == (1, 1, 2, 16, 24)


@pytest.mark.slow
def test_equal_requests_have_equal_bytes(service: Service) -> None:
    once, again = (service.infer(states(2), samples=2, seed=1).content for _ in range(2))
    assert once == again != service.infer(states(2), samples=2, seed=2).content
    assert service.infer(states(2)[None], samples=2, seed=1).content == once


def test_the_same_fields_as_the_earth2studio_call(service: Service) -> None:
    model, x = make_model(), torch.tensor(states(1))
    model.number_of_samples, model.seed, model.number_of_steps = 2, 9, 3
    coords = model.input_coords()
    coords["batch"] = np.zeros(1)
    y, _ = model(x, coords)
    members = untar(service.infer(states(1), samples=2, seed=9, steps=3).content)
    assert all(np.array_equal(members[m, 0][0, 0], y[0, m].numpy()) for m in range(2))


@pytest.mark.slow
def test_with_times_the_seeds_are_those_of_a_run(service: Service) -> None:
    times = ("2024-07-24T12:00", "2024-07-25T00:00")
    answer = service.infer(states(2), samples=2, seed=3, time=", ".join(times))
    for b, time_ in enumerate(times):
        seeds = [member_seed(3, parse_time(time_), m) for m in range(2)]
        want = fields(states(2)[b : b + 1], seeds)[0]
        for m in range(2):
            assert np.array_equal(untar(answer.content)[m, b][0, 0], want[m])


@pytest.mark.slow
def test_a_package_whose_seeds_are_drawn() -> None:
    with running(model=make_model(make_spec(sampling=EULER, drawn_seeds=True))) as service:
        members = untar(service.infer(states(1), samples=2, seed=4).content)
    want = fields(states(1), drawn_seeds(4, 2))[0]
    assert all(np.array_equal(members[m, 0][0, 0], want[m]) for m in range(2))


def test_a_seed_that_is_not_given_is_drawn_and_told(service: Service) -> None:
    answers = [service.infer(states(1)) for _ in range(2)]
    seeds = [int(answer.headers["x-corrdiff-seed"]) for answer in answers]
    assert seeds[0] != seeds[1]
    for answer, seed in zip(answers, seeds, strict=True):
        check_members(answer.content, states(1), seed, 1)


def test_seeds_wrap_as_upstream_does(service: Service) -> None:
    answer = service.infer(states(1), samples=2, seed=-1)
    assert consecutive_seeds(-1, 2) == [2**32 - 1, 0]
    check_members(answer.content, states(1), -1, 2)


@pytest.mark.slow
def test_each_member_is_sent_as_soon_as_it_is_done() -> None:
    model = make_model()
    with running(model=model) as service:
        valve = Valve(model)
        valve.allowed.release(1)
        with service.client.stream("POST", INFER, **form(npy(states(1)), samples=3, seed=0)) as answer:
            pieces, got = answer.iter_bytes(), b""
            size = (int(answer.headers["content-length"]) - 1024) // 3
            for number in range(1, 4):
                while len(got) < number * size:
                    got += next(pieces)
                assert len(got) == number * size + (1024 if number == 3 else 0) or number == 3
                valve.allowed.release(1)
            got += b"".join(pieces)
    check_members(got, states(1), 0, 3)


# refusals


def test_bad_arrays(service: Service) -> None:
    x = states(1)
    nan = x.copy()
    nan[0, 1] = np.nan
    for data, said in (
        (x[:, :2], "got the shape (1, 2, 6, 8)"),
        (x.astype("i4"), "got int32"),
        (nan, "NaN or infinity in u10m"),
        (npy(x)[:-5], "got 571"),
        (b"not a npy file", "got another file"),
    ):
        assert said in service.refused(data)["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 0), ("samples", 65), ("samples", "two"), ("steps", -1), ("steps", 101), ("seed", 1.5)]
    + [("solver", "magic"), ("solver", ""), ("time", "noon"), ("time", "2024-07-24,2024-07-25")],
)
def test_bad_fields(service: Service, field: str, value: Any) -> None:
    assert service.refused(states(1), **{field: value})["field"] == field


def test_bad_forms(service: Service) -> None:
    def post(**how: Any) -> httpx.Response:
        return service.client.post(INFER, **how)

    data, array = npy(states(1)), ("input.npy", npy(states(1)))
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    url = {"input_array": (None, "http://169.254.169.254/latest")}
    bad = [
        ({}, "must be multipart/form-data"),
        ({"json": {"samples": 1}}, "must be multipart/form-data"),
        ({"content": data, "headers": {"content-type": "application/octet-stream"}}, "must be multipart"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, "not a valid multipart"),
        ({"content": b"junk", "headers": multipart}, "not a valid multipart"),
        ({"content": b"--x--\r\n", "headers": multipart}, "got nothing"),
        ({"files": {"samples": (None, "1")}}, "got nothing"),
        ({"files": {"array": array}}, "there is no field 'array'"),
        ({"files": url}, "got a plain field (paths and URLs are not opened)"),
        ({"files": {"input_array": (None, "/etc/passwd")}}, "got a plain field"),
        ({"files": {"input_array": (None, "1" * 9999)}}, "not a valid multipart/form-data (Part exceeded"),
        ({"files": {"input_array": array}, "data": {"sample": "2"}}, "there is no field 'sample'"),
        ({"files": {"input_array": array}, "data": {"samples": ["2", "3"]}}, "given once, got it 2 times"),
        ({"files": [("input_array", array)] * 2}, "not a valid multipart/form-data (Too many files"),
        ({"files": {"samples": ("a", b"2")}}, "samples must be a plain form field, got a file"),
    ]
    for how, said in bad:
        answer = post(**how)
        assert answer.status_code == 422 and said in answer.json()["detail"], answer.text
    assert service.infer(states(1)).status_code == 200


@pytest.mark.slow
def test_bodies_that_are_too_large() -> None:
    requests = pytest.importorskip("requests")
    with running(Settings(max_body=20_000)) as service:
        assert service.infer(states(1)).status_code == 200
        url = f"http://127.0.0.1:{service.port}/v1/infer"

        def chunks() -> Any:
            yield b'--x\r\ncontent-disposition: form-data; name="input_array"; filename="x"\r\n\r\n'
            for _ in range(100):
                yield bytes(5000)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        for answer in (
            service.infer(bytes(5_000_000)),
            service.client.post(INFER, content=chunks(), headers=headers),
            requests.post(url, files={"input_array": bytes(5_000_000)}, timeout=30),  # reads when all is sent
        ):
            assert answer.status_code == 413 and answer.json()["expected"] == "20000 bytes or less"
        assert service.infer(states(1)).status_code == 200 and service.idle()


def test_other_paths_and_methods(service: Service) -> None:
    get = service.client.get
    assert get("/v1/nothing").status_code == 404 and "detail" in get("/v1/nothing").json()
    assert get(INFER).status_code == 405 and get(INFER).headers["allow"] == "POST"
    assert get("/v1/grid/input/height.npy").json()["field"] == "axis"


# weather


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x - np.float32([273.15, 0, 0])[:, None, None], "t2m is .* degrees Celsius"),
        (lambda x: np.full_like(x, -999), "t2m has -999 at 48 of 48 points; -999 stands for a missing value"),
        (lambda x: np.full_like(x, 1e30), r"t2m has 1e\+30 at 48 of 48 points"),
        (lambda x: np.full_like(x, 3e38), r"t2m has 3e\+38 at 48 of 48 points"),
        (lambda x: x / np.float32([1, 1, 9.81])[:, None, None], "z500 is .* geopotential height in m"),
        (lambda x: np.where(np.arange(8) < 7, x, np.float32(9999)), "t2m has 9999 at 6 of 48 points"),
    ],
    ids=["celsius", "missing", "huge", "largest", "height", "one row"],
)
def test_what_is_no_weather(service: Service, spoil: Any, said: str) -> None:
    body = service.refused(spoil(states(1)).astype(np.float32), seed=1)
    assert body["field"] == "input_array" and re.search(said, body["detail"]), body
    assert "\n" not in body["detail"] and len(body["detail"]) < 300


def test_no_weather_at_one_of_the_times(service: Service) -> None:
    x = np.concatenate([states(1), states(1) * np.float32(1.4)])
    body = service.refused(x, time="2024-07-24T12:00,2024-07-25")
    assert "at 2024-07-25T00:00" in body["detail"]


# forms


@pytest.mark.parametrize("charset", ["undefined", "idna", "utf-16", "unicode_escape", "x" * 99, "\\x00", "é"])
def test_odd_charsets(service: Service, charset: str) -> None:
    request = service.client.build_request("POST", INFER, **form(npy(states(1))))
    kind = f"{request.headers['content-type']}; charset={charset}".encode("latin-1")
    answer = service.client.post(INFER, content=request.read(), headers={b"content-type": kind})
    assert answer.status_code == 422 and "charset" in answer.json()["detail"]


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "iso-8859-1"])
def test_usual_charsets(service: Service, charset: str) -> None:
    request = service.client.build_request("POST", INFER, **form(npy(states(1)), seed=1))
    kind = f"{request.headers['content-type']}; charset={charset}"
    answer = service.client.post(INFER, content=request.read(), headers={"content-type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--x--\r\n",
            "Too many fields",
        ),
        (
            b"--x\r\n" + b"x-header: y\r\n" * 5000 + b"\r\n--x--\r\n",
            "headers of a part exceed|valid multipart",
        ),
        (
            b"--x\r\nx-header: " + b"y" * 2**20 + b"\r\n\r\n--x--\r\n",
            "headers of a part exceed|valid multipart",
        ),
        (b"--x\r\ncontent-disposition: form-data; name*=undefined''%41\r\n\r\n1\r\n--x--\r\n", ""),
        (b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--\r\n", '"name" must be provided'),
        (b"--x\r\n\r\n1\r\n--x--\r\n", ""),
    ],
    ids=["parts", "headers", "header", "odd name", "no name", "no header"],
)
def test_hostile_forms(service: Service, body: bytes, said: str) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = service.client.post(INFER, content=body, headers=kind)
    assert answer.status_code == 422 and re.search(said, answer.json()["detail"]), answer.text


# lead times


@pytest.fixture(scope="module")
def late() -> Iterator[tuple[Service, Downscaler]]:
    """A service of networks that know lead times, and such networks that no service has."""

    def make() -> Downscaler:
        spec = specification(sampling=EULER)
        nets = [create(Checkpoint(name, args, {}, name)) for name, args in arguments(spec)]
        for seed, net in enumerate(nets):
            randomise(net, seed).eval().requires_grad_(False)
        return Downscaler(spec, *nets, "fp32", False)

    with running(model=CorrDiff(make())) as service:
        yield service, make()


@pytest.mark.slow
@pytest.mark.parametrize("time", [None, "2024-07-24T12:00,2024-07-24T12:00"])
def test_lead_times_have_the_bits_of_the_downscaler(
    late: tuple[Service, Downscaler], time: str | None
) -> None:
    """Of one request with several, too; with times, the seeds are those of run-corrdiff --lead."""
    service, downscaler = late
    fields = {"samples": 2, "seed": 3, "lead_time": "6,12h"} | ({} if time is None else {"time": time})
    answer = service.infer(states(2), **fields)
    assert answer.status_code == 200, answer.text
    seeds = [consecutive_seeds(3, 2)] * 2
    if time is not None:
        start = parse_time("2024-07-24T00:00")
        made = member_seeds(Cases(np.array([start]), to_leads("12")), 3, 2)
        valid = parse_time("2024-07-24T12:00")
        seeds = [[member_seed(3, valid, m, hours * 3600) for m in range(2)] for hours in (6, 12)]
        assert made[0, 0].tolist() == seeds[1]
    for b, hours in enumerate((6, 12)):
        want = downscaler(torch.tensor(states(2)[b : b + 1]), seeds[b], lead_hours=[hours])[0]
        for m in range(2):
            np.testing.assert_array_equal(untar(answer.content)[m, b][0, 0], want[m].numpy())


def test_lead_times_that_cannot_be(late: tuple[Service, Downscaler], service: Service) -> None:
    with_leads, _ = late
    for lead in ("7", "", "6,12", "0/12/6h", "0/999999/1min", "soon", "-6", "nan", "1" * 99):
        body = with_leads.refused(states(1), lead_time=lead)
        assert body["field"] == "lead_time" and "one of 0, 6, 12 h" in body["detail"], lead
    assert with_leads.refused(states(1))["detail"].endswith("got nothing")
    assert with_leads.client.get("/v1/metadata").json()["package"]["lead_time_hours"] == [0, 6, 12]
    assert service.refused(states(1), lead_time="6")["field"] == "lead_time"


def test_a_package_without_lead_times_has_the_seeds_of_forecasts(service: Service) -> None:
    answer = service.infer(states(1), seed=3, time="2024-07-24T12:00", lead_time="6")
    want = fields(states(1), [member_seed(3, parse_time("2024-07-24T12:00"), 0, 6 * 3600)])[0]
    np.testing.assert_array_equal(untar(answer.content)[0, 0][0, 0], want[0])
