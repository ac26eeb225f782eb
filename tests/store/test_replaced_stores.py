# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Stores that are replaced, or removed while they are written."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import xarray as xr
import zarr
from earth2studio.io import ZarrBackend
from run_kit import TIMES, Weather, command, contents, load, make_package, same

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.store import paths as place_module

pytestmark = pytest.mark.slow

STORE = "run.zarr"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_package(tmp_path_factory.mktemp("package"))


def begin(package: Path, store: Path, seed: int | None = 1, source: Any = None, **how: Any) -> Downscaling:
    model = load(package, number_of_samples=2)
    return Downscaling(TIMES, model, source or Weather(), store, Options(seed, **how))


def run(package: Path, store: Path, seed: int | None = 1, **how: Any) -> None:
    for _ in begin(package, store, seed, **how):
        pass


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Complete stores by their seed."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (1, 2):
        run(package, folder / f"{seed}.zarr", seed)
    return {seed: folder / f"{seed}.zarr" for seed in (1, 2)}


@pytest.fixture
def old(whole: dict[int, Path], tmp_path: Path) -> Path:
    """A complete store that must not be lost."""
    return Path(shutil.copytree(whole[1], tmp_path / STORE))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --overwrite


@pytest.mark.parametrize("members", [0, 1, 3])
def test_the_old_store_stays_until_the_new_one_is_complete(
    package: Path, whole: dict[int, Path], old: Path, members: int
) -> None:
    """Interrupted at any member; then resumed with the seed that was given, or none."""
    before = contents(old)
    new = iter(begin(package, old, 2, overwrite=True))
    assert len(list(itertools.islice(new, members))) == members and contents(old) == before
    new.close()  # type: ignore[attr-defined]
    assert contents(old) == before and xr.open_zarr(old).attrs["seed"] == 1
    with pytest.raises(InputError, match="exists; use --resume to go on with it, or --overwrite"):
        begin(package, old, 2)
    rest = begin(package, old, None, resume=True)
    assert len(list(rest)) == 4 - members and rest.seed == 2
    same(old, whole[2])
    assert names(old.parent) == [STORE]


def test_what_fails_leaves_the_old_store(package: Path, whole: dict[int, Path], old: Path) -> None:
    """Input that goes bad at the second time, with --keep-going, too: it is not complete."""

    def second(array: xr.DataArray) -> None:
        if array.time.values[0] == np.datetime64(TIMES[1]):
            array[:] = np.nan

    before = contents(old)
    with pytest.raises(InputError, match="at 2024-07-25T00:00 cannot be used"):
        run(package, old, 2, source=Weather(second), overwrite=True)
    assert contents(old) == before
    new = begin(package, old, 2, source=Weather(second), overwrite=True, keep_going=True)
    assert len(list(new)) == 2 and list(new.failed) == [1] and contents(old) == before
    assert new.output.keeps.startswith(f"{old} is as it was, what is done of the new one is kept; go on")
    run(package, old, 2, resume=True)
    same(old, whole[2])


