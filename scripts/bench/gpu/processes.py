# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of sections: forked where that is possible, so that imports are made once, else fresh."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import Any

from .record import POISONED, Record, Task, read, write

NO_DEVICE = 4  # exit status: the device cannot be used in this process
FAILED = 1
MOST_WITHOUT = 4  # attempts that are left out before a section is given up


def work_on(task: Task) -> None:
    """Do a task in this process, whose output goes to the task's log."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # its own children end with it
    log = task.log.open("a", buffering=1, encoding="utf-8")
    sys.stdout = sys.stderr = log
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    try:
        status = _work(task)
    except BaseException:
        traceback.print_exc()
        status = FAILED
    log.flush()
    os._exit(status)  # nothing of the parent's is cleaned up twice


def _work(task: Task) -> int:
    import torch

    if task.device == "cpu":
        torch.set_num_threads(min(2, torch.get_num_threads()))
    try:
        torch.zeros(1, device=task.device)
    except RuntimeError as error:
        print(f"the device cannot be used: {error}", flush=True)
        return NO_DEVICE
    module, _, function = task.work.partition(":")
    record = Record(task)
    getattr(importlib.import_module(f"{__package__}.{module}"), function)(record)
    record.put("done", value=True)
    return 0


class Job:
    """A process of a task, which is started again without what broke it.

    Attributes
    ----------
    task : Task
        What it does now
    status : int | None
        Exit status, negative for a signal; None while it runs
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._process: Any = None
        self.fresh = False

    def start(self, fresh: bool) -> None:
        """Start it, in a fresh interpreter or as a fork of this one."""
        self.fresh = fresh
        context: Any = multiprocessing.get_context("spawn" if fresh else "fork")
        self._process = context.Process(target=work_on, args=(self.task,))
        self._process.start()
        with contextlib.suppress(OSError):
            os.setpgid(self._process.pid, self._process.pid)

    @property
    def status(self) -> int | None:
        """Its exit status."""
        status: int | None = self._process.exitcode
        return status

    def kill(self) -> None:
        """End it and all processes that it has started."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def found(self) -> dict[str, Any]:
        """Its results so far."""
        return read(self.task.part)

    @property
    def blamed(self) -> str | None:
        """The attempt that it was at when it ended."""
        found = self.found()
        blamed: str | None = found.get("poisoned") or found.get("running")
        return blamed

    def give_up(self, attempt: str) -> bool:
        """Leave an attempt out of the next start; False where that does not help."""
        crashed = self.status == POISONED or (self.status or 0) < 0
        without = self.task.without
        if not crashed or attempt in without or len(without) == MOST_WITHOUT:
            return False
        found = self.found()
        why = f"broke the process (exit status {self.status})"
        found.setdefault("failed", {}).setdefault(attempt, why)
        write(self.task.part, found)
        self.task = replace(self.task, without=without | {attempt})
        return True
