# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fast versions of the two networks, with the same call signature: ``accelerate(net, precision)``.

On a CPU the network runs on this package's own kernels (``cpu_unet.py``), elsewhere on fused operators
(``torch_unet.py``), and on a GPU one denoising step is captured as a CUDA graph. The plain network stays
inside, in float32: it is the reference, and moves with ``.to``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar, overload

import torch
from loguru import logger
from torch import Tensor, nn

from earth2_corrdiff.cpu_unet import CpuUNet, supports
from earth2_corrdiff.errors import InputError
from earth2_corrdiff.networks import PRECISIONS, Denoiser, Regression
from earth2_corrdiff.torch_unet import Row, TorchUNet
from earth2_corrdiff.unet import GroupNorm, SongUNet

ROWS = 128  # noise levels that are remembered: more than any run has steps
GRAPHS = 12  # shapes that are: a service has blocks of several sizes, each with one conditioning or many
Made = TypeVar("Made")
Step = Callable[[Tensor, Tensor, Row], Tensor]


@overload
def accelerate(net: Regression, precision: str = "auto") -> Regression: ...
@overload
def accelerate(net: Denoiser, precision: str = "auto") -> Denoiser: ...
def accelerate(net: Regression | Denoiser, precision: str = "auto") -> Regression | Denoiser:
    """The fast version of a network; one that cannot be accelerated is returned as it is, with a log line.

    Parameters
    ----------
    net : Regression | Denoiser
        From :func:`earth2_corrdiff.networks.build`, in float32; the result shares its parameters
    precision : {"auto", "fp32", "bf16", "fp16"}, optional
        See :func:`resolve`

    Raises
    ------
    InputError
        If the precision is unknown, or not to be had for this architecture
    """
    check_precision(precision)
    if not isinstance(net.model, SongUNet):
        if precision not in ("auto", "fp32"):
            raise InputError(
                f"precision {precision!r} is not available for an architecture built by PhysicsNeMo; use fp32"
            )
        logger.info("a network built by PhysicsNeMo runs as it is, in fp32, without acceleration")
        return net
    return FastRegression(net, precision) if isinstance(net, Regression) else FastDenoiser(net, precision)


def fuse(net: nn.Module) -> nn.Module:
    """Let the plain network normalise, shift and activate in one kernel, backward included: for training.

    It is changed in place and returned; its outputs then agree with upstream's to rounding.
    """
    for module in net.modules():
        if isinstance(module, GroupNorm):
            module.fused = True
    return net


def check_precision(precision: str) -> None:
    """Raise InputError if there is no such precision."""
    if precision != "auto" and precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; use one of auto, {', '.join(PRECISIONS)}")


def resolve(precision: str, net: Regression | Denoiser, device: torch.device) -> str:
    """What ``auto`` means for a network on a device: the fastest precision that keeps the error rule there.

    The rule: the error against float32 is no larger than that of stock operators in the same type. On GPUs
    this is half precision (float16 where the checkpoint was made for it), on CPUs bfloat16 where the CPU's
    own kernels or its instructions make it faster, and float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if not isinstance(net.model, SongUNet):
        return "fp32"
    if device.type == "cuda":
        half = bool(net.origin.args.get("use_fp16")) or not torch.cuda.is_bf16_supported()
        return "fp16" if half else "bf16"
    if device.type == "cpu" and (supports(net.model) or torch.cpu._is_avx512_bf16_supported()):
        return "bf16"
    return "fp32"


@dataclass(frozen=True)
class Level:
    """A noise level: the network's label, and its preconditioning (Karras et al. 2022, table 1)."""

    label: float
    c_in: float = 1.0
    cond: float = 1.0
    c_out: float = 1.0
    c_skip: float = 0.0


class _CpuEngine:
    """The CPU's own kernels, one image after the other."""

    def __init__(self, net: SongUNet, precision: str) -> None:
        self._unet = CpuUNet(net, precision)

    def prepare(self, static: Tensor) -> list[Tensor]:
        return [self._unet.slab(image) for image in static]

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


class _TorchEngine:
    """PyTorch's operators and the fused ones, a batch at a time; on a GPU as a captured graph."""

    def __init__(self, net: SongUNet, dtype: torch.dtype, graphs: bool) -> None:
        self._unet, self._graphs = TorchUNet(net, dtype), graphs
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._captured: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._lock = Lock()
        self._pool = torch.cuda.graph_pool_handle() if graphs else None  # one for all: they run in turn

    def prepare(self, static: Tensor) -> Tensor:
        return self._unet.slab(static)

    def __call__(self, x: Tensor, slab: Tensor, level: Level) -> Tensor:
        factors = (level.label, level.c_in, level.cond, level.c_out, level.c_skip)
        # what is kept must be writable in the next call, which may not be in inference mode
        with self._lock, torch.inference_mode(False), torch.no_grad():
            row = _remembered(self._rows, level, ROWS, lambda: self._unet.row(*factors))
            x = x.float()
            if not self._graphs:
                return self._unet(x, slab, row)
            key = (x.shape, slab.shape)
            with torch.cuda.device(x.device):
                new = partial(_Graph, self._unet, x, slab, row, self._pool)
                return _remembered(self._captured, key, GRAPHS, new)(x, slab, row)


