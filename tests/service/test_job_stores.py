# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs whose stores are elsewhere: in an object store by their URL, or in another folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_kit import ROOT, by_command, serving
from object_kit import objects, put, s3
from run_kit import contents, load
from service_kit import until
from tiny import small_package

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.base.errors import UnavailableError
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath
from earth2_corrdiff.cli import serve
from earth2_corrdiff.service.job_runner import sentence

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectPath]:
    with s3() as found:
        yield found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def model(package: Path) -> CorrDiff:
    return load(package)


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of a run without a service."""
    return contents(by_command(tmp_path_factory.mktemp("whole") / "run.zarr", package))


def files(path: AnyPath) -> dict[str, bytes]:
    return objects(path) if isinstance(path, ObjectPath) else contents(path)


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_jobs_elsewhere(
    model: CorrDiff, whole: dict[str, bytes], bucket: ObjectPath, tmp_path: Path, where: str
) -> None:
    """The same store; read, downloaded, kept over a restart, and removed as one that is here."""
    stores = bucket / "jobs" if where == "bucket" else tmp_path / "elsewhere"
    with serving(tmp_path, model, stores=stores) as service:
        job, other = service.done(), service.done()
        assert files(stores / f"{job}.zarr") == whole
        assert list(contents(tmp_path / "jobs" / job)) == ["job.json", "store.url"]
        assert contents(service.unzipped(job, tmp_path / "unzipped")) == whole
        assert np.isfinite(service.field(job, "t2m", show="member-1")).all()
        assert service.get(job).json()["bytes"] == sum(map(len, whole.values()))
        assert service.get(job, f"/figures/{_figure(service.get(job).json())}").status_code == 200
        assert service.remove(other) == 204
        until(lambda: not (tmp_path / "jobs" / other).exists())
        assert not (stores / f"{other}.zarr").exists()
    half = "a" * 32  # killed before its record was written
    (tmp_path / "jobs" / half).mkdir()
    (tmp_path / "jobs" / half / "store.url").write_text(f"{stores}/{half}.zarr")
    if isinstance(stores, ObjectPath):
        put(stores / f"{half}.zarr", tmp_path / "unzipped")
    with serving(tmp_path, model) as service:  # its jobs are where they were
        assert [each["id"] for each in service.client.get(ROOT).json()["jobs"]] == [job]
        assert contents(service.unzipped(job, tmp_path / "again")) == whole
        until(lambda: not (tmp_path / "jobs" / half).exists())
        assert not files(stores / f"{half}.zarr")


def _figure(document: dict[str, Any]) -> str:
    return str(document["links"]["figures"][0]).rpartition("/")[2]


def test_a_bucket_that_is_lost(model: CorrDiff, bucket: ObjectPath, tmp_path: Path) -> None:
    """The job fails with a sentence that does not name it."""
    with serving(tmp_path, model, stores=ObjectPath("s3://lost/jobs")) as service:
        document = service.ended(service.start())
        assert document["state"] == "failed" and "there is no such bucket" in document["error"]
        assert "s3://lost" not in json.dumps(document)


def test_what_is_refused(bucket: ObjectPath, tmp_path: Path) -> None:
    """Before the package is loaded, in one sentence."""
    for words, says in (
        (["--jobs", "s3://a/jobs"], "is a URL; give a folder here, and --stores URL for the fields"),
        (["--stores", "https://host.example/jobs"], "nothing can be written to https://host.example/jobs"),
        (["--stores", "s3://no-bucket/jobs"], "there is no such bucket; make it first"),
    ):
        with pytest.raises(InputError, match=says):
            serve.run(serve._parser().parse_args(words))
    args = serve._parser().parse_args(["--stores", f"{bucket}/jobs", "--storage-options", "key=SECRET"])
    stores = serve._settings(args).stores
    assert stores == ObjectPath(f"{bucket}/jobs", (("key", "SECRET"),)) and "SECRET" not in repr(stores)
    error = UnavailableError("cannot use s3://bucket/jobs/a.zarr: no connection to the server")
    assert sentence(error) == "cannot use …/a.zarr: no connection to the server"
