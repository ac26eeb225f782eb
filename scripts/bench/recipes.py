# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One training step on the patches of a time, from PhysicsNeMo's plain recipe to this package's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.stock import network
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.fast.accelerate import accelerate, compile_network, fuse
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create, round_to_half
from earth2_corrdiff.networks.unet import GroupNorm
from earth2_corrdiff.training.config import Patches
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.losses import EDMLoss
from earth2_corrdiff.training.pairs import Pairs
from earth2_corrdiff.training.stages import Batch, DiffusionLoss, DiffusionStage, Images

INPUTS = tuple("tcwv z500 t500 u500 v500 z850 t850 u850 v850 t2m u10m v10m".split())
OUTPUTS = ("mrr", "t2m", "u10m", "v10m")


@dataclass(frozen=True)
class Size:
    """What is trained: a domain of three by three patches.

    Attributes
    ----------
    patch : int
        Side of a patch, in pixels
    channels, blocks : int
        Width of the U-Nets' first level, and blocks per level
    per_time : int
        Patches of each time
    at_once : int | None
        Patches that a GPU's memory holds in one pass, for the rows that have several; by default all
    """

    patch: int = 64
    channels: int = 64
    blocks: int = 2
    per_time: int = 16
    at_once: int | None = None

    @property
    def side(self) -> int:
        """Of the domain: nine patch areas."""
        return 3 * self.patch


@dataclass(frozen=True)
class Variant:
    """What is switched on.

    Attributes
    ----------
    name : str
        In the table
    bf16 : bool
        bfloat16 autocast
    once : bool
        The mean and the regridded conditioning once per time; otherwise for each patch
    last : bool
        Channels-last weights and images
    norm : bool
        This package's networks, with a norm that keeps channels-last; otherwise PhysicsNeMo's
    fused : bool
        Shift and SiLU in the norm's kernel
    fast : bool
        The regression on this package's inference kernels
    together : bool
        All patches in one pass, and the fused Adam
    compiled : bool
        torch.compile of the denoiser
    """

    name: str
    bf16: bool = False
    once: bool = False
    last: bool = False
    fused: bool = False
    fast: bool = False
    together: bool = False
    compiled: bool = False
    norm: bool = False


# Optimisations 1 to 6 of NVIDIA's post on CorrDiff's training are the rows of bf16, once per time, the norm
# in channels-last (here in two: layout and norm), fused SiLU for all widths, and torch.compile.
PLAIN = Variant("PhysicsNeMo's recipe, fp32, regression per patch")
VARIANTS = (
    PLAIN,
    Variant("+ bf16 autocast", bf16=True),
    Variant("+ mean and conditioning once per time", bf16=True, once=True),
    Variant("+ channels-last", bf16=True, once=True, last=True),
    Variant("+ norm in channels-last", bf16=True, once=True, last=True, norm=True),
    Variant("+ shift and SiLU fused, backward too", True, True, True, True, norm=True),
    Variant("+ regression on inference kernels", True, True, True, True, fast=True, norm=True),
    Variant("+ patches of a time in one pass", True, True, True, True, fast=True, together=True, norm=True),
)
COMPILED = replace(VARIANTS[-1], name="+ torch.compile", compiled=True)


