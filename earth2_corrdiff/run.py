# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Downscale the weather of given times: fetch, check, run, write, resume.

``downscale`` is a function like those of ``earth2studio.run``; ``Downscaling`` is the same, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from earth2studio.io import ZarrBackend
from loguru import logger
from torch import Tensor

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.layout import Layout, provenance
from earth2_corrdiff.model import CorrDiff
from earth2_corrdiff.noise import fresh_seed, member_seed
from earth2_corrdiff.sources import Source, as_source, check_input, fetch
from earth2_corrdiff.spec import check_count
from earth2_corrdiff.store import Plain, Store, check_target, recorded
from earth2_corrdiff.times import TimeLike, distinct, time_text, to_times

LOWRES_EXTRA = "refc"  # kept for comparison where the source has it: the coarse twin of mrr
STAGES = ("fetch", "compute", "write")


@dataclass(frozen=True)
class Options:
    """How a run goes, apart from what the model says.

    Attributes
    ----------
    seed : int | None
        Of the run, by default the model's, else one that is drawn; recorded in the store
    max_batch : int | None
        Most members in one network call, by default the model's
    overwrite, resume : bool
        What to do with an output that exists; by default refuse. A store is replaced when its new run
        starts; one to resume must be of the same run, and without a seed its own is taken
    command : str
        For the provenance in the store
    """

    seed: int | None = None
    max_batch: int | None = None
    overwrite: bool = False
    resume: bool = False
    command: str = "earth2_corrdiff.downscale"


