# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of DiTs: PhysicsNeMo's own, its windows gathered query by query, its rotations by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import upstream_save
from torch import Tensor, nn

SIZE, PATCH, CHANNELS, OUT, CONDITION = (12, 20), (2, 4), 5, 3, 4
ARGS: dict[str, Any] = {
    "input_size": list(SIZE),
    "in_channels": CHANNELS,
    "out_channels": OUT,
    "patch_size": list(PATCH),
    "hidden_size": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "condition_dim": CONDITION,
    "attention_backend": "natten2d_rope",
    "attn_kwargs": {"attn_kernel": 3},
}


def gathered(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Any = 3, dilation: int = 1, scale: float | None = None
) -> Tensor:
    """NATTEN's ``na2d`` from its definition, the keys of each query gathered: ``[B, h, w, heads, dim]``."""
    h, w = q.shape[1:3]
    rows, columns = (torch.tensor([_keys(i, n, kernel_size, dilation) for i in range(n)]) for n in (h, w))
    near = [x[:, rows[:, None, :, None], columns[None, :, None]].flatten(3, 4) for x in (k, v)]
    weight = torch.einsum("bhwnd,bhwknd->bhwkn", q * (scale or q.shape[-1] ** -0.5), near[0]).softmax(3)
    return torch.einsum("bhwkn,bhwknd->bhwnd", weight, near[1])


def _keys(i: int, n: int, kernel: int, dilation: int) -> list[int]:
    group = list(range(i % dilation, n, dilation))
    first = min(max(i // dilation - kernel // 2, 0), len(group) - kernel)
    return group[first : first + kernel]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation of pairs of channels in the type of ``x``; PhysicsNeMo's rounds float64 to float32."""
    even, odd, c, s = x[..., ::2], x[..., 1::2], cos[..., ::2], sin[..., ::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)


@contextmanager
def plain_attention() -> Iterator[None]:
    """PhysicsNeMo's DiT without NATTEN, exact in float64."""
    from physicsnemo.nn.module import dit_layers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dit_layers, "_na2d_func", gathered)
        patch.setattr(dit_layers, "apply_rotary_pos_emb", rotated)
        yield


@torch.no_grad()
def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight changed: adaLN-Zero and zero heads would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def upstream_dit(**change: Any) -> nn.Module:
    """PhysicsNeMo's DiT with random weights."""
    from physicsnemo.models.dit import DiT

    return stirred(DiT(**{**ARGS, **change}))


def upstream_edm(sigma_data: Any = 0.5, **change: Any) -> nn.Module:
    """The same as a diffusion model with a conditioning."""
    from physicsnemo.diffusion.preconditioners import EDMPreconditioner
    from physicsnemo.diffusion.utils import ConcatConditionWrapper

    return EDMPreconditioner(ConcatConditionWrapper(upstream_dit(**change)), sigma_data).eval()


def saved(net: nn.Module, folder: Path) -> Path:
    """Its checkpoint."""
    return upstream_save(net, folder / "net.mdlus")


def fields(channels: int, batch: int = 2, seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
