# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Patch-parallel members: several processes denoise the patches of the same members, step by step together.

The first process leads. It fetches, writes, and sends the others what to compute; they all compute the mean,
and the same solver steps on the same noise. Once a step the patches of all are summed: the only traffic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import Processes
from earth2_corrdiff.model.domain_denoiser import Shard
from earth2_corrdiff.model.downscaler import Downscaler, Leads, Progress, ValidTimes
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.loop import MakeMembers

PATIENCE = timedelta(hours=6)
"""Within which the first process must have fetched the next input."""


def check_shares(patches: int, world: int) -> None:
    """Check that ``world`` processes can share the patches.

    Raises
    ------
    InputError
        If there is one process, or fewer patches than processes
    """
    if world == 1:
        raise InputError("--shard-patches is for several processes of torchrun or srun; this is the only one")
    if patches == 1:
        raise InputError("--shard-patches: the denoiser sees the domain in one piece; give --patch HxW")
    if world > patches:
        raise InputError(f"{world} processes cannot share {patches} patches; start {patches} at most")


@contextmanager
def lead(processes: Processes, downscaler: Downscaler) -> Iterator[MakeMembers]:
    """The part of the first process: its ``Downscaler.members``, which all processes compute together.

    Raises
    ------
    InputError
        If another process ends before the block does
    """
    shared = _sharing(processes, downscaler)

    def members(
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
        valid_times: ValidTimes = None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        if sampling not in (None, shared.sampling):  # the others would sample as the model does
            raise InputError("processes that share patches take no sampling of a call; set the model's")
        batch = shared.batch_size(max_batch)
        task = {
            "coarse": coarse.cpu(),
            "seeds": list(seeds),
            "max_batch": batch,
            "lead_hours": lead_hours,
            "valid_times": valid_times,
        }
        _broadcast(task)
        return shared.members(coarse, seeds, batch, progress, lead_hours, valid_times=valid_times)

    yield members
    _broadcast({})
    _total(torch.zeros(1))  # or this one could end before the others have read it


def follow(processes: Processes, downscaler: Downscaler) -> None:
    """The part of all other processes: compute what the first one sends, until it sends the end.

    All processes have loaded the same package with the same options.

    Raises
    ------
    InputError
        If another process ends before
    """
    shared = _sharing(processes, downscaler)
    while task := _broadcast():
        for _ in shared.members(**task):
            pass  # the first process writes them
    _total(torch.zeros(1))


def _sharing(processes: Processes, downscaler: Downscaler) -> Downscaler:
    """The downscaler with its share of the patches."""
    return downscaler.sharded(Shard(processes.rank, processes.size, _total))


def _total(x: Tensor) -> Tensor:
    """Sum over all processes."""
    with _lost():
        dense = x.contiguous()
        dist.all_reduce(dense)
    return dense


@contextmanager
def _lost() -> Iterator[None]:
    """Turn PyTorch's errors about a process that has ended into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("another process of this job has ended; see its message") from error


def _broadcast(task: dict[str, Any] | None = None) -> dict[str, Any]:
    """The first process's next task, in all processes."""
    box: list[Any] = [task]
    with _lost():
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    found: dict[str, Any] = box[0]
    return found
