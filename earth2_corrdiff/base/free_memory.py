# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Free memory of a device, and errors of memory that has run out."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from earth2_corrdiff.base.graph_pool import pool_of

# PyTorch has no class for it on the CPU, and drivers of GPUs raise errors of their own
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of a GPU, or of the machine and of the control group that holds the job.

    Of a GPU, what its driver can give and what PyTorch's allocator keeps for this process without use: its
    cache is no loss. Two parts of that do not count. Rests of segments that are partly in use serve none
    but small requests; and the pool of captured steps serves no other tensors (see :func:`shared_bytes`).
    Where it is not known, ``sys.maxsize``.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + max(0, _cached(device) - shared_bytes(device))
    machine = _numbers(Path("/proc/meminfo")).get("MemAvailable:")
    return min([sys.maxsize if machine is None else 1024 * machine, *_left_in_groups()])


def shared_bytes(device: torch.device) -> int:
    """Memory of a GPU that captured steps share, and that a further one takes, too: beside the free bytes."""
    return pool_of(device).held if device.type == "cuda" else 0


def _cached(device: torch.device) -> int:
    """Bytes that PyTorch's allocator holds and could give back; 0 before its first allocation."""
    stats = torch.cuda.memory_stats(device)

    def now(what: str) -> int:
        return int(stats.get(f"{what}_bytes.all.current", 0))

    # active: in use, or freed while another stream has still to be done with it
    return max(0, now("reserved") - max(now("allocated"), now("active")) - now("inactive_split"))


def _left_in_groups() -> list[int]:
    """Bytes left below the limits of this process's control groups, which batch systems set."""
    try:
        own = _OWN.read_text(encoding="utf-8").rpartition("::")[2].strip()
    except OSError:
        return []
    group, left = _GROUPS / own.lstrip("/"), []
    for folder in (group, *group.parents):
        if _GROUPS not in (folder, *folder.parents):
            break
        try:
            limit, used = (
                (folder / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current")
            )
        except OSError:
            continue
        if limit.isdecimal():  # otherwise there is none
            # cached and mapped files are dropped when memory is needed
            left.append(int(limit) - int(used) + _numbers(folder / "memory.stat").get("file", 0))
    return left


def _numbers(path: Path) -> dict[str, int]:
    """A file of the kernel with a name and a number in each line; empty where it does not exist."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def check_out_of_memory(error: RuntimeError | MemoryError) -> None:
    """Raise the error again unless its cause is that memory has run out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not known and not any(words in str(error) for words in _OUT_OF_MEMORY):
        raise error
