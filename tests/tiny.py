# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the core: tiny networks with weights that matter, tiny packages, and the stock classes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.checkpoint import Checkpoint
from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.networks import Denoiser, Regression, create
from earth2_corrdiff.package_writer import save_package
from earth2_corrdiff.spec import CorrDiffSpec, Sampling, Statistics

SHARED = Path(__file__).resolve().parents[2] / "shared"
INPUTS = Statistics(("t2m", "u10m", "z500"), (290.0, 1.0, 56000.0), (8.0, 5.0, 700.0))
OUTPUTS = Statistics(("mrr", "t2m"), (3.0, 291.0), (9.0, 6.0))
HILLS = Statistics(("orography",), (400.0,), (600.0,))
COARSE = Grid(np.arange(20, 26, dtype=np.float32), np.arange(118, 125.5, dtype=np.float32))
UNET = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}


# weights and errors


@torch.no_grad()
def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a value that matters: fresh U-Nets have 1e-5, 0 and 1 in places that would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            p.copy_(1 + 0.2 * noise)
        elif p.ndim >= 2 and "embd" not in name and "spatial" not in name:
            p.copy_(noise / p[0].numel() ** 0.5)
        else:
            p.copy_(0.2 * noise)
    return net


def relerr(ours: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over that of the reference."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).norm() / reference.norm())


# our networks, specifications and packages


def curved(H: int, W: int) -> Grid:
    """A slightly bent grid inside ``COARSE``, float32."""
    j, i = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    lat = 20.4 + 4.0 * j / (H - 1) + 0.3 * np.sin(i / W * np.pi)
    lon = 118.6 + 5.5 * i / (W - 1) + 0.3 * np.sin(j / H * np.pi)
    return Grid(lat.astype(np.float32), lon.astype(np.float32))


def straight(H: int, W: int) -> Grid:
    """A rectilinear grid inside ``COARSE``, float32."""
    return Grid(np.linspace(20.3, 24.8, H, dtype=np.float32), np.linspace(118.4, 124.9, W, dtype=np.float32))


def hills(grid: Grid) -> np.ndarray:
    """Orography on a grid, ``[1, H, W]`` float32, metres."""
    lat, lon = grid.mesh()
    return (900 * (1 + np.sin(3 * lat) * np.cos(2 * lon)))[None].astype(np.float32)


def make_spec(
    shape: tuple[int, int] = (16, 24), invariants: bool = True, bent: bool = True, **what: Any
) -> CorrDiffSpec:
    fine = curved(*shape) if bent else straight(*shape)
    if invariants:
        what = {"invariants": HILLS, "invariant_fields": hills(fine), **what}
    what = {"sampling": Sampling("euler", 3), "seed": 11, "name": "tiny", **what}
    return CorrDiffSpec(inputs=INPUTS, outputs=OUTPUTS, input_grid=COARSE, output_grid=fine, **what)


def make_networks(spec: CorrDiffSpec, seed: int = 0, **unet: Any) -> tuple[Regression, Denoiser]:
    """Random networks that fit a specification: a regression without, a denoiser with position features."""
    common = {**UNET, "img_resolution": list(spec.output_grid.shape), "dropout": 0.0, **unet}
    outputs = len(spec.outputs.names)
    condition = spec.condition_channels + (4 if spec.regression_grid else 0)
    regression = create(
        Checkpoint(
            "UNet",
            {
                "img_in_channels": condition,
                "img_out_channels": outputs,
                "model_type": "SongUNet",
                "embedding_type": "zero",
                **common,
            },
            {},
            "regression.mdlus",
        )
    )
    mean = outputs if spec.hr_mean_conditioning else 0
    denoiser = create(
        Checkpoint(
            "EDMPrecondSuperResolution",
            {
                "img_in_channels": spec.condition_channels + mean + 4,
                "img_out_channels": outputs,
                "model_type": "SongUNetPosEmbd",
                "gridtype": "sinusoidal",
                "N_grid_channels": 4,
                **common,
            },
            {},
            "diffusion.mdlus",
        )
    )
    for i, net in enumerate((regression, denoiser)):
        randomise(net, seed + i).eval().requires_grad_(False)
    return regression, denoiser


def make_downscaler(spec: CorrDiffSpec | None = None, precision: str = "fp32", **unet: Any) -> Downscaler:
    spec = spec or make_spec()
    return Downscaler(spec, *make_networks(spec, **unet), precision)


def make_package(folder: Path, spec: CorrDiffSpec | None = None) -> Path:
    """A package of the generic layout, written by this project."""
    spec = spec or make_spec(sampling=Sampling("heun", 3, sigma_max=80.0))
    return save_package(folder, spec, *make_networks(spec))


def weather(batch: int = 1, seed: int = 0, grid: Grid = COARSE) -> Tensor:
    """Smooth states in physical units, ``[batch, 3, h, w]``."""
    generator = torch.Generator().manual_seed(seed)
    lat, lon = (torch.from_numpy(np.array(x, dtype=np.float64)) for x in grid.mesh())
    phase = 6 * torch.rand(batch, len(INPUTS.names), 3, 1, 1, generator=generator)
    waves = torch.sin(0.9 * lat + phase[:, :, 0]) * torch.cos(0.7 * lon + phase[:, :, 1]) + torch.sin(
        0.4 * lat * lon / 50 + phase[:, :, 2]
    )
    scale, center = (torch.tensor(x).view(1, -1, 1, 1) for x in (INPUTS.scale, INPUTS.center))
    return (center + scale * waves).float()


# the stock classes


@contextlib.contextmanager
def _without_siblings(*packages: str) -> Iterator[None]:
    """Import modules out of large packages without all their other modules, which take half a minute."""
    added = []
    for name in packages:
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            bare = ModuleType(name)
            bare.__path__ = list(spec.submodule_search_locations or [])
            sys.modules[name] = bare
            added.append(name)
    try:
        yield
    finally:
        for name in [m for m in sys.modules if any(m == a or m.startswith(a + ".") for a in added)]:
            del sys.modules[name]


def earth2studio_module(name: str) -> ModuleType:
    """A module of ``earth2studio.models.dx`` or ``.px``, as ``dx.corrdiff``."""
    package = f"earth2studio.models.{name.partition('.')[0]}"
    with _without_siblings(package), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"earth2studio.models.{name}")


def upstream_wrapper(name: str, args: dict[str, Any], seed: int = 0) -> nn.Module:
    """PhysicsNeMo's class of a checkpoint's name with random weights, in evaluation mode."""
    from physicsnemo.diffusion.preconditioners import legacy
    from physicsnemo.models import diffusion_unets

    home = legacy if name.startswith("EDM") else diffusion_unets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomise(getattr(home, name)(**args), seed).eval()


def upstream_save(net: Any, path: Path, **how: Any) -> Path:
    """Write a checkpoint with PhysicsNeMo; from a folder without git, which it would ask."""
    target = path.resolve()
    with tempfile.TemporaryDirectory() as neutral, contextlib.chdir(neutral):
        net.save(str(target), **how)
    return target
