# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Dask's scheduler: sleeping tasks on many workers, and its overhead on the demo with one worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import psutil
from distributed import Client, LocalCluster

from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run.cluster import ClusterRun, Receipt, Recipe, results
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.run.loop import Tally
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.run.tasks import Task
from earth2_corrdiff.sources import make_source

TIMES = ("2024-07-24T00/2024-07-24T18/6h",)
ROUNDS = 2


@dataclass(frozen=True)
class Simulation:
    """Sleeping tasks on in-process workers.

    Attributes
    ----------
    tasks, workers : int
        How many
    seconds, wall, cpu : float
        Of a task, of all, and what the processor worked for all
    memory : tuple[int, ...]
        Bytes of the process, scheduler and workers, after each tenth of the tasks
    """

    tasks: int
    workers: int
    seconds: float
    wall: float
    cpu: float
    memory: tuple[int, ...]

    @property
    def efficiency(self) -> float:
        """Part of the workers' time that is work."""
        return self.tasks * self.seconds / (self.workers * self.wall)


@contextmanager
def _cluster(workers: int, threads: int) -> Iterator[Client]:
    how = {"processes": False, "dashboard_address": None, "memory_limit": None, "n_workers": workers}
    with LocalCluster(threads_per_worker=threads, **how) as cluster, Client(cluster) as client:
        yield client


def _sleep(task: Task, seconds: float) -> Receipt:
    sleep(seconds)
    return Receipt(task, Tally({"compute": seconds}, len(task.members)), "cpu")


def simulate(tasks: int, workers: int, seconds: float) -> Simulation:
    """Let workers in this process sleep, scheduled as the tasks of a run are."""
    every = [Task(case, (0, 1, 2, 3)) for case in range(tasks)]
    memory, process, tenth = [], psutil.Process(), max(1, tasks // 10)
    with _cluster(workers, 1) as client:
        start, worked = perf_counter(), process_time()
        keys = [f"downscale-{task.case}" for task in every]
        for done, _ in enumerate(results(client, _sleep, every, keys, seconds=seconds), 1):
            if done % tenth == 0:
                memory.append(process.memory_info().rss)
        spent = perf_counter() - start, process_time() - worked
        return Simulation(tasks, workers, seconds, *spent, tuple(memory))


def overhead() -> tuple[float, float]:
    """Seconds of the demo's four times x 4 members in one process, and by one of Dask's workers; the best."""
    options, source, best = ModelOptions("demo", steps=4), partial(make_source, "demo"), [float("inf")] * 2
    model = load_model(options)
    with tempfile.TemporaryDirectory() as folder, _cluster(1, 2) as client:
        for number in range(ROUNDS):
            path = Path(folder) / str(number)
            runs: tuple[Any, ...] = (
                Downscaling(TIMES, model, source(), f"{path}-one.zarr", Options(0)),
                ClusterRun(client, Recipe(TIMES, options, source, f"{path}-dask.zarr", Options(0))),
            )
            for which, run in enumerate(runs):
                members = iter(run)  # loads the worker's model
                start = perf_counter()
                list(members)
                best[which] = min(best[which], perf_counter() - start)
    return best[0], best[1]


def report(simulation: Simulation, seconds: tuple[float, float]) -> None:
    """Print what was measured; the first tenth starts the workers."""
    s, memory = simulation, " ".join(f"{each / 2**20:.0f}" for each in simulation.memory)
    growth = 100 * (s.memory[-1] / s.memory[1] - 1)
    print(
        f"{s.tasks} tasks of {s.seconds:g} s on {s.workers} workers: {s.wall:.1f} s, efficiency "
        f"{100 * s.efficiency:.1f} %, {1000 * s.cpu / s.tasks:.1f} ms of a core per task; MiB of "
        f"scheduler and workers after each tenth: {memory} ({growth:+.1f} % from the second on)"
    )
    one, dask = seconds
    print(
        f"demo, 4 times x 4 members: {one:.2f} s in one process, {dask:.2f} s by one worker of Dask "
        f"({dask - one:+.2f} s, {100 * (dask / one - 1):+.1f} %)"
    )
