# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures: U-Nets and DiTs that this package builds itself, and U-Nets that PhysicsNeMo builds.

This is the only file that may import PhysicsNeMo, and only where it is installed and the checkpoint's
architecture is not one of ``unet.py`` or ``dit.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.arguments import check_dit_arguments
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.mdlus import Checkpoint, Nested
from earth2_corrdiff.networks.unet import SongUNet

REGRESSIONS = ("UNet", "CorrDiffRegressionUNet")
DENOISERS = ("EDMPrecondSR", "EDMPrecondSuperResolution")
_LEAD_TIMES = "SongUNetPosLtEmbd"
_UNETS: dict[str, dict[str, Any]] = {
    "SongUNet": {"channel_mult": [1, 2, 2, 2], "attn_resolutions": [16], "dropout": 0.10},
    "SongUNetPosEmbd": {
        "channel_mult": [1, 2, 2, 2, 2],
        "attn_resolutions": [28],
        "dropout": 0.13,
        "gridtype": "sinusoidal",
        "N_grid_channels": 4,
    },
}
_UNETS[_LEAD_TIMES] = _UNETS["SongUNetPosEmbd"]
# Arguments of upstream's U-Nets with the only value that unet.py builds (anything else: unknown).
_FIXED: dict[str, tuple[Any, ...]] = {
    "label_dim": (0,),
    "augment_dim": (0,),
    "label_dropout": (0.0,),
    "encoder_type": ("standard",),
    "decoder_type": ("standard",),
    "resample_filter": ([1, 1],),
    "act": ("silu", None),
    "prob_channels": ([],),
}
# Arguments about how upstream runs, without effect on the result.
_IGNORED = ("checkpoint_level", "use_apex_gn", "profile_mode", "amp_mode", "use_fp16")
# Arguments of the wrapper around the U-Net.
_OUTSIDE = ("img_channels", "scale_cond_input", "sigma_data", "sigma_min", "sigma_max")

# Classes of networks that hold a DiT, from the outside; the wrapper joins latent and conditioning.
EDM, JOINED, _DIT = "EDMPreconditioner", "ConcatConditionWrapper", "DiT"
_DIT_IGNORED = ("tokenizer", "layernorm_backend", "dit_initialization", "force_tokenization_fp32")


def is_dit(checkpoint: Checkpoint) -> bool:
    """True if a checkpoint holds a DiT, with or without wrappers."""
    return checkpoint.name in (EDM, JOINED, _DIT)


