# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of patches: ways to cut a domain, and PhysicsNeMo's patching of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

# domain, patch, overlap, boundary
LAYOUTS = {
    "divides": ((32, 48), (16, 16), 0, 0),
    "no multiple": ((33, 47), (16, 16), 0, 0),
    "overlap": ((33, 47), (16, 24), 4, 0),
    "boundary": ((33, 47), (16, 24), 0, 2),
    "both": ((40, 56), (16, 24), 4, 2),
    "last patch almost outside": ((31, 45), (16, 22), 3, 3),
    "lower than a patch": ((14, 47), (16, 24), 4, 2),
    "narrower than a patch": ((47, 14), (24, 16), 2, 1),
    "most of it shared": ((30, 41), (16, 18), 11, 2),
    "patches of one pixel's stride": ((9, 7), (6, 5), 4, 0),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
Layout = tuple[tuple[int, int], tuple[int, int], int, int]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def theirs_of(layout: Layout) -> Any:
    from physicsnemo.diffusion.multi_diffusion import GridPatching2D

    return GridPatching2D(*layout)


CIN, COUT = 3, 2
UNET = {
    "img_resolution": [40, 56],
    "img_in_channels": 2 * CIN + COUT + 8,
    "img_out_channels": COUT,
    "model_type": "SongUNetPosEmbd",
    "gridtype": "learnable",
    "N_grid_channels": 8,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [20],
}


def fields(domain: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, conditioning and mean."""
    shape = (batch, CIN, *domain)
    return randn(batch, COUT, *domain), randn(*shape, seed=1), randn(1, COUT, *domain, seed=2)


@contextmanager
def eager() -> Iterator[None]:
    """Upstream's samplers without their compilation, which takes a minute and rounds differently."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        yield
