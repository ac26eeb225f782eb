# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The owner of the device when something goes wrong, and when it is told to stop."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import torch
from service_kit import Valve, fields, make_model, owned, request, states, submit, take_all, until

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.service.engine import Engine
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.settings import Settings

pytestmark = pytest.mark.slow

# faults


class Tight:
    """Runs out of memory where more than so many members share a call."""

    def __init__(self, model: CorrDiff, most: int, error: Exception) -> None:
        self.inner, self.most, self.error = model.downscaler.residual, most, error
        self.sizes: list[int] = []
        model.downscaler.residual = self  # type: ignore[method-assign]

    def __call__(self, cond: Any, mean: Any, seeds: list[int], *how: Any) -> Any:
        self.sizes.append(len(seeds))
        if len(seeds) > self.most:
            raise self.error
        return self.inner(cond, mean, seeds, *how)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "numpy"],
)
def test_out_of_memory_makes_smaller_blocks(error: Exception) -> None:
    model = make_model()
    with owned(model, max_batch=8) as (engine, valve):
        valve.open()
        tight = Tight(model, 2, error)
        ticket, inbox = submit(engine, request(5, seed=10))
        take_all(ticket, inbox)
    assert tight.sizes == [5, 2, 2, 1]
    want = fields(states(), range(10, 15))[0]
    assert all(np.array_equal(item.values, want[item.sample]) for item in inbox.items)


def test_one_member_that_does_not_fit_fails_alone() -> None:
    model = make_model()
    with owned(model) as (engine, valve):
        valve.open()
        tight = Tight(model, 0, torch.OutOfMemoryError("CUDA out of memory"))
        _, inbox = submit(engine, request(3))
        (fault,) = inbox.wait(1)
        assert (fault.status_code, fault.retry_after) == (503, 5) and "not enough memory" in fault.detail
        until(lambda: engine.waiting == (0, 0, 0))
        tight.most = 9
        ticket, box = submit(engine, request())
        take_all(ticket, box)
        assert engine.ready


def test_a_defect_has_an_id_and_the_rest_goes_on() -> None:
    model = make_model()
    with owned(model) as (engine, valve):
        valve.open()
        tight = Tight(model, 0, ValueError("a secret path"))
        _, inbox = submit(engine, request())
        (fault,) = inbox.wait(1)
        assert fault.status_code == 500 and "secret" not in fault.detail and "internal error" in fault.detail
        tight.most = 9
        take_all(*submit(engine, request()))


def test_a_lost_device_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    engine = Engine(lambda: model, Settings())
    engine.start()
    until(lambda: engine.ready)
    Tight(model, 0, RuntimeError("CUDA error: unspecified launch failure"))
    monkeypatch.setattr("earth2_corrdiff.service.engine.alive", lambda device: False)
    _, first = submit(engine, request())
    assert first.wait(1)[0].status_code == 500
    until(lambda: engine.state == "failed")
    with pytest.raises(ServiceError, match="it is failed"):
        submit(engine, request())
    engine.close(5)


def test_a_model_that_cannot_be_loaded() -> None:
    def load() -> CorrDiff:
        raise InputError("there is no package folder x")

    engine = Engine(load, Settings())
    with pytest.raises(ServiceError, match="not ready, it is new"):
        engine.spec  # noqa: B018
    engine.start()
    until(lambda: engine.state == "failed")
    assert isinstance(engine.failure, InputError) and not engine.ready
    for ask in (lambda: engine.sampling, engine.check, lambda: engine.submit_steps(iter)):
        with pytest.raises(ServiceError, match="it is failed") as caught:
            ask()
        assert caught.value.status_code == 503


# the end


def test_what_was_accepted_is_finished() -> None:
    model = make_model()
    engine = Engine(lambda: model, Settings())
    engine.start()
    until(lambda: engine.ready)
    valve = Valve(model)
    first, second = submit(engine, request(2)), submit(engine, request(2, seed=5))
    future = engine.submit_steps(lambda model: iter([1, 2]))
    valve.wait()
    engine.drain()
    with pytest.raises(ServiceError, match="it is stopping"):
        submit(engine, request())
    valve.open()
    engine.close(30)
    assert engine.state == "stopped" and future.result(0) is None
    assert first[1].members(2) == second[1].members(2) == [(0, 0), (0, 1)]


def test_what_cannot_be_finished_in_time_is_refused() -> None:
    model = make_model()
    engine = Engine(lambda: model, Settings())
    engine.start()
    until(lambda: engine.ready)
    valve = Valve(model)
    boxes = [submit(engine, request(2))[1] for _ in range(2)]
    future = engine.submit_steps(lambda model: iter(int, 1))
    valve.wait()
    closing = threading.Thread(target=engine.close, args=(0.05,))
    closing.start()
    for box in boxes:
        (fault,) = box.wait(1)
        assert fault.status_code == 503 and fault.detail == "the service is stopping"
    valve.open()
    closing.join(30)
    assert engine.state == "stopped" and len(valve.seeds) == 1
    with pytest.raises(CancelledError):
        future.result(0)


def test_a_second_call_may_hurry_the_first() -> None:
    with owned() as (engine, valve):
        _, box = submit(engine, request(2))
        valve.wait()
        closing = threading.Thread(target=engine.close, args=(300,))
        closing.start()
        hurry = threading.Thread(target=engine.close, args=(0,))
        hurry.start()
        assert box.wait(1)[0].status_code == 503
        valve.open()
        closing.join(30)
        hurry.join(30)
        assert not closing.is_alive()
