# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""All jobs of ``/v1/downscale`` and their folders on disk.

A job owns one folder, named by its unguessable id. ``job.json`` is written into it last: a folder without
one belongs to an interrupted job, is never served, and is removed when the service starts again. Where stores
are elsewhere, as in an object store, ``store.url`` is written into it first, and is removed with its store.
"""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from loguru import logger

from earth2_corrdiff.base.background import Background
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import whole
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, as_path
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.job import Job, Order, State
from earth2_corrdiff.service.metrics import Metrics
from earth2_corrdiff.store.objects import remove

ID = re.compile(r"[0-9a-f]{32}")
RECORD, URL = "job.json", "store.url"


@dataclass(frozen=True)
class Keeping:
    """Limits of the finished jobs: their number, the size of all of them, and their age.

    Attributes
    ----------
    jobs, bytes, seconds : int
        Beyond them, the oldest job is removed first
    """

    jobs: int = 20
    bytes: int = 20 * 2**30
    seconds: int = 7 * 24 * 3600


class Jobs:
    """All jobs of a service, in a folder of its own.

    Parameters
    ----------
    folder : Path
        Created by the first job
    keep : Keeping
        Limits of the finished jobs
    waiting : int
        Most jobs that wait or run
    metrics : Metrics | None, optional
        Counts how they end
    stores : AnyPath | None, optional
        Where their stores are instead, by the jobs' ids
    """

    def __init__(
        self,
        folder: Path,
        keep: Keeping,
        waiting: int,
        metrics: Metrics | None = None,
        stores: AnyPath | None = None,
    ) -> None:
        self.folder, self.keep, self.waiting, self.stores = folder, keep, waiting, stores
        self.metrics = metrics or Metrics()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._held: TextIOWrapper | None = None

    def open(self) -> None:
        """Lock the folder, remove interrupted jobs and read finished ones; once.

        Raises
        ------
        ServiceError
            503 where the folder cannot be used
        """
        with self._lock:
            if self._held is not None:
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                held = (self.folder / ".lock").open("w", encoding="utf-8")
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                text = "another service uses the folder of the jobs; give each its own"
                raise ServiceError(503, text) from None
            except OSError as error:
                raise unusable(error) from error
            self._held = held
            for path in self.folder.iterdir():
                self._restore(path)

    def close(self) -> None:
        """Stop all jobs, and unlock the folder."""
        with self._lock:
            for job in self._jobs.values():
                job.stop()
            if self._held is not None:
                self._held.close()
                self._held = None

    def _restore(self, path: Path) -> None:
        """Read the finished job of a folder, or remove the interrupted one. Other files are not touched."""
        if not ID.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            return
        url = self._url(path)
        if not (path / RECORD).exists():
            discard(path, url)
            return
        try:
            self._jobs[path.name] = _recorded(path, url)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the record of the job {} cannot be read ({}): it is not served", path, error)

    def _url(self, folder: Path) -> AnyPath | None:
        """Where the store of a job is, if it is not in its folder."""
        if not (folder / URL).exists():
            return None
        url = as_path((folder / URL).read_text(encoding="utf-8"))
        options = self.stores.options if isinstance(self.stores, ObjectPath) else ()
        return replace(url, options=options) if isinstance(url, ObjectPath) else url

    def add(self, order: Order, synthetic: bool) -> Job:
        """A new job, queued.

        Raises
        ------
        ServiceError
            429 where too many wait or run; 503 where the folder cannot be used
        """
        self.open()
        with self._lock:
            self.prune()
            busy = sum(not job.ended for job in self._jobs.values())
            if busy >= self.waiting:
                text = f"{busy} jobs wait or run, and this service takes no more; try again later"
                raise ServiceError(429, text, retry_after=30)
            name = secrets.token_hex(16)
            job = Job(name, order, self.folder / name, synthetic=synthetic)
            if self.stores is not None:
                job.url = self.stores / f"{name}.zarr"
                try:
                    job.folder.mkdir()
                    (job.folder / URL).write_text(str(job.url), encoding="utf-8")
                except OSError as error:
                    raise unusable(error) from error
            self._jobs[name] = job
            return job

    def get(self, name: str) -> Job:
        """The job with an id; ServiceError 404 where there is none, or it is no longer kept."""
        self.open()
        with self._lock:
            self.prune()
            job = self._jobs.get(name)
        if job is None:
            raise ServiceError(404, "there is no such job: it was removed, or is no longer kept")
        return job

    def all(self) -> list[Job]:
        """All of them, the newest first."""
        self.open()
        with self._lock:
            self.prune()
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def remove(self, job: Job) -> None:
        """Cancel it if it waits or runs, and drop it; its folder is removed once nothing writes into it."""
        with self._lock:
            self._jobs.pop(job.id, None)
            job.stop()
            if job.state == "queued":
                self.settle(job, "cancelled", "the job was removed")
            elif job.ended:
                discard(job.folder, job.url)

    def settle(self, job: Job, state: State, error: str | None = None) -> None:
        """End a job: record it if it is done and still wanted, else remove its files.

        Raises
        ------
        OSError
            If the record of a job that is done cannot be written; settle it as failed then
        """
        with self._lock:
            if job.ended:
                return
            if state == "done" and job.id not in self._jobs:
                state, error = "cancelled", "the job was removed"
            finished = time.time()
            end: dict[str, Any] = {"state": state, "error": error, "finished": finished}
            if state == "done":
                size = size_of(job.store)
                _record(job, size, finished)
                job.change(**end, stage="done", size=size)
            else:
                discard(job.folder, job.url)
                job.change(**end, stage=state)
            self._report(job)
            self.prune()

    def _report(self, job: Job) -> None:
        """Log and count a job that has ended."""
        seconds = (job.finished or job.created) - job.created
        self.metrics.job(job.state, seconds)
        why = f" ({job.error})" if job.error else ""
        text = "job {}: {} in {:.1f} s, {} of {} members{}"
        level = "WARNING" if job.state == "failed" else "INFO"
        logger.log(level, text, job.id, job.state, seconds, job.written, job.order.members, why)

    def prune(self) -> None:
        """Remove finished jobs that are too many, too large or too old, the oldest first."""
        ended = sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.finished or 0.0)
        total, left, now = sum(job.size for job in ended), len(ended), time.time()
        for job in ended:
            crowded = left > 1 and (left > self.keep.jobs or total > self.keep.bytes)
            if crowded or now - (job.finished or now) > self.keep.seconds:
                total, left = total - job.size, left - 1
                if not job.readers:  # else it is removed later, and no newer one in its place
                    self.remove(job)


def unusable(error: OSError) -> ServiceError:
    """Status 503 where the file system refuses."""
    return ServiceError(503, f"the folder of the jobs cannot be used ({error.strerror})")


def discard(folder: Path, url: AnyPath | None) -> None:
    """Remove a job's record, its store and its folder, in this order: what is left goes at the next start."""
    with suppress(OSError):
        (folder / RECORD).unlink(missing_ok=True)
    if isinstance(url, ObjectPath):
        Background(_discard_objects, folder, url)  # a server may answer slowly
        return
    if url is not None:
        shutil.rmtree(url, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _discard_objects(folder: Path, url: ObjectPath) -> None:
    try:
        remove(url)
    except (InputError, OSError) as error:
        logger.warning("the store {} is not removed yet ({})", url, error)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(store: AnyPath) -> int:
    """Bytes of all files or objects of a store."""
    if isinstance(store, ObjectPath):
        return sum(size for _, size, _ in store.entries())
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def _record(job: Job, size: int, finished: float) -> None:
    """Write the record by which a later service finds the job; under its name once it is complete."""
    names = ("created", "started", "denoised", "denoisings", "written", "synthetic", "digest")
    about = {name: getattr(job, name) for name in names}
    about |= {"order": asdict(job.order), "size": size, "finished": finished}
    with whole(job.folder / RECORD) as part:
        part.write_text(json.dumps(about), encoding="utf-8")


def _recorded(folder: Path, url: AnyPath | None) -> Job:
    """The finished job of a folder."""
    about = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    order = Order(**about.pop("order"))
    return Job(folder.name, order, folder, url, state="done", stage="done", **about)
