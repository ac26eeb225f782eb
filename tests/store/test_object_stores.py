# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Stores in object stores: the same bytes, the same guarantees, the same commands as on a disk."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import tiny
import xarray as xr
from object_kit import objects, put, s3
from obstore.exceptions import GenericError, PermissionDeniedError
from run_kit import TIMES, Weather, command, contents, load, make_package, refused, weather_file

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.errors import UnavailableError
from earth2_corrdiff.base.files import writing
from earth2_corrdiff.base.object_path import ObjectPath, as_path, refusal, storage_options
from earth2_corrdiff.cli import plot, verify
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.run.tasks import Part
from earth2_corrdiff.sources.files import FileAnalyses
from earth2_corrdiff.sources.formats import downloaded
from earth2_corrdiff.store import objects as module
from earth2_corrdiff.store.error_bounds import Compression
from earth2_corrdiff.store.paths import replacement
from earth2_corrdiff.store.reader import open_store
from earth2_corrdiff.store.target import finish

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectPath]:
    with s3() as found:
        yield found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_package(tmp_path_factory.mktemp("package"))


def begin(package: Path, store: Any, seed: int | None = 1, **how: Any) -> Downscaling:
    options = Options(seed, compress=Compression.parse("t2m=0.05"), **how)
    return Downscaling(
        TIMES, load(package, number_of_samples=2, number_of_steps=1), Weather(), store, options
    )


def run(package: Path, store: Any, seed: int | None = 1, **how: Any) -> None:
    for _ in begin(package, store, seed, **how):
        pass


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, bytes]]:
    """Complete stores on the disk by their seed."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (1, 2):
        run(package, folder / f"{seed}.zarr", seed)
    return {seed: contents(folder / f"{seed}.zarr") for seed in (1, 2)}


@pytest.fixture(scope="module")
def done(bucket: ObjectPath, package: Path) -> ObjectPath:
    """A complete store, written through its URL as text."""
    io = downscale(
        TIMES,
        load(package, number_of_steps=1),
        Weather(),
        f"{bucket}/done.zarr",
        number_of_samples=2,
        options=Options(1, compress=Compression.parse("t2m=0.05")),
    )
    assert io.root["t2m"].shape[:2] == (2, 2) and len(io.coords["sample"]) == 2
    return bucket / "done.zarr"


def test_every_object_equals_the_file_on_the_disk(
    done: ObjectPath, whole: dict[int, dict[str, bytes]]
) -> None:
    """Also read by xarray through s3fs, another client."""
    assert objects(done) == whole[1]
    how = {"key": "key", "secret": "secret", "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    theirs = xr.open_zarr(str(done), storage_options=how)
    xr.testing.assert_identical(
        theirs.set_coords(["lat", "lon", "lat_lowres", "lon_lowres"]), open_store(str(done))
    )
    assert theirs.attrs["seed"] == 1 and np.isfinite(theirs["mrr"]).all()


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_died_goes_on(
    bucket: ObjectPath, package: Path, whole: dict[int, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a member; as the store was being made; a member that is lost or damaged is computed again."""
    path = bucket / "died.zarr"
    members = iter(begin(package, path))
    assert len(list(itertools.islice(members, 3))) == 3
    members.close()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"exists; use --resume to go on with it, or --overwrite"):
        begin(package, path)
    path.remove(["t2m/c/0/0/0/0", "mrr/zarr.json", "lat/c/0", "member_seed/c/1/0"])
    with pytest.raises(InputError, match="belongs to another run, it has seed 1 instead of 3|damaged"):
        run(package, path, 3, resume=True)
    again = begin(package, path, None, resume=True)
    assert len(list(again)) == 3 and again.found == 1
    assert objects(path) == whole[1]
    (path / "mrr/c/1/1/0/0").write_bytes(b"damaged")
    again = begin(package, path, None, resume=True, check=True)
    assert len(list(again)) == 1 and objects(path) == whole[1]
    path = bucket / "unborn.zarr"
    monkeypatch.setattr(module, "complete", _die)
    with pytest.raises(KeyboardInterrupt):
        run(package, path)
    assert list(objects(path)) == ["zarr.json"]
    run(package, path, resume=True)
    assert objects(path) == whole[1]


