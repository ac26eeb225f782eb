# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Stores whose files were lost or changed: found, computed again, and said in one line; never silent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import xarray as xr
import zarr
from axes import pairwise
from google_crc32c import value as crc32c
from run_kit import TIMES, Weather, contents, load, same
from zarr.codecs import BloscCodec, Crc32cCodec

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.files import flush
from earth2_corrdiff.cli import plot, verify
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.store import codecs, integrity
from earth2_corrdiff.store.error_bounds import Compression
from earth2_corrdiff.store.integrity import Integrity
from earth2_corrdiff.store.writer import Store

pytestmark = pytest.mark.slow

SEED = 7


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earth2_corrdiff.plotting.figures._dpi", lambda mesh, plan: 25.0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs, two outputs, 16 x 24 points."""
    return tiny.make_package(tmp_path_factory.mktemp("package"))


def run(package: Path, store: Path, source: Any = None, **options: Any) -> Downscaling:
    model = load(package, number_of_samples=2)
    found = Downscaling(TIMES, model, source or Weather(), store, Options(**{"seed": SEED, **options}))
    for _ in found:
        pass
    return found


BOUNDS = Compression(defaults=True)
KINDS = ("lossless", "bounded")


@pytest.fixture(scope="module", params=KINDS)
def whole(package: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    run(package, path, compress=BOUNDS if request.param == "bounded" else None)
    return path


def compress(store: Path) -> Compression | None:
    """What the store was made with."""
    return BOUNDS if "compression" in zarr.open_group(store, mode="r").attrs else None


def flip(data: bytes, at: float = 0.5) -> bytes:
    changed = bytearray(data)
    changed[int(at * len(data))] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "lost": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
    "first bit": lambda data: flip(data, 0.0),
    "a bit": flip,
    "checksum": lambda data: flip(data, 0.999),
}
CHUNKS = {  # and the case and the member that they belong to
    "t2m/c/0/1/0/0": (0, 1),
    "mrr/c/1/0/0/0": (1, 0),
    "member_seed/c/1/1": (1, 1),
    "u10m_lowres/c/1/0/0": (1, 0),
}
READ = [
    ("t2m/c/0/1/0/0", "lost", "lossless"),
    ("lat/c/0/0", "empty", "bounded"),
    ("time/c/0", "a bit", "lossless"),
    ("sample/c/0", "lost", "bounded"),
    ("member_seed/c/0/1", "empty", "lossless"),
    ("t2m/c/0/1/0/0", "a bit", "bounded"),
]
COORDINATES = ("lat", "lon_lowres", "time", "orography", "sample", "ilat")
FEW = ("lost", "empty", "a bit")


def damage(chunk: Path, how: str) -> None:
    data = DAMAGE[how](chunk.read_bytes())
    if data is None:
        chunk.unlink()
    else:
        chunk.write_bytes(data)


# the checksum


def test_the_last_four_bytes_of_every_chunk_are_its_checksum(whole: Path) -> None:
    """Against another implementation, of all arrays: coordinates and seeds, too."""
    chunks = {name: data for name, data in contents(whole).items() if "/c/" in name}
    kinds = {name.split("/")[0] for name in chunks}
    assert {"mrr", "t2m", "t2m_lowres", "member_seed", "lat", "lon", "time", "orography"} <= kinds
    for name, data in chunks.items():
        assert int.from_bytes(data[-4:], "little") == crc32c(data[:-4]), name


