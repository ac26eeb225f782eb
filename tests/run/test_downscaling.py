# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in Python: what a member depends on, resuming, and what is refused before anything is computed."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from earth2studio.io import XarrayBackend
from loguru import logger
from run_kit import TIMES, Weather, coarse, contents, load, same, weather_file
from tiny import small_package

import earth2_corrdiff
from earth2_corrdiff import CorrDiff, InputError, downscale, make_source
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.model.diffusion.solvers import Churn
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.preconditioned import Denoiser
from earth2_corrdiff.run import downscaling as run_module
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.store import paths as place_module

SEED = 7
CALLS = 3  # network evaluations of a member: heun with two steps


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One member of one step."""
    once = {"sampling": Sampling("heun", 1, sigma_max=80.0), "number_of_samples": 1, "seed": 11}
    return small_package(tmp_path_factory.mktemp("small"), **once)


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two times and three members."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    downscale(TIMES, load(package), Weather(), path, options=Options(seed=SEED))
    return path


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged, warnings and worse."""
    found: list[str] = []
    handle = logger.add(found.append, level="WARNING", format="{message}")
    yield found
    logger.remove(handle)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Members in each evaluation of the denoiser."""
    counted: list[int] = []
    original = Denoiser.forward

    def forward(self: Denoiser, x: torch.Tensor, *args: Any) -> torch.Tensor:
        counted.append(len(x))
        return original(self, x, *args)

    monkeypatch.setattr(Denoiser, "forward", forward)
    return counted


def fields(store: Path, name: str = "mrr") -> xr.DataArray:
    return xr.open_zarr(store)[name].load()


def run(model: CorrDiff, store: Path, times: Any = TIMES, source: Any = None, **options: Any) -> xr.Dataset:
    downscale(times, model, source or Weather(), store, options=Options(**{"seed": SEED, **options}))
    return xr.open_zarr(store).load()


# what a member depends on: the seed, the time, its number, and nothing else


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_a_member_alone_and_in_any_batch(
    package: Path, whole: Path, tmp_path: Path, batch: int | None
) -> None:
    model = load(package, number_of_samples=1 if batch is None else 3)
    ds = run(model, tmp_path / "run.zarr", max_batch=batch)
    for name in model.output_variables:
        np.testing.assert_array_equal(ds[name], fields(whole, name)[:, : model.number_of_samples])


@pytest.mark.slow
def test_a_member_in_another_order_of_times(package: Path, whole: Path, tmp_path: Path) -> None:
    more = [TIMES[1], "2024-07-24T18:00", TIMES[0]]
    ds = run(load(package), tmp_path / "run.zarr", more)
    for name in ds.mrr.name, "t2m":
        np.testing.assert_array_equal(ds[name][[2, 0]], fields(whole, name))
    assert not np.array_equal(ds.mrr[1], ds.mrr[0])


def test_a_member_is_the_pipeline_called_by_hand(package: Path, whole: Path) -> None:
    model = load(package)
    for t, time in enumerate(TIMES):
        seeds = [member_seed(SEED, np.datetime64(time), i) for i in range(3)]
        by_hand = model.downscaler(coarse(time, model), seeds)[0]
        assert torch.isfinite(by_hand).all() and not torch.equal(by_hand[0], by_hand[1])
        for i, name in enumerate(model.output_variables):
            np.testing.assert_array_equal(fields(whole, name)[t], by_hand[:, i])


@pytest.mark.slow
def test_another_seed_gives_other_members(package: Path, whole: Path, tmp_path: Path) -> None:
    other = run(load(package), tmp_path / "run.zarr", TIMES[:1], seed=SEED + 1)
    assert not np.intersect1d(other.member_seed, xr.open_zarr(whole).member_seed).size
    assert np.abs(other.mrr - fields(whole)[:1]).mean() > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [str, lambda t: datetime.fromisoformat(t).replace(tzinfo=UTC), np.datetime64]
)
def test_times_in_every_form(small: Path, tmp_path: Path, kind: Callable[[str], Any]) -> None:
    ds = run(load(small), tmp_path / "run.zarr", kind(TIMES[0]))
    assert ds.time.values == np.array([TIMES[0]], dtype="datetime64[ns]")
    assert ds.member_seed.values == [[member_seed(SEED, np.datetime64(TIMES[0], "ns"), 0)]]


@pytest.mark.slow
def test_the_models_settings_are_used(package: Path, tmp_path: Path, evaluations: list[int]) -> None:
    model = load(package, number_of_samples=2, number_of_steps=np.int64(3), solver="euler", seed=np.int64(4))
    model.sigma_max = np.float32(50.0)
    ds = run(model, tmp_path / "run.zarr", TIMES[0], seed=None)
    assert len(evaluations) == 2 * 3
    assert ds.attrs["number_of_steps"] == 3 and ds.attrs["solver"] == "euler" and ds.attrs["sigma_max"] == 50
    assert ds.attrs["seed"] == 4 and ds.sizes["sample"] == 2
    again = run(model, tmp_path / "again.zarr", TIMES[0], seed=4)
    np.testing.assert_array_equal(again.t2m, ds.t2m)


@pytest.mark.slow
def test_a_run_without_seed_records_the_one_it_drew(small: Path, tmp_path: Path) -> None:
    model = load(small, seed=None)
    ds = [run(model, tmp_path / f"{i}.zarr", TIMES[0], seed=None) for i in range(2)]
    assert ds[0].attrs["seed"] != ds[1].attrs["seed"]
    again = run(model, tmp_path / "again.zarr", TIMES[0], seed=ds[1].attrs["seed"])
    np.testing.assert_array_equal(again.mrr, ds[1].mrr)


@pytest.mark.slow
def test_progress_and_stages(package: Path, tmp_path: Path, evaluations: list[int]) -> None:
    done: list[int] = []
    options = Options(seed=SEED, max_batch=2)
    downscaling = Downscaling(TIMES, load(package), Weather(), tmp_path / "run.zarr", options, done.append)
    assert downscaling.evaluations == 2 * 3 * CALLS and downscaling.members == 6
    items = list(downscaling)
    assert items == [(time, i) for time in np.array(TIMES, dtype="datetime64[ns]") for i in range(3)]
    assert sum(done) == sum(evaluations) == downscaling.evaluations and downscaling.written == 6
    assert (
        list(downscaling.seconds) == ["fetch", "compute", "write"] and min(downscaling.seconds.values()) > 0
    )


@pytest.mark.slow
def test_a_member_is_on_disk_when_it_is_yielded(package: Path, tmp_path: Path) -> None:
    for time, i in Downscaling(TIMES, load(package), Weather(), tmp_path / "run.zarr"):
        member = fields(tmp_path / "run.zarr").sel(time=time, sample=i)
        assert member.notnull().all()


@pytest.mark.slow
def test_the_regression_alone(tmp_path: Path) -> None:
    path = small_package(tmp_path / "package", inference_mode="regression", number_of_samples=2)
    model, done = load(path), []
    downscaling = Downscaling(TIMES[0], model, Weather(), tmp_path / "run.zarr", progress=done.append)
    assert downscaling.evaluations == 0 and len(list(downscaling)) == 2 and sum(done) == 0
    mean = model.downscaler.mean(coarse(TIMES[0], model))[0, 1]
    for i in range(2):
        np.testing.assert_array_equal(fields(tmp_path / "run.zarr", "t2m")[0, i], mean)


@pytest.mark.slow
def test_number_of_samples_of_downscale(small: Path, tmp_path: Path) -> None:
    model = load(small, number_of_samples=1)
    downscale(TIMES[0], model, Weather(), tmp_path / "run.zarr", number_of_samples=2)
    assert fields(tmp_path / "run.zarr").sizes["sample"] == 2 and model.number_of_samples == 1
    with pytest.raises(InputError, match="number_of_samples must be a whole number of 1 or more, got 0"):
        downscale(TIMES[0], model, Weather(), tmp_path / "other.zarr", number_of_samples=0)


# out of memory


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(
    package: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    tried: list[int] = []
    original = Downscaler.sample

    def block(self: Downscaler, rows: Any, *how: Any) -> torch.Tensor:
        tried.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(self, rows, *how)

    monkeypatch.setattr(Downscaler, "sample", block)
    ds = run(load(package), tmp_path / "run.zarr", max_batch=3)
    np.testing.assert_array_equal(ds.mrr, fields(whole))
    assert lines == ["out of memory with 3 members at once; going on with 1\n"]
    assert tried == [3, 1, 1, 1, 1, 1, 1]  # the second time does not try again


@pytest.mark.slow
def test_one_member_that_does_not_fit(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def block(*args: Any) -> torch.Tensor:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried"
        )

    monkeypatch.setattr(Downscaler, "sample", block)
    with pytest.raises(InputError, match="one member alone does not fit the memory"):
        run(load(small), tmp_path / "run.zarr")


# resuming


def killed_after(members: int, model: CorrDiff, store: Path, **options: Any) -> None:
    downscaling = Downscaling(TIMES, model, Weather(), store, Options(**{"seed": SEED, **options}))
    assert len(list(itertools.islice(downscaling, members))) == members


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.slow
def test_only_missing_members_are_recomputed(
    package: Path, whole: Path, tmp_path: Path, members: int, evaluations: list[int]
) -> None:
    model, store, done = load(package), tmp_path / "run.zarr", []
    killed_after(members, model, store)
    evaluations.clear()
    (store / "t2m/c/0/.abc.partial").write_bytes(b"half")
    source = Weather()
    rest = Downscaling(TIMES, model, source, store, Options(resume=True), done.append)
    assert len(list(rest)) == rest.written == 6 - members
    assert sum(evaluations) == (6 - members) * CALLS
    assert sum(done) == rest.evaluations == 6 * CALLS  # the bar starts where the killed run ended
    assert len(source.asked) == (2 if members < 3 else 1)  # a time that is complete is not fetched again
    same(store, whole)


@pytest.mark.slow
def test_a_gap_is_filled(package: Path, whole: Path, tmp_path: Path, evaluations: list[int]) -> None:
    store = shutil.copytree(whole, tmp_path / "run.zarr")
    for member in ("0/0", "1/1"):
        (store / "member_seed/c" / member).unlink()
        (store / "mrr/c" / member / "0/0").unlink()
    run(load(package), store, resume=True, max_batch=8)
    assert sum(evaluations) == 2 * CALLS
    same(store, whole)


def test_resuming_a_finished_store_does_nothing(package: Path, whole: Path, evaluations: list[int]) -> None:
    before, source = contents(whole), Weather()
    stamps = [path.stat().st_mtime_ns for path in whole.rglob("*")]
    rest = Downscaling(TIMES, load(package), source, whole, Options(resume=True))
    assert list(rest) == [] and rest.written == 0 and not evaluations and not source.asked
    assert contents(whole) == before and [path.stat().st_mtime_ns for path in whole.rglob("*")] == stamps


@pytest.mark.slow
def test_resuming_nothing_starts_afresh(package: Path, whole: Path, tmp_path: Path) -> None:
    run(load(package), tmp_path / "deep/er/run.zarr", resume=True)
    same(tmp_path / "deep/er/run.zarr", whole)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def writes(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A whole run of two times and two members, how many files its layout writes, and how many the run."""
    from zarr.storage import _local

    folder, written, put = tmp_path_factory.mktemp("writes"), [], _local._put

    def noting(path: Path, *args: Any, **kwargs: Any) -> int:
        written.append("new" if path.relative_to(folder).parts[0].endswith(".new") else "run.zarr")
        return put(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_local, "_put", noting)
        run(load(small, number_of_samples=2), folder / "run.zarr")
    assert list(dict.fromkeys(written)) == ["new", "run.zarr"]
    return folder / "run.zarr", written.count("new"), written.count("run.zarr")


