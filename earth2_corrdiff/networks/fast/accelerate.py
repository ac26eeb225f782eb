# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fast versions of the two networks, with the same call signature: ``accelerate(net, precision)``.

On a CPU the network runs on this package's own kernels (``cpu``), elsewhere on fused operators
(``gpu``), and on a GPU one denoising step is captured as a CUDA graph. The plain network stays
inside, in float32: it is the reference, and moves with ``.to``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, overload

import torch
from loguru import logger
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.fast.cpu import supports
from earth2_corrdiff.networks.fast.executors import CpuExecutor, Level, executor_of
from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.fast.memory_plan import AUTO, MemoryPlan, check_maps, plan_memory
from earth2_corrdiff.networks.float32 import full_float32
from earth2_corrdiff.networks.memory_model import memory_of, memory_of_dit
from earth2_corrdiff.networks.preconditioned import (
    PRECISIONS,
    Denoiser,
    DiTDenoiser,
    DiTFlow,
    DiTMean,
    Regression,
    Transformer,
)
from earth2_corrdiff.networks.unet import GroupNorm, SongUNet


@overload
def accelerate(net: Regression, precision: str = "auto", maps: str | Path = "device") -> Regression: ...
@overload
def accelerate(net: Denoiser, precision: str = "auto", maps: str | Path = "device") -> Denoiser: ...
def accelerate(
    net: Regression | Denoiser, precision: str = "auto", maps: str | Path = "device"
) -> Regression | Denoiser:
    """The fast version of a network; PhysicsNeMo's architectures are returned as they are, with a log line.

    Parameters
    ----------
    net : Regression | Denoiser
        From ``preconditioned.build``, in float32; the result shares its parameters
    precision : {"auto", "fp32", "bf16", "fp16"}, optional
        See :func:`resolve`
    maps : str | Path, optional
        Where feature maps live, as in ``feature_maps.MapMemory``, by default on the device;
        "auto", for a regression, is the quickest plan that fits the memory (see ``memory_plan``)

    Raises
    ------
    InputError
        If the precision or the folder is unknown, or not available for this architecture
    """
    check_precision(precision)
    if isinstance(net, DiTMean | DiTDenoiser):
        if maps not in ("device", AUTO):
            raise InputError("a DiT keeps its feature maps on the device; use device")
        return cast(DiTMean | DiTDenoiser, _fast_dit(net, precision))
    if not isinstance(net.model, SongUNet):
        if precision not in ("auto", "fp32"):
            raise InputError(
                f"precision {precision!r} is not available for an architecture built by PhysicsNeMo; use fp32"
            )
        if maps not in ("device", AUTO):
            raise InputError("an architecture built by PhysicsNeMo keeps its feature maps on the device")
        logger.info("a network built by PhysicsNeMo runs as it is, in fp32, without acceleration")
        return net
    if isinstance(net, Regression):
        return FastRegression(net, precision, maps)
    MapMemory(maps)  # raises if there is no such folder
    return FastDenoiser(net, precision, maps)


def fuse(net: nn.Module) -> nn.Module:
    """Fuse norm, shift and activation of the plain network, backward included: for training.

    The network is changed in place and returned; its outputs then agree with upstream's to rounding.
    """
    for module in net.modules():
        if isinstance(module, GroupNorm):
            module.fused = True
    return net


def compile_network(net: Regression | Denoiser) -> None:
    """Compile the plain U-Net's calls with ``torch.compile``, in place; the weights keep their names."""
    net.model.compile()


def check_precision(precision: str) -> None:
    """Raise InputError if there is no such precision."""
    if precision != "auto" and precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; use one of auto, {', '.join(PRECISIONS)}")


