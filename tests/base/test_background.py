# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the compute: that it does, in order, with its errors, and with one block in flight."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import xarray as xr
from run_kit import TIMES, Weather, load, make_package, same

from earth2_corrdiff import CorrDiff, InputError, downscale
from earth2_corrdiff.base.background import Background, prefetched
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.store.writer import Store

PATIENCE = 30  # seconds: nothing here takes one


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs, two outputs, 16 x 24 points."""
    return tiny.make_package(tmp_path_factory.mktemp("small"))


@pytest.fixture
def model(small: Path) -> CorrDiff:
    return load(small, number_of_samples=3)


# the parts


def test_a_background_call_gives_back_what_it_returns_or_raises() -> None:
    assert Background(lambda a, b: a + b, 2, b=3).result() == 5
    job = Background(int, "x")
    job.wait()
    with pytest.raises(ValueError, match="invalid literal"):
        job.result()


def test_a_background_call_runs_beside_its_caller() -> None:
    started, go_on = threading.Event(), threading.Event()

    def call() -> int:
        started.set()
        return 1 if go_on.wait(PATIENCE) else 0

    job = Background(call)
    assert started.wait(PATIENCE)
    go_on.set()
    assert job.result() == 1


def test_an_error_keeps_nothing_alive() -> None:
    """A file that a failed fetch had open is closed, although the error's traceback refers to frames."""

    class Thing:
        pass

    kept: list[weakref.ref[Thing]] = []

    def fail(thing: Thing) -> None:
        kept.append(weakref.ref(thing))
        raise InputError("no")

    def values() -> Iterator[int]:
        yield 1
        fail(Thing())

    gc.disable()
    try:
        with pytest.raises(InputError) as caught:
            list(prefetched(values()))
        del caught
        assert kept[0]() is None
    finally:
        gc.enable()


def test_prefetched_keeps_values_order_and_errors() -> None:
    assert list(prefetched(range(5))) == list(range(5)) and list(prefetched([])) == []

    def values() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("the third")

    found = prefetched(values())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(InputError, match="the third"):
        next(found)


def test_prefetched_makes_one_value_while_another_is_worked_on() -> None:
    made = [threading.Event() for _ in range(4)]

    def values() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in prefetched(values()):
        if i + 1 < len(made):
            assert made[i + 1].wait(PATIENCE)  # made although nobody has asked for it
        assert not any(event.is_set() for event in made[i + 2 :])  # but no further


# a run


