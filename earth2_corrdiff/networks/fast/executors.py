# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Executors of the fast networks: the CPU's own kernels, PyTorch's operators, or strips of rows."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor, nn

from earth2_corrdiff.base.graph_pool import GraphPool, pool_of
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.fast.cpu import CpuUNet, supports
from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.fast.gpu import Row, TorchUNet
from earth2_corrdiff.networks.fast.strips import StripUNet
from earth2_corrdiff.networks.float32 import full_float32
from earth2_corrdiff.networks.kernels import tuned
from earth2_corrdiff.networks.preconditioned import PRECISIONS
from earth2_corrdiff.networks.unet import Conv2d, SongUNet

ROWS = 128  # noise levels that are cached: more than most runs have steps
GRAPHS = 12  # shapes that are captured: blocks of several sizes, with one conditioning or one per member
Made = TypeVar("Made")
Step = Callable[[Tensor, Tensor, Row], Tensor]


@dataclass(frozen=True)
class Level:
    """A noise level: the network's label, and its preconditioning (Karras et al. 2022, table 1)."""

    label: float
    c_in: float = 1.0
    cond: float = 1.0
    c_out: float = 1.0
    c_skip: float = 0.0


class CpuExecutor:
    """The CPU's own kernels, one image after the other."""

    def __init__(self, net: SongUNet, precision: str, store: MapMemory | None = None) -> None:
        self._unet = CpuUNet(net, precision, store)

    def prepare(self, static: Tensor, position: Tensor | None = None) -> list[Tensor]:
        places = [None] * len(static) if position is None else position.expand(len(static), -1, -1, -1)
        return [self._unet.slab(image, place) for image, place in zip(static, places, strict=True)]

    def __call__(self, x: Tensor, slabs: list[Tensor], level: Level) -> Tensor:
        C, Cs = x.shape[1], slabs[0].shape[-1]
        scale = None
        if level.c_in != 1 or level.cond != 1:
            scale = x.new_ones(C + Cs, dtype=torch.float32)
            scale[:C] = level.c_in
            scale[C : C + Cs - self._unet.positions] = level.cond
        many = slabs if len(slabs) == len(x) else slabs * len(x)
        made = [
            self._unet(image, slab, scale, level.label, level.c_out, level.c_skip)
            for image, slab in zip(x, many, strict=True)
        ]
        return torch.stack(made)

    def release(self) -> None:
        """Give back the memory of large feature maps."""
        self._unet.release()


