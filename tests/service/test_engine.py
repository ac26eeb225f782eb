# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The owner of the device, without any web: who gets a turn, what a member is, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from service_kit import (
    EULER,
    Valve,
    fields,
    make_model,
    owned,
    request,
    states,
    submit,
    take_all,
    until,
)
from tiny import make_spec

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.service.engine import warm_up
from earth2_corrdiff.service.errors import ServiceError

# members


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["both", "regression", "diffusion"])
@pytest.mark.parametrize("limit", [None, 3])
def test_members_have_the_bits_of_the_downscaler(mode: str, limit: int | None) -> None:
    spec = make_spec(sampling=EULER, inference_mode=mode)
    want = fields(states(2), [7, 8], model=make_model(spec))
    with owned(make_model(spec), max_batch=limit) as (engine, valve):
        valve.open()
        ticket, inbox = submit(engine, request(2, batch=2, seed=7))
        assert take_all(ticket, inbox) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for member in inbox.items:
        assert np.array_equal(member.values, want[member.case, member.sample])


@pytest.mark.slow
def test_every_sampling_and_the_model_is_left_as_it_was() -> None:
    model = make_model()
    with owned(model) as (engine, valve):
        valve.open()
        for solver, steps in (("heun", 3), ("stochastic", 2), ("dpmpp_2m", 1), ("trigflow", 4)):
            ticket, inbox = submit(engine, request(sampling=replace(EULER, solver=solver, steps=steps)))
            take_all(ticket, inbox)
            assert np.array_equal(inbox.items[0].values, fields(states(), [0], steps, solver)[0, 0])
            assert model.downscaler.sampling == EULER


