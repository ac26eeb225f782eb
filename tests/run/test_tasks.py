# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in tasks: the same bytes as of one process, whatever the number and the order of the tasks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import zarr
from run_kit import TIMES, Weather, command, contents, load, make_package, refused, same

from earth2_corrdiff import InputError
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.run.tasks import Part, Task, blocks
from earth2_corrdiff.store.error_bounds import Compression

STORE = "run.zarr"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=5)


def begin(package: Path, store: Path, seed: int | None = 3, **how: object) -> Downscaling:
    return Downscaling(TIMES, load(package), Weather(), store, Options(seed, **how))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["lossless", "bounded"])
def compress(request: pytest.FixtureRequest) -> Compression | None:
    return Compression.parse(request.param)


@pytest.fixture(scope="module")
def whole(package: Path, compress: Compression | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    path = tmp_path_factory.mktemp("whole") / STORE
    list(begin(package, path, compress=compress))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_in_any_order(
    package: Path, whole: Path, compress: Compression | None, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Prepared, or made by whichever is the first; the last one records what is known of all."""
    path = tmp_path / STORE
    if order[0] == 0:
        assert begin(package, path, compress=compress).prepare() == [list(range(5))] * 2
    wrote = [list(begin(package, path, compress=compress, part=Part(i, 3))) for i in order]
    assert [len(members) for members in wrote] == [(3, 3, 4)[i] for i in order]
    same(path, whole)
    assert [p.name for p in tmp_path.iterdir()] == [STORE]
    again = begin(package, path, compress=compress, part=Part(1, 2))
    assert list(again) == [] and (again.found, again.members) == (5, 5)


@pytest.mark.slow
def test_parts_at_once_and_interrupted(package: Path, whole: Path, tmp_path: Path) -> None:
    """Two begin together, one dies; another number of tasks goes on, with a damaged member of each."""
    compress = Compression.parse("bounded") if "compression" in zarr.open_group(whole).attrs else None
    path, how = tmp_path / STORE, {"compress": compress}
    halves = [iter(begin(package, path, part=Part(i, 2), **how)) for i in range(2)]
    for half in halves:
        assert len(list(itertools.islice(half, 2))) == 2
    halves[0].close()  # type: ignore[attr-defined]
    list(halves[1])
    (path / "t2m/c/0/0/0/0").unlink()
    (path / "t2m/c/1/4/0/0").unlink()
    (path / "t2m/c/1/4/0/.a.partial").touch()
    wrote = [list(begin(package, path, None, part=Part(i, 4), **how)) for i in range(4)]
    assert sum(map(len, wrote)) == 5 and len(wrote[3]) == 1
    same(path, whole)


@pytest.mark.slow
def test_a_store_is_replaced_by_tasks(package: Path, whole: Path, tmp_path: Path) -> None:
    compress = Compression.parse("bounded") if "compression" in zarr.open_group(whole).attrs else None
    path = tmp_path / STORE
    list(begin(package, path, 8))
    before = contents(path)
    begin(package, path, overwrite=True, compress=compress).prepare()
    for i in range(3):
        assert contents(path) == before
        list(begin(package, path, part=Part(i, 3), compress=compress))
    same(path, whole)
    assert [p.name for p in tmp_path.iterdir()] == [STORE]


@pytest.mark.slow
def test_two_make_a_store_at_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rename decides: the other one goes on with that store and its seed, or is refused."""
    path = tmp_path / STORE
    second = begin(package, path, None, part=Part(1, 2))
    alone = begin(package, path, 5)
    first = begin(package, path, 4, part=Part(0, 2))
    found = Downscaling._resumed

    def late(self: Downscaling) -> object:
        if not path.exists():
            first.prepare()
            return None
        return found(self)

    monkeypatch.setattr(Downscaling, "_resumed", lambda self: None if self is first else late(self))
    assert len(list(second)) == 5 and second.seed == 4
    with pytest.raises(InputError, match="was made by another process meanwhile; use --resume"):
        list(alone)
    assert [p.name for p in tmp_path.iterdir()] == [STORE]


@pytest.mark.slow
def test_the_command(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = (*TIMES, "--package", package, "--source", "demo", "--device", "cpu", "--output")
    assert command(capfd, *argv, "one.zarr", "--seed", 3)[0] == 0
    argv = (*argv, STORE, "--seed", 3)
    status, out, _ = command(capfd, "prepare", *argv)
    assert status == 0 and out.startswith(f"prepared {STORE}: 10 of 10 members to compute; seed 3; run all")
    status, out, _ = command(capfd, *argv, "--task", "2/3")
    assert status == 0 and out.startswith(f"wrote part 2 of 3 of {STORE}: 2 times x 5 members of ")
    status, out, _ = command(capfd, "finish", STORE)
    assert (status, out) == (3, f"{STORE} misses 7 of 10 members; run the tasks that failed again\n")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    for name, value in {"MIN": "3", "MAX": "7", "STEP": "4", "COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    status, out, _ = command(capfd, *argv)  # the second of two
    assert status == 0 and out.startswith(f"completed part 2 of 2 of {STORE} (4 of 5 members were missing)")
    status, out, _ = command(capfd, *argv, "--task=1/1", "--resume")
    assert status == 0 and out.startswith(f"completed {STORE} (3 of 10 members were missing)")
    assert command(capfd, "finish", STORE)[:2] == (0, f"{STORE} is complete: 10 members\n")
    attributes = [zarr.open_group(path).attrs.asdict() for path in ("one.zarr", STORE)]
    assert attributes[1].pop("command") == attributes[0].pop("command").replace("one.zarr", STORE)
    assert attributes[0] == attributes[1]
    for words, says in (
        ((*argv, "--task", "0/3"), "--task takes I/N, from 1/N to N/N, got '0/3'"),
        (("prepare", *argv, "--task", "1/3"), "prepare is for all tasks; leave out --task"),
        ((*argv, "--task", "1/3", "--overwrite"), "one process replaces the store"),
        (("finish", package), "is not a store of a run"),
    ):
        assert says in refused(capfd, *words)


@pytest.mark.parametrize("of", [1, 2, 3, 8, 700])
@pytest.mark.parametrize(("cases", "members", "batch"), [(1, 5, 1), (1, 64, 4), (3, 4, 1), (40, 2, 2)])
def test_parts_and_blocks_cover_everything(of: int, cases: int, members: int, batch: int) -> None:
    """Once; parts are of one size, and blocks of whole batches, enough of them for all workers."""
    missing = [list(range(members)) for _ in range(cases)]
    missing[0] = missing[0][1:]  # something is there already
    wanted = [(case, i) for case, absent in enumerate(missing) for i in absent]
    parts = [Part(i, of).tasks(missing, members) for i in range(of)]
    assert [(task.case, i) for part in parts for task in part for i in task.members] == wanted
    sizes = [len(Part(i, of).within(cases, members)) for i in range(of)]
    assert max(sizes) - min(sizes) <= 1
    tasks = blocks(missing, of, batch)
    assert [(task.case, i) for task in tasks for i in task.members] == wanted
    last = {task.case: task for task in tasks}.values()
    assert all(len(task.members) % batch == 0 for task in tasks if task not in last)
    assert of == 1 or len(tasks) >= min(2 * of, sum(-(-len(absent) // batch) for absent in missing))
    assert blocks([[], [2]], 4, 1) == [Task(1, (2,))]
