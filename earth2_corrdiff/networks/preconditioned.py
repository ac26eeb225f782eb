# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The two networks of CorrDiff: ``regression(cond)`` and ``denoiser(x, sigma, cond)``.

Both wrap a U-Net or a DiT (``.model``, as upstream's wrappers do) and make a checkpoint callable with data
alone. A third kind, :class:`DiTFlow`, is trained for rectified flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.networks.architectures import (
    EDM,
    REGRESSIONS,
    UpstreamUNet,
    dit_of,
    import_upstream,
    is_dit,
    unet_of,
    unwrapped,
)
from earth2_corrdiff.networks.arguments import check_arguments, place_features
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.float32 import full_float32
from earth2_corrdiff.networks.mdlus import Checkpoint, check_finite, check_weights, load_weights
from earth2_corrdiff.networks.memory_model import memory_of, memory_of_dit
from earth2_corrdiff.networks.unet import Conv2d, SongUNet

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Network(nn.Module):
    """A U-Net with its checkpoint's arguments and the type that it convolves in.

    Attributes
    ----------
    exact : bool
        True if float32 is to be full float32, on a GPU too: in reference mode. In training PyTorch's
        own switches hold
    """

    origin: Checkpoint
    exact = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = torch.float32

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The weights under the keys of its checkpoint."""
        return self.state_dict()

    def _features(self, x: Tensor, labels: Tensor, position: Tensor | None) -> Tensor:
        """The U-Net itself, in its type; float32 out."""
        with full_float32(x.device, self.exact):
            return cast(Tensor, self.model(x.to(self.compute_dtype), labels, position)).float()

    @property
    def image_channels(self) -> int:
        """Channels that the U-Net takes, latent included, position features excluded."""
        args = self.origin.args
        return int(args["img_in_channels"]) + int(args["img_out_channels"]) - self._grid_channels

    @property
    def latent_channels(self) -> int:
        """Those of them that are the latent."""
        return cast(int, self.out_channels)

    @property
    def _grid_channels(self) -> int:
        args = self.origin.args
        has_grid = args.get("model_type", "SongUNetPosEmbd").startswith("SongUNetPos")
        lead_time = int(args.get("lead_time_channels") or 0)
        return int(args.get("N_grid_channels", 4)) + lead_time if has_grid else 0

    @property
    def uses_lead_time(self) -> bool:
        """True if it was trained with lead times and needs the label of one."""
        return bool(self.origin.args.get("lead_time_channels"))

    def position_at(self, label: int | None, device: torch.device) -> Tensor | None:
        """Embeddings of position and of one lead time; None where the U-Net appends its own.

        Raises
        ------
        InputError
            If a lead time is needed and missing
        """
        if not self.uses_lead_time:
            return None
        if label is None:
            raise InputError("this model was trained with lead times and needs one: run it on a forecast")
        return self.position(torch.tensor([label], device=device))

    def member_bytes(self, shape: tuple[int, int]) -> int:
        """Peak memory on a GPU of one image of this (H, W) in a call: see ``memory_model``."""
        if isinstance(self.model, SongUNet):
            row = memory_of(self.model, shape, self.compute_dtype)
            return row.plain
        return self._estimate(shape)

    def _estimate(self, shape: tuple[int, int]) -> int:
        """Estimate for PhysicsNeMo's architectures: every level's skips, and some features at the top."""
        args = self.origin.args
        width, mult = int(args.get("model_channels", 128)), list(args.get("channel_mult", (1, 2, 2, 2, 2)))
        blocks, pixels = int(args.get("num_blocks", 4)), shape[0] * shape[1]
        skips = sum((blocks + 1) * m * width * pixels // 4**level for level, m in enumerate(mult))
        return int(4 * (skips + 6 * sum(mult[:2]) * width * pixels))

    def position(self, lead_time: Tensor | None = None) -> Tensor | None:
        """Embeddings of position and lead time that the U-Net appends, ``[1 or B, Cp, H, W]``."""
        if isinstance(self.model, SongUNet):
            return self.model.position(lead_time)
        own: Tensor | None = getattr(self.model, "pos_embd", None)
        return None if own is None else own[None]

    @property
    def multiple(self) -> int:
        """Images must be multiples of this: every level but the first halves them."""
        return int(2 ** (int(getattr(self.model, "levels", 1)) - 1))

    def shape_fault(self, shape: tuple[int, int], patch: tuple[int, int] | None = None) -> str | None:
        """The reason why the U-Net cannot take images of this (H, W), or patches of them; or None."""
        side = self.origin.args["img_resolution"]
        own = (side, side) if isinstance(side, int) else tuple(side)
        additive = bool(self.origin.args.get("additive_pos_embed"))
        if own != shape and (self._grid_channels or additive):
            return f"is made for {own[0]} x {own[1]}"
        if additive and patch not in (None, shape):
            return "adds an embedding of the whole domain and cannot take patches"
        wrong = any(n % self.multiple for n in patch or shape)
        return f"asks for multiples of {self.multiple}" if wrong else None


class Regression(_Network):
    """The mean: ``cond [B, C_in, H, W] → [B, C_out, H, W]``, normalised units.

    Source: upstream's ``UNet`` (now ``CorrDiffRegressionUNet``), fed with a zero latent.
    """

    def __init__(self, model: nn.Module, out_channels: int) -> None:
        super().__init__(model)
        self.out_channels = out_channels

    @property
    def maps(self) -> str | Path:
        """Where its feature maps live: "auto", "device", "host", or a folder."""
        return "device"

    @maps.setter
    def maps(self, value: str | Path) -> None:
        if value not in ("auto", "device"):
            raise InputError("a regression without acceleration keeps its feature maps on the device")

    def forward(self, cond: Tensor, position: Tensor | None = None) -> Tensor:
        B, _, H, W = cond.shape
        x = torch.cat([cond.new_zeros(B, self.out_channels, H, W), cond], dim=1)
        labels = torch.zeros(1, dtype=torch.float32, device=cond.device)
        return self._features(x, labels, position)


class Denoiser(_Network):
    """The EDM-preconditioned denoiser: ``x [B, C, H, W], sigma, cond [B, Cc, H, W] → D(x; sigma, cond)``.

    ``D = c_skip x + c_out F(c_in x ⊕ cond, log(sigma) / 4)`` (Karras et al. 2022, equation 7).

    Parameters
    ----------
    model : nn.Module
        The U-Net F
    sigma_data : float
        Standard deviation of the residual, in normalised units
    sigma_min, sigma_max : float
        Range of noise levels that the network supports
    scale_cond : bool
        Multiply the conditioning by c_in as well: the convention of upstream's ``EDMPrecondSR``

    Attributes
    ----------
    angle : bool
        True if F is given the angle ``atan(sigma / sigma_data)`` instead of ``log(sigma) / 4``: TrigFlow,
        whose other equations are these (Lu and Song, arXiv 2410.11081)
    """

    angle = False

    def __init__(
        self,
        model: nn.Module,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = float("inf"),
        scale_cond: bool = False,
    ) -> None:
        super().__init__(model)
        self.scale_cond = scale_cond
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max

    @property
    def out_channels(self) -> int:
        """Channels of the residual."""
        return int(self.origin.args["img_out_channels"])

    def given(self, cond: Tensor, position: Tensor | None = None) -> Callable[[Tensor, float], Tensor]:
        """D(x; sigma) for one conditioning ``[1, Cc, H, W]``, for a whole sampling run."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            clean: Tensor = self(x, sigma, cond.expand(x.shape[0], -1, -1, -1), position)
            return clean

        return denoise

    def forward(
        self, x: Tensor, sigma: float | Tensor, cond: Tensor, position: Tensor | None = None
    ) -> Tensor:
        """``sigma`` is one number for all, or a tensor ``[B]``; the result is float32."""
        x = x.to(torch.float32)
        s = _level(sigma, x)
        sd2 = self.sigma_data**2
        c_skip = sd2 / (s**2 + sd2)
        c_out = s * self.sigma_data / (s**2 + sd2).sqrt()
        c_in = 1 / (sd2 + s**2).sqrt()
        arg = c_in * torch.cat([x, cond], dim=1) if self.scale_cond else torch.cat([c_in * x, cond], dim=1)
        return c_skip * x + c_out * self._features(arg, self._label(s).flatten(), position)

    def _label(self, s: Tensor) -> Tensor:
        """What F is given of a noise level."""
        return (s / self.sigma_data).atan() if self.angle else s.log() / 4


def _level(sigma: float | Tensor, x: Tensor) -> Tensor:
    """A noise level, ``[1 or B, 1, 1, 1]`` float32 (or float64, where x is)."""
    # filled, not copied from the host: a copy would wait for the device
    s = sigma if isinstance(sigma, Tensor) else torch.full((1,), sigma, device=x.device, dtype=x.dtype)
    return s.to(x.dtype).reshape(-1, 1, 1, 1)


class Transformer(_Network):
    """A DiT with its checkpoint: for both networks, what differs from a U-Net's."""

    model: DiT
    prefix = ""

    @property
    def image_channels(self) -> int:
        return self.model.in_channels

    @property
    def uses_lead_time(self) -> bool:
        return False

    def position(self, lead_time: Tensor | None = None) -> None:
        """A DiT knows positions by its own means."""

    @property
    def multiple(self) -> int:
        return math.lcm(*self.model.patch_size)

    def shape_fault(self, shape: tuple[int, int], patch: tuple[int, int] | None = None) -> str | None:
        return self.model.shape_fault(patch or shape)

    def member_bytes(self, shape: tuple[int, int]) -> int:
        return memory_of_dit(self.model, shape, self.compute_dtype)

    def checkpoint_state(self) -> dict[str, Tensor]:
        return {f"{self.prefix}{key}": value for key, value in self.model.state_dict().items()}

    def _image(
        self, image: Tensor, t: Tensor, position: Tensor | None, vector: Tensor | None = None
    ) -> Tensor:
        """The DiT itself, in its type; float32 out (float64 where the input is)."""
        if position is not None:
            raise InputError("a DiT takes no embeddings of position; give them as conditioning")
        own = self.model.condition_dim
        if vector is not None and own and vector.shape[-1] != own:
            raise InputError(f"the network takes a condition of {own} numbers, not {vector.shape[-1]}")
        with full_float32(image.device, self.exact):
            return cast(Tensor, self.model(image, t, vector)).to(image.dtype)


class DiTMean(Transformer, Regression):
    """The mean by a DiT, ``cond [B, C_in, H, W] → [B, C_out, H, W]``: of noise level 0, with no condition.

    Source: ``CorrDiffCosmoEra5._regression_forward`` of Earth2Studio.
    """

    latent_channels = 0

    def __init__(self, model: DiT) -> None:
        super().__init__(model, model.out_channels)

    def forward(self, cond: Tensor, position: Tensor | None = None) -> Tensor:
        return self._image(cond, cond.new_zeros(1), position)


class DiTDenoiser(Transformer, Denoiser):
    """A DiT behind EDM's preconditioning: ``x [B, C, H, W], sigma, cond [B, Cc, H, W] → D(x; sigma, cond)``.

    Parameters
    ----------
    model : DiT
        Its input is ``c_in x ⊕ cond``
    sigma_data : float | Tensor
        Standard deviation of the fields, of all or of each channel ``[C]``, in normalised units

    Source: PhysicsNeMo's ``EDMPreconditioner(ConcatConditionWrapper(DiT))``.
    """

    spread: Tensor

    def __init__(self, model: DiT, sigma_data: float | Tensor = 0.5) -> None:
        spread = torch.as_tensor(sigma_data, dtype=torch.float32, device="cpu").flatten()
        super().__init__(model, sigma_data=float(spread.square().mean().sqrt()))
        if len(spread) not in (1, model.out_channels):
            raise ValueError(f"sigma_data of {len(spread)} channels does not fit {model.out_channels}")
        if not ((spread >= 1e-6) & (spread <= 1e6)).all():
            raise ValueError("sigma_data must be positive numbers")
        self.register_buffer("spread", spread.reshape(1, -1, 1, 1), persistent=False)

    @property
    def out_channels(self) -> int:
        return self.model.out_channels

    def checkpoint_state(self) -> dict[str, Tensor]:
        state = super().checkpoint_state()
        outside = {"sigma_data": self.spread.flatten().squeeze()}
        return {**state, **outside} if self.origin.name == EDM else state

    def given(
        self, cond: Tensor, position: Tensor | None = None, vector: Tensor | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        """D(x; sigma) for one conditioning ``[1, Cc, H, W]`` and, where it needs one, ``vector [1, K]``."""
        if vector is None and self.model.condition_dim:
            raise InputError(f"the network needs a condition of {self.model.condition_dim} numbers")

        def denoise(x: Tensor, sigma: float) -> Tensor:
            made: Tensor = self(x, sigma, cond.expand(x.shape[0], -1, -1, -1), position, vector)
            return made

        return denoise

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor,
        cond: Tensor,
        position: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """``sigma`` is one number for all, or a tensor ``[B]``; ``vector [1 or B, K]``; float32 out."""
        x = x.to(cond.dtype)
        c_in, t, c_out, c_skip = self._coefficients(_level(sigma, x))
        return c_skip * x + c_out * self._image(
            torch.cat([c_in * x, cond], dim=1), t.flatten(), position, vector
        )

    def _coefficients(self, s: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor | float]:
        """c_in, the DiT's t, c_out and c_skip (Karras et al. 2022, table 1)."""
        variance = s**2 + self.spread**2
        return variance.rsqrt(), self._label(s), s * self.spread * variance.rsqrt(), self.spread**2 / variance


class DiTFlow(DiTDenoiser):
    """A DiT of rectified flow as a denoiser: ``y [B, C, H, W], sigma, cond [B, Cc, H, W] → D(y; sigma)``.

    On the straight path ``x = (1 - t) clean + t noise`` is ``y = x / (1 - t)`` and ``sigma = t / (1 - t)``.
    The flow is ``noise - clean``, so that the clean fields are ``x - t flow``.

    Parameters
    ----------
    model : DiT
        Its input is ``x ⊕ cond``
    prediction : {"x0", "flow"}
        What it makes: the clean fields, or the flow
    time_scale : float
        The DiT's t at t = 1

    Source: ``CorrDiffEra5Hrrr._sample_one`` of Earth2Studio.
    """

    def __init__(self, model: DiT, prediction: str = "x0", time_scale: float = 999.0) -> None:
        super().__init__(model)
        if prediction not in ("x0", "flow"):
            raise InputError(f"{prediction!r:.60} is not a valid prediction; use x0 or flow")
        if not 1e-6 <= time_scale <= 1e6:
            raise InputError(f"time_scale must be positive, and within 1e-6 and 1e6, got {time_scale}")
        self.prediction, self.time_scale = prediction, time_scale

    def _coefficients(self, s: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor | float]:
        t, rest = (s.double() / (1 + s.double())).to(s.dtype), 1 / (1 + s)
        c_out, c_skip = (1.0, 0.0) if self.prediction == "x0" else (-t, rest)
        return rest, t * self.time_scale, c_out, c_skip


Wrap = Callable[[DiT], Regression | Denoiser]


def create(
    checkpoint: Checkpoint, domain: tuple[int, int] | None = None, wrap: Wrap | None = None
) -> Regression | Denoiser:
    """A network of a checkpoint's architecture with fresh weights (its ``state`` is not read).

    Parameters
    ----------
    checkpoint : Checkpoint
        Its class and arguments
    domain : tuple[int, int] | None, optional
        (H, W) that position features must be made for, by default any
    wrap : Wrap | None, optional
        What a DiT without wrappers is, as ``DiTFlow``; by default :class:`DiTMean`

    Raises
    ------
    InputError
        If the architecture is unknown here, and PhysicsNeMo is not installed; if an
        argument is of another type, or beyond any network; if it is made for another domain
    """
    _check(checkpoint, domain)
    with _described(checkpoint):
        net = _dit(checkpoint, wrap) if is_dit(checkpoint) else _wrapped(unet_of(checkpoint), checkpoint)
    net.origin = replace(checkpoint, state={})
    return net


def _dit(checkpoint: Checkpoint, wrap: Wrap | None) -> Regression | Denoiser:
    """The network of a checkpoint with a DiT, the part outside it with the checkpoint's values."""
    inner, prefix = unwrapped(checkpoint)
    model = dit_of(inner.args)
    if checkpoint.name != EDM:
        net = (wrap or DiTMean)(model)
    elif wrap is None:
        net = DiTDenoiser(model, checkpoint.state.get("sigma_data", checkpoint.args.get("sigma_data", 0.5)))
    else:
        raise InputError(f"{checkpoint.source} holds a denoiser, not a DiT by itself; use one that does")
    cast(Transformer, net).prefix = prefix
    return net


@contextmanager
def _described(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what goes wrong with the arguments of a network into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{checkpoint.source}: args.json describes no network ({first_line(error)})"
        ) from error


def _check(checkpoint: Checkpoint, domain: tuple[int, int] | None) -> None:
    """Refuse arguments that no network has, before one is made of them."""
    with _described(checkpoint):
        if is_dit(checkpoint):
            unwrapped(checkpoint)
        else:
            check_arguments(checkpoint.args)
            _check_domain(checkpoint, domain)


def _check_domain(checkpoint: Checkpoint, domain: tuple[int, int] | None) -> None:
    """Refuse position features of another domain, which may be of any size, before they are computed."""
    own = place_features(checkpoint.args)
    if None not in (own, domain) and own != domain:
        sizes = ("{} x {}".format(*shape) for shape in (domain, own) if shape is not None)
        stage = "regression" if checkpoint.name in REGRESSIONS else "diffusion"
        raise InputError(
            "the output grid of {} does not fit the {stage} network, which is made for {}".format(
                *sizes, stage=stage
            )
        )


def _wrapped(model: nn.Module, checkpoint: Checkpoint) -> Regression | Denoiser:
    args = checkpoint.args
    if checkpoint.name in REGRESSIONS:
        return Regression(model, args["img_out_channels"])
    return Denoiser(
        model,
        sigma_data=float(args.get("sigma_data", 0.5)),
        sigma_min=float(args.get("sigma_min", 0.0)),
        sigma_max=float(args.get("sigma_max", float("inf"))),
        scale_cond=checkpoint.name == "EDMPrecondSR" and bool(args.get("scale_cond_input", True)),
    )


def build(
    checkpoint: Checkpoint, domain: tuple[int, int] | None = None, wrap: Wrap | None = None
) -> Regression | Denoiser:
    """The network that a checkpoint holds, in evaluation mode, on the CPU, in float32.

    The arguments are those of :func:`create`.

    Raises
    ------
    InputError
        If the architecture is not known, or the weights do not fit it or are not finite
    """
    _check(checkpoint, domain)
    if is_dit(checkpoint):
        return _build_dit(checkpoint, wrap)
    import_upstream(checkpoint)
    with torch.device("meta"):  # its shapes: nothing is allocated that the file does not hold
        check_weights(create(checkpoint, domain), checkpoint)
    net = create(checkpoint, domain)
    load_weights(net, checkpoint)
    if checkpoint.args.get("use_fp16"):
        round_to_half(net)
    check_finite(net, checkpoint.source)
    return net.eval().requires_grad_(False)


def _build_dit(checkpoint: Checkpoint, wrap: Wrap | None) -> Regression | Denoiser:
    with torch.device("meta"):  # its shapes, and then the file's weights in their place
        net = create(checkpoint, None, wrap)
    state = check_weights(net.model, unwrapped(checkpoint)[0])
    state = {key: value.to(torch.float32, copy=True).contiguous() for key, value in state.items()}
    net.model.load_state_dict(state, strict=False, assign=True)
    check_finite(net, checkpoint.source)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def round_to_half(net: nn.Module) -> None:
    """Round weights and buffers to float16, as upstream does where a network has ``use_fp16``."""
    for value in (*net.parameters(), *net.buffers()):
        if value.is_floating_point():
            value.copy_(value.half())


def set_precision(net: Regression | Denoiser, precision: str) -> None:
    """Make ``net`` convolve, or multiply tokens, in ``precision``; all else stays float32.

    Raises
    ------
    InputError
        If the precision is unknown, or not float32 for a network that PhysicsNeMo built
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; use one of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if isinstance(net.model, UpstreamUNet) and dtype is not torch.float32:
        raise InputError(
            f"precision {precision!r} is not available for an architecture built by PhysicsNeMo; use fp32"
        )
    if isinstance(net.model, DiT):
        net.model.cast(dtype)
    for module in net.modules():
        if isinstance(module, Conv2d):
            module.to(dtype)
    net.compute_dtype = dtype