@pytest.mark.slow
def test_the_next_input_is_fetched_while_members_are_computed(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither would end if the second fetch waited for the first time's members."""
    fetched = [threading.Event(), threading.Event()]

    class Waiting(Weather):
        def __call__(self, time: Any, variable: Any) -> xr.DataArray:
            fetched[int(np.atleast_1d(time)[0] != np.datetime64(TIMES[0]))].set()
            return super().__call__(time, variable)

    Waiting.__name__ = "Weather"  # recorded in the store
    block = Downscaler.sample

    def slow(self: Downscaler, *args: Any) -> torch.Tensor:
        assert fetched[1].wait(PATIENCE)
        return block(self, *args)

    monkeypatch.setattr(Downscaler, "sample", slow)
    downscale(TIMES, model, Waiting(), tmp_path / "run.zarr", options=Options(seed=1))
    monkeypatch.undo()
    downscale(TIMES, model, Weather(), tmp_path / "again.zarr", options=Options(seed=1))
    same(tmp_path / "run.zarr", tmp_path / "again.zarr")


@pytest.mark.slow
def test_a_block_is_written_while_the_next_is_computed(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write waits for the next block's compute to begin, and each compute for the write before it."""
    computing = [threading.Event() for _ in range(7)]
    writing = [threading.Event() for _ in range(7)]
    block, write, counts = Downscaler.sample, Store.write_members, [0, 0]

    def compute(self: Downscaler, *args: Any) -> torch.Tensor:
        computing[counts[0]].set()
        assert counts[0] == 0 or writing[counts[0] - 1].wait(PATIENCE)
        counts[0] += 1
        return block(self, *args)

    def written(self: Store, *args: Any) -> None:
        writing[counts[1]].set()
        assert counts[1] == 5 or computing[counts[1] + 1].wait(PATIENCE)
        write(self, *args)
        counts[1] += 1

    monkeypatch.setattr(Downscaler, "sample", compute)
    monkeypatch.setattr(Store, "write_members", written)
    order = list(Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr"))
    assert [member for _, member in order] == [0, 1, 2] * 2 and counts == [6, 6]


@pytest.mark.slow
def test_no_more_than_two_blocks_exist(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on its way to the disk, one in the making: memory is the same for any number of members."""
    model, alive, most = load(small, number_of_samples=9), weakref.WeakSet(), [0]
    block = Downscaler.sample

    def counted(self: Downscaler, *args: Any) -> torch.Tensor:
        most[0] = max(most[0], len(alive))
        made = block(self, *args)
        alive.add(made)
        return made

    monkeypatch.setattr(Downscaler, "sample", counted)
    assert len(list(Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr"))) == 18
    assert 1 <= most[0] <= 2


@pytest.mark.slow
def test_members_are_written_when_they_are_yielded_and_no_others(model: CorrDiff, tmp_path: Path) -> None:
    run = iter(Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr"))
    for done in range(1, 5):
        next(run)
        seeds = xr.open_zarr(tmp_path / "run.zarr").member_seed.values
        assert (seeds != -1).sum() == done
    run.close()  # type: ignore[attr-defined]
    seeds = xr.open_zarr(tmp_path / "run.zarr").member_seed.values
    assert (seeds != -1).sum() == 4


@pytest.mark.slow
def test_an_error_of_a_write_ends_the_run(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write_members

    def full(self: Store, case: int, first: int, block: torch.Tensor, missing: None) -> None:
        if (case, first) == (0, 2):
            raise InputError("cannot write run.zarr: No space left on device")
        write(self, case, first, block)

    monkeypatch.setattr(Store, "write_members", full)
    run, done = Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr"), []
    with pytest.raises(InputError, match="No space left on device"):
        done.extend(run)
    assert run.written == 2
    assert (xr.open_zarr(tmp_path / "run.zarr").member_seed != -1).sum() == 2


@pytest.mark.slow
def test_an_error_of_the_next_fetch_waits_for_the_members_before_it(model: CorrDiff, tmp_path: Path) -> None:
    def second(array: xr.DataArray) -> None:
        if array.time.values[0] == np.datetime64(TIMES[1]):
            raise InputError("the second time is not there")

    run, done = Downscaling(TIMES, model, Weather(second), tmp_path / "run.zarr"), []
    with pytest.raises(InputError, match="the second time is not there"):
        for each in run:
            done.append(each)  # noqa: PERF402  (kept although the loop raises)
    assert [member for _, member in done] == [0, 1, 2] and run.written == 3


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_fetch(model: CorrDiff, tmp_path: Path) -> None:
    """The second input never comes; the signal arrives while the run waits for it."""
    never, path = threading.Event(), tmp_path / "run.zarr"

    def interrupt() -> None:
        """Once the first time's members are written: the run has nothing else to wait for then."""
        for _ in range(20 * PATIENCE):
            if path.exists() and (xr.open_zarr(path).member_seed != -1).sum() == 3 or never.wait(0.05):
                break
        os.kill(os.getpid(), signal.SIGINT)

    class Hanging(Weather):
        def __call__(self, time: Any, variable: Any) -> xr.DataArray:
            if np.atleast_1d(time)[0] != np.datetime64(TIMES[0]):
                threading.Thread(target=interrupt).start()
                never.wait(PATIENCE)
                raise InputError("too late")
            return super().__call__(time, variable)

    try:
        with pytest.raises(KeyboardInterrupt):
            list(Downscaling(TIMES, model, Hanging(), path))
        assert (xr.open_zarr(path).member_seed != -1).sum() == 3
        assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]
    finally:
        never.set()


@pytest.mark.slow
def test_seconds_are_those_that_were_waited(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second of fetching beside as much compute does not count; the first fetch does."""
    import time

    def slowly(array: xr.DataArray) -> None:
        time.sleep(0.3)

    block = Downscaler.sample

    def slow(self: Downscaler, *args: Any) -> torch.Tensor:
        time.sleep(0.2)
        return block(self, *args)

    monkeypatch.setattr(Downscaler, "sample", slow)
    run = Downscaling(TIMES, model, Weather(slowly), tmp_path / "run.zarr")
    list(run)
    assert 0.3 <= run.seconds["fetch"] and run.seconds["compute"] >= 1.2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_blocks_of_a_gpu_arrive_whole(small: Path, tmp_path: Path) -> None:
    """Through pinned memory, beside the next members: the same bytes as the pipeline called by hand."""
    model = load(small, number_of_samples=8).to("cuda")
    downscale(TIMES[0], model, Weather(), tmp_path / "run.zarr", options=Options(seed=1, max_batch=2))
    ds = xr.open_zarr(tmp_path / "run.zarr")
    names = model.input_variables
    coarse = torch.from_numpy(Weather()(np.datetime64(TIMES[0]), names).values)
    by_hand = [block for *_, block in model.downscaler.members(coarse, ds.member_seed.values[0].tolist(), 2)]
    for i, name in enumerate(model.output_variables):
        np.testing.assert_array_equal(ds[name][0], torch.cat(by_hand)[:, i].cpu())


@pytest.mark.slow
def test_a_package_with_one_member_per_call(tmp_path: Path) -> None:
    """The regression alone, in blocks of different sizes: nothing is lost at the ends."""
    path = make_package(tmp_path / "package", inference_mode="regression", number_of_samples=5)
    run = Downscaling(TIMES[0], load(path), Weather(), tmp_path / "run.zarr", Options(max_batch=2))
    assert [member for _, member in run] == [0, 1, 2, 3, 4] and run.written == 5
