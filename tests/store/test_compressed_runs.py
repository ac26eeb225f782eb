# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``--compress`` in whole runs: what is in the store, who reads it, and who may go on with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numcodecs.registry
import numpy as np
import pytest
import xarray as xr
import zarr
from rank_kit import Hook, job
from run_kit import SHAPE, TIMES, Weather, command, contents, load, make_package, same

from earth2_corrdiff import InputError, downscale, make_source
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.store.codecs import WITH_BLOSC, WITH_PCODEC
from earth2_corrdiff.store.error_bounds import Compression

H, W = SHAPE
STORE = "run.zarr"
WANTED = {"mrr": 0.15, "t2m": 0.02, "u10m": 0.02, "v10m": 0.02}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


@pytest.fixture(scope="module")
def argv(package: Path) -> tuple[object, ...]:
    options = ("--source", "demo", "--seed", 3, "--samples", 5, "--output", STORE, "--device", "cpu")
    options += ("--precision", "fp32", "--no-acceleration")
    return (*TIMES, "--package", package, *options, "--compress", "bounded")


@pytest.fixture(scope="module")
def whole(argv: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two times, five members, by one process, with the default bounds."""
    folder = tmp_path_factory.mktemp("whole")
    (only,) = job(folder, 1, *argv)
    assert only.status == 0, only
    return folder / STORE


@pytest.mark.process
def test_a_run(whole: Path, package: Path, tmp_path: Path) -> None:
    """Outputs within their bounds, all else as in a lossless store, and the record of it."""
    options = Options(seed=3)
    model = load(package, number_of_samples=5)
    downscale(TIMES, model, make_source("demo"), tmp_path / STORE, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds, exact = xr.open_zarr(whole).load(), xr.open_zarr(tmp_path / STORE).load()
    assert ds.attrs["compression"] == "mrr=0.15,t2m=0.02,u10m=0.02,v10m=0.02"
    assert "compression" not in exact.attrs
    for number, (name, bound) in enumerate(WANTED.items()):
        errors = np.abs(ds[name].astype(float) - exact[name]).max(("ilat", "ilon"))
        np.testing.assert_array_equal(ds.compression_error.isel(output=number), errors)
        about = {key: value for key, value in ds[name].attrs.items() if key.startswith("compression")}
        assert about == {
            "compression_abs_bound": bound,
            "compression_codec": WITH_PCODEC,
            "compression_max_error": errors.max(),
        }
        assert 0.5 * bound < errors.max() <= bound and about.keys().isdisjoint(exact[name].attrs)
    assert ds.output.attrs["flag_meanings"].split() == list(WANTED)
    rest = [name for name in exact.variables if name not in WANTED]
    xr.testing.assert_identical(ds[rest].drop_attrs(deep=False), exact[rest].drop_attrs(deep=False))
    for name in rest:
        if name in exact.data_vars:
            assert contents(whole / name) == contents(tmp_path / STORE / name)


@pytest.mark.process
def test_chunks_hold_one_field(whole: Path) -> None:
    root = zarr.open_group(whole, mode="r")
    for name in WANTED:
        assert root[name].chunks == (1, 1, H, W) and np.isnan(root[name].fill_value)
    assert root["compression_error"].chunks == (1, 1, 4)
    size = sum(len(data) for name in WANTED for data in contents(whole / name / "c").values())
    assert size < 4 * 2 * 5 * 4 * H * W / 2  # of random networks


READ = """
import sys, warnings
import xarray as xr
warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
warnings.filterwarnings("error", "Failed to open Zarr store with consolidated")
ds = xr.open_zarr(sys.argv[1]).load()
assert not any(name.split(".")[0] in ("earth2_corrdiff", "earth2studio") for name in sys.modules)
print(float(ds.t2m.mean()), ds.t2m.attrs["compression_max_error"])
"""


@pytest.mark.process
def test_others_read_it(whole: Path, tmp_path: Path) -> None:
    """xarray in a process without this package; the zip file that the service sends; plots and scores."""
    from earth2_corrdiff.service.archives import zipped
    from earth2_corrdiff.store.reader import open_store, output_variables

    words = [sys.executable, "-c", READ, str(whole)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = open_store(whole)
    mean, error = map(float, done.stdout.split())
    assert mean == pytest.approx(float(ds.t2m.mean())) and error == ds.t2m.attrs["compression_max_error"]
    assert output_variables(ds) == list(WANTED)
    (tmp_path / "store.zip").write_bytes(b"".join(zipped(whole)))
    with warnings.catch_warnings(), zarr.storage.ZipStore(tmp_path / "store.zip", mode="r") as store:
        warnings.simplefilter("ignore")
        xr.testing.assert_identical(xr.open_zarr(store).load(), ds.load())


@pytest.mark.process
def test_without_pcodec(whole: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blosc takes its place, with a warning and a record; a store of PCodec is refused at once."""
    from loguru import logger

    monkeypatch.delitem(numcodecs.registry.codec_registry, "pcodec")
    lines: list[str] = []
    logger.add(lines.append, level="WARNING", format="{message}")
    options = Options(seed=3, compress=Compression(defaults=True), resume=True)
    shutil.copytree(whole, tmp_path / STORE)
    shutil.rmtree(tmp_path / STORE / "member_seed/c")
    model = load(package, number_of_samples=5)
    run = Downscaling(TIMES, model, make_source("demo"), tmp_path / STORE, options)
    with pytest.raises(InputError, match="is compressed with PCodec, which is not installed; pip install"):
        iter(run)
    assert lines == []
    downscale(TIMES[0], load(package), Weather(), tmp_path / "other.zarr", options=options)
    assert lines == [
        "without pcodec the output is kept with Blosc, about a quarter larger; "
        "pip install 'earth2-corrdiff[compress]'\n"
    ]
    monkeypatch.undo()  # a store of Blosc goes on with Blosc
    about = zarr.open_group(tmp_path / "other.zarr", mode="r")["t2m"].attrs
    assert about["compression_codec"] == WITH_BLOSC and 0 < about["compression_max_error"] <= 0.02
    again = Downscaling(TIMES[0], load(package), Weather(), tmp_path / "other.zarr", options)
    assert list(again) == [] and set(again.kept) == set(WANTED)


# several runs, several processes


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where processes work; nothing but the store is left there."""
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {STORE, "died"}


@pytest.mark.process
def test_a_killed_run_is_resumed(
    argv: tuple[object, ...], whole: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the same bounds alone; the bytes are those of a run that was not killed."""
    (killed,) = job(folder, 1, *argv, hooks={0: Hook(die_at=3)})
    assert killed.status != 0
    about = xr.open_zarr(folder / STORE).t2m.attrs
    assert "compression_abs_bound" in about and "compression_max_error" not in about
    before = contents(folder / STORE)
    words = [folder / STORE if word == STORE else word for word in argv[:-1]]
    for text, says in (
        ("lossless", "has compression mrr=0.15,t2m=0.02,u10m=0.02,v10m=0.02 instead of lossless"),
        ("bounded,mrr=1", "instead of mrr=1.0,t2m=0.02,u10m=0.02,v10m=0.02"),
    ):
        assert says in refused_after_start(capfd, *words, text, "--resume")
    assert contents(folder / STORE) == before
    (rest,) = job(folder, 1, *argv, "--resume")
    assert rest.status == 0 and len(rest.wrote) == 8
    first, second = rest.out.splitlines()
    assert first.startswith(f"completed {STORE} (8 of 10 members were missing)")
    errors = ", ".join(
        rf"{name} {error:.3g} of {WANTED[name]:g} {unit}" for name, error, unit in largest(whole)
    )
    assert second.endswith(f"times; largest errors, as read again: {errors}")
    same(folder / STORE, whole)
    (nothing,) = job(folder, 1, *argv, "--resume")
    assert nothing.out.startswith(f"nothing to do, {STORE} is complete") and second in nothing.out
    same(folder / STORE, whole)


@pytest.mark.process
def test_a_run_that_died_before_its_end_is_finished(
    argv: tuple[object, ...], whole: Path, folder: Path
) -> None:
    """All members are there, but not what is said of all: half of it, as if killed in between."""
    shutil.copytree(whole, folder / STORE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(folder / STORE, mode="r+", use_consolidated=False)
        for name in ("mrr", "u10m"):
            attributes = root[name].attrs.asdict()
            del attributes["compression_max_error"]
            root[name].attrs.put(attributes)
        zarr.consolidate_metadata(folder / STORE)
    assert contents(folder / STORE) != contents(whole)
    (again,) = job(folder, 1, *argv, "--resume")
    assert again.status == 0
    same(folder / STORE, whole)


@pytest.mark.slow
def test_a_lossless_store_stays_one(
    argv: tuple[object, ...], package: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [folder / STORE if word == STORE else word for word in argv[:-2]]
    status, out, _ = command(capfd, *words)
    assert status == 0 and "compressed" not in out and out.count("\n") == 1
    says = refused_after_start(capfd, *words, "--compress", "bounded", "--resume")
    assert "it has compression lossless instead of mrr=0.15" in says


def refused_after_start(capfd: pytest.CaptureFixture[str], *argv: object) -> str:
    """The last line of a command that is refused once it has looked at the store."""
    status, out, err = command(capfd, *argv)
    assert status == 2 and out == ""
    return err.splitlines()[-1]


def largest(store: Path) -> list[tuple[str, float, str]]:
    """Variables with their recorded maxima and units."""
    ds = xr.open_zarr(store)
    return [(name, ds[name].attrs["compression_max_error"], ds[name].attrs["units"]) for name in WANTED]