def unwrapped(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """The DiT of a checkpoint by itself, with the arguments of version 0.2.0, and the prefix of its keys.

    Raises
    ------
    ValueError
        If the wrappers are not those of a diffusion model with a conditioning, or the DiT is of another
        version, or has arguments beyond any network
    """
    names, inner = [checkpoint.name], checkpoint.args.get("model")
    args, version = checkpoint.args, checkpoint.version
    while isinstance(inner, Nested):
        names, args, version = [*names, inner.name], inner.args, inner.version
        inner = inner.args.get("model")
    if names not in ([_DIT], [JOINED, _DIT], [EDM, JOINED, _DIT]):
        raise ValueError(f"{' of '.join(name[:60] for name in names)} is no CorrDiff network")
    if version not in ("", "0.1.0", "0.2.0"):
        raise ValueError(f"version {version[:20]!r} of a DiT is not known; use 0.1.0 or 0.2.0")
    args = dict(args)
    if version == "0.1.0" and "timestep_embed_kwargs" in args:
        args["conditioning_embedder_kwargs"] = args.pop("timestep_embed_kwargs")
    check_dit_arguments(args)
    prefix = "model." * (len(names) - 1)
    state = {
        key.removeprefix(prefix) if key.startswith(prefix) else f"/{key}": value
        for key, value in checkpoint.state.items()
        if (key, names[0]) != ("sigma_data", EDM)
    }
    return replace(checkpoint, args=args, state=state), prefix


def dit_of(args: dict[str, Any]) -> DiT:
    """A DiT of checked arguments, with fresh weights."""
    return DiT(**{key: value for key, value in args.items() if key not in _DIT_IGNORED})


def unet_of(checkpoint: Checkpoint) -> SongUNet | UpstreamUNet:
    """The U-Net of a checkpoint's architecture with fresh weights.

    Raises
    ------
    InputError
        If the architecture is unknown here, and PhysicsNeMo is not installed
    """
    reason = _unknown(checkpoint)
    return _unet(checkpoint) if reason is None else _upstream(checkpoint, reason)


def _unknown(checkpoint: Checkpoint) -> str | None:
    """The reason why ``unet.py`` cannot build this architecture, or None."""
    args = checkpoint.args
    kind = args.get("model_type", "SongUNetPosEmbd")
    if checkpoint.name not in REGRESSIONS + DENOISERS:
        return f"the class {checkpoint.name}"
    if kind not in _UNETS:
        return f"model_type={kind}"
    for key, allowed in _FIXED.items():
        if key in args and args[key] not in allowed:
            return f"{key}={args[key]!r}"
    late = bool(args.get("lead_time_channels"))
    if late != (kind == _LEAD_TIMES) or (args.get("lead_time_mode") and not late):
        return f"lead_time_channels={args.get('lead_time_channels')!r} in a {kind}"
    if args.get("embedding_type", "positional") not in ("positional", "zero"):
        return f"embedding_type={args['embedding_type']!r}"
    return None


def _unet(checkpoint: Checkpoint) -> SongUNet:
    args = dict(checkpoint.args)
    kind = args.pop("model_type", "SongUNetPosEmbd")
    for key in ("lead_time_mode", *_FIXED, *_IGNORED, *_OUTSIDE):
        args.pop(key, None)
    c_out = args.pop("img_out_channels")
    c_in = args.pop("img_in_channels") + c_out
    args["lead_time_channels"] = args.get("lead_time_channels") or 0
    return SongUNet(in_channels=c_in, out_channels=c_out, **{**_UNETS[kind], **args})


def import_upstream(checkpoint: Checkpoint) -> None:
    """Import PhysicsNeMo where it will be needed: not in the middle of work on another device.

    Raises
    ------
    InputError
        If it is not installed
    """
    reason = _unknown(checkpoint)
    if reason is not None:
        _diffusion_unets(checkpoint, reason)


def _diffusion_unets(checkpoint: Checkpoint, reason: str) -> Any:
    try:
        from physicsnemo.models import diffusion_unets
    except ImportError as error:
        raise InputError(
            f"{checkpoint.source} has {reason}, which only PhysicsNeMo can build: "
            "pip install 'earth2-corrdiff[physicsnemo]'"
        ) from error
    return diffusion_unets


def _upstream(checkpoint: Checkpoint, reason: str) -> UpstreamUNet:
    """A U-Net that only PhysicsNeMo can build."""
    diffusion_unets = _diffusion_unets(checkpoint, reason)
    args = dict(checkpoint.args)
    kind = args.pop("model_type", "SongUNetPosEmbd")
    made = getattr(diffusion_unets, kind, None)
    network = isinstance(made, type) and issubclass(made, nn.Module)
    if checkpoint.name not in REGRESSIONS + DENOISERS or not network:
        raise InputError(f"{checkpoint.source} has {reason}, which is no CorrDiff network")
    if args.get("lead_time_mode") or args.get("lead_time_channels") or args.get("label_dim"):
        raise InputError(
            f"{checkpoint.source} has {reason}: labels other than plain lead times are not supported"
        )
    for key in (*_OUTSIDE, "use_fp16"):
        args.pop(key, None)
    c_out = args.pop("img_out_channels")
    c_in = args.pop("img_in_channels") + c_out
    if "use_apex_gn" in args:
        args["use_apex_gn"] = False
    return UpstreamUNet(cast(Any, made)(in_channels=c_in, out_channels=c_out, **args))


class UpstreamUNet(nn.Module):
    """An upstream U-Net behind the signature of ours; its state-dict keys stay upstream's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # the very same tables, so that what moves here has moved there
        for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[table] = net.__dict__[table]
        self._net = [net]  # in a list: not registered a second time
        self.levels = getattr(net, "_num_levels", 1)

    def train(self, mode: bool = True) -> UpstreamUNet:
        self._net[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor, labels: Tensor, position: Tensor | None = None) -> Tensor:
        # the position is chosen already: upstream's selector need not
        chosen = {} if position is None else {"embedding_selector": lambda _: position.to(x.dtype)}
        return cast(Tensor, self._net[0](x, labels, class_labels=None, **chosen))