def test_one_of_two_makers_wins(
    bucket: ObjectPath, package: Path, whole: dict[int, dict[str, bytes]]
) -> None:
    """Both have found nothing at the path; the other writes nothing."""
    path = bucket / "both.zarr"
    runs = {seed: begin(package, path, seed) for seed in (1, 2)}
    meet, members, lost = threading.Barrier(2), {}, {}

    def make(seed: int) -> None:
        meet.wait(60)
        try:
            members[seed] = iter(runs[seed])
        except InputError as error:
            lost[seed] = str(error)

    threads = [threading.Thread(target=make, args=(seed,)) for seed in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    (winner,), (text,) = members, lost.values()
    assert text.endswith("; use --resume to go on with it, or --overwrite") or "by another process" in text
    list(members[winner])
    assert objects(path) == whole[winner]


def test_tasks_share_a_store(bucket: ObjectPath, package: Path, whole: dict[int, dict[str, bytes]]) -> None:
    path = bucket / "tasks.zarr"
    run(package, path, part=Part(1, 2))
    assert finish(path) == (2, 4)
    run(package, path, part=Part(0, 2))
    assert finish(path) == (0, 4) and objects(path) == whole[1]


def test_a_store_is_replaced_once_the_new_one_is_complete(
    bucket: ObjectPath, package: Path, whole: dict[int, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one stays until then; a move that was interrupted is done again, by one process alone."""
    path = bucket / "old.zarr"
    for key, data in whole[1].items():
        (path / key).write_bytes(data)
    new = iter(begin(package, path, 2, overwrite=True))
    assert len(list(itertools.islice(new, 3))) == 3
    new.close()  # type: ignore[attr-defined]
    assert objects(path) == whole[1]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "copy", _die)
        with pytest.raises(KeyboardInterrupt):
            run(package, path, None, resume=True)
    assert objects(path) == {} and (replacement(path) / "zarr.json").is_file()
    with pytest.raises(InputError, match="was interrupted; go on with --resume"):
        begin(package, path, overwrite=True)
    run(package, path, None, resume=True)  # another process may still be moving it
    assert objects(path) == {}
    monkeypatch.setattr(module, "STALE", -10)
    run(package, path, None, resume=True)
    assert objects(path) == whole[2] and objects(replacement(path)) == {}
    monkeypatch.setattr(module, "STALE", 900)
    run(package, path, 1, overwrite=True)
    assert objects(path) == whole[1] and objects(replacement(path)) == {}


def test_a_store_that_is_replaced_or_removed_is_not_written(bucket: ObjectPath, package: Path) -> None:
    path = bucket / "g o%20n+e.zarr"
    for change in ("removed", "replaced"):
        members = iter(begin(package, path))
        next(members)
        root = json.loads((path / "zarr.json").read_bytes())
        module.remove(path)
        if change == "replaced":
            root["attributes"]["seed"] = 5
            (path / "zarr.json").write_bytes(json.dumps(root).encode())
        with pytest.raises(InputError, match="was removed or replaced while the run was writing it"):
            list(members)
        module.remove(path)


def test_the_commands_take_urls(
    bucket: ObjectPath, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input, output, pictures and scores; keys do not get into the store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))
    package = make_package(tmp_path / "package")
    source = put(bucket / "input/weather.nc", weather_file(tmp_path / "weather.nc"))
    url, how = f"{bucket}/cli.zarr", ["--storage-options", "key=SECRET"]
    what = ("--samples", 2, "--steps", 1, "--seed", 1, "--precision", "fp32", "--no-acceleration")
    argv = (TIMES[0], "--package", package, *what)
    status, out, err = command(capfd, *argv, "--source", f"file:{source}", "--output", url, *how)
    assert status == 0 and f"wrote {url}" in out and f"downloading {source} " in err
    assert len(list((tmp_path / "cache").rglob("weather.nc"))) == 1
    assert "SECRET" not in open_store(url).attrs["command"]
    status, out, _ = command(capfd, *argv, "--source", f"file:{source}", "--output", tmp_path / "disk.zarr")
    ours, theirs = objects(as_path(url)), contents(tmp_path / "disk.zarr")  # type: ignore[arg-type]
    assert [key for key in theirs if ours[key] != theirs[key]] == ["zarr.json"]  # its command
    assert plot.main([url, "--variables", "t2m", "--sample", "0", "--output-dir", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("corrdiff-*-sample-0.png"))) == 1
    truth = open_store(tmp_path / "disk.zarr").isel(sample=0, drop=True)[["t2m"]].drop_encoding()
    truth.drop_attrs().to_netcdf(tmp_path / "truth.nc")
    put(bucket / "truth.nc", tmp_path / "truth.nc")
    words = ["--truth", f"{bucket}/truth.nc", "--variables", "t2m", "--bootstrap", "0"]
    assert verify.main([url, *words]) == 0 and (tmp_path / "cli-verification.html").exists()


def test_inputs_by_url(bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a folder, a pattern, a Zarr: the same fields; what has changed is downloaded again."""
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))
    file = weather_file(tmp_path / "all.nc", names=("t2m", "u10m"))
    xr.open_dataset(file).to_zarr(tmp_path / "all.zarr")
    for number, time in enumerate(TIMES):
        put(bucket / f"in/deep/{number}.nc", weather_file(tmp_path / "one.nc", [time], ("t2m", "u10m")))
    put(bucket / "in/deep/read.me", tmp_path / "one.nc").write_bytes(b"text")
    put(bucket / "zarrs/all.zarr", tmp_path / "all.zarr")
    put(bucket / "one/all.nc", file)
    expected = FileAnalyses(file)(TIMES, ["u10m", "t2m"])
    for given in (
        *("one/all.nc", "in/deep", "in/deep/?.nc", "in/**/*.nc", "zarrs/all.zarr", "zarrs/*.zarr"),
        f"in/deep/0.nc,{bucket}/in/deep/1.nc",
    ):
        found = FileAnalyses(f"{bucket}/{given}")
        xr.testing.assert_equal(found(TIMES, ["u10m", "t2m"]), expected)
    assert as_path(f"file://{file}") == file and FileAnalyses(f"file://{file}").times.size == 2
    first = downloaded(bucket / "one/all.nc")
    put(bucket / "one/all.nc", tmp_path / "one.nc")
    assert downloaded(bucket / "one/all.nc").read_bytes() == (tmp_path / "one.nc").read_bytes() != first
    with pytest.raises(InputError, match=f"no NetCDF, GRIB or Zarr is at {bucket}/none"):
        FileAnalyses(f"{bucket}/none")


def test_a_package_in_a_private_bucket(
    bucket: ObjectPath, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earth2Studio's own files of S3 are public ones."""
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path))
    url = put(bucket / "models/tiny", package)
    model = load_model(ModelOptions(str(url), "cpu", "fp32", accelerated=False))
    assert model.spec.sha256 == load(package).spec.sha256
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "other"))
    with storage_options({"anon": "true"}), pytest.raises(InputError, match="Forbidden"):
        load_model(ModelOptions(f"{url}/", "cpu", "fp32", accelerated=False))


