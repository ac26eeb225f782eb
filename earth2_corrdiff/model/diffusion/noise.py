# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Noise of ensemble members: one generator per member, independent of batch, order, rank and device.

Draws are made on the CPU and then moved, because the CPU's and a GPU's streams differ: in several threads,
and while a GPU is still busy with the regression. Drawn on the GPU they are those of stock's members there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError

SEEDS = 2**32  # upstream takes seeds modulo this
WHERE = ("host", "device")


def fresh_seed() -> int:
    """A seed from the operating system, for runs that name none; record it."""
    return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])


def member_seed(seed: int, time: np.datetime64, member: int, *forecast: int) -> int:
    """Seed of one member at one valid time: never a function of batch, order, rank or device.

    Parameters
    ----------
    seed : int
        The run's seed
    time : np.datetime64
        Valid time, UTC
    member : int
        Index of the member, from 0
    *forecast : int
        What else distinguishes the cases of one valid time: seconds of lead time, number of the coarse member

    Returns
    -------
    int
        In [0, 2**32)
    """
    seconds = int(time.astype("datetime64[s]").astype(np.int64))
    entropy = [seed % SEEDS, seconds % 2**64, member, *forecast]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def consecutive_seeds(seed: int, members: int) -> list[int]:
    """Seeds that upstream's ``CorrDiff`` gives its members: ``seed + i``."""
    return [(seed + i) % SEEDS for i in range(members)]


def drawn_seeds(seed: int, members: int, device: torch.device | None = None) -> list[int]:
    """Seeds that upstream's ``CorrDiffTaiwan`` gives its members on a device, by default on the CPU."""
    home = torch.device("cpu") if device is None else device
    generator = torch.Generator(home).manual_seed(seed)
    return [int(s) for s in torch.randint(0, SEEDS, (members,), generator=generator, device=home).tolist()]


class MemberNoise:
    """Standard normal noise ``[M, C, H, W]`` float32, one independent stream per member.

    Parameters
    ----------
    seeds : Sequence[int]
        One seed per member, taken modulo 2**32
    shape : Sequence[int]
        (C, H, W)
    device : torch.device
        Where the noise is needed
    where : {"host", "device"}, optional
        Where it is drawn: on the host (default), so that members do not depend on the device, or on the
        device, as stock does. On a CPU both are the same

    Raises
    ------
    InputError
        If it cannot be drawn there

    Source: upstream's ``StackedRandomGenerator`` (equal on its device, bit for bit).
    """

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], device: torch.device, where: str = "host"
    ) -> None:
        check_where(where)
        home = device if where == "device" else torch.device("cpu")
        self.generators = [torch.Generator(home).manual_seed(int(seed) % SEEDS) for seed in seeds]
        self.shape, self.device, self._home = tuple(shape), device, home.type
        self._apart = self._home != device.type  # True if noise is drawn on the host for another device
        self._begun: tuple[Tensor, list[Future[None]]] | None = None

    def begin(self) -> Self:
        """Begin the next draw in other threads, beside the work of a GPU.

        On a CPU nothing is begun: the draw would take its cores.
        """
        if self._begun is None and self._apart:
            self._begun = self._draw()
        return self

    def __call__(self) -> Tensor:
        """The next draw of every member."""
        if self._home != "cpu":
            draws = [torch.randn(self.shape, generator=g, device=self.device) for g in self.generators]
            return torch.stack(draws)
        begun, self._begun = self._begun or self._draw(), None
        host, parts = begun
        for part in parts:
            part.result()
        # from pinned memory, while the host goes on; PyTorch keeps that memory until the copy is done
        return host.to(self.device, non_blocking=True)

    def _draw(self) -> tuple[Tensor, list[Future[None]]]:
        """Memory for all members, and the tasks that fill it."""
        members = len(self.generators)
        host = _memory((members, *self.shape), pinned=self.device.type == "cuda")
        # beside a GPU all cores; on a CPU no more threads than PyTorch may use there
        parts = min(members, _cores() if self._apart else min(_cores(), torch.get_num_threads()))
        if parts == 1 and not self._apart:
            _fill(host, self.generators)
            return host, []
        pool = _threads(os.getpid())
        return host, [pool.submit(_fill, host[i::parts], self.generators[i::parts]) for i in range(parts)]


def _memory(shape: tuple[int, ...], pinned: bool) -> Tensor:
    """Host memory, pinned if the system allows: from there a GPU copies by itself."""
    try:
        return torch.empty(shape, dtype=torch.float32, device="cpu", pin_memory=pinned)
    except RuntimeError:
        if not pinned:
            raise
        return torch.empty(shape, dtype=torch.float32, device="cpu")


def _cores() -> int:
    """CPUs that this process may use, as far as drawing gains by them."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, own)


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads that draw, of this process: those of a parent are not there after a fork."""
    return ThreadPoolExecutor(_cores(), thread_name_prefix="noise")


@torch.inference_mode()
def _fill(members: Tensor, generators: Sequence[torch.Generator]) -> None:
    """Draw some members in place; PyTorch lets other threads run meanwhile."""
    for member, generator in zip(members, generators, strict=True):
        member.normal_(generator=generator)


def check_where(where: str) -> None:
    """Raise InputError if ``where`` is not a valid home of noise."""
    if where not in WHERE:
        raise InputError(f"{where!r} is not a place to draw noise; use {' or '.join(WHERE)}")