def test_states_share_a_network_call_where_the_device_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the downscaler hands all members to the network at once."""
    monkeypatch.setattr(Downscaler, "one_by_one", False)
    downscaler, calls = make_model().downscaler, list[int]()
    both = [downscaler.prepare(torch.tensor(states(2)[b : b + 1])) for b in range(2)]
    rows = [(both[0], 5), (both[1], 6), (both[0], 7)]
    made = downscaler.sample(rows, EULER, progress=calls.append).numpy()
    monkeypatch.undo()
    want = fields(states(2), [5, 6, 7])
    assert calls == [3, 3]
    for values, (b, m) in zip(made, ((0, 0), (1, 1), (0, 2)), strict=True):
        assert np.allclose(values, want[b, m], rtol=1e-5, atol=1e-3)


@pytest.mark.gpu
def test_requests_share_blocks_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    with owned(make_model().to("cuda"), max_batch=4) as (engine, valve):
        valve.open()
        several = [submit(engine, request(2, batch=2, seed=seed)) for seed in range(3)]
        for ticket, inbox in several:
            take_all(ticket, inbox)
    for seed, (_, inbox) in enumerate(several):
        want = fields(states(2), consecutive_seeds(seed, 2))
        for member in inbox.items:
            assert np.allclose(member.values, want[member.case, member.sample], rtol=1e-3, atol=1e-3)


# turns


@pytest.mark.slow
def test_one_sample_does_not_wait_for_many() -> None:
    with owned() as (engine, valve):
        many, first = submit(engine, request(6, seed=10))
        valve.wait()
        one, second = submit(engine, request(1, seed=20))
        two, third = submit(engine, request(2, seed=30))
        valve.open()
        for pair in ((one, second), (two, third), (many, first)):
            take_all(*pair)
    assert valve.seeds == [[10], [20], [30], [11], [31], [12], [13], [14], [15]]


@pytest.mark.slow
def test_a_block_is_shared_by_requests_with_the_same_sampling() -> None:
    other = replace(EULER, steps=3)
    with owned(max_batch=4) as (engine, valve):
        _, blocker = submit(engine, request(1, seed=99))
        valve.wait()
        waiting = [
            submit(engine, work)
            for work in (request(6, seed=10), request(1, seed=20), request(2, seed=30, sampling=other))
        ]
        valve.open()
        for pair in waiting:
            take_all(*pair)
        blocker.members(1)
    # On the CPU the rows of a block are made state by state: [10, 20 | 11, 12] is three calls.
    assert valve.seeds == [[99], [10], [20], [11, 12], [30, 31], [13, 14, 15]]


@pytest.mark.slow
def test_a_member_that_is_not_finite_is_not_sent() -> None:
    model = make_model()
    inner = model.downscaler.residual

    def broken(cond: Any, mean: Any, seeds: list[int], *rest: Any) -> Any:
        made = inner(cond, mean, seeds, *rest)
        made[..., 0, 0] = float("nan") if 8 in seeds else 0.0
        return made

    model.downscaler.residual = broken  # type: ignore[method-assign]
    with owned(model, max_batch=1) as (engine, valve):
        valve.open()
        ticket, inbox = submit(engine, request(3, seed=7))
        inbox.wait(1)
        ticket.sent()
        until(lambda: any(isinstance(item, ServiceError) for item in inbox.items))
        first, fault = inbox.items
        assert not isinstance(first, ServiceError) and np.isfinite(first.values).all()
        assert (
            isinstance(fault, ServiceError) and fault.status_code == 500 and "not finite" in str(fault.detail)
        )
        ticket, other = submit(engine, request(1, seed=10))  # the service goes on
        take_all(ticket, other)


@pytest.mark.slow
def test_a_slow_client_holds_up_nobody() -> None:
    """What it does not take is not made; others get their turns, and it goes on where it was."""
    with owned() as (engine, valve):
        valve.open()
        slow, box = submit(engine, request(5, seed=10))
        assert box.members(2) == [(0, 0), (0, 1)]
        quick, other = submit(engine, request(5, seed=20))
        take_all(quick, other)
        assert [seeds[0] for seeds in valve.seeds if seeds[0] < 20] == [10, 11]
        assert take_all(slow, box) == [(0, m) for m in range(5)]


def test_a_full_line_refuses_with_a_time() -> None:
    with owned(queue=2) as (engine, valve):
        first, _ = submit(engine, request())
        valve.wait()
        submit(engine, request(2))
        with pytest.raises(ServiceError, match="2 requests are waiting already") as caught:
            submit(engine, request())
        assert caught.value.status_code == 429 and caught.value.retry_after == 1
        with pytest.raises(ServiceError, match="2 requests are waiting"):
            engine.check()
        assert engine.waiting == (2, 3, 0)
        first.cancel()
        assert engine.waiting == (1, 2, 0)
        submit(engine, request())


def test_a_cancelled_request_is_given_up_in_the_middle_of_a_block() -> None:
    model = make_model()
    with owned(model) as (engine, valve):
        calls = []
        model.downscaler.denoiser.register_forward_hook(lambda *_: calls.append(1))
        ticket, inbox = submit(engine, request(3, sampling=replace(EULER, steps=50)))
        valve.wait()
        ticket.cancel()
        valve.open()
        until(lambda: engine.waiting == (0, 0, 0))
        after, box = submit(engine, request(seed=5))
        take_all(after, box)
    assert inbox.items == [] and len(calls) == 1 + 2
    assert np.array_equal(box.items[0].values, fields(states(), [5])[0, 0])


# jobs


def test_steps_take_turns_with_members() -> None:
    order, threads = [], set()

    def steps(model: CorrDiff) -> Iterator[None]:
        for number in range(3):
            order.append(number)
            threads.add(threading.current_thread().name)
            yield
        return "the end"

    with owned() as (engine, valve):
        ticket, inbox = submit(engine, request(4, seed=10))
        valve.wait()
        future = engine.submit_steps(steps)
        assert engine.waiting == (1, 4, 1)
        for left in (3, 2, 1):
            valve.allowed.release()
            inbox.wait(4 - left)
            ticket.sent()
            until(lambda number=4 - left: len(order) == number)
        valve.open()
        assert future.result(30) == "the end" and order == [0, 1, 2] and threads == {"corrdiff-owner"}
        take_all(ticket, inbox)


@pytest.mark.slow
def test_settings_of_a_job_are_its_own() -> None:
    """They go with its calls, in the middle of which a request is answered."""
    model, made, heun = make_model(), [], replace(EULER, solver="heun", steps=7)

    def steps(mine: CorrDiff) -> Iterator[None]:
        blocks = mine.downscaler.members(torch.tensor(states()), [3, 4, 5], 1, sampling=heun)
        for _, _, block in blocks:
            made.append(block)
            yield

    with owned(model) as (engine, valve):
        valve.open()
        future = engine.submit_steps(steps)
        ticket, inbox = submit(engine, request(3, seed=10))
        take_all(ticket, inbox)
        future.result(30)
        assert model.downscaler.sampling == EULER
    assert np.array_equal(torch.cat(made).numpy(), fields(states(), [3, 4, 5], 7, "heun")[0])
    assert np.array_equal(inbox.items[0].values, fields(states(), [10])[0, 0])


def test_a_job_that_fails_and_one_that_is_cancelled() -> None:
    closed = threading.Event()

    def failing(model: CorrDiff) -> Iterator[None]:
        yield
        raise InputError("no such thing")

    def endless(model: CorrDiff) -> Iterator[None]:
        try:
            while True:
                yield
        finally:
            assert threading.current_thread().name == "corrdiff-owner"
            closed.set()

    with owned() as (engine, valve):
        valve.open()
        with pytest.raises(InputError, match="no such thing"):
            engine.submit_steps(failing).result(30)
        future = engine.submit_steps(endless)
        ticket, inbox = submit(engine, request(2))
        take_all(ticket, inbox)
        assert future.cancel() and closed.wait(30)
        until(lambda: engine.waiting == (0, 0, 0))


# warm-up


@pytest.mark.slow
def test_warm_up_makes_every_size_of_block() -> None:
    model = make_model(make_spec(sampling=replace(EULER, steps=9, solver="heun")))
    valve = Valve(model)
    valve.open()
    warm_up(model.downscaler, 3)
    assert [len(seeds) for seeds in valve.seeds] == [1, 2, 3] and model.number_of_steps == 9


def test_a_state_is_prepared_once() -> None:
    model, calls = make_model(), []
    model.downscaler.regression.register_forward_hook(lambda *_: calls.append(1))
    with owned(model) as (engine, valve):
        valve.open()
        before = len(calls)
        take_all(*submit(engine, request(3)))
        assert len(calls) == before + 1