# A time writes three coarse fields, and for each member two fields and the seed.
@pytest.mark.slow
@pytest.mark.parametrize("when", [("layout", i) for i in (0, -1)] + [("run", i) for i in (0, 3, 5, 8, -1)])
def test_killed_at_any_write(
    small: Path,
    writes: tuple[Path, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: tuple[str, int],
) -> None:
    """The process dies in one of its writes; half of that file is there, under its temporary name."""
    from zarr.storage import _local

    whole, layout, in_run = writes
    assert in_run == 2 * (3 + 2 * 3)
    stage, last = when
    last += (layout if stage == "layout" else in_run) * (last < 0) + layout * (stage == "run")
    model, store, count, put = (
        load(small, number_of_samples=2),
        tmp_path / "run.zarr",
        itertools.count(),
        _local._put,
    )

    def dying(path: Path, value: Any, exclusive: bool = False) -> int:
        if next(count) >= last:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".0123456789abcdef.partial").write_bytes(value.to_bytes()[:10])
            raise Killed
        return put(path, value, exclusive)

    with monkeypatch.context() as patch:
        patch.setattr(_local, "_put", dying)
        patch.setattr(place_module.shutil, "rmtree", lambda *args, **kwargs: None)  # the dead do not tidy up
        with pytest.raises(Killed):
            run(model, store)
    assert store.exists() == (stage == "run")
    if store.exists():
        assert fields(store, "member_seed").shape == (2, 2)
    run(model, store, resume=True)
    same(store, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 8}, "seed 7 instead of 8"),
        ({"solver": "euler"}, "solver heun instead of euler"),
        ({"number_of_steps": 3}, "number of steps 2 instead of 3"),
        ({"sigma_max": 70.0}, "sigma max 80.0 instead of 70.0"),
        ({"number_of_samples": 4}, "3 members instead of 4"),
        ({"times": TIMES[:1]}, "the times 2024-07-24T12:00, 2024-07-25T00:00 instead of 2024-07-24T12:00"),
        (
            {"times": TIMES[::-1]},
            "the times 2024-07-24T12:00, 2024-07-25T00:00 instead of 2024-07-25T00:00, ",
        ),
        ({"precision": "bf16"}, "precision fp32 instead of bf16"),
        ({"source": "demo"}, "source Weather instead of demo"),
        ({"package": {"number_of_samples": 3, "seed": 1}}, "package sha256 "),
        ({"package": {"shape": (20, 24)}}, "another output grid"),
    ],
)
def test_another_run_is_not_resumed(
    package: Path, whole: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    before = contents(whole)
    times, seed = change.pop("times", TIMES), change.pop("seed", SEED)
    source = make_source(change.pop("source")) if "source" in change else Weather()
    if "package" in change:
        model = load(small_package(tmp_path / "package", **change.pop("package")))
    else:
        model = CorrDiff.load_model(Folder(package), precision=change.pop("precision", "fp32"))
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(InputError) as caught:
        downscale(times, model, source, whole, options=Options(seed=seed, resume=True))
    message = str(caught.value)
    assert f"{whole} belongs to another run, it has " in message and says in message
    assert message.endswith("; use --overwrite or another --output") and "\n" not in message
    assert contents(whole) == before


@pytest.mark.slow
def test_churn_is_part_of_a_run(package: Path, tmp_path: Path) -> None:
    model = load(package, solver="stochastic")
    killed_after(2, model, tmp_path / "run.zarr")
    model.churn = Churn(S_churn=1.0)
    with pytest.raises(InputError, match="churn Churn.S_churn=2.0.* instead of Churn.S_churn=1.0"):
        run(model, tmp_path / "run.zarr", resume=True)
    model.churn = Churn()
    run(model, tmp_path / "run.zarr", resume=True)
    run(model, tmp_path / "whole.zarr")
    same(tmp_path / "run.zarr", tmp_path / "whole.zarr")


@pytest.mark.slow
def test_other_software_is_said(package: Path, tmp_path: Path, lines: list[str]) -> None:
    killed_after(1, load(package), tmp_path / "run.zarr")
    about = tmp_path / "run.zarr/zarr.json"
    about.write_text(about.read_text().replace("earth2studio\\", "earth3studio\\"))
    run(load(package), tmp_path / "run.zarr", resume=True)
    assert any("other software versions: members may differ in the last bits" in line for line in lines)


# what is there already


@pytest.fixture(scope="module")
def done(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store of one time and one member."""
    path = tmp_path_factory.mktemp("done") / "run.zarr"
    run(load(small), path, TIMES[0], seed=1)
    return path


@pytest.fixture
def old(done: Path, tmp_path: Path) -> Path:
    """A store that a run must not lose."""
    return Path(shutil.copytree(done, tmp_path / "run.zarr"))


@pytest.mark.slow
def test_an_existing_store_is_refused(small: Path, old: Path) -> None:
    before = contents(old.parent)
    source = Weather()
    with pytest.raises(InputError, match="exists; use --resume to go on with it, or --overwrite"):
        run(load(small), old, source=source)
    assert contents(old.parent) == before and not source.asked


@pytest.mark.slow
def test_overwrite(small: Path, old: Path) -> None:
    run(load(small), old.parent / "new.zarr", seed=2)
    run(load(small), old, seed=2, overwrite=True)
    same(old, old.parent / "new.zarr")
    assert sorted(path.name for path in old.parent.iterdir()) == ["new.zarr", "run.zarr"]


def spoil_all(array: xr.DataArray) -> None:
    array[:] = np.nan


def fail(array: xr.DataArray) -> None:
    raise ConnectionError("connection reset by peer")


def celsius(array: xr.DataArray) -> None:
    array.loc[{"variable": "t2m"}] -= 273.15


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [spoil_all, fail, celsius])
@pytest.mark.parametrize("start", [{"overwrite": True}, {"resume": True}, {}])
def test_nothing_is_lost_when_the_input_cannot_be_used(
    small: Path, old: Path, spoil: Callable[[Any], None], start: dict[str, bool], evaluations: list[int]
) -> None:
    where = old if "overwrite" in start else old.parent / "other.zarr"
    before = contents(old.parent)
    with pytest.raises(InputError):
        run(load(small), where, source=Weather(spoil), **start)
    assert contents(old.parent) == before and not evaluations
    assert [path.name for path in old.parent.iterdir()] == ["run.zarr"]


@pytest.mark.slow
def test_nothing_is_lost_when_the_source_lacks_something(small: Path, old: Path) -> None:
    before = contents(old.parent)
    source = make_source(f"file:{weather_file(old.parent.parent / f'{old.parent.name}.nc', names=['t2m'])}")
    for times, says in ((TIMES[0], "has no u10m, z500; it has t2m"), ("2020-01-01", "got 2020-01-01T00:00")):
        with pytest.raises(InputError, match=says):
            run(load(small), old, times, source, overwrite=True)
    with pytest.raises(InputError, match="the time 2024-07-24T12:00 is given twice"):
        run(load(small), old, [*TIMES, TIMES[0]], overwrite=True)
    assert contents(old.parent) == before


@pytest.mark.slow
def test_input_that_goes_bad_later_keeps_what_is_written(small: Path, tmp_path: Path) -> None:
    def second(array: xr.DataArray) -> None:
        if array.time.values[0] == np.datetime64(TIMES[1]):
            spoil_all(array)

    with pytest.raises(InputError, match="at 2024-07-25T00:00 cannot be used: it has no values at all"):
        run(load(small), tmp_path / "run.zarr", source=Weather(second))
    assert (fields(tmp_path / "run.zarr", "member_seed") != -1).values.tolist() == [[True], [False]]
    run(load(small), tmp_path / "run.zarr", resume=True)
    assert fields(tmp_path / "run.zarr").notnull().all()


def test_what_a_replacement_left_is_tidied_up(small: Path, old: Path) -> None:
    """Killed after the moves, before the old store was gone."""
    (old.parent / ".run.zarr.old/t2m").mkdir(parents=True)
    run(load(small), old, TIMES[0], seed=1, resume=True)
    assert [path.name for path in old.parent.iterdir()] == ["run.zarr"]


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 1])
def test_killed_while_the_old_store_is_replaced(
    small: Path, old: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    before, left, rename = contents(old), itertools.count(), Path.rename

    def dying(self: Path, target: Path) -> Path:
        if next(left) >= moves:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    monkeypatch.setattr(place_module.shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(Killed):
        run(load(small), old, seed=2, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="exists; use --resume"):  # the old one is there, or put back
        run(load(small), old, seed=2)
    assert contents(old) == before
    run(load(small), old, seed=2, overwrite=True)
    assert [path.name for path in old.parent.iterdir()] == ["run.zarr"]


def test_what_is_no_store_is_never_touched(small: Path, tmp_path: Path) -> None:
    file, folder, other = tmp_path / "file", tmp_path / "folder", tmp_path / "other.zarr"
    file.write_text("precious")
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    zarr.open_group(other, mode="w").create_array("era5", data=np.arange(3))
    before, model = contents(tmp_path), load(small)
    for place, start in itertools.product((file, folder, other), ({}, {"overwrite": True}, {"resume": True})):
        with pytest.raises(InputError, match="exists and is not a store of a run; give another --output"):
            run(model, place, **start)
    for place in (file / "run.zarr", file / "a/run.zarr"):
        with pytest.raises(InputError, match="cannot write .*[Nn]ot a directory"):
            run(model, place)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_store_behind_a_link_is_replaced(small: Path, old: Path) -> None:
    disk = old.parent.parent / f"{old.parent.name}-disk"
    disk.mkdir()
    old.rename(disk / "real.zarr")
    old.symlink_to(disk / "real.zarr")
    for seed in (2, 3):
        run(load(small), old, seed=seed, overwrite=True)
        assert old.is_symlink() and xr.open_zarr(disk / "real.zarr").attrs["seed"] == seed
    assert [path.name for path in (*old.parent.iterdir(), *disk.iterdir())] == ["run.zarr", "real.zarr"]


def test_a_damaged_store_is_said(small: Path, old: Path) -> None:
    (old / "time/zarr.json").write_text("{")
    with pytest.raises(InputError, match="run.zarr is damaged .*; use --overwrite"):
        run(load(small), old, TIMES[0], seed=1, resume=True)


@pytest.mark.slow
def test_a_store_that_lost_its_own_metadata_is_refused(small: Path, old: Path) -> None:
    for text in (None, "", "{", "null", "[]", '{"zarr_format": 3}'):
        about = old / "zarr.json"
        about.unlink() if text is None else about.write_text(text)
        for start in ({}, {"resume": True}):
            with pytest.raises(
                InputError, match=r"run.zarr is damaged \(its zarr.json .*\); use --overwrite"
            ):
                run(load(small), old, TIMES[0], seed=1, **start)


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, "{"])
def test_a_store_that_lost_its_own_metadata_is_overwritten(
    small: Path, done: Path, old: Path, text: str | None
) -> None:
    """The seeds of its members say that it is a run's; until the new one is complete, nothing is gone."""
    before, about = contents(old), old / "zarr.json"
    about.unlink() if text is None else about.write_text(text)
    model = load(small, number_of_samples=2)
    next(iter(Downscaling(TIMES[0], model, Weather(), old, Options(seed=1, overwrite=True))))
    assert (old / "t2m/c/0/0/0/0").read_bytes() == before["t2m/c/0/0/0/0"]
    run(model, old, TIMES[0], seed=1, resume=True)  # goes on with the new one
    run(model, old.parent / "new.zarr", TIMES[0], seed=1)
    same(old, old.parent / "new.zarr")


def test_seeds_alone_make_no_store_of_a_run(small: Path, done: Path, tmp_path: Path) -> None:
    """Neither another's array of that name, nor ours below metadata that are another program's."""
    shutil.copytree(done, tmp_path / "run.zarr")
    bare, others = tmp_path / "bare.zarr", tmp_path / "others.zarr"
    zarr.open_group(bare, mode="w").create_array("member_seed", data=np.arange(3))
    (bare / "zarr.json").unlink()
    zarr.open_group(others, mode="w")
    shutil.copytree(tmp_path / "run.zarr/member_seed", others / "member_seed")
    before = contents(tmp_path)
    for place, start in itertools.product((bare, others), ({}, {"overwrite": True}, {"resume": True})):
        with pytest.raises(InputError, match="exists and is not a store of a run; give another --output"):
            run(load(small), place, **start)
    assert contents(tmp_path) == before


def test_data_that_is_no_source(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(load(small), tmp_path / "run.zarr", source=42)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked_for(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_batch must be a whole number of 1 or more, got 0"):
        run(load(small), tmp_path / "run.zarr", max_batch=0)
    with pytest.raises(InputError, match="only a Zarr store can be resumed"):
        downscale(TIMES[0], load(small), Weather(), XarrayBackend(), options=Options(resume=True))
    assert not list(tmp_path.iterdir())


def test_public_names() -> None:
    assert earth2_corrdiff.downscale is run_module.downscale and "downscale" in dir(earth2_corrdiff)
    with pytest.raises(AttributeError, match="no attribute 'downscaling'"):
        _ = earth2_corrdiff.downscaling
