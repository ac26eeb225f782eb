# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs on a Dask cluster: the scheduler owns the tasks, the workers write the store and send receipts.

The model is loaded once in each worker, whose two threads take turns: one fetches the input of its task while
the other computes. A task may run again on another worker: what is written is not missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError, renamed
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run.downscaling import Downscaling
from earth2_corrdiff.run.loop import Tallied, Tally
from earth2_corrdiff.run.options import Options
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.run.tasks import Task, blocks
from earth2_corrdiff.sources import as_source
from earth2_corrdiff.store.error_bounds import Kept
from earth2_corrdiff.store.states import States
from earth2_corrdiff.store.target import Output
from earth2_corrdiff.store.writer import Store

RETRIES = 3
"""Further attempts at a task that ends with an error of the machine."""
FACTS = ("seed", "samples", "members", "evaluations", "what")
"""Attributes of a run that are known once its model is loaded and its output is open."""


@dataclass(frozen=True)
class Recipe:
    """The arguments of a ``Downscaling`` for workers, which load the model and open the store.

    ``data`` is the source, or a ``functools.partial`` that makes it in each worker.
    """

    time: Any
    model: ModelOptions
    data: Any
    output: str | AnyPath
    options: Options = Options()
    lead_time: Any = None

    @property
    def source(self) -> Any:
        """The source of the coarse weather."""
        return as_source(self.data() if isinstance(self.data, partial) else self.data)


@dataclass(frozen=True)
class Receipt:
    """The result of a task, whose fields are in the store: what was missing and is written, and why not."""

    task: Task
    tally: Tally
    device: str