def resolve(precision: str, net: Regression | Denoiser, device: torch.device) -> str:
    """The precision of a network on a device; ``auto`` is the fastest that keeps the error rule there.

    The rule: the error against float32 is no larger than that of stock operators in the same type. On GPUs
    this is half precision (float16 where the checkpoint was made for it), on CPUs bfloat16 where the CPU's
    own kernels or its instructions make it faster, and float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if not isinstance(net.model, SongUNet | DiT):
        return "fp32"
    if device.type == "cuda":
        half = bool(net.origin.args.get("use_fp16")) or not torch.cuda.is_bf16_supported()
        return "fp16" if half else "bf16"
    own = isinstance(net.model, SongUNet) and supports(net.model)
    if device.type == "cpu" and (own or torch.cpu._is_avx512_bf16_supported()):
        return "bf16"
    return "fp32"


class _Fast(nn.Module):
    """The executor of a fast network, made at the first call for a device and with new weights.

    In training mode, and where gradients are asked for, the plain network runs.
    """

    precision: str
    model: Any

    def _take_over(self, plain: Regression | Denoiser, precision: str) -> None:
        self.origin, self.compute_dtype, self.training = plain.origin, plain.compute_dtype, plain.training
        self.precision = precision

    def _learns(self, *given: Tensor) -> bool:
        tensors = (*given, *self.parameters())
        return self.model.training or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))

    def _executor(self, device: torch.device, maps: str | Path = "device", strips: bool = False) -> Any:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if tensors[0].device != device:
            raise ValueError(f"the network is on {tensors[0].device}, its conditioning on {device}")
        precision = resolve(self.precision, self, device)  # type: ignore[arg-type]
        # other weights, or the same written to
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        key, found = (device, precision, state, maps, strips), self.__dict__.get("_made")
        if found is None or found[0] != key:
            found = (key, executor_of(self.model, precision, device, maps, strips))
            self.__dict__["_made"] = found
        return found[1]

    def member_bytes(self, shape: tuple[int, int]) -> int:
        """Memory on a GPU that one image of this (H, W) needs in a call, with fused norms."""
        assert isinstance(self.model, SongUNet)  # noqa: S101 (for the type checker)
        device = next(self.model.parameters()).device
        precision = resolve(self.precision, self, device)  # type: ignore[arg-type]
        row = memory_of(self.model, shape, PRECISIONS[precision])
        return row.whole

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own executor."""
        return {name: value for name, value in self.__dict__.items() if name != "_made"}


class FastRegression(_Fast, Regression):
    """:class:`~earth2_corrdiff.networks.preconditioned.Regression`, accelerated."""

    def __init__(self, plain: Regression, precision: str, maps: str | Path = "device") -> None:
        Regression.__init__(self, plain.model, plain.out_channels)
        self._take_over(plain, precision)
        self.maps = maps

    @property
    def maps(self) -> str | Path:
        """Where feature maps live: "auto", "device", "host", or a folder."""
        return self._place

    @maps.setter
    def maps(self, value: str | Path) -> None:
        check_maps(value)
        self._place: str | Path = value
        self._plan: tuple[Any, MemoryPlan] | None = None

    def memory_plan(self, domain: tuple[int, int], device: torch.device) -> MemoryPlan:
        """How the regression runs on a domain, chosen at the first call by the memory that is free then.

        Raises
        ------
        InputError
            If no plan fits the memory
        """
        precision = resolve(self.precision, self, device)
        if self._plan is None or self._plan[0] != (domain, device, precision):
            assert isinstance(self.model, SongUNet)  # noqa: S101 (for the type checker)
            plan = plan_memory(self.model, domain, precision, device, self.maps)
            if plan.notable:
                logger.info("the regression of {} x {} points runs {}", *domain, plan)
            self._plan = (domain, device, precision), plan
        return self._plan[1]

    def forward(self, cond: Tensor, position: Tensor | None = None) -> Tensor:
        """``cond [B, C_in, H, W] → [B, C_out, H, W]``, normalised units."""
        if self._learns(cond):
            return Regression.forward(self, cond, position)
        with torch.no_grad():
            B, _, H, W = cond.shape
            plan = self.memory_plan((H, W), cond.device)
            executor = self._executor(cond.device, plan.maps, plan.strips)
            latent = cond.new_zeros(1, self.out_channels, H, W)
            slabs = (executor.prepare(one, position) for one in torch.split(cond, 1))
            means = [executor(latent, slab, Level(0.0)) for slab in slabs]
            if isinstance(executor, CpuExecutor):
                executor.release()
            return torch.cat(means)


