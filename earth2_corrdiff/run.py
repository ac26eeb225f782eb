# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Downscale the weather of given times: fetch, check, run, write, resume.

``downscale`` is a function like those of ``earth2studio.run``; ``Downscaling`` is the same, step by step.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from earth2studio.io import ZarrBackend
from earth2studio.utils.coords import split_coords
from loguru import logger
from torch import Tensor

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.model import CorrDiff
from earth2_corrdiff.noise import fresh_seed, member_seed
from earth2_corrdiff.sources import Source, as_source, check_input, fetch
from earth2_corrdiff.spec import check_count
from earth2_corrdiff.store import Layout, Store, check_target
from earth2_corrdiff.times import TimeLike, Times, time_text, to_times

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
        What to do with an output that exists; by default refuse
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
        self.model, self.source, self.output = model, as_source(data), output
        self.options, self.progress = options or Options(), progress
        self.times = _distinct(to_times(time))
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.source.check_times(self.times)
        self.source.check_variables(model.input_variables)
        if isinstance(output, str | Path):
            check_target(Path(output), self.options.overwrite, self.options.resume)
        self.seed = self._choose_seed()

    def _choose_seed(self) -> int:
        """The seed asked for, else the store's on resume, else the model's, else a new one."""
        if self.options.seed is not None:
            return self.options.seed
        if self.options.resume and isinstance(self.output, str | Path):
            recorded = _recorded_seed(Path(self.output))
            if recorded is not None:
                return recorded
        return self.model.seed if self.model.seed is not None else fresh_seed()

    @property
    def evaluations(self) -> int:
        """Denoising steps of the whole run, over all members."""
        calls = 0 if self.model.spec.inference_mode == "regression" else self.model.downscaler.sampling.calls
        return len(self.times) * self.model.number_of_samples * calls

    def __iter__(self) -> Iterator[tuple[np.datetime64, int]]:
        """Do the run; yield each time and member when it is written."""
        store: Store | Plain | None = None
        for t, time in enumerate(self.times):
            if store is None and self._resumable():
                store = self._open()
            missing = store.missing(t) if store is not None else list(range(self.model.number_of_samples))
            self._advance(self.model.number_of_samples - len(missing))
            if not missing:
                continue
            with self._clock("fetch"):
                x = self._fetch(time)
            store = store or self._open()
            with self._clock("write"):
                store.write_lowres(t, x)
            for first, block in self._members(x, store, t, missing):
                with self._clock("write"):
                    store.write_members(t, first, block)
                yield from ((time, first + i) for i in range(len(block)))
        if store is not None:
            with self._clock("write"):
                store.finish()

    def _resumable(self) -> bool:
        return self.options.resume and isinstance(self.output, str | Path) and Path(self.output).exists()

    def _advance(self, members: int) -> None:
        if self.progress is not None and members:
            self.progress(members * self.evaluations // (len(self.times) * self.model.number_of_samples))

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start

    def lowres(self) -> tuple[str, ...]:
        """Variables of the coarse input that the store keeps."""
        names = tuple(self.model.input_variables)
        extra = LOWRES_EXTRA not in names and self.source.has(LOWRES_EXTRA)
        return (*names, LOWRES_EXTRA) if extra else names

    def _fetch(self, time: np.datetime64) -> Tensor:
        """Coarse fields ``[C (+ 1), h, w]`` of one time, checked; the model's input comes first."""
        grid, names = self.model.spec.input_grid, self.lowres()
        x, _ = fetch(self.source, time, names, grid.lat, grid.lon)
        inputs = self.model.input_variables
        check_input(x[:, : len(inputs)], inputs, self.source, np.array([time]))
        return x[0]

    def _members(
        self, x: Tensor, store: Store | Plain, t: int, missing: list[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Runs of consecutive missing members, as blocks ``[m, Co, H, W]`` with their first index."""
        downscaler = self.model.downscaler
        coarse = x[None, : len(self.model.input_variables)].to(downscaler.device)
        seeds = store.layout.seeds[t]
        batch = self.options.max_batch or self.model.max_batch
        for run in _consecutive(missing):
            wanted = [int(seeds[i]) for i in run]
            blocks = iter(downscaler.members(coarse, wanted, batch, self.progress))
            while True:
                with self._clock("compute"):
                    block = next(blocks, None)
                if block is None:
                    break
                yield run[0] + block[1], block[2]

    def _open(self) -> Store | Plain:
        layout = self._layout()
        if isinstance(self.output, str | Path):
            path = Path(self.output)
            if self._resumable():
                return Store.resume(path, layout)
            return Store.create(path, layout, self.options.overwrite)
        if isinstance(self.output, ZarrBackend):
            return Store(self.output, layout)
        return Plain(self.output, layout)

    def _layout(self) -> Layout:
        spec, model = self.model.spec, self.model
        seeds = [[member_seed(self.seed, t, i) for i in range(model.number_of_samples)] for t in self.times]
        fields = spec.invariant_fields if spec.invariant_fields is not None else ()
        return Layout(
            times=self.times,
            seeds=np.array(seeds, dtype=np.int64),
            outputs=spec.outputs.names,
            lowres=self.lowres(),
            output_grid=spec.output_grid,
            input_grid=spec.input_grid,
            attributes=self._provenance(),
            static=dict(zip(spec.invariants.names, fields, strict=True)),
        )

    def _provenance(self) -> dict[str, Any]:
        model, spec = self.model, self.model.spec
        synthetic = self.source.synthetic or spec.synthetic
        packages = ("earth2_corrdiff", "earth2studio", "torch", "numpy", "zarr")
        return {
            "title": "CorrDiff downscaling" + (" of synthetic demo weather" if synthetic else ""),
            "source": self.source.name,
            "package": spec.name or spec.root,
            "package_sha256": spec.sha256,
            "synthetic": int(synthetic),
            "solver": model.solver,
            "number_of_steps": model.number_of_steps,
            "sigma_min": model.sigma_min,
            "sigma_max": model.sigma_max,
            "seed": self.seed,
            "precision": model.downscaler.precision,
            "device": model.downscaler.device.type,
            "versions": json.dumps({name: version(name.replace("_", "-")) for name in packages}),
            "command": self.options.command,
        }


class Plain:
    """Any other Earth2Studio backend: the fields alone, without provenance, and not resumable."""

    def __init__(self, io: Any, layout: Layout) -> None:
        self.io, self.layout = io, layout
        io.add_array(layout.output_coords(), list(layout.outputs))

    def missing(self, time: int) -> list[int]:
        """All members."""
        return list(range(self.layout.seeds.shape[1]))

    def write_lowres(self, time: int, x: Tensor) -> None:
        """Kept by Zarr stores only."""

    def write_members(self, time: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a time: ``[m, Co, H, W]``."""
        coords = self.layout.output_coords()
        coords["time"] = self.layout.times[time : time + 1]
        coords["sample"] = np.arange(first, first + len(block))
        coords = OrderedDict(variable=np.array(self.layout.outputs), **coords)
        self.io.write(*split_coords(block.transpose(0, 1)[:, None].cpu(), coords))

    def finish(self) -> None:
        """Nothing is left to do."""


def _distinct(times: Times) -> Times:
    if len(np.unique(times)) != len(times):
        twice = next(t for t in times if (times == t).sum() > 1)
        raise InputError(f"the time {time_text(twice)} is given twice")
    return times


def _consecutive(members: list[int]) -> list[list[int]]:
    """Split rising numbers into runs without gaps."""
    runs: list[list[int]] = []
    for i in members:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _recorded_seed(path: Path) -> int | None:
    import zarr

    try:
        seed = zarr.open_group(str(path), mode="r").attrs.get("seed")
    except (OSError, ValueError):
        return None
    return seed if isinstance(seed, int) else None


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
