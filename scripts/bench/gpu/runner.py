# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the sections in processes of their own and keeps what they find, whatever becomes of them."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import summary, verdict
from .plan import Section
from .processes import NO_DEVICE, Job
from .record import Task, write

GRACE = 6.0  # seconds after its deadline until a process is killed
AGAIN = 15.0  # seconds that must be left to start a process again
POLL = 0.05


@dataclass(frozen=True)
class Settings:
    """How a check runs.

    Attributes
    ----------
    device : str
        "cuda" or "cpu"
    tiny, spawn : bool
        True for toy sizes; for a fresh interpreter in each section
    total : float
        Seconds for everything
    out : Path
        Folder of the results
    about : Mapping[str, Any]
        What results.json has beside the sections: command and commit
    ceilings : Mapping[str, Any]
        Section A of an earlier check of the same card; empty for none
    """

    device: str
    tiny: bool
    spawn: bool
    total: float
    out: Path
    about: Mapping[str, Any]
    ceilings: Mapping[str, Any]


class Runner:
    """Runs sections in turn within a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.spawn = settings, settings.spawn
        self.end = time.time() + settings.total
        self.log = settings.out / "log.txt"
        self.sections: dict[str, dict[str, Any]] = {}
        if settings.ceilings:
            self.sections["A"] = dict(settings.ceilings)
        self.results: dict[str, Any] = {**settings.about, "sections": self.sections}

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.time()

    def say(self, text: str) -> None:
        """Print a line, into the log too."""
        line = f"[{self.left():4.0f} s left] {text}"
        print(line, flush=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def run(self, sections: list[Section]) -> list[str]:
        """Run the sections; what is wrong in them."""
        self._import(sections)
        self._save()
        scratch = Path(tempfile.mkdtemp(prefix="check-gpu-"))
        try:
            for section in sections:
                self._section(section, scratch)
                self._save()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return verdict.faults(self.sections)

    def _save(self) -> None:
        write(self.settings.out / "results.json", self.results)
        try:
            text = summary.text(self.results)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # half of a section may be missing
            text = f"the summary failed ({type(error).__name__}: {error}); see results.json\n"
        (self.settings.out / "summary.md").write_text(text, encoding="utf-8")

    def _import(self, sections: list[Section]) -> None:
        """Import once what forked sections share, without touching the device."""
        start = time.time()
        with self.log.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), _without_cupy():
            try:
                from .. import variants  # noqa: F401
                from .candidates import stock_module

                if not self.spawn and any(section.stock and not section.fresh for section in sections):
                    with contextlib.suppress(ModuleNotFoundError):  # recorded by each section
                        stock_module()
                self.spawn = self.spawn or _initialised()
            except Exception as error:
                log.write(traceback.format_exc())
                self.results["imports failed"] = f"{type(error).__name__}: {error}"
        how = "fresh interpreters" if self.spawn else "forks"
        self.say(f"imports took {time.time() - start:.0f} s; sections run in {how}")

    def _section(self, section: Section, scratch: Path) -> None:
        if self.left() < section.least + GRACE and not self.settings.tiny:
            self.sections.setdefault(section.name, {})["skipped"] = (
                f"{self.left():.0f} s were left, it wants {section.least:.0f}"
            )
            self.say(f"{section.name}: skipped")
            return
        start = time.time()
        # a dry run may share its machine: it is not cut short section by section
        most = self.left() if self.settings.tiny else section.most
        deadline = start + max(1.0, min(most, self.left() - GRACE - 1))
        jobs = [Job(self._task(name, section, deadline, scratch)) for name in section.processes]
        for job in jobs:
            self.sections[job.task.name] = {}  # in this order, whichever ends first
            job.start(self.spawn or section.fresh)
        try:
            self._wait(jobs, section)
        finally:
            for job in jobs:
                if job.status is None:  # this process is being interrupted
                    job.kill()
        self.say(f"{section.name}: took {time.time() - start:.0f} s")

    def _task(self, name: str, section: Section, deadline: float, scratch: Path) -> Task:
        s = self.settings
        part = scratch / f"{name}.json"
        ceilings = self.sections.get("A", {})
        return Task(name, section.work, s.device, s.tiny, deadline, s.out, part, self.log, ceilings=ceilings)

    def _wait(self, jobs: list[Job], section: Section) -> None:
        running = list(jobs)
        while running:
            time.sleep(POLL)
            for job in list(running):
                late = time.time() > job.task.deadline + GRACE
                if job.status is None and not late:
                    continue
                if job.status is None:
                    job.kill()
                    self.say(f"{job.task.name}: killed at {job.blamed}; what it had is kept")
                again = not late and self._shall_restart(job)
                self._keep(job, late)
                if again:
                    job.start(self.spawn or section.fresh)
                else:
                    running.remove(job)

    def _keep(self, job: Job, late: bool) -> None:
        found = {k: v for k, v in job.found().items() if k != "running"}
        if late:
            found["killed"] = f"out of time at {job.blamed}"
        self.sections[job.task.name] = {**found, "exit status": job.status}
        self._save()

    def _shall_restart(self, job: Job) -> bool:
        """True where it ended badly, and may do better."""
        if job.status == 0:
            return False
        if job.status == NO_DEVICE and not job.fresh:
            self.spawn = True
            self.say(f"{job.task.name}: the device cannot be used in a fork; from now on fresh interpreters")
            return True
        attempt = job.blamed
        self.say(f"{job.task.name}: ended with status {job.status} at {attempt}")
        enough = job.task.deadline - time.time() > AGAIN or self.settings.tiny
        return attempt is not None and enough and job.give_up(attempt)


def _initialised() -> bool:
    """True if CUDA has been started in this process, which then cannot be forked."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without_cupy() -> Iterator[None]:
    """CuPy, which Earth2Studio imports where it is, would start CUDA: then nothing can be forked any more."""
    hidden = "cupy" not in sys.modules
    if hidden:
        sys.modules["cupy"] = None  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if hidden:
            del sys.modules["cupy"]
