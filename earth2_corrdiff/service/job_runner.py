# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Execution of jobs: fetch the input, make the members on the device, record the result.

An archive may take a minute to answer, and the device must not wait for it. So all input of a job is fetched
first, cut out and kept in memory (some 100 kB a case).
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from time import time as now
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.service.engine import Engine
from earth2_corrdiff.service.errors import ServiceError, internal
from earth2_corrdiff.service.job import Job, Order
from earth2_corrdiff.service.jobs import Jobs
from earth2_corrdiff.service.metrics import Metrics
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.sources import Forecast, Inputs, Source, make_forecast, make_source
from earth2_corrdiff.sources.parts import labelled

if TYPE_CHECKING:
    from earth2_corrdiff.model.options import ModelOptions

COMMAND = "POST /v1/downscale"
AT_ONCE = 2  # one fetches while another computes
FULL = (errno.ENOSPC, errno.EDQUOT)
PATH = re.compile(r"(?:\b(?:s3|gs|az):/|(?<![\w:/.]))/[^\s;,:()']+/")


class StoppedError(Exception):
    """The job was stopped."""


class Runner:
    """Threads that execute jobs in the order of their submission, a few at a time.

    Parameters
    ----------
    jobs : Jobs
        All jobs
    engine : Engine
        Owner of the device
    settings : Settings
        Those of the service
    """

    def __init__(self, jobs: Jobs, engine: Engine, settings: Settings) -> None:
        self.jobs, self.engine, self.settings = jobs, engine, settings
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        """Execute a job after those before it."""
        self._queue.put(job)
        while len(self._threads) < AT_ONCE:
            # Daemons: an archive that does not answer must not keep a service from stopping.
            thread = threading.Thread(target=self._work, name="corrdiff-job", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            self._execute(self._queue.get())

    def _execute(self, job: Job) -> None:
        """All of one job, which ends whatever happens."""
        try:
            self._run(job)
            self.jobs.settle(job, "done")
        except (StoppedError, CancelledError):
            self.jobs.settle(job, "cancelled", "the job was cancelled")
        except (InputError, OSError) as error:
            self.jobs.settle(job, "failed", sentence(error))
        except ServiceError as error:
            self.jobs.settle(job, "failed", error.detail)
        except Exception as error:
            self.jobs.settle(job, "failed", internal(error).detail)

    def _run(self, job: Job) -> None:
        _check_wanted(job)
        job.change(state="running", stage="fetching the coarse input", started=now())
        if self.settings.scheduler is not None and self.settings.options is not None:
            on_workers(job, self.settings.scheduler, self.settings.options)
            return
        source = source_of(job.order)
        weather = held(source, job, self.engine.spec, self.jobs.metrics)
        job.change(stage="waiting for the device")
        self.engine.submit_steps(lambda model: steps(job, weather, model)).result()


def source_of(order: Order) -> Source | Forecast:
    """The source of an order."""
    return make_forecast(order.source) if order.lead_time else make_source(order.source)


def on_workers(job: Job, scheduler: str, options: ModelOptions) -> None:
    """The job on the workers of a cluster, which fetch its input, too."""
    from earth2_corrdiff.run.cluster import ClusterRun, Recipe, connected

    order = job.order
    model = replace(options, steps=order.steps, solver=order.solver)
    how = Options(order.seed, command=COMMAND, number_of_samples=order.samples)
    data = (partial(source_of, order), job.store.absolute(), how, order.lead_time or None)
    with connected(None, scheduler) as client:
        run = ClusterRun(client, Recipe(order.times, model, *data), partial(_denoised, job))
        job.change(stage="waiting for the workers")
        with closing(cast(Generator[object], iter(run))) as members:
            job.change(stage="denoising", denoisings=run.evaluations)
            for _ in members:
                job.change(written=run.written)


def _denoised(job: Job, count: int) -> None:
    """Count denoising steps."""
    _check_wanted(job)
    # at most: a block that did not fit the memory is counted again
    job.change(denoised=min(job.denoised + count, job.denoisings))


def steps(job: Job, weather: Source | Forecast, model: CorrDiff) -> Iterator[None]:
    """The job in steps of one member, each a turn on the device."""
    _check_wanted(job)
    order = job.order

    sampling = replace(model.downscaler.sampling, steps=order.steps, solver=order.solver)
    options = Options(order.seed, command=COMMAND, number_of_samples=order.samples, sampling=sampling)
    leads = order.lead_time or None
    run = Downscaling(order.times, model, weather, job.store, options, partial(_denoised, job), leads)
    job.change(stage="denoising", denoisings=run.evaluations)
    with closing(cast(Generator[object], iter(run))) as members:  # closes the store when it ends
        for _ in members:
            job.change(written=run.written)
            yield
            _check_wanted(job)


def held(source: Source | Forecast, job: Job, spec: CorrDiffSpec, metrics: Metrics) -> Source | Forecast:
    """A source that holds the input of a job, fetched from another source and checked.

    Raises
    ------
    InputError
        If something cannot be fetched or used
    StoppedError
        If the job was stopped meanwhile
    """
    cases = source.cases(job.order.times, job.order.lead_time or None)
    inputs, fields = Inputs.of(source, cases, spec), []
    wanted, grid = list(inputs.kept), spec.input_grid
    times = [inputs.times(number) for number in range(len(cases))]
    for number in range(len(cases)):
        _check_wanted(job)
        try:
            fields.append(inputs.fetch(number, wanted).numpy())
        except BaseException:
            metrics.fetch(source.name, worked=False)
            raise
        metrics.fetch(source.name, worked=True)
    axes: dict[str, Any] = {**cases.axes, "variable": wanted}
    values = np.stack(fields)
    if cases.leads is None:  # several cases may share a time, and each may have several
        axes["time"], first = np.unique(np.concatenate(times), return_index=True)
        values = values.reshape(-1, *values.shape[-3:])[first]
    values = values.reshape(*map(len, axes.values()), *grid.shape)
    array = labelled(values, axes, grid.lat, grid.lon)

    def analysis(time: Any, variable: Sequence[str]) -> xr.DataArray:
        return array.sel(time=np.atleast_1d(time), variable=list(variable))

    def forecast(time: Any, lead_time: Any, variable: Sequence[str]) -> xr.DataArray:
        return analysis(time, variable).sel(lead_time=np.atleast_1d(lead_time))

    if isinstance(source, Forecast):
        return Forecast(source.name, lambda coarse: forecast, lambda: wanted, synthetic=source.synthetic)
    return Source(
        source.name, lambda: analysis, lambda: wanted, synthetic=source.synthetic, daily=source.daily
    )


def sentence(error: InputError | OSError) -> str:
    """The message of an error for clients: without folders, buckets or options of a command."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in FULL:
        return "the service's disk is full: remove finished jobs, or ask for fewer members or times"
    if isinstance(error, OSError):
        return f"the service cannot keep the job ({error.strerror or type(error).__name__})"
    text = str(error).split("; what is written is kept")[0]
    return PATH.sub("…/", text)


def _check_wanted(job: Job) -> None:
    if job.stopped:
        raise StoppedError