def test_a_replacement_that_is_given_up(package: Path, whole: dict[int, Path], old: Path) -> None:
    """Overwritten anew, it starts afresh; resumed with the old run's settings, the old one is complete."""
    next(iter(begin(package, old, 3, overwrite=True)))
    rest = begin(package, old, 1, resume=True)
    assert list(rest) == [] and rest.found == 4
    same(old, whole[1])
    run(package, old, 2, overwrite=True)
    same(old, whole[2])
    assert names(old.parent) == [STORE]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_killed_while_it_is_put_in_its_place(
    package: Path, whole: dict[int, Path], old: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Before its layout is whole, before it is known to be, before the old one is moved away, and after that.

    The old one is there, until the new one is known to be complete.
    """
    left, rename, before = itertools.count(), Path.rename, contents(old)

    def dying(self: Path, target: Path) -> Path:
        if next(left) >= moves:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(place_module.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            run(package, old, 2, overwrite=True)
    with pytest.raises(InputError, match="exists; use --resume"):
        begin(package, old, 2)
    assert moves > 1 or contents(old) == before
    again: dict[str, Any] = {"resume": True} if moves else {"overwrite": True}
    run(package, old, 2, **again)
    same(old, whole[2])
    assert names(old.parent) == [STORE]


def test_the_command_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = make_package(tmp_path / "package", number_of_samples=2)
    argv = (TIMES[0], "--package", package, "--source", "demo", "--output", STORE)
    assert command(capfd, *argv, "--seed", 1)[0] == 0
    before = contents(Path(STORE))

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("earth2_corrdiff.model.downscaler.Downscaler.sample", stop)
        status, _, err = command(capfd, *argv, "--seed", 2, "--overwrite")
    assert status == 130 and contents(Path(STORE)) == before
    assert err.endswith(
        f"interrupted: {STORE} is as it was, what is done of the new one is kept; go on with --resume\n"
    )
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and "seed 2" in out and xr.open_zarr(STORE).attrs["seed"] == 2


# removed under a run


def remove(store: Path) -> None:
    shutil.rmtree(store)


def replace(store: Path) -> None:
    shutil.copytree(store, store.with_name("copy"))
    shutil.rmtree(store)
    store.with_name("copy").rename(store)


@pytest.mark.parametrize("change", [remove, replace])
def test_a_store_that_is_removed_under_a_run(
    package: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """By somebody who tidies up, or by another run: one line, no half store."""
    members = iter(begin(package, tmp_path / STORE, max_batch=1))
    next(members)
    change(tmp_path / STORE)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="run.zarr was removed or replaced while the run was writing it"):
        list(members)
    after = contents(tmp_path)
    assert {name for name in after if "zarr.json" in name} == {n for n in before if "zarr.json" in n}
    if change is remove:
        assert names(tmp_path) == []


def test_the_command_and_a_store_that_is_removed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from earth2_corrdiff.store.writer import Store

    package = make_package(tmp_path / "package", number_of_samples=2)
    write = Store.write_members

    def removing(self: Store, *args: Any) -> None:
        write(self, *args)
        shutil.rmtree(tmp_path / STORE)

    monkeypatch.setattr(Store, "write_members", removing)
    argv = (TIMES[0], "--package", package, "--source", "demo", "--max-batch", 1)
    status, out, err = command(capfd, *argv, "--output", tmp_path / STORE)
    assert status == 2 and out == "" and "Traceback" not in err
    assert err.splitlines()[-1].endswith("and start again without --resume")


# backends without a copy of the metadata


class Transactional(zarr.storage.MemoryStore):
    """Stands for IceChunk's: it has no consolidated metadata, and refuses to make them."""

    @property
    def supports_consolidated_metadata(self) -> bool:
        return False


class InBackground(ZarrBackend):  # type: ignore[misc]
    """Stands for IceChunk's backend: fields are written when it is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Transactional()
        self.root = zarr.group(self.store)
        self.later: list[tuple[Any, ...]] = []

    def _write_array(self, *what: Any) -> None:
        self.later.append(what)

    def flush(self) -> None:
        while self.later:
            super()._write_array(*self.later.pop())


@pytest.mark.parametrize("compress", ["lossless", "bounded"])
def test_a_backend_with_transactions(package: Path, tmp_path: Path, compress: str) -> None:
    from earth2_corrdiff.store.error_bounds import Compression

    options = Options(1, compress=Compression.parse(compress))
    model = load(package, number_of_samples=2)
    downscale(TIMES, model, Weather(), tmp_path / STORE, options=options)
    io = InBackground()
    assert downscale(TIMES, model, Weather(), io, options=options) is io and not io.later
    want = zarr.open_group(tmp_path / STORE, mode="r")
    for name in ("mrr", "t2m", "member_seed"):
        np.testing.assert_array_equal(io.root[name][:], want[name][:])


def test_icechunk(package: Path, whole: dict[int, Path], tmp_path: Path) -> None:
    pytest.importorskip("icechunk", reason="IceChunk is not installed")
    from earth2studio.io import IceChunkBackend

    model = load(package, number_of_samples=2)
    io = IceChunkBackend(str(tmp_path / "repository"))
    downscale(TIMES, model, Weather(), io, options=Options(1))
    io.commit("a run")
    again = IceChunkBackend(str(tmp_path / "repository"))
    assert np.array_equal(again["t2m"][:], zarr.open_group(whole[1], mode="r")["t2m"][:])
    downscale(TIMES, model, Weather(), again, options=Options(1, resume=True))


def test_a_backend_that_cannot_hold_the_output_is_refused_at_once(package: Path) -> None:
    class Fussy:
        """Takes no array."""

        def add_array(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("dimension_names and shape differ")

    asked: list[int] = []
    model = load(package)
    model.downscaler.denoiser.register_forward_pre_hook(lambda *_: asked.append(1))
    with pytest.raises(InputError, match="the backend Fussy cannot hold the output .dimension_names and"):
        downscale(TIMES, model, Weather(), Fussy())
    assert not asked


# members that are not finite


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Seeds of members of which the second output gets a gap."""
    from earth2_corrdiff.model.downscaler import Downscaler

    seeds: set[int] = set()
    original = Downscaler.sample

    def sample(self: Downscaler, rows: Any, *how: Any) -> torch.Tensor:
        out = original(self, rows, *how)
        for i, (_, seed) in enumerate(rows):
            if int(seed) in seeds:
                out[i, 1, 3, 5] = torch.inf
        return out

    monkeypatch.setattr(Downscaler, "sample", sample)
    yield seeds


@pytest.mark.parametrize("batch", [1, 2])
def test_a_member_that_is_not_finite_is_not_written(
    package: Path, whole: dict[int, Path], tmp_path: Path, broken: set[int], batch: int
) -> None:
    """The others of its block are; it is computed again when the run is resumed."""
    seeds = zarr.open_group(whole[1], mode="r")["member_seed"][:]
    broken.add(int(seeds[0, 1]))
    says = "t2m of member 1 at 2024-07-24T12:00 is not finite at 0.26 % of the points"
    with pytest.raises(InputError, match=says):
        run(package, tmp_path / STORE, max_batch=batch)
    root = zarr.open_group(tmp_path / STORE, mode="r")
    assert root["member_seed"][0].tolist() == [seeds[0, 0], -1]
    assert np.isfinite(root["t2m"][0, 0]).all() and np.isnan(root["t2m"][0, 1]).all()
    again = begin(package, tmp_path / STORE, resume=True, keep_going=True, max_batch=batch)
    wrote = [(str(time)[:16], member) for time, member in again]
    assert wrote == [(TIMES[1], 0), (TIMES[1], 1)]
    assert list(again.failed) == [0] and says in str(again.failed[0])
    broken.clear()
    run(package, tmp_path / STORE, resume=True)
    same(tmp_path / STORE, whole[1])


def test_the_command_ends_with_status_3(
    tmp_path: Path, broken: set[int], capfd: pytest.CaptureFixture[str]
) -> None:
    from earth2_corrdiff.model.diffusion.noise import member_seed

    package = make_package(tmp_path / "package", number_of_samples=2)
    broken.add(member_seed(1, np.datetime64(TIMES[0]), 0))
    argv = (*TIMES, "--package", package, "--source", "demo", "--seed", 1, "--output", tmp_path / STORE)
    status, out, err = command(capfd, *argv)
    assert status == 2 and out == "" and "t2m of member 0 at 2024-07-24T12:00 is not finite" in err
    status, out, err = command(capfd, *argv, "--resume", "--keep-going")
    assert status == 3 and "but for 1 of 2 times that failed" in out and "Traceback" not in err
    assert "failed: 2024-07-24T12:00: t2m of member 0 at 2024-07-24T12:00 is not finite" in err
    assert (xr.open_zarr(tmp_path / STORE).member_seed == -1).values.tolist() == [[True, False], [False] * 2]


def test_no_backend_gets_a_member_that_is_not_finite(package: Path, broken: set[int]) -> None:
    from collections import OrderedDict

    from earth2studio.io import XarrayBackend

    from earth2_corrdiff.model.diffusion.noise import member_seed

    broken.add(member_seed(1, np.datetime64(TIMES[0]), 0))
    io = XarrayBackend(OrderedDict())
    with pytest.raises(InputError, match="t2m of member 0 .* is not finite"):
        model = load(package, number_of_samples=2, max_batch=2)
        downscale(TIMES[0], model, Weather(), io, options=Options(1))
    t2m = np.asarray(io["t2m"][:])
    assert np.isfinite(t2m[0, 1]).all() and not np.isinf(t2m).any()