class Work(WorkerPlugin):  # type: ignore[misc]
    """A run in a worker: of several that a ``LocalCluster`` numbers each takes the next GPU."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def setup(self, worker: Any) -> None:
        """Begin in a worker; the model is loaded by its first task."""
        self._number = worker.name if isinstance(worker.name, int) else None
        self._fetching, self._computing = Lock(), Lock()
        self._joined: tuple[Downscaling, Store | States] | None = None
        self._ready: dict[int, Tensor] = {}

    @cached_property
    def _model(self) -> CorrDiff:
        options = self.recipe.model
        return load_model(replace(options, device=str(find_device(options.device, self._number))))

    def _run(self, options: Options) -> Downscaling:
        r = self.recipe
        return Downscaling(r.time, self._model, r.source, r.output, options, lead_time=r.lead_time)

    def prepare(self) -> tuple[dict[str, Any], list[list[int]], int, bool]:
        """Make the output, or open it: FACTS, what is missing, members of a batch, whether it replaces."""
        run = self._run(self.recipe.options)
        missing, batch = run.prepare(), run.options.max_batch or self._model.downscaler.batch_size()
        batch = max(batch, run.part.unit)  # what belongs together is one task
        return {name: getattr(run, name) for name in FACTS}, missing, batch, run.output.replaces

    def join(self) -> tuple[Downscaling, Store | States]:
        """The run, and the store that a worker has made for it."""
        with self._fetching:
            if self._joined is None:
                run = self._run(replace(self.recipe.options, resume=True, overwrite=False))
                self._joined = run, run.join()
            return self._joined

    def downscale(self, task: Task) -> Receipt:
        """Compute and write what is missing of a task."""
        run, store = self.join()
        tally = Tally()
        members = tuple(sorted({*task.members} & {*store.missing(task.case)}))
        try:
            if members:
                with self._fetching, tally.clock("fetch"):
                    if task.case not in self._ready:
                        self._ready = {task.case: run.fetch(store, task.case)}
                    coarse = self._ready[task.case]
                with self._computing:
                    run.compute(store, Task(task.case, members), coarse, tally)
        except InputError as error:
            tally.failed[task.case] = renamed(error)
        return Receipt(task, tally, run.model.downscaler.device.type)

    def finish(self) -> dict[str, Kept]:
        """Complete the store."""
        run, store = self.join()
        return run.output.finish(store)


def _call(values: tuple[Task, ...], name: str, method: str) -> Any:
    """A method of a run in this worker, as a task."""
    return getattr(get_worker().plugins[name], method)(*values)


class ClusterRun(Tallied):
    """A run whose tasks the workers of a Dask cluster compute: iterate over it to do it.

    Its attributes are those of ``Downscaling``; FACTS are known once it has begun.

    Parameters
    ----------
    client : Client
        Of the cluster
    recipe : Recipe
        The run
    progress : Callable[[int], None], optional
        Called with the number of denoising steps just done, over all members

    Raises
    ------
    InputError
        If the output exists or cannot be written, or the run is not for several processes
    """

    seed, samples, members, evaluations, what = 0, 0, 0, 0, ""

    def __init__(self, client: Client, recipe: Recipe, progress: Callable[[int], None] | None = None) -> None:
        if not isinstance(recipe.model, ModelOptions):
            raise InputError("each worker loads the model; give ModelOptions instead of a model")
        if hasattr(recipe.output, "add_array"):
            raise InputError("workers share a Zarr store; give the output as a path or URL")
        if not recipe.options.part.whole:
            raise InputError(
                "the scheduler shares out the whole run; leave out --task, and start one process"
            )
        self.client, self.recipe, self.options, self.progress = client, recipe, recipe.options, progress
        self.cases = recipe.source.cases(recipe.time, recipe.lead_time)
        if self.options.keep != "all" and self.cases.coarse is not None:
            raise InputError("coarse members are computed apart on a cluster; use --keep all, or --task")
        self.output = Output(recipe.output, self.options.overwrite, self.options.resume)
        self._tally, self.found, self.kept = Tally(), 0, dict[str, Kept]()
        self._devices, self._name = set[str](), f"corrdiff-{uuid4().hex[:8]}"

    def __iter__(self) -> Iterator[tuple[np.datetime64, int]]:
        """Run; yield the valid time and number of each member when its task is done.

        The output is open before the iterator is returned.

        Raises
        ------
        InputError
            As ``Downscaling``
        """
        self.client.register_plugin(Work(self.recipe), self._name)
        try:
            facts, missing, batch, self.output.replaces = self._on_a_worker("prepare")
        except BaseException:
            self.client.unregister_worker_plugin(self._name)
            raise
        vars(self).update(facts)
        self.found = self.members - sum(map(len, missing))
        return self._work(blocks(missing, max(1, len(self.client.ncores())), batch))

    def _on_a_worker(self, method: str) -> Any:
        (found,) = self._results([()], method)
        return found

    def _results(self, values: list[tuple[Task, ...]], method: str) -> Iterator[Any]:
        keys = [f"{method}-{self._name}-{number}" for number in range(len(values))]
        return results(self.client, _call, values, keys, name=self._name, method=method)

    def _work(self, tasks: Sequence[Task]) -> Iterator[tuple[np.datetime64, int]]:
        self._advance(self._steps(self.found))
        try:
            for receipt in self._results([(task,) for task in tasks], "downscale"):
                yield from self._counted(receipt)
            self.kept = self._on_a_worker("finish")
        finally:
            self.client.unregister_worker_plugin(self._name)  # lets the workers free the model

    def _counted(self, receipt: Receipt) -> Iterator[tuple[np.datetime64, int]]:
        """Count a receipt; yield its members."""
        task, error = receipt.task, receipt.tally.failed.get(receipt.task.case)
        self._tally.add(receipt.tally)
        if self._devices and receipt.device not in self._devices:
            logger.warning("workers compute on different devices: {} and {}", *self._devices, receipt.device)
        self._devices.add(receipt.device)
        if error is None:
            self._advance(self._steps(len(task.members)))
            yield from ((self.cases[task.case].valid, i) for i in task.members)
        elif not self.options.keep_going:
            raise error

    def _steps(self, members: int) -> int:
        return members * self.evaluations // max(1, self.members)


def results(
    client: Client, function: Callable[..., Any], tasks: Sequence[Any], keys: Sequence[str], **values: Any
) -> Iterator[Any]:
    """What a function returns for each task on the workers, as they are done; none is kept.

    Raises
    ------
    InputError
        If several workers have died of a task
    """
    futures = client.map(function, tasks, key=list(keys), pure=False, retries=RETRIES, **values)
    try:
        for future in as_completed(futures):
            found = future.result()
            future.release()
            yield found
    except BaseException as error:
        client.cancel(futures)
        if isinstance(error, KilledWorker):
            count = error.allowed_failures + 1
            raise InputError(f"{count} workers died that computed {error.task}; see their logs") from error
        raise


@contextmanager
def connected(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """A client of a Dask cluster, for the time of the block.

    Parameters
    ----------
    workers : int | None
        Make a cluster of so many processes on this machine, which no other one can reach
    scheduler : str | None
        Address of a scheduler, or its file

    Raises
    ------
    InputError
        If the scheduler does not answer
    """
    if scheduler is None:
        cores = max(1, len(os.sched_getaffinity(0)) // (workers or 1))
        threads = min(cores, torch.get_num_threads())  # which OMP_NUM_THREADS may have set
        env = {"OMP_NUM_THREADS": str(threads), "LOGURU_LEVEL": "WARNING"}
        how = {"threads_per_worker": 2, "memory_limit": None, "dashboard_address": "127.0.0.1:0", "env": env}
        with LocalCluster(n_workers=workers or 1, silence_logs=logging.WARNING, **how) as cluster:
            with Client(cluster) as client:
                yield client
        return
    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise InputError(f"no scheduler of Dask answers at {scheduler}; start it there") from error
    with client:
        yield client
