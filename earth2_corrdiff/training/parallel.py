# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training: each process takes its share of every batch, and gradients are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import Processes, launched, process_group

T = TypeVar("T")


class World(Processes):
    """The processes of a training, which share every batch and average their gradients."""

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
        return self.means(value.view(1))[0]

    def means(self, values: Tensor) -> list[float]:
        """Numbers ``[n]``, each averaged over all processes."""
        values = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(values)
        return [float(value) for value in values / self.size]

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
    processes = launched(environ)
    if processes.size == 1:
        yield World()
        return
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    own = find_device(device, processes.local) if gpu else None
    with process_group(processes, environ, "nccl" if gpu else "gloo", device_id=own):
        yield World(processes.rank, processes.size, processes.local)