def test_credentials_and_the_lack_of_them(
    bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile of AWS; what servers answer, in one sentence."""
    (tmp_path / "keys").write_text("[mine]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with storage_options({"profile": "mine"}):
        path = as_path(f"{bucket}/profile.txt")
    assert isinstance(path, ObjectPath) and path.create(b"x") and not path.create(b"y")
    assert path.read_text() == "x" and "mine" not in repr(path)
    for error, expected, kind in (
        (
            PermissionDeniedError("403 Forbidden: <Code>AccessDenied</Code>"),
            "permission denied; check",
            InputError,
        ),
        (
            GenericError("PUT http://169.254.169.254/latest"),
            "there are no credentials; set AWS_ACC",
            InputError,
        ),
        (GenericError("Received redirect without LOCATION"), "another region; set AWS_REGION", InputError),
        (GenericError("status code: 503 Slow Down"), "overloaded or down; try again later", UnavailableError),
        (GenericError("HTTP error: error sending request"), "no connection to the server", UnavailableError),
        (GenericError("a - Teapot.\n\nDebug source: …"), "cannot use s3://a/b: Teapot", InputError),
    ):
        found = refusal("s3://a/b", error)
        assert type(found) is kind and expected in str(found) and "\n" not in str(found)
        with pytest.raises(InputError, match="cannot write|cannot use"), writing("s3://a/b"):
            raise error


def test_what_cannot_be_used_is_refused(
    bucket: ObjectPath, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in one line, with what to do; before anything is loaded or computed."""
    demo = ["--demo", TIMES[0], "--output"]
    for url, options, expected, status in (
        ("s3://no-bucket/a.zarr", [], "there is no such bucket; make it first", 2),
        (f"{bucket}", [], f"is a bucket and not a store; use {bucket}/NAME.zarr", 2),
        ("ftp://host/a.zarr", [], "is not a valid URL; use s3://BUCKET/PATH", 2),
        ("https://host.example/a.zarr", [], "nothing can be written to https://host.example/a.zarr", 2),
        ("az://box/a.zarr", [], "the account is missing; set AZURE_STORAGE_ACCOUNT_NAME", 2),
        (f"{bucket}/a.zarr", ["nonsense=1"], "'nonsense' is not valid", 2),
        (f"{bucket}/a.zarr", ["endpoint_url=http://127.0.0.1:1"], "no connection to the server", 75),
        (f"{bucket}/a.zarr", ["profile=nobody"], "the profile of AWS cannot be used", 2),
    ):
        how = [word for option in options for word in ("--storage-options", option)]
        assert expected in refused(capfd, *demo, url, *how, expected=status)
    for argv in (["--output-dir", "s3://a/b"], ["--truth", "demo", "--output", "s3://a/b.csv"]):
        kind = verify if "--truth" in argv else plot
        assert kind.main(["none.zarr", *argv]) == 2
    assert "s3:/a/b.csv is a URL; give a path on a disk here" in capfd.readouterr().err
    with pytest.raises(InputError, match="there is no store"):
        open_store(f"{bucket}/none.zarr")
    with storage_options({"anon": "true"}):
        assert as_path("s3://a/b") == ObjectPath("s3://a/b", (("anon", "true"),)) != as_path("/a/b")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """URL of a server that hands out the files of a folder, and has neither lists nor ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def list_directory(self, path: Any) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_web_server(
    web: str,
    package: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file, a Zarr and a package are read from it; nothing is written to it, nor into the memory."""
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))
    file = weather_file(tmp_path / "web/all.nc", names=("t2m", "u10m"))
    xr.open_dataset(file).to_zarr(tmp_path / "web/all.zarr")
    expected = FileAnalyses(file)(TIMES, ["u10m", "t2m"])
    for name in ("all.nc", "all.zarr"):
        xr.testing.assert_equal(FileAnalyses(f"{web}/{name}")(TIMES, ["u10m", "t2m"]), expected)
    with pytest.raises(InputError, match="no NetCDF, GRIB or Zarr is at|there is no file"):
        FileAnalyses(f"{web}/none.nc")
    copytree(package, tmp_path / "web/package")
    model = load_model(ModelOptions(f"{web}/package", "cpu", "fp32", accelerated=False))
    assert model.spec.sha256 == load(package).spec.sha256
    for url, says in (
        (f"{web}/a.zarr", f"nothing can be written to {web}/a.zarr; use s3://BUCKET/PATH, gs://"),
        ("memory://a.zarr", "memory://a.zarr is not a valid URL; use s3://BUCKET/PATH"),
    ):
        assert says in refused(capfd, "--demo", TIMES[0], "--output", url)
    run(package, Path(f"{tmp_path}/disk.zarr"))
    run(package, f"file://{tmp_path}/url.zarr")
    assert contents(tmp_path / "url.zarr") == contents(tmp_path / "disk.zarr")
