# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The service as a client meets it, over a real socket: answers, refusals, health, limits, the end."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import torch
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
from tiny import make_spec

from earth2_corrdiff.noise import consecutive_seeds, drawn_seeds, member_seed
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.times import parse_time

__all__ = ["service"]


# good requests


def test_members_have_the_bits_of_the_model(service: Service) -> None:
    answer = service.infer(states(2), samples=3, steps=4, seed=5, solver="heun")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["x-corrdiff-seed"] == "5"
    assert int(answer.headers["content-length"]) == len(answer.content)
    check_members(answer.content, states(2), 5, 3, steps=4, solver="heun")
    assert untar(answer.content)[0, 0].shape == (1, 1, 2, 16, 24)


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


def test_with_times_the_seeds_are_those_of_a_run(service: Service) -> None:
    times = ("2024-07-24T12:00", "2024-07-25T00:00")
    answer = service.infer(states(2), samples=2, seed=3, time=", ".join(times))
    for b, time_ in enumerate(times):
        seeds = [member_seed(3, parse_time(time_), m) for m in range(2)]
        want = fields(states(2)[b : b + 1], seeds)[0]
        for m in range(2):
            assert np.array_equal(untar(answer.content)[m, b][0, 0], want[m])


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
        (b"not a npy file", "a file that is none"),
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
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, "no valid multipart"),
        ({"content": b"junk", "headers": multipart}, "no valid multipart"),
        ({"content": b"--x--\r\n", "headers": multipart}, "got nothing"),
        ({"files": {"samples": (None, "1")}}, "got nothing"),
        ({"files": {"array": array}}, "there is no field 'array'"),
        ({"files": url}, "got a plain field (paths and URLs are not opened)"),
        ({"files": {"input_array": (None, "/etc/passwd")}}, "got a plain field"),
        ({"files": {"input_array": (None, "1" * 9999)}}, "no valid multipart/form-data (Part exceeded"),
        ({"files": {"input_array": array}, "data": {"sample": "2"}}, "there is no field 'sample'"),
        ({"files": {"input_array": array}, "data": {"samples": ["2", "3"]}}, "given once, got it 2 times"),
        ({"files": [("input_array", array)] * 2}, "no valid multipart/form-data (Too many files"),
        ({"files": {"samples": ("a", b"2")}}, "samples must be a plain form field, got a file"),
    ]
    for how, said in bad:
        answer = post(**how)
        assert answer.status_code == 422 and said in answer.json()["detail"], answer.text
    assert service.infer(states(1)).status_code == 200


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
