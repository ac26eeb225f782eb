# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Patch-parallel members: several processes denoise the patches of the same members, step by step together.

The first process leads. It fetches, writes, and sends the others what to compute; they all compute the mean,
and the same solver steps on the same noise. Once a step the patches of all are summed: the only traffic.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import CONTACT, Processes
from earth2_corrdiff.model.domain_denoiser import Shard
from earth2_corrdiff.model.downscaler import Downscaler, Leads, Progress, ValidTimes
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.loop import MakeMembers

PATIENCE = timedelta(minutes=30)
"""Within which a process must have done its patches of one step."""


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
        If another process does not come, or ends before the block does
    """
    if not processes.arrived(CONTACT.total_seconds()):
        raise InputError("not all processes of this job have come; see their messages")
    numbers = count()
    with _summing(processes, downscaler) as shared:

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
                "valid_times": None if valid_times is None else list(map(str, valid_times)),
            }
            _send(processes, next(numbers), task)
            return shared.members(coarse, seeds, batch, progress, lead_hours, valid_times=valid_times)

        yield members
        _send(processes, next(numbers), {})  # the end


def follow(processes: Processes, downscaler: Downscaler) -> None:
    """The part of all other processes: compute what the first one sends, until it sends the end.

    All processes have loaded the same package with the same options.

    Raises
    ------
    InputError
        If another process ends before
    """
    with _summing(processes, downscaler) as shared:
        for number in count():
            task = _receive(processes, number)
            if not task:
                break
            for _ in shared.members(**task):
                pass  # the first process writes them


@contextmanager
def _summing(processes: Processes, downscaler: Downscaler) -> Iterator[Downscaler]:
    """The downscaler with its share of the patches; at the end the processes wait for each other."""

    def total(x: Tensor) -> Tensor:
        with _lost():
            dense = x.contiguous()
            dist.all_reduce(dense)
        return dense

    rank, world = processes.rank, processes.size
    backend = "cpu:gloo,cuda:nccl" if downscaler.device.type == "cuda" else "gloo"
    with _lost():
        dist.init_process_group(backend, store=processes.board, rank=rank, world_size=world, timeout=PATIENCE)
    yield downscaler.sharded(Shard(rank, world, total))
    with _lost():
        total(torch.zeros(1))  # or the first one could take the board away before the others have read it
    dist.destroy_process_group()


@contextmanager
def _lost() -> Iterator[None]:
    """Turn PyTorch's errors about a process that has ended into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("another process of this job has ended; see its message") from error


def _send(processes: Processes, number: int, task: dict[str, Any]) -> None:
    file = io.BytesIO()
    torch.save(task, file)
    with _lost():
        processes.board.set(f"work/{number}", file.getvalue())
        if number:  # all have read it, or there would be no sums of it
            processes.board.delete_key(f"work/{number - 1}")


def _receive(processes: Processes, number: int) -> dict[str, Any]:
    """The next task; the first process may fetch the weather of the next time for long before."""
    key = f"work/{number}"
    with _lost():
        while not processes.board.check([key]):
            try:
                processes.board.wait([key], CONTACT)
            except dist.DistStoreError:
                continue  # it has taken longer than that
        task: dict[str, Any] = torch.load(io.BytesIO(processes.board.get(key)), weights_only=True)
    return task