@dataclass
class Stopwatch:
    """Seconds of the parts of a step; on a GPU the host waits at each change."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as a part."""
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def fresh_model(size: Size, device: torch.device, seed: int = 0) -> Downscaler:
    """An untrained model of this package; its weights are those of every variant."""
    side, coarse = size.side, size.side // 3 + 4
    grids = (_grid(20, 26, 118, 126, coarse, coarse + 3), _grid(21, 25, 119, 125, side, side))
    patching = PatchGeometry((side, side), (size.patch, size.patch), 4, 2)
    spec = CorrDiffSpec(
        inputs=_standard(INPUTS),
        outputs=_standard(OUTPUTS),
        input_grid=grids[0],
        output_grid=grids[1],
        sampling=Sampling("heun", 18),
        patching=patching,
    )
    unet = {
        "img_resolution": side,
        "img_out_channels": len(OUTPUTS),
        "model_type": "SongUNet",
        "model_channels": size.channels,
        "channel_mult": [1, 2, 2],
        "num_blocks": size.blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    torch.manual_seed(seed)
    nets = []
    for name, channels, more in (
        ("UNet", len(INPUTS), {}),
        ("EDMPrecondSuperResolution", 2 * len(INPUTS) + len(OUTPUTS), {"sigma_data": 0.5}),
    ):
        net = create(Checkpoint(name, {**unet, "img_in_channels": channels, **more}, {}, "the benchmark"))
        nets.append(net)
    _bend(nets[0])
    for net in nets:
        round_to_half(net)  # the stock network, as it is loaded for the other benchmarks, rounds its weights
    regression, denoiser = cast(Regression, nets[0]), cast(Denoiser, nets[1])
    return Downscaler(spec, regression, denoiser, "fp32", accelerated=False).to(device)


def _standard(names: tuple[str, ...]) -> Statistics:
    """Of channels that are normalised as they are."""
    return Statistics(names, (0.0,) * len(names), (1.0,) * len(names))


def _grid(south: float, north: float, west: float, east: float, rows: int, columns: int) -> Grid:
    axes = (np.linspace(south, north, rows), np.linspace(west, east, columns))
    return Grid(*(axis.astype(np.float32) for axis in axes))


@torch.no_grad()
def _bend(net: nn.Module) -> None:
    """Fresh U-Nets are nearly zero: give this one weights that matter, as a trained one has."""
    for p in net.parameters():
        if p.ndim == 4:
            p.normal_(0, 0.5 / p[0].numel() ** 0.5)


class Weather:
    """Pairs to learn from: smooth coarse fields; the truth is a fixed function of them, and noise."""

    def __init__(self, model: Downscaler, seed: int = 0) -> None:
        self.model, self.seed = model, seed

    def pairs(self, number: int) -> Pairs:
        """The pair of a time."""
        source = torch.Generator().manual_seed(self.seed + number)
        h, w = self.model.spec.input_grid.shape
        knots = torch.randn(1, len(INPUTS), 6, 6, generator=source)
        coarse = nn.functional.interpolate(knots, size=(h, w), mode="bicubic")
        large = self.model.regrid(coarse.to(self.model.device)).float().cpu()[:, -len(OUTPUTS) :]
        ripple = torch.sin(3 * large) + 0.3 * torch.randn(large.shape, generator=source)
        return Pairs(coarse, large + ripple)


class Recipe:
    """A variant with its own copy of the networks.

    Parameters
    ----------
    variant : Variant
        What is switched on
    size : Size
        What is trained
    device : torch.device
        Where
    """

    def __init__(self, variant: Variant, size: Size, device: torch.device) -> None:
        self.variant, self.size, self.device = variant, size, device
        model = fresh_model(size, device)
        self.model, denoiser = model, model.denoiser
        layout = torch.channels_last if variant.last else torch.contiguous_format
        self.regression: nn.Module
        self.net: nn.Module
        if variant.norm:  # PhysicsNeMo need not be there
            self.regression, self.net = _ours(model.regression, variant), _ours(denoiser, variant)
        else:
            self.regression = _Upstream(model.regression, variant.bf16)
            self.net = _UpstreamDenoiser(denoiser, variant.bf16)
        if variant.fast:
            self.regression = accelerate(model.regression, "auto")
        self.regression.to(memory_format=layout)
        self.net.train().requires_grad_(True).to(memory_format=layout)
        if variant.compiled:
            compile_network(denoiser)
        self.loss = DiffusionLoss(cast(Denoiser, self.net), EDMLoss())
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=3e-4, fused=variant.together)
        cutter = Cutter(Patches((size.patch, size.patch), size.per_time))
        self.stage = DiffusionStage(model, cutter, EDMLoss(), self._mean)
        self.watch = Stopwatch(device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.bf16)

    def _mean(self, indices: Any, cond: Tensor) -> Tensor:
        with self.watch.part("regression"), torch.no_grad(), self._autocast():
            return cast(Tensor, self.regression(cond)).float()

    def step(self, pairs: Pairs, number: int) -> float:
        """One step of the optimiser on the patches of a time; the loss."""
        size = self.size
        batch = Batch([number], pairs, [(0, number)])
        images = self.stage.images(batch)
        for _ in range(0 if self.variant.once else size.per_time - 1):
            # the plain recipe regrids, and computes the mean of the whole domain, for each patch
            self._mean([number], self.model.condition(pairs.coarse.to(self.device)))
        self.optimiser.zero_grad(set_to_none=True)
        parts = images.split(size.at_once if self.variant.together else 1)
        loss = sum(self._pass(part, len(images)) for part in parts)
        with self.watch.part("optimiser"):
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
        return loss

    def _pass(self, part: Images, total: int) -> float:
        if not self.variant.last:
            plain: list[Any] = [None if t is None else t.contiguous() for t in vars(part).values()]
            part = Images(*plain)
        with self.watch.part("forward"), self._autocast():
            loss: Tensor = self.loss(part).mean() * (len(part) / total)
        with self.watch.part("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def _ours(net: nn.Module, variant: Variant) -> nn.Module:
    """This package's network as a variant has it."""
    fuse(net)
    if not variant.fused:
        for module in net.modules():
            if isinstance(module, GroupNorm):
                module.silu = partial(_norm_then_silu, module)  # type: ignore[method-assign]
    return net


def _norm_then_silu(norm: GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """What the fused kernel does, with the norm alone in a kernel."""
    if shift is not None:
        x = x + shift[:, :, None, None].to(x.dtype)
    return nn.functional.silu(norm(x))


def _upstream(ours: Regression | Denoiser, autocast: bool) -> nn.Module:
    """PhysicsNeMo's network with the same weights; told of autocast, which it refuses otherwise."""
    net = network(ours).to(next(ours.parameters()).device)
    for module in net.modules():
        if hasattr(module, "amp_mode"):
            setattr(module, "amp_mode", autocast)  # noqa: B010 (not an attribute that nn.Module declares)
    # its check of the result's type looks at CUDA's autocast alone
    net.get_submodule("model").register_forward_hook(lambda module, given, made: made.float())
    return net


class _Upstream(nn.Module):
    """PhysicsNeMo's regression, called as this package's."""

    def __init__(self, ours: Regression, autocast: bool) -> None:
        super().__init__()
        self.net = _upstream(ours, autocast)

    def forward(self, cond: Tensor) -> Tensor:
        latent = cond.new_zeros(len(cond), len(OUTPUTS), *cond.shape[2:])
        return cast(Tensor, self.net(latent, cond))


class _UpstreamDenoiser(nn.Module):
    """PhysicsNeMo's denoiser, called as this package's."""

    def __init__(self, ours: Denoiser, autocast: bool) -> None:
        super().__init__()
        self.net = _upstream(ours, autocast)

    def position(self) -> None:
        """It has no embedding of place."""

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor, position: None = None) -> Tensor:
        return cast(Tensor, self.net(x, cond, sigma.view(-1, 1, 1, 1)))
