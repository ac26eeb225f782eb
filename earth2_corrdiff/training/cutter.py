# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a training: patches of a time, chosen by what is in them, flipped and rotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.training.config import Patches
from earth2_corrdiff.training.losses import generator

TRIES = 100
"""Draws of a patch until the best one so far is taken."""
TURN = 4
"""An operation of ``turned``: this number for a flip, plus quarter turns."""


@dataclass(frozen=True)
class Cutter:
    """Cuts the patches of a time, the same out of all its fields.

    Attributes
    ----------
    patches : Patches | None
        Their size and choice; None for whole domains
    flips : bool
        True if images are flipped at random, and square ones turned by quarters
    wet_channel : int
        Output that decides whether a patch is wet
    """

    patches: Patches | None = None
    flips: bool = False
    wet_channel: int = 0

    def cuts(self, fine: Tensor, keys: Sequence[tuple[int, ...]]) -> Tensor | None:
        """``[N · per_time, 3]``: first row and column of each image, and its operation of :func:`turned`.

        Parameters
        ----------
        fine : Tensor
            ``[N, Co, H, W]`` in physical units, on the host; NaN where values are missing
        keys : Sequence[tuple[int, ...]]
            One per time, of its random numbers

        None for whole domains as they are.
        """
        if self.patches is None and not self.flips:
            return None
        shape = tuple(fine.shape[2:]) if self.patches is None else self.patches.shape
        turns = TURN if shape[0] == shape[1] else 2
        drawn = []
        for field, key in zip(fine, keys, strict=True):
            source = generator(*key, 1)
            for corner in self._corners(field, source):
                operation = int(torch.randint(2 * turns, (), generator=source)) if self.flips else 0
                flip, turn = divmod(operation, turns)
                drawn.append((*corner, TURN * flip + turn * (TURN // turns)))
        return torch.tensor(drawn)

    def _corners(self, field: Tensor, source: torch.Generator) -> list[tuple[int, int]]:
        """First row and column of the images of a time."""
        if self.patches is None:
            return [(0, 0)]
        high = [n - p + 1 for n, p in zip(field.shape[1:], self.patches.shape, strict=True)]
        if not self.patches.chosen:
            rows, columns = (torch.randint(h, (self.per_time,), generator=source).tolist() for h in high)
            return list(zip(rows, columns, strict=True))
        return [self._chosen(field, high, source) for _ in range(self.per_time)]

    def _chosen(self, field: Tensor, high: list[int], source: torch.Generator) -> tuple[int, int]:
        """A patch that is covered and, but for some, wet; the best of ``TRIES`` if there is none."""
        patches, tried = cast(Patches, self.patches), []
        h, w = patches.shape
        wet = patches.wet
        if wet is not None and float(torch.rand((), generator=source)) < wet.dry:
            wet = None
        for _ in range(TRIES):
            y, x = (int(torch.randint(n, (), generator=source)) for n in high)
            part = field[self.wet_channel, y : y + h, x : x + w]
            lack = 10 * max(patches.coverage - float(torch.isfinite(part).float().mean()), 0.0)
            if wet is not None:
                lack += max(wet.share - wet.part_of(part), 0.0)
            if not lack:
                return y, x
            tried.append((lack, (y, x)))
        return min(tried)[1]

    def cut(self, fields: Tensor, cuts: Tensor | None) -> Tensor:
        """``[N, C, H, W] → [N · per_time, C, h, w]``; whole domains as they are."""
        if cuts is None:
            return fields
        h, w = fields.shape[2:] if self.patches is None else self.patches.shape
        pieces = [
            turned(fields[i // self.per_time, :, y : y + h, x : x + w], operation)
            for i, (y, x, operation) in enumerate(cuts.tolist())
        ]
        return torch.stack(pieces)

    def shrunk(self, cond: Tensor) -> Tensor:
        """The whole domain at the size of a patch, for each patch."""
        patches = cast(Patches, self.patches)
        small = F.interpolate(cond, size=patches.shape, mode="bilinear")
        return small.repeat_interleave(patches.per_time, dim=0)

    @property
    def per_time(self) -> int:
        """Images of each time."""
        return 1 if self.patches is None else self.patches.per_time


def turned(image: Tensor, operation: int) -> Tensor:
    """An image ``[..., h, w]`` flipped in its columns (from ``TURN`` on), then turned by quarters."""
    flip, quarters = divmod(operation, TURN)
    return torch.rot90(image.flip(-1) if flip else image, quarters, (-2, -1))


def corners_of(cuts: Tensor | None) -> Tensor | None:
    """First rows and columns ``[n, 2]`` of :meth:`Cutter.cuts`."""
    return None if cuts is None else cuts[:, :2]
