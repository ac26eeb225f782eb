# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""From states and seeds to members: blocks of several requests, through the downscaler's own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Prepared
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.spec import Sampling, check_count

Field = NDArray[np.float32]
WARM = (1, 2, 4)  # and the largest: what most requests come to; a GPU captures each size by itself
# PyTorch has no class for it on the CPU, only words.
_OOM = ("out of memory", "not enough memory", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller block could have done without this error."""
    if isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__  # the downscaler's own words for it
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _OOM)


@dataclass(eq=False)
class State:
    """One input state ``[1, C, h, w]`` with its lead time in hours, and what its members share."""

    coarse: Field
    lead_hours: float | None = None
    shared: Prepared | None = None


class Maker:
    """Makes blocks of members with a model.

    Parameters
    ----------
    model : CorrDiff
        On its device
    limit : int | None, optional
        Most members in one block, by default the downscaler's own

    Attributes
    ----------
    limit : int
        Halved when memory runs out
    """

    def __init__(self, model: CorrDiff, limit: int | None = None) -> None:
        self.model, self.downscaler = model, model.downscaler
        self.on_cpu = self.downscaler.device.type == "cpu"
        self.limit = self.downscaler.default_batch() if limit is None else check_count("max_batch", limit)

    def prepare(self, state: State) -> None:
        """What the members of a state share, once."""
        if state.shared is None:
            state.shared = self.downscaler.prepare(torch.from_numpy(state.coarse), state.lead_hours)

    def block(
        self,
        rows: Sequence[tuple[State, int]],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> Field:
        """One member per pair of a prepared state and a seed.

        Parameters
        ----------
        rows : Sequence[tuple[State, int]]
            Of any requests that share the sampling
        sampling : Sampling
            How to sample
        progress : Callable[[int], None] | None, optional
            Called after each network evaluation; may raise to give the block up

        Returns
        -------
        np.ndarray
            ``[m, Co, H, W]`` physical units
        """
        with self._sampling(sampling):
            parts = [self._together(some, progress).numpy(force=True) for some in self._groups(rows)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _together(self, rows: list[tuple[State, int]], progress: Callable[[int], None] | None) -> Tensor:
        """Members that share the network calls: of one state, or of several with one label."""
        shared = [state.shared for state, _ in rows if state.shared is not None]
        first = shared[0]
        if any(each is not first for each in shared):
            cond, mean = torch.cat([each.cond for each in shared]), torch.cat([each.mean for each in shared])
            first = Prepared(cond, mean, first.label)
        return self.downscaler.sample(first, [seed for _, seed in rows], progress)

    def _groups(self, rows: Sequence[tuple[State, int]]) -> list[list[tuple[State, int]]]:
        """Neighbours that can share the network calls.

        On a GPU all with one lead time; on the CPU, where the downscaler goes member by member, all of one
        state.
        """

        def key(row: tuple[State, int]) -> object:
            state = row[0]
            return id(state) if self.on_cpu or state.shared is None else state.shared.label

        return [list(some) for _, some in groupby(rows, key)]

    @contextmanager
    def _sampling(self, sampling: Sampling) -> Iterator[None]:
        """The model's sampling is what its owner set it to, whatever a block asks for."""
        own, self.downscaler.sampling = self.downscaler.sampling, sampling
        try:
            yield
        finally:
            self.downscaler.sampling = own

    def halve(self, members: int) -> None:
        """Smaller blocks from now on: so many members were too many."""
        self.limit = max(1, members // 2)
        logger.warning("out of memory with {} members at once; going on with {}", members, self.limit)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def warm_up(self) -> None:
        """Make blocks of the sizes in ``WARM``, so that the first request is as fast as the next ones."""
        spec = self.model.spec
        center = np.array(spec.inputs.center, dtype=np.float32)[None, :, None, None]
        lead = spec.lead_time_hours[0] if spec.lead_time_hours else None
        state = State(np.broadcast_to(center, (1, center.size, *spec.input_grid.shape)).copy(), lead)
        brief = replace(self.downscaler.sampling, steps=min(2, self.downscaler.sampling.steps))
        self.prepare(state)
        for size in sorted({min(size, self.limit) for size in (*WARM, self.limit)}):
            self.block([(state, seed) for seed in range(size)], brief)

    def alive(self) -> bool:
        """Whether the device still answers: after some errors a GPU does not until the process ends."""
        try:
            return bool(torch.ones(1, device=self.downscaler.device).item() == 1)
        except RuntimeError:
            return False
