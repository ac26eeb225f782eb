# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A run over given times: fetch, check, downscale, write, resume.

``downscale`` is a function like those of ``earth2studio.run``; ``Downscaling`` is the same, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, TakenError, UnavailableError
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.base.object_path import ObjectPath
from earth2_corrdiff.base.studio import ZarrBackend
from earth2_corrdiff.base.times import TimeLike, Times, time_text
from earth2_corrdiff.model.diffusion.noise import fresh_seed
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.spec import check_count
from earth2_corrdiff.run.loop import Job, MakeMembers, MemberLoop, Tallied, Tally, jobs
from earth2_corrdiff.run.options import Options
from earth2_corrdiff.run.product import Product
from earth2_corrdiff.run.tasks import Task
from earth2_corrdiff.sources import Source, as_source
from earth2_corrdiff.store.error_bounds import Kept
from earth2_corrdiff.store.objects import backend
from earth2_corrdiff.store.sizes import check_memory
from earth2_corrdiff.store.states import States
from earth2_corrdiff.store.target import Output
from earth2_corrdiff.store.writer import Plain, Store

if TYPE_CHECKING:
    from earth2_corrdiff.model.options import ModelOptions
    from earth2_corrdiff.run.cluster import ClusterRun

__all__ = ["Downscaling", "Options", "downscale"]


