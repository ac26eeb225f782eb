# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the training: the command in processes that are killed, interrupted, or work together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_kit import PATIENCE, PRELOAD, free_port

THREADS = ["--threads", "1"]  # tiny networks; and sums in one order
MODULES = [*PRELOAD, "earth2_corrdiff.training.train"]


@dataclass(frozen=True)
class Stop:
    """A signal that a process sends itself after a step of a stage."""

    stage: str
    step: int
    signal: int = signal.SIGKILL


def start(said: Path, argv: list[str], env: dict[str, str] | None = None, stop: Stop | None = None) -> Any:
    """The command in a process; what it prints goes to the file ``said``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    process = context.Process(target=_child, args=(said, argv, env or {}, stop))
    process.start()
    return process


def finish(process: Any) -> int | None:
    """Its exit status, negative for a signal."""
    process.join(PATIENCE)
    status: int | None = process.exitcode
    process.kill()
    process.join()
    return status


def run(folder: Path, config: Path, stop: Stop | None = None) -> tuple[int | None, str]:
    """One process until its end: exit status, and what it printed."""
    said = folder / "said.txt"
    status = finish(start(said, [str(config), *THREADS], stop=stop))
    return status, said.read_text()


def together(folder: Path, config: Path, size: int) -> tuple[list[int | None], str]:
    """Processes with the environment that ``torchrun`` gives them."""
    where = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{**where, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    said = [folder / f"said-{rank}.txt" for rank in range(size)]
    started = [start(text, [str(config), *THREADS], env) for text, env in zip(said, ranks, strict=True)]
    return [finish(process) for process in started], "".join(text.read_text() for text in said)


def _child(said: Path, argv: list[str], env: dict[str, str], stop: Stop | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    from earth2_corrdiff.cli import train

    if stop is not None:
        _stop(train.Bars, stop)
    try:
        status = train.main(argv)
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop(bars: Any, stop: Stop) -> None:
    """Let the progress bar send the signal: what is written at this step has been written."""
    begin, advance, stage = bars.stage, bars.step, ""

    def began(self: Any, name: str, how: Any) -> None:
        nonlocal stage
        stage = name
        begin(self, name, how)

    def advanced(self: Any, progress: Any) -> None:
        advance(self, progress)
        if (stage, progress.step) == (stop.stage, stop.step):
            os.kill(os.getpid(), stop.signal)

    bars.stage, bars.step = began, advanced
