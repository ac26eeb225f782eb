# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse blocks with a moved origin: many coarse states of one fine state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.block_means import block_means
from earth2_corrdiff.base.regrid import IndexRegridder
from earth2_corrdiff.training.losses import generator
from earth2_corrdiff.training.pairs import Pairs


def shifted(pairs: Pairs, size: int, keys: Sequence[tuple[int, ...]]) -> Pairs:
    """Pairs whose coarse fields are block means of a random origin, on the fine grid already.

    Parameters
    ----------
    pairs : Pairs
        With fine fields of the inputs
    size : int
        Fine points along each side of a coarse cell
    keys : Sequence[tuple[int, ...]]
        One per time, of its random numbers
    """
    fields = cast(Tensor, pairs.fine_inputs)
    origins = (torch.randint(size, (2,), generator=generator(*key, 2)).tolist() for key in keys)
    coarse = [regridded_means(field, size, *origin) for field, origin in zip(fields, origins, strict=True)]
    return replace(pairs, coarse=torch.stack(coarse), fine_inputs=None)


def regridded_means(fields: Tensor, size: int, up: int, left: int) -> Tensor:
    """Block means, interpolated back as :class:`IndexRegridder` does: ``[C, H, W] → [C, H, W]``.

    The first blocks begin ``up`` rows and ``left`` columns outside the domain, where fields are those of its
    edge.
    """
    H, W = fields.shape[1:]
    pads = [(before, -(n + before) % size) for n, before in ((H, up), (W, left))]
    wide = np.pad(fields.numpy(), ((0, 0), *pads), mode="edge")
    means = torch.from_numpy(block_means(wide, size))
    fine: Tensor = IndexRegridder((H + sum(pads[0]), W + sum(pads[1])))(means[None])[0]
    return fine[:, up : up + H, left : left + W]
