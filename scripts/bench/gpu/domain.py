# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""E: a step on 1056 x 1792 points in patches of 448, and the regression of the whole domain."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, patched
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create, round_to_half

from .. import stock
from ..timing import Work
from .candidates import stock_module
from .layers import size_of
from .meter import figures, relative_l2
from .record import Record
from .switches import Undrawn, tf32

STATE, CONDITION = 4, 40  # channels, as in NVIDIA's published CONUS case
SIGMA = 1.0
STOCK = "stock fp16, all at once"
PLACES = {"automatic": "auto", "at once": "device", "maps on the host": "host"}


@torch.inference_mode()
def run(record: Record) -> None:
    """Measure patches, then the regression."""
    domain, patch = ((40, 56), 16) if record.tiny else ((1056, 1792), 448)
    record.put("domain", value=f"{domain[0]} x {domain[1]}, patches of {patch}")
    denoiser = record.attempt("denoiser", _denoiser, record, patch, least=10)
    if denoiser is not None:
        geometry = PatchGeometry(domain, (patch, patch), 4, 2)
        record.attempt("patches", patches, record, geometry, denoiser, least=10)
    del denoiser
    record.free()
    net = record.attempt("regression network", _regression, record, domain, least=10)
    if net is not None:
        record.attempt("regression", regression, record, domain, net, least=10)


def _denoiser(record: Record, patch: int) -> Denoiser:
    made = _network(record, "EDMPrecondSuperResolution", {"img_resolution": patch}, patch)
    assert isinstance(made, Denoiser)
    return made


def _regression(record: Record, domain: tuple[int, int]) -> Regression:
    more = {"img_resolution": list(domain), "embedding_type": "zero"}
    made = _network(record, "UNet", more, domain[0])
    assert isinstance(made, Regression)
    return made


@torch.inference_mode(False)
def _network(record: Record, name: str, more: dict[str, Any], rows: int) -> Regression | Denoiser:
    """A network of the published width and depth with random weights, drawn on the device."""
    size = size_of(record.tiny)
    args = {
        "model_type": "SongUNet",
        "model_channels": size.channels,
        "channel_mult": list(size.mult),
        "num_blocks": size.blocks,
        "img_in_channels": CONDITION,
        "img_out_channels": STATE,
        "attn_resolutions": [rows >> (len(size.mult) - 1)],
    }
    with Undrawn():
        net = create(Checkpoint(name, {**args, **more}, {}, name))
    net = net.eval().requires_grad_(False).to(record.device)
    for of, p in net.named_parameters():  # as bench.cases.randomise, which draws on the CPU: seconds
        scale = p[0].numel() ** -0.5 if p.ndim >= 2 else 0.1
        p.copy_(scale * torch.randn_like(p) + float("norm" in of and of.endswith("weight")))
    round_to_half(net)
    return net.to(memory_format=torch.channels_last)


def patches(record: Record, geometry: PatchGeometry, net: Denoiser) -> None:
    """Record the times of a step in several batches of patches, and of stock's, in turn."""
    x, cond = (
        torch.randn(1, channels, *geometry.domain, device=record.device) for channels in (STATE, CONDITION)
    )
    cond = cond.contiguous(memory_format=torch.channels_last)
    with tf32(False):
        want = patched(net.given, geometry, PatchInputs(cond), "flat", 1)(x, SIGMA)
    count = len(geometry.patches)
    record.put("patches", "count", value=count)
    works: dict[str, Work] = {}
    work = record.attempt("patches, stock", _stock, record, geometry, net, x, cond, want, least=12)
    if work is not None:
        works[STOCK] = work
    fast = accelerate(net, "bf16")
    for batch in (n for n in (1, 5, 15) if n <= count):
        denoise = patched(fast.given, geometry, PatchInputs(cond), "flat", batch, True)
        name = f"ours bf16, {batch} at once"
        work = record.attempt(f"patches, {name}", _warm, record, name, lambda d=denoise: d(x, SIGMA), want)
        if work is not None:
            works[name] = work
    for name, row in figures(record.meter.interleave(works, 5, share=0.4)).items():
        record.update("patches", "ways", name, value=row)
        record.say(f"patches, {name}: {row['ms']:.1f} ms")


def _warm(record: Record, name: str, step: Any, want: Tensor) -> Work:
    """A step that has run, with its memory and its error recorded."""
    row = {"peak GB, first call": record.meter.peak(step), "peak GB": record.meter.peak(step)}
    record.put("patches", "ways", name, value={**row, "error": relative_l2(step(), want)})
    made: Work = step
    return made


def _stock(
    record: Record, geometry: PatchGeometry, net: Denoiser, x: Tensor, cond: Tensor, want: Tensor
) -> Work:
    """PhysicsNeMo's patching of its own network, all patches in one call."""
    stock_module()
    from physicsnemo.diffusion.multi_diffusion import GridPatching2D

    with Undrawn(), torch.inference_mode(False):
        theirs = stock.as_shipped(stock.network(net).to(record.device))
    grid = GridPatching2D(geometry.domain, geometry.shape, 4, 2).to(record.device)
    level = torch.tensor(SIGMA, device=record.device)

    def step() -> Tensor:
        clean: Tensor = grid.fuse(theirs(grid.apply(x), grid.apply(cond), level), batch_size=1)
        return clean

    found = {
        name: 1e3 * record.meter.best(partial(grid.apply, field), tries=3)
        for name, field in (("state", x), ("conditioning", cond))
    }
    record.put("patches", "stock cuts patches, ms", value=found)
    return _warm(record, STOCK, step, want)


def regression(record: Record, domain: tuple[int, int], net: Regression) -> None:
    """Record time, memory and error of the ways to keep the feature maps."""
    cond = torch.randn(1, CONDITION, *domain, device=record.device).contiguous(
        memory_format=torch.channels_last
    )
    first: list[Tensor] = []
    for name, place in PLACES.items():
        record.attempt(f"regression, {name}", _place, record, net, cond, name, place, first, least=8)
        record.free()


def _place(record: Record, net: Regression, cond: Tensor, name: str, place: str, first: list[Tensor]) -> None:
    fast, outputs = accelerate(net, "bf16", place), first if not first else []
    start = time.perf_counter()
    row: dict[str, Any] = {"peak GB, first call": record.meter.peak(lambda: outputs.append(fast(cond)))}
    row["first call s"] = time.perf_counter() - start
    row["error to the first way"] = relative_l2(outputs[-1], first[0])
    row["ms"] = 1e3 * row["first call s"]
    if place != "host":  # which takes seconds
        row["peak GB"] = record.meter.peak(lambda: fast(cond))
        row["ms"] = 1e3 * min(record.meter.clock.time(lambda: fast(cond)) for _ in range(3))
    row["placement"] = str(getattr(fast, "memory_plan")(tuple(cond.shape[2:]), cond.device))  # noqa: B009
    record.put("regression", name, value=row)
    record.say(f"regression, {name}: {row['ms']:.1f} ms, {row['placement']}")