def test_fields_are_what_they_were_without(package: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A store of an earlier version, without checksums, has the same values, and is resumed as it is."""
    run(package, tmp_path / "new.zarr")
    old_store(package, tmp_path / "old.zarr", monkeypatch)
    old, new = (xr.open_zarr(tmp_path / f"{name}.zarr").load() for name in ("old", "new"))
    xr.testing.assert_identical(old, new)
    before = contents(tmp_path / "old.zarr")
    (tmp_path / "old.zarr/member_seed/c/0/1").unlink()
    (tmp_path / "old.zarr/t2m/c/1/0/0/0").write_bytes(b"")
    assert run(package, tmp_path / "old.zarr", resume=True).written == 2
    assert contents(tmp_path / "old.zarr") == before
    array = zarr.open_group(tmp_path / "old.zarr", mode="r")["t2m"]
    assert [type(codec) for codec in array.compressors] == [BloscCodec]


def old_store(package: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        """Stands for the checksum where there shall be none."""

    def without(make: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def made(*args: Any) -> dict[str, Any]:
            found = make(*args)
            kept = [codec for codec in found["compressors"] if not isinstance(codec, Crc32cCodec)]
            return {**found, "compressors": kept or None}

        return made

    with monkeypatch.context() as patch:
        for name in ("lossless", "plain", "small"):
            patch.setattr(f"earth2_corrdiff.store.arrays.{name}", without(getattr(codecs, name)))
        run(package, path)


# found when it is resumed


def test_every_damage_is_found(package: Path, whole: Path, tmp_path: Path) -> None:
    """Of any file, the one member of the four that it belongs to; nothing where nothing is damaged."""
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    model = load(package, number_of_samples=2)
    begun = Downscaling(TIMES, model, Weather(), store, Options(SEED, resume=True, compress=compress(whole)))
    names = tuple(model.input_variables)
    found = Store.resume(store, begun.product.layout(begun.seed, names))
    assert found.take_back(names) == 0 and found.all_missing() == [[], []]
    for chunk, where in CHUNKS.items():
        for how in DAMAGE:
            damage(store / chunk, how)
            found.take_back(names)
            assert found.all_missing() == [[where[1]] if case == where[0] else [] for case in range(2)], how
            for name in (chunk, f"member_seed/c/{where[0]}/{where[1]}"):
                (store / name).write_bytes((whole / name).read_bytes())
    assert found.take_back(names) == 0 and found.all_missing() == [[], []]


@pytest.mark.parametrize("whole", KINDS, indirect=True)
@pytest.mark.parametrize(
    ("chunk", "how"), zip(CHUNKS, ("a bit", "lost", "zeros", "cut"), strict=True), ids=str
)
def test_resume_computes_again_what_is_damaged(
    package: Path, whole: Path, tmp_path: Path, chunk: str, how: str
) -> None:
    """One member of the four; of a complete store, too. The end is the bytes of a run that went well."""
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    damage(store / chunk, how)
    again = run(package, store, resume=True, compress=compress(whole))
    assert (again.written, again.found) == (1, 3)
    same(store, whole)


@pytest.mark.parametrize(("how", "whole"), pairwise(FEW, KINDS), indirect=["whole"])
def test_damaged_coordinates_are_written_again(package: Path, whole: Path, tmp_path: Path, how: str) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    for name in COORDINATES:
        (chunk,) = (path for path in (store / name / "c").rglob("*") if path.is_file())
        damage(chunk, how)
    assert run(package, store, resume=True, compress=compress(whole)).written == 0
    same(store, whole)


def test_another_run_does_not_mend_coordinates(package: Path, whole: Path, tmp_path: Path) -> None:
    """With the times gone, the members' seeds say that the store belongs to other times."""
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    (store / "time/c/0").write_bytes(b"")
    before, model = contents(store), load(package, number_of_samples=2)
    options = Options(SEED, resume=True, compress=compress(whole))
    with pytest.raises(InputError, match="run.zarr is damaged .*; use --overwrite"):
        downscale(["2024-07-26T00", "2024-07-27T00"], model, Weather(), store, options=options)
    assert contents(store) == before


def test_errors_of_bounded_fields_are_a_part_of_the_member(package: Path, tmp_path: Path) -> None:
    run(package, tmp_path / "run.zarr", compress=BOUNDS)
    before = contents(tmp_path / "run.zarr")
    (tmp_path / "run.zarr/compression_error/c/0/0/0").unlink()
    again = run(package, tmp_path / "run.zarr", compress=BOUNDS, resume=True)
    assert again.written == 1 and contents(tmp_path / "run.zarr") == before


def test_sizes_of_all_and_bytes_of_the_newest(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that is too large to be read, the newest members are; --check reads all."""
    store = tmp_path / "run.zarr"
    run(package, store)
    before = contents(store)
    for age, seed in enumerate(("1/1", "1/0", "0/1", "0/0")):
        os.utime(store / "member_seed/c" / seed, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(integrity, "READ", 1)  # one member, then none
    read: list[tuple[int, ...]] = []
    by_reading = Integrity._by_reading

    def noting(self: Integrity, part: Any) -> str | None:
        read.append(part.where)
        return by_reading(self, part)

    monkeypatch.setattr(Integrity, "_by_reading", noting)
    damage(store / "t2m/c/0/0/0/0", "a bit")
    assert run(package, store, resume=True).written == 0 and read == [(1, 1)]
    (store / "mrr/c/0/1/0/0").unlink()  # a size is looked at always
    assert run(package, store, resume=True).written == 1
    assert contents(store) != before
    assert run(package, store, resume=True, check=True).written == 1
    assert contents(store) == before


def test_many_are_counted(package: Path, tmp_path: Path) -> None:
    from loguru import logger

    lines: list[str] = []
    store, model = tmp_path / "run.zarr", load(package, number_of_samples=8)
    downscale(TIMES[0], model, Weather(), store, options=Options(SEED))
    for member in range(7):
        (store / f"t2m/c/0/{member}/0/0").write_bytes(b"")
    handle = logger.add(lines.append, level="WARNING", format="{message}")
    downscale(TIMES[0], model, Weather(), store, options=Options(SEED, resume=True))
    logger.remove(handle)
    assert len(lines) == 6 and lines[-1] == "7 members are damaged and are computed again\n"
    assert lines[0].endswith(" at 2024-07-24T12:00 is damaged and is computed again: t2m is empty\n")


def test_metadata_that_are_damaged_are_said(package: Path, whole: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    names, texts = ("t2m", "member_seed", "lat", "time"), ("{", "", "null", "[]", '{"zarr_format": 3}')
    for name, text in [*((name, "") for name in names), *(("lat", text) for text in texts)]:
        about = store / name / "zarr.json"
        before = about.read_text()
        about.write_text(text)
        with pytest.raises(InputError, match="run.zarr (is damaged|belongs to another run)"):
            run(package, store, resume=True, compress=compress(whole))
        about.write_text(before)


# flushed to the disk


def test_a_member_is_on_the_disk_before_its_seed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of system calls: each file of a member, and its folders, are flushed before the seed."""
    from zarr.storage import _local

    events: list[tuple[str, str]] = []
    sync, put = os.fsync, _local._put

    def noting_sync(file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        events.append(("sync", str(path.relative_to(tmp_path))))
        sync(file)

    def noting_put(path: Path, *args: Any, **kwargs: Any) -> int:
        events.append(("put", str(path.relative_to(tmp_path))))
        return put(path, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(_local, "_put", noting_put)
    run(package, tmp_path / "run.zarr")
    for t, i in np.ndindex(2, 2):
        seed = events.index(("put", f"run.zarr/member_seed/c/{t}/{i}"))
        for name in ("mrr", "t2m"):
            chunk = f"run.zarr/{name}/c/{t}/{i}/0/0"
            written = events.index(("put", chunk))
            for place in (chunk, str(Path(chunk).parent), f"run.zarr/{name}/c/{t}", f"run.zarr/{name}/c"):
                assert ("sync", place) in events[written:seed]
        assert ("sync", f"run.zarr/member_seed/c/{t}/{i}") in events[seed:]
        assert ("sync", f"run.zarr/t2m_lowres/c/{t}/0/0") in events[:seed]
    moved = events.index(("put", "run.zarr/t2m_lowres/c/0/0/0"))
    layout = [name for kind, name in events[:moved] if kind == "put"]
    assert layout and all(("sync", name) in events[:moved] for name in layout)


def test_folders_that_cannot_be_flushed_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("x")
    sync = os.fsync

    def files_alone(file: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{file}")).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(file)

    monkeypatch.setattr(os, "fsync", files_alone)
    flush([tmp_path / "a/b"], tmp_path)
    with pytest.raises(FileNotFoundError):
        flush([tmp_path / "a/c"], tmp_path)


# read by others


@pytest.mark.parametrize(("chunk", "how", "whole"), READ, indirect=["whole"])
def test_plots_and_scores_say_damaged_in_one_line(
    whole: Path, tmp_path: Path, chunk: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = xr.open_zarr(whole)
    ds[["mrr", "t2m"]].isel(sample=0, drop=True).to_netcdf(tmp_path / "truth.nc")
    capsys.readouterr()
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    damage(store / chunk, how)
    for main, argv in (
        (plot.main, [store, "--output-dir", tmp_path / "out"]),
        (verify.main, [store, "--truth", tmp_path / "truth.nc", "--no-report", "--bootstrap", 0]),
    ):
        if main is plot.main and chunk.startswith("member_seed"):
            continue  # the picture is right, whatever the seed
        assert main([str(arg) for arg in argv]) == 2
        out, err = capsys.readouterr()
        assert "damaged" in err and "Traceback" not in err, err
        assert err.count("\n") == 1 and len(err) < 500
    assert not list((tmp_path / "out").glob("*sample-1*"))


METADATA: dict[str, Callable[[Path], object]] = {
    "its zarr.json cannot be read": lambda store: (store / "zarr.json").write_text("{"),
    "its zarr.json is lost": lambda store: (store / "zarr.json").unlink(),
    "zarr.json of mrr is lost": lambda store: shutil.rmtree(store / "mrr"),
    "zarr.json of t2m is lost": lambda store: (store / "t2m/zarr.json").unlink(),
    "zarr.json of lat cannot be read": lambda store: (store / "lat/zarr.json").write_bytes(bytes(700)),
    "zarr.json of member_seed is lost": lambda store: shutil.rmtree(store / "member_seed"),
}


@pytest.mark.parametrize(
    ("fault", "whole"), zip(METADATA, cycle(KINDS), strict=False), indirect=["whole"], ids=str
)
def test_all_commands_say_the_same_of_lost_metadata(
    package: Path, whole: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy of all metadata in the store's own does not hide it, and what is advised works."""
    ds = xr.open_zarr(whole)
    ds[["mrr", "t2m"]].isel(sample=0, drop=True).to_netcdf(tmp_path / "truth.nc")
    store = Path(shutil.copytree(whole, tmp_path / "run.zarr"))
    METADATA[fault](store)
    said = f"the store {store} is damaged ({fault}); "
    capsys.readouterr()
    for main, argv in (
        (plot.main, ["--output-dir", tmp_path / "out"]),
        (verify.main, ["--truth", tmp_path / "truth.nc", "--no-report", "--bootstrap", 0]),
    ):
        assert main([str(arg) for arg in (store, *argv)]) == 2
        err = capsys.readouterr().err
        assert err.endswith(f"error: {said}the run's command with --overwrite makes it anew\n"), err
        assert err.count("\n") == 1
    for check in (False, True):
        with pytest.raises(InputError) as caught:
            run(package, store, resume=True, check=check, compress=compress(whole))
        assert str(caught.value) == f"{said}use --overwrite"
    run(package, store, overwrite=True, compress=compress(whole))
    same(store, whole)


def test_a_lost_input_is_not_shown_as_blank(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "run.zarr"
    run(package, store)
    (store / "t2m_lowres/c/0/0/0").unlink()
    assert plot.main([str(store), "--plot-lowres", "--output-dir", str(tmp_path / "out")]) == 2
    assert (
        "t2m_lowres of the input at 2024-07-24T12:00 is lost, the store is damaged" in capsys.readouterr().err
    )
