# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Results of one section, written to a file as they come, within the time that it has."""

from __future__ import annotations

import gc
import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from .meter import Meter

POISONED = 3  # exit status: the device takes no more work from this process
_OWN = ("bench", "earth2_corrdiff")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Task:
    """What one process of a section is asked to do.

    Attributes
    ----------
    name, work : str
        Of the process, and "module:function"
    device : str
        "cuda" or "cpu"
    tiny : bool
        True for toy sizes and single samples: a dry run
    deadline : float
        Seconds of the epoch at which it must have ended
    out, part, log : Path
        Folder of all results; file of its own results; file that takes what it prints
    without : frozenset[str]
        Attempts that are not to be made: they broke an earlier process
    ceilings : dict[str, Any]
        Results of section A of the same card; empty where there are none
    """

    name: str
    work: str
    device: str
    tiny: bool
    deadline: float
    out: Path
    part: Path
    log: Path
    without: frozenset[str] = frozenset()
    ceilings: dict[str, Any] = field(default_factory=dict)


class Record:
    """Results of the section ``task``.

    Attributes
    ----------
    found : dict[str, Any]
        All results so far: nested, with text as keys
    meter : Meter
        Times and memory on the section's device
    """

    def __init__(self, task: Task) -> None:
        self.task, self.device, self.tiny = task, torch.device(task.device), task.tiny
        self.meter = Meter(self.device, task.tiny, self.left)
        self.found = read(task.part)
        for stale in ("poisoned", "running"):
            self.found.pop(stale, None)

    @property
    def cuda(self) -> bool:
        """True if it runs on a GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.task.deadline - time.time()

    def say(self, text: str) -> None:
        """Print a line into the log."""
        print(f"[{self.task.name} {self.left():5.0f} s left] {text}", flush=True)

    def put(self, *path: str, value: Any) -> None:
        """Record one result under nested names, and write all of them."""
        self._at(path[:-1])[path[-1]] = value
        self._write()

    def update(self, *path: str, value: dict[str, Any]) -> None:
        """Add to the results under nested names, and write all of them."""
        self._at(path).update(value)
        self._write()

    def _at(self, path: tuple[str, ...]) -> dict[str, Any]:
        at = self.found
        for name in path:
            at = at.setdefault(name, {})
        return at

    def _write(self) -> None:
        write(self.task.part, self.found)

    def attempt(self, name: str, work: Callable[..., Made], *args: Any, least: float = 5.0) -> Made | None:
        """``work(*args)``; None where it fails, does not fit the time, or broke an earlier process.

        An error is recorded. If the device is unusable afterwards, the process ends with ``POISONED``, and
        its parent starts another one without ``name``. Attempts may nest.

        Parameters
        ----------
        name : str
            Under which an error, or the seconds that it took, are recorded
        work : Callable
            What to do
        *args : Any
            Its arguments
        least : float, optional
            Seconds that must be left, by default 5
        """
        if name in self.task.without:
            return None  # its parent has recorded why
        if not self.tiny and self.left() < least:
            self.put("left out", name, value=f"{self.left():.0f} s were left, it wants {least:.0f}")
            return None
        outer = self.found.get("running")
        self.put("running", value=name)
        start = time.perf_counter()
        try:
            made = work(*args)
            self.meter.wait()
        except Exception as error:
            self._failed(name, error)
            return None
        finally:
            self.found["running"] = outer
        self.put("seconds", name, value=round(time.perf_counter() - start, 2))
        return made

    def _failed(self, name: str, error: Exception) -> None:
        self.say(f"{name}: {type(error).__name__}: {error}")
        missing = _missing(error)
        if missing is not None:
            self.put("left out", name, value=f"{missing} is not installed")
        else:
            print("".join(traceback.format_exception(error)), flush=True)
            self.put("failed", name, value=f"{type(error).__name__}: {error}"[:2000])
        memory = isinstance(error, torch.OutOfMemoryError)
        error.__traceback__ = None  # its frames hold tensors
        self.free()
        if self.cuda and not memory and not self._usable():
            self.put("poisoned", value=name)
            self.say(f"the device takes no more work after {name}")
            os._exit(POISONED)

    def _usable(self) -> bool:
        try:
            torch.cuda.synchronize()
            return float(torch.ones(4, device=self.device).sum()) == 4
        except RuntimeError:
            return False

    def free(self) -> None:
        """Give cached memory back to the device."""
        gc.collect()
        if self.cuda:
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                self.say(f"the cache cannot be emptied: {error}")


def _missing(error: BaseException | None) -> str | None:
    """The package whose absence an error, or what caused it, is about; None where it is something else."""
    while error is not None:
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if package and package not in _OWN:
            return package
        error = error.__cause__
    return None


def read(path: Path) -> dict[str, Any]:
    """Results in a file; empty where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write(path: Path, found: dict[str, Any]) -> None:
    """Write results so that a reader never sees half of them."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)
