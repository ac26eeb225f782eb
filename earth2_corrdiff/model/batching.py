# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Batch sizes: how many domains or patches share a network call, and how many after memory has run out."""

from __future__ import annotations

import sys

import torch
from loguru import logger

from earth2_corrdiff.base.errors import NoMemoryError, first_line
from earth2_corrdiff.base.free_memory import free_bytes, shared_bytes
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression

MAX_BATCH = 16  # images that share a network call on a GPU by default
KEPT = 4  # the conditioning of all patches may take this part of the free memory


class Batching:
    """Batch sizes of a denoiser; they become smaller when memory runs out, and stay so for later calls.

    Parameters
    ----------
    denoiser : Denoiser | Regression
        The network
    """

    def __init__(self, denoiser: Denoiser | Regression) -> None:
        self._denoiser = denoiser
        self._fitting: dict[tuple[torch.device, tuple[int, int]], int] = {}
        self.most_images, self._most_members, self._keep = MAX_BATCH, sys.maxsize, True

    def images(self, device: torch.device, shape: tuple[int, int]) -> int:
        """Domains, or patches, of (H, W) that share a network call.

        One on the CPU, where a batch is not faster; on a GPU what half of its free memory holds, at most
        ``MAX_BATCH``: larger batches are not faster either. It is chosen at the first call for a device and
        a shape and stays: another batch would be captured anew, and be rounded differently.
        """
        if device.type != "cuda":
            return 1
        if (device, shape) not in self._fitting:
            free = free_bytes(device)
            room = (free + min(free, shared_bytes(device))) // 2  # it is warmed up beside what is shared
            self._fitting[device, shape] = max(1, room // self._denoiser.member_bytes(shape))
        return min(self.most_images, self._fitting[device, shape])

    def members(
        self, device: torch.device, shape: tuple[int, int], patches: int = 1, most: int | None = None
    ) -> int:
        """Members in a block: ``most``, by default as many as fill a call with all their patches."""
        if most is None:
            most = max(1, self.images(device, shape) // patches)
        return min(most, self._most_members)

    def keeps(self, need: int, device: torch.device) -> bool:
        """True if the conditioning of all patches, ``need`` bytes, stays in memory between the steps."""
        return self._keep and need < free_bytes(device) // KEPT

    def shrink(self, members: int, patches: int | None, error: RuntimeError | MemoryError) -> None:
        """Halve the batch after a block ran out of memory: the patches in a call first, then the members.

        Parameters
        ----------
        members : int
            Members of the block
        patches : int | None
            Patches that shared a network call; None where the denoiser sees the domain in one piece
        error : RuntimeError | MemoryError
            The error

        Raises
        ------
        NoMemoryError
            If one patch of one member was too large
        """
        if patches is not None and (self._keep or patches > 1):
            self._keep, self.most_images = False, max(1, patches // 2)
            what = "out of memory with {} at once; going on with {}, cut out at each call"
            logger.warning(what, "1 patch" if patches == 1 else f"{patches} patches", self.most_images)
        elif members > 1:
            self._most_members = min(self._most_members, members // 2)
            logger.warning("out of memory with {} members at once; going on with {}", members, members // 2)
        else:
            raise no_memory(error) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def no_memory(error: RuntimeError | MemoryError) -> NoMemoryError:
    """The error to raise where one member alone is too large."""
    return NoMemoryError(f"one member alone does not fit the memory ({first_line(error)})")