class _Graph:
    """One call of ``step``, captured: replayed with other values at the same addresses.

    A slab is copied when another one comes, which is once per field; the noise level and x at each step.
    """

    def __init__(self, step: Step, x: Tensor, slab: Tensor, row: Row, pool: Any) -> None:
        self._x, self._slab, self._row = x.clone(), slab.clone(), row.clone()
        self._last = slab
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are chosen and built before the capture
            for _ in range(2):
                step(self._x, self._slab, self._row)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # other threads fetch and write meanwhile: only this one's calls belong to the capture
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._out = step(self._x, self._slab, self._row)

    def __call__(self, x: Tensor, slab: Tensor, row: Row) -> Tensor:
        if slab is not self._last:
            self._slab.copy_(slab)
            self._last = slab
        self._x.copy_(x)
        self._row.copy_(row)
        self._graph.replay()
        return self._out.clone()  # the next replay writes over it


def _remembered(
    memory: OrderedDict[Hashable, Made], key: Hashable, most: int, make: Callable[[], Made]
) -> Made:
    found = memory.get(key)
    if found is None:
        found = memory[key] = make()
        if len(memory) > most:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return found


class _Fast(nn.Module):
    """What both fast networks share: the engine of the device and weights, made at the first call with them.

    In training mode, and where gradients are asked for, the plain network runs.
    """

    precision: str
    model: nn.Module

    def _take_over(self, plain: Regression | Denoiser, precision: str) -> None:
        self.origin, self.compute_dtype, self.precision = plain.origin, plain.compute_dtype, precision
        self.training = plain.training

    def _learns(self, *given: Tensor) -> bool:
        tensors = (*given, *self.parameters())
        return self.model.training or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))

    def _engine(self, device: torch.device) -> Any:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if tensors[0].device != device:
            raise ValueError(f"the network is on {tensors[0].device}, its conditioning on {device}")
        precision = resolve(self.precision, self, device)  # type: ignore[arg-type]
        # other weights, or the same written to
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        key, found = (device, precision, state), self.__dict__.get("_made")
        if found is None or found[0] != key:
            found = (key, _engine(self.model, precision, device))
            self.__dict__["_made"] = found
        return found[1]

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own engine."""
        return {name: value for name, value in self.__dict__.items() if name != "_made"}


def _engine(net: nn.Module, precision: str, device: torch.device) -> _CpuEngine | _TorchEngine:
    assert isinstance(net, SongUNet)  # noqa: S101 (for the type checker)
    if device.type == "cpu" and supports(net):
        return _CpuEngine(net, precision)
    if device.type == "cpu" and precision == "fp16":
        precision = "fp32"  # no CPU is faster in float16, and most are far slower
    with torch.inference_mode(False), torch.no_grad():
        return _TorchEngine(net, PRECISIONS[precision], graphs=device.type == "cuda")


class FastRegression(_Fast, Regression):
    """:class:`~earth2_corrdiff.networks.Regression`, accelerated."""

    def __init__(self, plain: Regression, precision: str) -> None:
        Regression.__init__(self, plain.model, plain.out_channels)
        self._take_over(plain, precision)

    def forward(self, cond: Tensor) -> Tensor:
        """``cond [B, C_in, H, W] → [B, C_out, H, W]``, normalised units."""
        if self._learns(cond):
            return Regression.forward(self, cond)
        with torch.no_grad():
            engine = self._engine(cond.device)
            B, _, H, W = cond.shape
            latent = cond.new_zeros(1, self.out_channels, H, W)
            means = [engine(latent, engine.prepare(one), Level(0.0)) for one in torch.split(cond, 1)]
            return torch.cat(means)


class FastDenoiser(_Fast, Denoiser):
    """:class:`~earth2_corrdiff.networks.Denoiser`, accelerated."""

    def __init__(self, plain: Denoiser, precision: str) -> None:
        Denoiser.__init__(
            self, plain.model, plain.sigma_data, plain.sigma_min, plain.sigma_max, plain.scale_cond
        )
        self._take_over(plain, precision)

    def given(self, cond: Tensor) -> Callable[[Tensor, float], Tensor]:
        """D(x; sigma) for one conditioning and the weights of now, which are prepared here, once."""
        if self._learns(cond):
            return Denoiser.given(self, cond)
        engine = self._engine(cond.device)
        with torch.no_grad():
            slab = engine.prepare(cond)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                return Denoiser.given(self, cond)(x, sigma)
            with torch.no_grad():
                made: Tensor = engine(x, slab, self._level(sigma))
                return made

        return denoise

    def forward(self, x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        """``sigma`` is one number for all.

        Raises
        ------
        ValueError
            If sigma is a tensor: several levels at once belong to training and the plain network
        """
        if self._learns(x, cond):
            return Denoiser.forward(self, x, sigma, cond)
        if isinstance(sigma, Tensor):
            raise ValueError("an accelerated denoiser takes one sigma as a number; use the plain network")
        return self.given(cond)(x, sigma)

    def _level(self, sigma: float) -> Level:
        sd2 = self.sigma_data**2
        root = math.sqrt(sigma**2 + sd2)
        c_in = 1 / root
        return Level(
            label=math.log(sigma) / 4,
            c_in=c_in,
            cond=c_in if self.scale_cond else 1.0,
            c_out=sigma * self.sigma_data / root,
            c_skip=sd2 / root**2,
        )