class Downscaling(Tallied):
    """A run over times and members: iterate over it to do it.

    Parameters
    ----------
    time : time or times
        Valid times of analyses, or reference times of forecasts, UTC: datetimes, datetime64, ISO 8601 text,
        or periods like ``2024-07-20T00/2024-07-25T18/6h``
    model : CorrDiff
        The model; its ``number_of_samples``, solver and steps are used
    data : Source, Forecast, DataSource, ForecastSource, or several ForecastSources
        Where the coarse weather comes from; several are the coarse members of an ensemble
    output : str | Path | IOBackend
        Path or URL of the Zarr store to write, or an Earth2Studio backend that is already open
    options : Options, optional
        Seed, batch, and what to do with an output that exists
    progress : Callable[[int], None], optional
        Called with the number of denoising steps just done, over all members
    lead_time : lead time or lead times, optional
        Of forecasts: timedeltas, hours, or text like ``0/48/6h``

    Attributes
    ----------
    cases : Cases
        What is downscaled: times, or forecasts by time, lead time and coarse member
    samples, sampling : int, Sampling
        Members of each case, and how they are sampled
    product : Product
        What it makes: inputs, size, layout of the store
    make_members : MakeMembers
        Computes members: ``Downscaler.members``, or the same on several processes
    seconds : dict[str, float]
        Time spent waiting for the input, for the networks and for the disk, so far
    written : int
        Members computed and written so far
    found : int
        Members of this part that were there already
    failed : dict[int, InputError]
        Numbers of the cases whose input could not be used, where ``keep_going`` is asked for, and why
    kept : dict[str, Kept]
        At the end: sizes and errors of the variables that are kept with a bound

    Raises
    ------
    InputError
        Before anything is computed: if the source cannot serve the times or variables, the output exists or
        cannot be written, or the run does not fit the memory or the disk
    """

    def __init__(
        self,
        time: TimeLike | Iterable[TimeLike],
        model: CorrDiff,
        data: Any,
        output: Any,
        options: Options | None = None,
        progress: Callable[[int], None] | None = None,
        lead_time: Any = None,
    ) -> None:
        self.model, self.source = model, as_source(data)
        self.options, self.progress = options or Options(), progress
        self.make_members: MakeMembers = model.downscaler.members
        self.cases, self._tally, self.found = self.source.cases(time, lead_time), Tally(), 0
        self.product = Product(model, self.source, self.cases, self.options)
        self.samples, self.sampling = self.product.samples, self.product.sampling
        state = self.samples * len(self.cases.coarse or (None,))  # its members stay together where not kept
        self.part = replace(self.options.part, unit=1 if self.options.keep == "all" else state)
        if not self.options.part.whole and self.options.overwrite:
            raise InputError("a part of a run replaces no store; prepare the run with --overwrite")
        self.resume = self.options.resume or not self.options.part.whole
        self.output = Output(output, self.options.overwrite, self.resume)
        self.seed = self._choose_seed()
        given = self.options.max_batch
        self._max_batch = model.max_batch if given is None else check_count("max_batch", given)
        self.kept = dict[str, Kept]()
        self.product.check()
        if (calibration := getattr(model.downscaler, "calibration", None)) is not None:
            spec = model.spec
            made = self.product.provenance(self.seed)
            calibration.check(made, spec.output_variables, spec.output_grid.shape)
        device = model.downscaler.device
        memory = free_bytes(torch.device("cpu"))
        check_memory(self.product.size(self.members), memory, str(device), free_bytes(device))

    def _check_room(self, missing: int) -> None:
        """Check that the disk has room; log the size of a large run.

        Raises
        ------
        InputError
            If it does not fit
        """
        size = self.product.size(missing)
        free = self.output.check_room(size)
        if size.large:
            logger.info("a large run: {}{}", size.text, f", {free}" if free else "")

    def _choose_seed(self) -> int:
        """The seed asked for, else the store's on resume, else the model's, else a new one."""
        if self.options.seed is not None:
            return int(self.options.seed)
        if self.resume and "seed" in self.output.recorded():
            return int(self.output.recorded()["seed"])
        return int(self.model.seed) if self.model.seed is not None else fresh_seed()

    @property
    def times(self) -> Times:
        """Valid times of analyses, or reference times of forecasts."""
        return self.cases.times

    @property
    def members(self) -> int:
        """Members of this part of the run, over all cases."""
        own = self.part.within(len(self.cases), self.samples)
        return own.stop - own.start  # which may be too many for len

    @property
    def evaluations(self) -> int:
        """Denoising steps of this part of the run, over all members."""
        return self.members * self.product.calls

    @property
    def what(self) -> str:
        """Outputs and grid, in words."""
        return self.product.text

    def __iter__(self) -> Iterator[tuple[np.datetime64, int]]:
        """Run; yield the valid time and number of each member when it is written.

        The first input is fetched and checked, and the output opened, before the iterator is returned:
        until then nothing is computed, and nothing that was there is replaced.

        Raises
        ------
        InputError
            If the input cannot be fetched or used, or the output cannot be opened or is another run's
        """
        store, missing, ready = self._open()
        return self._work(store, self.part.tasks(missing, self.samples), ready)

    def prepare(self) -> list[list[int]]:
        """Make the output, or open it if it is there; members of each case that it misses.

        Raises
        ------
        InputError
            If the input cannot be fetched or used, or the output cannot be opened or is another run's
        """
        return self._open()[1]

    def join(self) -> Store | States:
        """The store of this run, which another process has made.

        Raises
        ------
        InputError
            If it is not there, or is another run's
        """
        store = self.output.existing(self.product.layout(self.seed, self.product.inputs.kept))
        if store is None:
            raise InputError(f"there is no {self.output.target}; is it on a disk that all processes share?")
        return self._by_state(store)  # type: ignore[no-any-return]

    def fetch(self, store: Store | Plain | States, case: int) -> Tensor:
        """The input of a case, checked."""
        return self.product.inputs.fetch(case, store.layout.lowres)

    def compute(self, store: Store | States, task: Task, coarse: Tensor, tally: Tally) -> None:
        """Compute and write a task; members that cannot be kept are noted in its tally."""
        for _ in self._loop(store, tally, tally.failed)([Job(task.case, task.members, coarse)]):
            pass

    def _open(self) -> tuple[Store | Plain | States, list[list[int]], dict[int, Tensor]]:
        """The output, what it misses, and the inputs that had to be fetched for it."""
        found = self._resumed() if self.resume else None
        if found is not None:
            return self._opened(found)
        missing = [list(range(self.samples))] * len(self.cases)
        self._check_room(sum(map(len, missing)))
        names = self.product.inputs.kept
        ready = self._first(list(range(len(missing))), names)  # of the whole run, whoever makes its store
        if len(names) > len(self.model.input_variables) and all(x[-1].isnan().all() for x in ready.values()):
            names = names[:-1]  # the archive has it, but not here
        try:
            with self._tally.clock("write"):
                store = self.output.create(self.product.layout(self.seed, names, ready))
                return self._by_state(store), missing, ready
        except TakenError:
            if not self.resume or (found := self._resumed()) is None:
                raise
            return self._opened(found)

    def _by_state(self, store: Any) -> Any:
        """A store, or the same by states where these are scored or summarised."""
        scorer, outputs = self.options.scorer, self.model.spec.output_variables
        if not self.options.by_state:
            return store
        if not isinstance(store, Store):
            raise InputError("only a Zarr store keeps scores and means; give a path, or a ZarrBackend")
        return States(store, outputs, self.options.keep, scorer)

    def _opened(self, store: Store | States) -> tuple[Store | States, list[list[int]], dict[int, Tensor]]:
        missing = store.all_missing()
        self._check_room(sum(map(len, missing)))
        tasks = self.part.tasks(missing, self.samples)
        wanted = [] if self.options.keep_going else [task.case for task in tasks]  # failures are reported
        return store, missing, self._first(wanted, store.layout.lowres)

    def _resumed(self) -> Store | States | None:
        """The store of an earlier run, or of one that has begun just now, without its damaged members."""
        self.seed = self._choose_seed()
        store = self.output.existing(self.product.layout(self.seed, self.product.inputs.kept))
        if store is not None:
            own = self.part.within(len(self.cases), self.samples)
            store.take_back(self.product.inputs.whole, self.options.check, own)
        return None if store is None else self._by_state(store)

    def _first(self, cases: list[int], names: tuple[str, ...]) -> dict[int, Tensor]:
        """Number and input of the first of these cases; none of none."""
        with self._tally.clock("fetch"):
            return self.product.inputs.first(cases, names, self.failed if self.options.keep_going else None)

    def _work(
        self, store: Store | Plain | States, tasks: list[Task], ready: dict[int, Tensor]
    ) -> Iterator[tuple[np.datetime64, int]]:
        """Compute and write what is missing; ``ready`` has inputs that are fetched already."""
        self.found = self.members - sum(len(task.members) for task in tasks)
        if self.found:
            self._advance(self.found * self.evaluations // self.members)
        failed = self.failed if self.options.keep_going else None
        tasks = [task for task in tasks if task.case not in self.failed]  # its input has been tried
        loop = self._loop(store, self._tally, failed)
        for number, member in loop(jobs(tasks, partial(self.fetch, store), ready, failed)):
            yield self.cases[number].valid, member
        if self.options.part.whole or not any(store.all_missing()):  # the last part completes the store
            self.kept = self.output.finish(store)

    def _loop(
        self, store: Store | Plain | States, tally: Tally, failed: dict[int, InputError] | None
    ) -> MemberLoop:
        how = (self.sampling, self._max_batch, self._advance, failed)
        return MemberLoop(self.make_members, len(self.model.input_variables), store, tally, *how)


def downscale(
    time: TimeLike | Iterable[TimeLike],
    model: CorrDiff | ModelOptions,
    data: Source | Any,
    io: Any,
    *,
    number_of_samples: int | None = None,
    options: Options | None = None,
    progress: Callable[[int], None] | None = None,
    lead_time: Any = None,
    client: Any = None,
) -> Any:
    """Downscale the weather of these times into an ensemble, and write it.

    Parameters
    ----------
    time : time or times
        Valid times, or those that forecasts start from, UTC: datetimes, datetime64, ISO 8601 text, periods
    model : CorrDiff or ModelOptions
        Model on its device; with a client the options by which each worker loads it
    data : Source, Forecast, DataSource, ForecastSource, or several ForecastSources
        From ``make_source`` or ``make_forecast``, or any of Earth2Studio's; several are coarse members
    io : IOBackend | str | Path
        Earth2Studio backend, or the path or URL of a Zarr store to make (or to resume: see ``Options``)
    number_of_samples : int | None, optional
        Members per time, by default the model's
    options : Options | None, optional
        Seed, batch, overwrite and resume
    progress : Callable[[int], None] | None, optional
        Called with the number of denoising steps just done, over all members
    lead_time : lead time or lead times, optional
        Of forecasts: timedeltas, hours, or text like ``0/48/6h``
    client : distributed.Client | None, optional
        Of a Dask cluster that computes the run

    Returns
    -------
    IOBackend
        What was written to

    Raises
    ------
    InputError
        If anything that was asked for or handed in cannot be used; with ``keep_going`` at the end
    """
    options = options or Options()
    if number_of_samples is not None:
        options = replace(options, number_of_samples=number_of_samples)
    run: Downscaling | ClusterRun
    if client is None:
        run = Downscaling(time, cast(CorrDiff, model), data, io, options, progress, lead_time)
    else:
        from earth2_corrdiff.run.cluster import ClusterRun, Recipe

        run = ClusterRun(client, Recipe(time, cast(Any, model), data, io, options, lead_time), progress)
    for when, member in run:
        logger.debug("wrote member {} of {}", member, time_text(when))
    if run.failed:
        failed = "; ".join(f"{run.cases[number]}: {why}" for number, why in sorted(run.failed.items()))
        text = f"{len(run.failed)} of {len(run.cases)} cases failed: {failed}; the others are written"
        raise (UnavailableError if run.may_pass else InputError)(f"{text}, go on with --resume")
    path = run.output.target
    if isinstance(path, ObjectPath):
        return backend(path)
    return ZarrBackend(str(path)) if isinstance(path, Path) else io
