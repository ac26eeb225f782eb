# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs on a Dask cluster: the scheduler owns the tasks, the workers write the store and send receipts.

The model is loaded once in each worker, whose two threads take turns: one fetches the input of its task while
the other computes. A task may run again on another worker: what is written is not missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from distributed import Client, KilledWorker, Nanny, Scheduler, SpecCluster, as_completed, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from loguru import logger
from torch import Tensor

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


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs for a run.

    Attributes
    ----------
    time, lead_time : Any
        As of ``Downscaling``
    model : ModelOptions
        The model, loaded by each worker
    data : Any
        The source, or a ``functools.partial`` that makes it in each worker
    output : str, Path or ObjectPath
        The store, where all workers can write it
    options : Options
        Of the run
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
class Opening:
    """A run as the worker found it that has opened its output.

    Attributes
    ----------
    seed, samples : int
        Of the run, and members of each case
    missing : list[list[int]]
        Members of each case to compute
    calls, batch : int
        Denoising steps of a member, and members that share a network call
    what : str
        Outputs and grid, in words
    replaces : bool
        True if the store grows beside the one that it replaces
    """

    seed: int
    samples: int
    missing: list[list[int]]
    calls: int
    batch: int
    what: str
    replaces: bool


@dataclass(frozen=True)
class Receipt:
    """The result of a task; its fields are in the store.

    Attributes
    ----------
    task : Task
        Its members
    computed : int
        How many of them were missing, and are written now
    failed : InputError | None
        Why some are not
    seconds : dict[str, float]
        Time that it waited, by stage
    device : str
        Where it was computed
    """

    task: Task
    computed: int
    failed: InputError | None
    seconds: dict[str, float]
    device: str


class Work(WorkerPlugin):  # type: ignore[misc]
    """A run in a worker process.

    Parameters
    ----------
    recipe : Recipe
        The run
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def setup(self, worker: object) -> None:
        """Begin in a worker; the model is loaded by its first task."""
        self._fetching, self._computing = Lock(), Lock()
        self._joined: tuple[Downscaling, Store | States] | None = None
        self._ready: dict[int, Tensor] = {}

    @cached_property
    def _model(self) -> CorrDiff:
        return load_model(self.recipe.model)

    def _run(self, options: Options) -> Downscaling:
        r = self.recipe
        return Downscaling(r.time, self._model, r.source, r.output, options, lead_time=r.lead_time)

    def prepare(self) -> Opening:
        """Make the output, or open it."""
        run = self._run(self.recipe.options)
        missing, batch = run.prepare(), run.options.max_batch or self._model.downscaler.batch_size()
        batch = max(batch, run.part.unit)  # what belongs together is one task
        calls = run.evaluations // max(1, run.members)
        return Opening(run.seed, run.samples, missing, calls, batch, run.what, run.output.replaces)

    def join(self, seed: int) -> tuple[Downscaling, Store | States]:
        """The run, and the store that a worker has made for it."""
        with self._fetching:
            if self._joined is None:
                run = self._run(replace(self.recipe.options, seed=seed, resume=True, overwrite=False))
                self._joined = run, run.join()
            return self._joined

    def compute(self, seed: int, task: Task) -> Receipt:
        """Compute and write what is missing of a task."""
        run, store = self.join(seed)
        tally, failed = Tally(), dict[int, InputError]()
        members = tuple(sorted({*task.members} & {*store.missing(task.case)}))
        try:
            if members:
                with self._fetching, tally.clock("fetch"):
                    coarse = self._input(run, store, task.case)
                with self._computing:
                    run.compute(store, Task(task.case, members), coarse, tally, failed)
        except InputError as error:
            failed[task.case] = renamed(error)
        return Receipt(
            task, tally.written, failed.get(task.case), tally.seconds, run.model.downscaler.device.type
        )

    def _input(self, run: Downscaling, store: Store | States, case: int) -> Tensor:
        """The input of a case; that of the last one is kept."""
        if case not in self._ready:
            self._ready = {case: run.fetch(store, case)}
        return self._ready[case]

    def finish(self, seed: int) -> dict[str, Kept]:
        """Complete the store."""
        run, store = self.join(seed)
        return run.output.finish(store)


def _call(method: str, name: str, *values: Any) -> Any:
    """A method of a run in this worker, as a task."""
    return getattr(get_worker().plugins[name], method)(*values)


def _compute(task: Task, name: str, seed: int) -> Receipt:
    receipt: Receipt = _call("compute", name, seed, task)
    return receipt


class ClusterRun(Tallied):
    """A run whose tasks the workers of a Dask cluster compute: iterate over it to do it.

    Its attributes are those of ``Downscaling``.

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
        self._tally, self.kept, self.devices = Tally(), dict[str, Kept](), set[str]()
        self.found, self.seed, self.samples, self.what = 0, 0, 0, ""
        self._calls, self._name = 0, f"corrdiff-{uuid4().hex[:8]}"

    @property
    def members(self) -> int:
        """Members over all cases, once the output is open."""
        return len(self.cases) * self.samples

    @property
    def evaluations(self) -> int:
        """Denoising steps over all members, once the output is open."""
        return self.members * self._calls

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
            opening: Opening = self._on_a_worker("prepare")
        except BaseException:
            self._forget()
            raise
        self.seed, self.samples, self.what = opening.seed, opening.samples, opening.what
        self._calls, self.output.replaces = opening.calls, opening.replaces
        self.found = self.members - sum(map(len, opening.missing))
        return self._work(opening)

    def _on_a_worker(self, method: str, *values: Any) -> Any:
        how = {"key": f"{method}-{self._name}", "pure": False, "retries": RETRIES}
        with _lost():
            return self.client.submit(_call, method, self._name, *values, **how).result()

    def _work(self, opening: Opening) -> Iterator[tuple[np.datetime64, int]]:
        self._advance(self.found)
        tasks = blocks(opening.missing, max(1, len(self.client.ncores())), opening.batch)
        keys = [f"downscale-{self._name}-{task.case}-{task.members[0]}" for task in tasks]
        try:
            for receipt in results(self.client, _compute, tasks, keys, name=self._name, seed=opening.seed):
                yield from self._counted(receipt)
            self.kept = self._on_a_worker("finish", opening.seed)
        finally:
            self._forget()

    def _counted(self, receipt: Receipt) -> Iterator[tuple[np.datetime64, int]]:
        """Count a receipt; yield its members."""
        task = receipt.task
        self._tally.written += receipt.computed
        for stage, seconds in receipt.seconds.items():
            self.seconds[stage] += seconds
        if receipt.device not in self.devices and self.devices:
            logger.warning("workers compute on different devices: {} and {}", *self.devices, receipt.device)
        self.devices.add(receipt.device)
        if receipt.failed is None:
            self._advance(len(task.members))
            yield from ((self.cases[task.case].valid, i) for i in task.members)
        elif self.options.keep_going:
            self.failed[task.case] = receipt.failed
        else:
            raise receipt.failed

    def _advance(self, members: int) -> None:
        if self.progress is not None:
            self.progress(members * self._calls)

    def _forget(self) -> None:
        """Let the workers free the model."""
        self.client.unregister_worker_plugin(self._name)


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
            with _lost():
                found = future.result()
            future.release()
            yield found
    except BaseException:
        client.cancel(futures)
        raise