class FastDenoiser(_Fast, Denoiser):
    """:class:`~earth2_corrdiff.networks.preconditioned.Denoiser`, accelerated."""

    def __init__(self, plain: Denoiser, precision: str, maps: str | Path = "device") -> None:
        Denoiser.__init__(
            self, plain.model, plain.sigma_data, plain.sigma_min, plain.sigma_max, plain.scale_cond
        )
        self._take_over(plain, precision)
        self.maps, self.angle = maps, plain.angle

    def given(self, cond: Tensor, position: Tensor | None = None) -> Callable[[Tensor, float], Tensor]:
        """D(x; sigma) for one conditioning, prepared here once with the current weights."""
        if self._learns(cond):
            return Denoiser.given(self, cond, position)
        executor = self._executor(cond.device, self.maps)
        with torch.no_grad():
            slab = executor.prepare(cond, position)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                return Denoiser.given(self, cond, position)(x, sigma)
            with torch.no_grad():
                made: Tensor = executor(x, slab, self._level(sigma))
                return made

        return denoise

    def forward(
        self, x: Tensor, sigma: float | Tensor, cond: Tensor, position: Tensor | None = None
    ) -> Tensor:
        """``sigma`` is one number for all.

        Raises
        ------
        ValueError
            If sigma is a tensor: several levels at once belong to training and the plain network
        """
        if self._learns(x, cond):
            return Denoiser.forward(self, x, sigma, cond, position)
        if isinstance(sigma, Tensor):
            raise ValueError("an accelerated denoiser takes one sigma as a number; use the plain network")
        return self.given(cond, position)(x, sigma)

    def _level(self, sigma: float) -> Level:
        sd2 = self.sigma_data**2
        root = math.sqrt(sigma**2 + sd2)
        c_in = 1 / root
        return Level(
            label=math.atan(sigma / self.sigma_data) if self.angle else math.log(sigma) / 4,
            c_in=c_in,
            cond=c_in if self.scale_cond else 1.0,
            c_out=sigma * self.sigma_data / root,
            c_skip=sd2 / root**2,
        )


class _FastDiT(_Fast, Transformer):
    """A DiT's linear layers in another type."""

    model: DiT

    def _image(
        self, image: Tensor, t: Tensor, position: Tensor | None, vector: Tensor | None = None
    ) -> Tensor:
        if self._learns(image):
            return super()._image(image, t, position, vector)
        plain, executor = self.model, self._executor(image.device)
        with torch.no_grad(), full_float32(image.device, executor is plain):
            return cast(Tensor, executor(image, t, vector)).to(image.dtype)

    def member_bytes(self, shape: tuple[int, int]) -> int:
        device = next(self.model.parameters()).device
        precision = resolve(self.precision, self, device)  # type: ignore[arg-type]
        return memory_of_dit(self.model, shape, PRECISIONS[precision])


class FastDiTMean(_FastDiT, DiTMean):
    """:class:`~earth2_corrdiff.networks.preconditioned.DiTMean`, accelerated."""


class FastDiTDenoiser(_FastDiT, DiTDenoiser):
    """:class:`~earth2_corrdiff.networks.preconditioned.DiTDenoiser`, accelerated."""


class FastDiTFlow(_FastDiT, DiTFlow):
    """:class:`~earth2_corrdiff.networks.preconditioned.DiTFlow`, accelerated."""


_FAST_DITS = {DiTMean: FastDiTMean, DiTDenoiser: FastDiTDenoiser, DiTFlow: FastDiTFlow}


def _fast_dit(net: Any, precision: str) -> Any:
    made = copy.copy(net)  # the same DiT, and the values around it
    made.__class__ = _FAST_DITS[type(net)]
    made._take_over(net, precision)
    return made