class Downscaling:
    """A run over times and members: iterate over it to do it.

    Parameters
    ----------
    time : time or times
        Valid times, UTC: datetimes, datetime64 or ISO 8601 text
    model : CorrDiff
        The model; its ``number_of_samples``, solver and steps are used
    data : Source or DataSource
        Where the coarse weather comes from
    output : str | Path | IOBackend
        Path of the Zarr store to write, or an Earth2Studio backend that is already open
    options : Options, optional
        Seed, batch, and what to do with an output that exists
    progress : Callable[[int], None], optional
        Called with the number of denoising steps just done, over all members

    Attributes
    ----------
    seconds : dict[str, float]
        Time spent to fetch, compute and write, so far
    written : int
        Members computed and written so far; those that were there already do not count

    Raises
    ------
    InputError
        Before anything is computed: if the source cannot serve the times or variables, or the output
        exists or cannot be written
    """

    def __init__(
        self,
        time: TimeLike | Iterable[TimeLike],
        model: CorrDiff,
        data: Any,
        output: Any,
        options: Options | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.source = model, as_source(data)
        self.output = Path(output) if isinstance(output, str | Path) else output
        self.options, self.progress = options or Options(), progress
        self.times = distinct(to_times(time))
        self.seconds, self.written = dict.fromkeys(STAGES, 0.0), 0
        self.source.check_times(self.times)
        self.source.check_variables(model.input_variables)
        if isinstance(self.output, Path):
            check_target(self.output, self.options.overwrite, self.options.resume)
        self.seed = self._choose_seed()
        given = self.options.max_batch
        self._batch = model.max_batch if given is None else check_count("max_batch", given)

    def _choose_seed(self) -> int:
        """The seed asked for, else the store's on resume, else the model's, else a new one."""
        if self.options.seed is not None:
            return int(self.options.seed)
        if self.options.resume:
            found = recorded(self.output) if isinstance(self.output, Path) else None
            if isinstance(self.output, ZarrBackend):
                found = dict(self.output.root.attrs)
            if found and "seed" in found:
                return int(found["seed"])
        return int(self.model.seed) if self.model.seed is not None else fresh_seed()

    @property
    def members(self) -> int:
        """Members of the whole run, over all times."""
        return len(self.times) * self.model.number_of_samples

    @property
    def evaluations(self) -> int:
        """Denoising steps of the whole run, over all members."""
        regression = self.model.spec.inference_mode == "regression"
        return 0 if regression else self.members * self.model.downscaler.sampling.calls

    def __iter__(self) -> Iterator[tuple[np.datetime64, int]]:
        """Do the run; yield each time and member when it is written.

        The first input is fetched and checked, and the output opened, before the iterator is returned:
        until then nothing is computed, and nothing that was there is replaced.

        Raises
        ------
        InputError
            If the input cannot be fetched or used, or the output cannot be opened or is another run's
        """
        store = self._existing()
        every = list(range(self.model.number_of_samples))
        missing = [every if store is None else store.missing(t) for t in range(len(self.times))]
        first = next((t for t, members in enumerate(missing) if members), None)
        if store is not None:
            x = None if first is None else self._fetch(first, store.layout.lowres)
            return self._work(store, missing, x)
        names = self._lowres()
        x = self._fetch(0, names)
        if len(names) > len(self.model.input_variables) and x[-1].isnan().all():
            names = names[:-1]  # the archive has it, but not here
        return self._work(self._create(names), missing, x)

    def _work(
        self, store: Store | Plain, missing: list[list[int]], x: Tensor | None
    ) -> Iterator[tuple[np.datetime64, int]]:
        """Compute and write what is missing; ``x`` is the input of the first time that misses something."""
        for t, members in enumerate(missing):
            self._skip(self.model.number_of_samples - len(members))
            if not members:
                continue
            x = self._fetch(t, store.layout.lowres) if x is None else x
            with self._clock("write"):
                store.write_lowres(t, x[: len(store.layout.lowres)])
            for first, block in self._blocks(x, store, t, members):
                with self._clock("write"):
                    store.write_members(t, first, block)
                self.written += len(block)
                yield from ((self.times[t], first + i) for i in range(len(block)))
            x = None

    def _skip(self, members: int) -> None:
        """Tell the progress of members that were there already."""
        if self.progress is not None and members:
            self.progress(members * self.evaluations // self.members)

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start

    def _lowres(self) -> tuple[str, ...]:
        """Variables of the coarse input to fetch and keep; the model's come first."""
        names = tuple(self.model.input_variables)
        extra = LOWRES_EXTRA not in names and self.source.has(LOWRES_EXTRA)
        return (*names, LOWRES_EXTRA) if extra else names

    def _fetch(self, t: int, names: tuple[str, ...]) -> Tensor:
        """Coarse fields ``[C (+ 1), h, w]`` of one time; the model's input, checked, comes first."""
        grid, inputs = self.model.spec.input_grid, self.model.input_variables
        with self._clock("fetch"):
            x, _ = fetch(self.source, self.times[t], names, grid.lat, grid.lon)
            check_input(x[:, : len(inputs)], inputs, self.source, self.times[t : t + 1])
        return x[0]

    def _blocks(
        self, x: Tensor, store: Store | Plain, t: int, members: list[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Members to compute, as blocks ``[m, Co, H, W]`` of neighbours with the first one's index."""
        downscaler = self.model.downscaler
        coarse = x[None, : len(self.model.input_variables)].to(downscaler.device)
        for run in _consecutive(members):
            seeds = [int(seed) for seed in store.layout.seeds[t, run]]
            blocks = iter(downscaler.members(coarse, seeds, self._batch, self.progress))
            left = len(run)
            while left:
                with self._clock("compute"):
                    _, first, block = next(blocks)
                yield run[0] + first, block
                if len(block) < left:
                    self._batch = len(block)  # what fits the memory: do not try more at the next time
                left -= len(block)

    def _existing(self) -> Store | None:
        """What an earlier run left, where it shall be resumed."""
        if not self.options.resume:
            return None
        layout = self._layout(self._lowres())
        if isinstance(self.output, Path):
            return Store.resume(self.output, layout) if self.output.exists() else None
        if isinstance(self.output, ZarrBackend):
            return Store(self.output, layout, resume=True) if len(self.output.root) else None
        raise InputError("only a Zarr store can be resumed; give a path, or a ZarrBackend")

    def _create(self, lowres: tuple[str, ...]) -> Store | Plain:
        layout = self._layout(lowres)
        with self._clock("write"):
            if isinstance(self.output, Path):
                return Store.create(self.output, layout, self.options.overwrite)
            backend = Store if isinstance(self.output, ZarrBackend) else Plain
            return backend(self.output, layout)

    def _layout(self, lowres: tuple[str, ...]) -> Layout:
        spec, model = self.model.spec, self.model
        seeds = [[member_seed(self.seed, t, i) for i in range(model.number_of_samples)] for t in self.times]
        fields = spec.invariant_fields if spec.invariant_fields is not None else ()
        return Layout(
            times=self.times,
            seeds=np.array(seeds, dtype=np.int64),
            outputs=spec.outputs.names,
            lowres=lowres,
            output_grid=spec.output_grid,
            input_grid=spec.input_grid,
            attributes=provenance(
                model.downscaler, self.source.name, self.source.synthetic, self.seed, self.options.command
            ),
            static=dict(zip(spec.invariants.names, fields, strict=True)),
        )


def _consecutive(members: list[int]) -> list[list[int]]:
    """Split rising numbers into runs without gaps."""
    runs: list[list[int]] = []
    for i in members:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def downscale(
    time: TimeLike | Iterable[TimeLike],
    model: CorrDiff,
    data: Source | Any,
    io: Any,
    *,
    number_of_samples: int | None = None,
    options: Options | None = None,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Downscale the weather of these times into an ensemble, and write it.

    Parameters
    ----------
    time : time or times
        Valid times, UTC: datetimes, datetime64 or ISO 8601 text
    model : CorrDiff
        Model on the device that it shall run on
    data : Source or DataSource
        From ``make_source``, or any Earth2Studio data source
    io : IOBackend | str | Path
        Earth2Studio backend, or the path of a Zarr store to make (or to resume: see ``Options``)
    number_of_samples : int | None, optional
        Members per time, by default the model's
    options : Options | None, optional
        Seed, batch, overwrite and resume
    progress : Callable[[int], None] | None, optional
        Called with the number of denoising steps just done, over all members

    Returns
    -------
    IOBackend
        What was written to

    Raises
    ------
    InputError
        If anything that was asked for or handed in cannot be used
    """
    if number_of_samples is not None:
        model.number_of_samples = check_count("number_of_samples", number_of_samples)
    run = Downscaling(time, model, data, io, options, progress)
    for when, member in run:
        logger.debug("wrote member {} of {}", member, time_text(when))
    return ZarrBackend(str(io)) if isinstance(io, str | Path) else io