@contextmanager
def _lost() -> Iterator[None]:
    """Turn Dask's error about a task that has ended several workers into a sentence."""
    try:
        yield
    except KilledWorker as error:
        raise InputError(
            f"{error.allowed_failures + 1} workers died that computed {error.task}; see their logs"
        ) from error


@contextmanager
def connected(
    workers: int | None,
    scheduler: str | None,
    device: str = "auto",
    environ: Mapping[str, str] | None = None,
) -> Iterator[Client]:
    """A client of a Dask cluster, for the time of the block.

    Parameters
    ----------
    workers : int | None
        Make a cluster of so many processes on this machine
    scheduler : str | None
        Address of a scheduler, or its file
    device : str, optional
        Of the workers on this machine: each takes the next GPU
    environ : Mapping[str, str] | None, optional
        Environment variables that name the GPUs and the threads of those workers

    Raises
    ------
    InputError
        If the scheduler does not answer
    """
    if scheduler is None:
        with _local(workers or 1, device, environ or {}) as cluster, Client(cluster) as client:
            yield client
        return
    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise InputError(f"no scheduler of Dask answers at {scheduler}; start it there") from error
    with client:
        yield client


def _local(workers: int, device: str, environ: Mapping[str, str]) -> SpecCluster:
    """A cluster on this machine, which no other one can reach."""
    # runs check their memory themselves
    how = {"host": "127.0.0.1", "nthreads": 2, "memory_limit": None, "silence_logs": logging.WARNING}
    nannies = {
        i: {"cls": Nanny, "options": {**how, "env": _environment(i, workers, device, environ)}}
        for i in range(workers)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(nannies, {"cls": Scheduler, "options": options})


def _environment(index: int, workers: int, device: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a worker, set before it imports PyTorch: its GPU, its share of the cores."""
    cores = str(max(1, len(os.sched_getaffinity(0)) // workers))
    found = {"OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", cores), "LOGURU_LEVEL": "WARNING"}
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count:
        name = "HIP_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES"
        given = environ.get(name, ",".join(map(str, range(count)))).split(",")
        found[name] = given[index % len(given)]
    return found
