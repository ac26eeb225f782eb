# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes work on the same members: each denoises its share of the patches, step by step together.

The first one leads. It fetches, writes, and tells the others what to compute; they all compute the mean, and
the same solver steps on the same noise. Once a step the patches of all are summed: the only traffic.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import CONTACT, Processes
from earth2_corrdiff.model.domain_denoiser import DomainDenoiser, Leads, Shard
from earth2_corrdiff.model.downscaler import Downscaler

PATIENCE = timedelta(minutes=30)
"""Within which a process must have done its patches of one step."""


def check_shares(view: DomainDenoiser, world: int) -> None:
    """Whether ``world`` processes can share the patches.

    Raises
    ------
    InputError
        If there is one process, or fewer patches than processes
    """
    patches = 1 if view.patching is None else len(view.patching.patches)
    if world == 1:
        raise InputError("--shard-patches is for several processes of torchrun or srun; this is the only one")
    if patches == 1:
        raise InputError("--shard-patches: the denoiser sees the domain in one piece; give --patch HxW")
    if world > patches:
        raise InputError(f"{world} processes cannot share {patches} patches; start {patches} at most")


@contextmanager
def lead(ranks: Processes, downscaler: Downscaler) -> Iterator[None]:
    """What the downscaler is asked for in the block, all processes compute: the part of the first one.

    Raises
    ------
    InputError
        If another process does not come, or ends before the block does
    """
    if not ranks.arrived(CONTACT.total_seconds()):
        raise InputError("not all processes of this job have come; see what they said")
    numbers = count()

    def tell(coarse: Tensor, seeds: Sequence[int], batch: int, lead_hours: Leads) -> None:
        what = {"coarse": coarse.cpu(), "seeds": list(seeds), "max_batch": batch, "lead_hours": lead_hours}
        _tell(ranks, next(numbers), what)

    with _summing(ranks, downscaler.device) as total:
        downscaler.view.shard = Shard(ranks.rank, ranks.world, total, tell)
        try:
            yield
        finally:
            downscaler.view.shard = None
        _tell(ranks, next(numbers), {})  # the end


def follow(ranks: Processes, downscaler: Downscaler) -> None:
    """Compute what the first process tells, until it says that this was all: the part of all others.

    Raises
    ------
    InputError
        If another process ends before
    """
    with _summing(ranks, downscaler.device) as total:
        downscaler.view.shard = Shard(ranks.rank, ranks.world, total)
        for number in count():
            told = _hear(ranks, number)
            if not told:
                break
            for _ in downscaler.members(**told):
                pass  # the first process writes them
        downscaler.view.shard = None


@contextmanager
def _summing(ranks: Processes, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """A sum over all processes, as long as the block lasts; at its end they wait for each other."""

    def total(x: Tensor) -> Tensor:
        with _gone():
            dense = x.contiguous()
            dist.all_reduce(dense)
        return dense

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _gone():
        dist.init_process_group(
            backend, store=ranks.board, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE
        )
    yield total
    with _gone():
        total(torch.zeros(1))  # or the first one could take the board away before the others have read it
    dist.destroy_process_group()


@contextmanager
def _gone() -> Iterator[None]:
    """What PyTorch says where a process is gone, in a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise InputError("another process of this job has ended; see what it said") from error


def _tell(ranks: Processes, number: int, what: dict[str, Any]) -> None:
    file = io.BytesIO()
    torch.save(what, file)
    with _gone():
        ranks.board.set(f"work/{number}", file.getvalue())
        if number:  # all have read it, or there would be no sums of it
            ranks.board.delete_key(f"work/{number - 1}")


def _hear(ranks: Processes, number: int) -> dict[str, Any]:
    """What the first process tells; it may fetch the weather of the next time for long before."""
    key = f"work/{number}"
    with _gone():
        while not ranks.board.check([key]):
            try:
                ranks.board.wait([key], CONTACT)
            except dist.DistStoreError:
                continue  # it has taken longer than that
        told: dict[str, Any] = torch.load(io.BytesIO(ranks.board.get(key)), weights_only=True)
    return told