class StripExecutor:
    """PyTorch's operators on strips: for domains whose feature maps do not fit the device."""

    def __init__(self, net: SongUNet, dtype: torch.dtype, maps: str | Path) -> None:
        net = copy.deepcopy(net)
        for module in net.modules():
            if isinstance(module, Conv2d):
                module.to(dtype)
        self._unet, self._dtype = StripUNet(net, maps=maps), dtype

    def prepare(self, static: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return static, position

    def __call__(self, x: Tensor, slab: tuple[Tensor, Tensor | None], level: Level) -> Tensor:
        static, position = slab
        arg = torch.cat([level.c_in * x, level.cond * static.expand(len(x), -1, -1, -1)], dim=1)
        label = torch.full((1,), level.label, device=x.device)
        with full_float32(x.device, self._dtype is torch.float32):
            raw = self._unet(arg.to(self._dtype), label, position).float()
        return level.c_skip * x + level.c_out * raw


class TorchExecutor:
    """PyTorch's operators and the fused ones, a batch at a time; on a GPU as a captured graph."""

    def __init__(self, net: SongUNet, dtype: torch.dtype, graphs: bool) -> None:
        self._unet, self._graphs = TorchUNet(net, dtype), graphs
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._captured: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._pool = pool_of(next(net.parameters()).device)  # of all executors: their graphs run in turn
        self._lock = self._pool.lock if graphs else Lock()

    def prepare(self, static: Tensor, position: Tensor | None = None) -> Tensor:
        return self._unet.slab(static, position)

    def __call__(self, x: Tensor, slab: Tensor, level: Level) -> Tensor:
        factors = (level.label, level.c_in, level.cond, level.c_out, level.c_skip)
        # what is kept must be writable in the next call, which may not be in inference mode
        exact = full_float32(x.device, self._unet.dtype is torch.float32)
        with self._lock, exact, torch.inference_mode(False), torch.no_grad():
            row = _cached(self._rows, level, ROWS, lambda: self._unet.row(*factors))
            x = x.float()
            if not self._graphs:
                return self._unet(x, slab, row)
            key = (x.shape, slab.shape)
            with torch.cuda.device(x.device):
                new = partial(_Graph, self._unet, x, slab, row, self._pool)
                return _cached(self._captured, key, GRAPHS, new)(x, slab, row)


class _Graph:
    """One call of ``step``, captured: replayed with other values at the same addresses.

    A slab is copied when another one comes, which is once per field; the noise level and x at each step.
    """

    def __init__(self, step: Step, x: Tensor, slab: Tensor, row: Row, pool: GraphPool) -> None:
        self._x, self._slab, self._row = x.clone(), slab.clone(), row.clone()
        self._last, self._pool = slab, pool
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are chosen and built before the capture
            for _ in range(2):
                step(self._x, self._slab, self._row)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with pool.capture(self._graph):
            self._out = step(self._x, self._slab, self._row)

    def __call__(self, x: Tensor, slab: Tensor, row: Row) -> Tensor:
        self._pool.take_turn()
        if slab is not self._last:
            self._slab.copy_(slab)
            self._last = slab
        self._x.copy_(x)
        self._row.copy_(row)
        self._graph.replay()
        return self._out.clone()  # the next replay writes over it


def _cached(cache: OrderedDict[Hashable, Made], key: Hashable, most: int, make: Callable[[], Made]) -> Made:
    found = cache.get(key)
    if found is None:
        found = cache[key] = make()
        if len(cache) > most:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return found


def on_own_kernels(net: nn.Module, precision: str, device: torch.device) -> bool:
    """True if the CPU's own kernels run a network: they can, and no measured table prefers PyTorch's."""
    return device.type == "cpu" and supports(net) and tuned.chosen(device).own.get(precision, True)


def _cast(net: DiT, dtype: torch.dtype) -> DiT:
    """A DiT with its products in a type, all other weights shared: itself in float32."""
    if dtype is torch.float32:
        return net
    cast = {id(value) for module in net.products() for value in module.parameters()}
    shared = {id(value): value for value in (*net.parameters(), *net.buffers()) if id(value) not in cast}
    with torch.inference_mode(False), torch.no_grad():
        made = copy.deepcopy(net, shared)
        made.cast(dtype)
        return made


def executor_of(
    net: nn.Module,
    precision: str,
    device: torch.device,
    maps: str | Path = "device",
    strips: bool = False,
) -> CpuExecutor | TorchExecutor | StripExecutor | DiT:
    """The executor of a U-Net or a DiT on a device, with its feature maps in ``maps`` (:class:`MapMemory`).

    It runs in strips on request, and where the maps are not on the device; the CPU's kernels reach maps
    anywhere.
    """
    if isinstance(net, DiT):
        return _cast(net, PRECISIONS["fp32" if (device.type, precision) == ("cpu", "fp16") else precision])
    assert isinstance(net, SongUNet)  # noqa: S101 (for the type checker)
    if on_own_kernels(net, precision, device) and not strips:
        return CpuExecutor(net, precision, MapMemory(maps))
    if device.type == "cpu" and precision == "fp16":
        precision = "fp32"  # no CPU is faster in float16, and most are far slower
    with torch.inference_mode(False), torch.no_grad():
        if strips or maps != "device":
            return StripExecutor(net, PRECISIONS[precision], maps)
        return TorchExecutor(
            net, PRECISIONS[precision], graphs=device.type == "cuda" and tuned.chosen(device).graphs
        )
