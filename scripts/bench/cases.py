# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What is timed: random networks of the published architecture, and inputs; the same for all variants."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.diffusion.solvers import karras_sigmas
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create, round_to_half

INPUTS = Statistics(
    ("tcwv", "z500", "t500", "u500", "v500", "z850", "t850", "u850", "v850", "t2m", "u10m", "v10m"),
    (40.0, 57000.0, 267.0, 6.0, 0.0, 14600.0, 289.0, 0.0, 0.0, 295.0, -1.0, -1.0),
    (18.0, 900.0, 4.0, 9.0, 6.0, 350.0, 4.0, 7.0, 7.0, 6.0, 5.0, 5.0),
)
OUTPUTS = Statistics(("mrr", "t2m", "u10m", "v10m"), (3.0, 295.0, -1.0, -1.0), (9.0, 6.0, 5.0, 5.0))
_COARSE = Grid(
    np.linspace(19.25, 28, 36, dtype=np.float32), np.linspace(116, 126, 40, endpoint=False, dtype=np.float32)
)


@dataclass(frozen=True)
class Size:
    """A size of the two networks.

    Attributes
    ----------
    side : int
        Points along each axis of the fine grid
    channels, mult, blocks : int, tuple[int, ...], int
        Width of the first level, its multiples per level, and blocks per level
    parameters : tuple[int, int] | None
        What the regression and the denoiser must have, where it is known
    """

    side: int
    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 2, 2, 2)
    blocks: int = 4
    parameters: tuple[int, int] | None = None


SIZES = {
    "tiny": Size(16, 8, (1, 2), 1),
    "mid": Size(112),
    "full": Size(448, parameters=(79_673_988, 80_007_300)),
}


@torch.no_grad()
def randomise(net: nn.Module, seed: int) -> None:
    """Give every parameter a value that matters: fresh U-Nets have 1e-5, 0 and 1 where errors would hide."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            p.copy_(1 + 0.1 * noise)
        elif p.ndim >= 2:
            p.copy_(noise / p[0].numel() ** 0.5)
        else:
            p.copy_(0.1 * noise)


def fresh_networks(size: Size) -> tuple[Regression, Denoiser]:
    """The two networks of CorrDiff-Taiwan in a size, with the weights that a fresh network has."""
    common = {
        "img_resolution": size.side,
        "model_channels": size.channels,
        "channel_mult": list(size.mult),
        "num_blocks": size.blocks,
        "attn_resolutions": [size.side >> (len(size.mult) - 1)],
        "img_out_channels": len(OUTPUTS.names),
    }
    n_in, n_out = len(INPUTS.names), len(OUTPUTS.names)
    regression: dict[str, Any] = {"img_in_channels": n_in + 4, "model_type": "SongUNet"}
    diffusion: dict[str, Any] = {"img_channels": n_out, "img_in_channels": n_in + n_out + 4}
    diffusion |= {"model_type": "SongUNetPosEmbd", "gridtype": "sinusoidal", "N_grid_channels": 4}
    regression["embedding_type"] = "zero"
    first, second = (
        create(Checkpoint(name, {**args, **common}, {}, name))
        for name, args in (("UNet", regression), ("EDMPrecondSR", diffusion))
    )
    assert isinstance(first, Regression) and isinstance(second, Denoiser)
    return first, second


def networks(size: Size) -> tuple[Regression, Denoiser]:
    """The two networks of CorrDiff-Taiwan in a size, weights random and rounded to float16, as it ships.

    Raises
    ------
    RuntimeError
        If they have not the parameters that the published architecture has
    """
    made = fresh_networks(size)
    for seed, net in enumerate(made):
        randomise(net, seed)
        round_to_half(net)
        net.eval().requires_grad_(False)
    found = tuple(sum(p.numel() for p in net.parameters()) for net in made)
    if size.parameters is not None and found != size.parameters:
        raise RuntimeError(f"the networks have {found} parameters, the published ones {size.parameters}")
    return made


@dataclass(frozen=True)
class Problem:
    """What all variants share.

    Attributes
    ----------
    regression, denoiser : Regression, Denoiser
        Networks on the CPU in float32; each variant takes a copy
    spec : CorrDiffSpec
        Grids, statistics, and the Euler sampler with ``steps`` steps
    coarse : Tensor
        ``[1, 12, 36, 40]``, physical units
    cond, mean, position, noise : Tensor
        ``[1, 12, H, W]``, ``[1, 4, H, W]``, ``[1, 4, H, W]`` and ``[M, 4, H, W]``, normalised
    """

    size: Size
    regression: Regression
    denoiser: Denoiser
    spec: CorrDiffSpec
    outer: Grid
    coarse: Tensor
    cond: Tensor
    mean: Tensor
    position: Tensor
    noise: Tensor

    @property
    def device(self) -> torch.device:
        """Where it is solved."""
        return self.coarse.device

    @property
    def sigmas(self) -> list[float]:
        """The noise levels at which the denoiser is called."""
        s = self.spec.sampling
        return karras_sigmas(s.steps, s.sigma_min, s.sigma_max)[:-1]


def _grid(n: int) -> Grid:
    """A slightly bent grid inside the coarse one."""
    j, i = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    lat = 19.6 + 8.0 * j / (n - 1) + 0.05 * np.sin(i / n * np.pi)
    lon = 116.4 + 8.9 * i / (n - 1) + 0.05 * np.sin(j / n * np.pi)
    return Grid(lat.astype(np.float32), lon.astype(np.float32))


def _weather(generator: torch.Generator) -> Tensor:
    x = torch.randn(1, len(INPUTS.names), *_COARSE.shape, generator=generator)
    x = 3 * nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    center, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (INPUTS.center, INPUTS.scale))
    return x * scale + center


def make_problem(size: Size, steps: int, most_members: int, device: torch.device) -> Problem:
    """Networks and inputs of a size, the inputs on ``device``."""
    outer = _grid(size.side + 2)  # with the ring that the stock class cuts off
    spec = CorrDiffSpec(
        inputs=INPUTS,
        outputs=OUTPUTS,
        input_grid=_COARSE,
        output_grid=Grid(outer.lat[1:-1, 1:-1], outer.lon[1:-1, 1:-1]),
        sampling=Sampling("euler", steps),
        regression_grid=True,
        drawn_seeds=True,
    )
    regression, denoiser = networks(size)
    generator = torch.Generator().manual_seed(0)
    coarse = _weather(generator).to(device)
    plain = Downscaler(spec, *copy.deepcopy((regression, denoiser)), "fp32", False).to(device)
    cond = plain.condition(coarse)
    mean = (0.7 * cond[:, : len(OUTPUTS.names)]).contiguous(memory_format=torch.channels_last)
    noise = torch.randn(most_members, *mean.shape[1:], generator=generator).to(device)
    noise = noise.contiguous(memory_format=torch.channels_last)
    return Problem(size, regression, denoiser, spec, outer, coarse, cond, mean, plain.position.clone(), noise)
