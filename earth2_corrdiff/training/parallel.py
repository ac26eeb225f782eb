# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training: each process takes its share of every batch, and gradients are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import gather, launched, meet

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that ``torchrun`` or ``srun`` has started.

    Attributes
    ----------
    rank, size, local : int
        Number of this process, how many there are, and its number on this machine
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch."""
        part = len(batch) // self.size
        return batch[self.rank * part : (self.rank + 1) * part]

    def check_batch(self, stage: str, batch: int) -> None:
        """Raise InputError if a batch cannot be shared evenly."""
        if batch % self.size:
            raise InputError(
                f"{stage}.batch of {batch} cannot be shared by {self.size} processes; use a multiple"
            )

    def wrap(self, loss: nn.Module, device: torch.device) -> nn.Module:
        """A loss whose gradients are averaged over all processes."""
        if self.size == 1:
            return loss
        devices = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():  # newer versions have another name for the last argument
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(loss, device_ids=devices, broadcast_buffers=False)

    def mean(self, value: Tensor) -> float:
        """A number averaged over all processes."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return float(value / self.size)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process does the block before the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str, environ: Mapping[str, str]) -> Iterator[World]:
    """The processes of this training, for the time of the block: gloo on CPUs, NCCL (RCCL) on GPUs.

    Raises
    ------
    InputError
        If the launcher's variables do not fit, or a process does not come
    """
    ranks = launched(environ)
    if ranks.world == 1:
        yield World()
        return
    ranks = meet(ranks, environ)
    gather(ranks)
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    own = device_of(device, World(ranks.rank, ranks.world, ranks.local)) if gpu else None
    backend = "nccl" if gpu else "gloo"
    dist.init_process_group(
        backend, store=ranks.board, rank=ranks.rank, world_size=ranks.world, device_id=own
    )
    try:
        yield World(ranks.rank, ranks.world, ranks.local)
    finally:
        dist.destroy_process_group()


def device_of(device: str, world: World) -> torch.device:
    """The device of this process.

    Raises
    ------
    InputError
        If there is no such device
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # each process of a machine takes the next one
        device = f"cuda:{world.local % max(torch.cuda.device_count(), 1)}"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {device!r} cannot be used") from error
    return chosen
