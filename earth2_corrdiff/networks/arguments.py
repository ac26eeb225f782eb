# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of a checkpoint's network: types and ranges, before a network is made of them.

A network of any size in these ranges is described in a moment; its memory is that of its weights, which the
file must hold, and of its position features, which are bounded here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MOST_SIDE = 2**16
MOST_CHANNELS = 2**16
MOST_LEVELS = 12
MOST_BLOCKS = 64
MOST_DEPTH = 256
MOST_FEATURES = 2**27
"""Numbers that position features may have: they are computed, not stored."""
Check = Callable[[Any], bool]


def _whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float) -> Check:
    return lambda value: type(value) in (int, float) and least <= value <= most  # False for NaN


def _several(check: Check, least: int, most: int) -> Check:
    def fits(value: Any) -> bool:
        return isinstance(value, list | tuple) and least <= len(value) <= most and all(map(check, value))

    return fits


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _one_of(*allowed: Any) -> Check:
    return lambda value: any(value is known for known in allowed)


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 60


_SIDE = _whole(1, MOST_SIDE)
_NONE = _one_of(None)
_FLAG = _one_of(True, False, None)
_FLAGS = (
    *("additive_pos_embed", "bottleneck_attention", "lead_time_mode", "scale_cond_input"),
    *("use_fp16", "use_apex_gn", "profile_mode", "amp_mode"),
)
_FEW = _whole(0, 4096)
# Argument → its check, and the same in words
_ARGUMENTS: dict[str, tuple[Check, str]] = {
    "img_resolution": (_either(_SIDE, _several(_SIDE, 2, 2)), f"1 to {MOST_SIDE}, or two of them"),
    "img_in_channels": (_whole(0, MOST_CHANNELS), f"0 to {MOST_CHANNELS}"),
    "img_out_channels": (_whole(1, MOST_CHANNELS), f"1 to {MOST_CHANNELS}"),
    "img_channels": (_either(_NONE, _whole(0, MOST_CHANNELS)), f"0 to {MOST_CHANNELS}"),
    "model_channels": (_whole(1, MOST_CHANNELS), f"1 to {MOST_CHANNELS}"),
    "channel_mult": (_several(_whole(1, 256), 1, MOST_LEVELS), f"1 to {MOST_LEVELS} numbers from 1 to 256"),
    "channel_mult_emb": (_whole(1, 256), "1 to 256"),
    "channel_mult_noise": (_whole(0, 256), "0 to 256"),
    "num_blocks": (_whole(1, MOST_BLOCKS), f"1 to {MOST_BLOCKS}"),
    "attn_resolutions": (_several(_whole(0, MOST_SIDE), 0, 64), f"up to 64 numbers up to {MOST_SIDE}"),
    "lead_time_channels": (_either(_NONE, _FEW), "0 to 4096"),
    "lead_time_steps": (_whole(1, 4096), "1 to 4096"),
    "checkpoint_level": (_whole(0, 64), "0 to 64"),
    "resample_filter": (_several(_number(-1e3, 1e3), 1, 64), "1 to 64 numbers"),
    "prob_channels": (_several(_whole(0, MOST_CHANNELS), 0, 1000), f"numbers up to {MOST_CHANNELS}"),
    "sigma_data": (_number(1e-6, 1e6), "a positive number"),
    "sigma_min": (_number(0, 1e6), "0 or more"),
    "sigma_max": (_number(1e-6, math.inf), "a positive number"),
    **dict.fromkeys(("dropout", "label_dropout"), (_number(0, 1), "0 to 1")),
    **dict.fromkeys(("N_grid_channels", "label_dim", "augment_dim"), (_FEW, "0 to 4096")),
    **dict.fromkeys(("model_type", "embedding_type", "encoder_type", "decoder_type"), (_text, "a name")),
    **dict.fromkeys(("gridtype", "act"), (_either(_NONE, _text), "a name")),
    **dict.fromkeys(_FLAGS, (_FLAG, "true or false")),
}
_NEEDED = ("img_resolution", "img_in_channels", "img_out_channels")
_WIDTH = (_whole(1, MOST_CHANNELS), f"1 to {MOST_CHANNELS}")
_NO_WIDTH = (_either(_NONE, _whole(0, MOST_CHANNELS)), f"0 to {MOST_CHANNELS}")
_PAIR = (_either(_SIDE, _several(_SIDE, 2, 2)), f"1 to {MOST_SIDE}, or two of them")
_RATE = (_number(0, 0.999), "0 to 0.999")
_YES_NO = (_one_of(True, False), "true or false")
_ODD = (lambda value: _whole(1, 99)(value) and value % 2 == 1, "an odd number up to 99")


def _named(*known: str | None) -> tuple[Check, str]:
    return lambda value: value in known and not isinstance(value, bool), " or ".join(map(repr, known))


# The same for a DiT; for one of a part's arguments, the name of the part stands before it
_DIT_ARGUMENTS: dict[str, tuple[Check, str]] = {
    "depth": (_whole(1, MOST_DEPTH), f"1 to {MOST_DEPTH}"),
    "mlp_ratio": (_number(1e-3, 256), "0.001 to 256"),
    "drop_path_rates": (_either(_NONE, _several(_RATE[0], 1, MOST_DEPTH)), "a rate for each block"),
    "tokenizer": _named("patch_embed_2d"),
    "detokenizer": _named("proj_reshape_2d", "proj_reshape_2d_conv"),
    "conditioning_embedder": _named("dit", "edm"),
    "attention_backend": _named("timm", "natten2d", "natten2d_rope"),
    "qk_norm_type": _named(None, "LayerNorm", "RMSNorm"),
    "embed_fn": _named("cos_sin", "np_sin_cos"),
    "pos_embed": (_text, "a name"),
    "scale": (_either(_NONE, _number(1e-9, 1e9)), "a positive number"),
    "rope_theta": (_number(1e-3, 1e12), "a positive number"),
    "norm_eps": (_number(1e-12, 1), "a small positive number"),
    "max_positions": (_number(1, 1e12), "1 or more"),
    "conv_layers": (_whole(1, MOST_BLOCKS), f"1 to {MOST_BLOCKS}"),
    "conv_kernel": _ODD,
    **dict.fromkeys(("input_size", "patch_size", "attn_kernel", "dilation"), _PAIR),
    **dict.fromkeys(("layernorm_backend", "norm_layer"), _named("apex", "torch")),
    **dict.fromkeys(("in_channels", "hidden_size", "num_heads", "conv_hidden"), _WIDTH),
    **dict.fromkeys(("emb_channels", "noise_channels"), _WIDTH),
    **dict.fromkeys(("out_channels", "condition_dim", "freq_embed_dim", "mlp_hidden_dim"), _NO_WIDTH),
    **dict.fromkeys(("attn_drop_rate", "proj_drop_rate", "mlp_drop_rate", "condition_dropout"), _RATE),
    **dict.fromkeys(("dit_initialization", "force_tokenization_fp32", "use_nan_mask_tokens"), _YES_NO),
    **dict.fromkeys(("qk_norm", "qkv_bias", "qk_norm_affine", "scale_norm", "endpoint"), _YES_NO),
    **dict.fromkeys(("intermediate_dropout", "final_mlp_dropout", "legacy_condition_bias"), _YES_NO),
}


def check_dit_arguments(args: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of a DiT, or of its parts, of another type or beyond any network."""
    missing = [name for name in ("input_size", "in_channels") if name not in args]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)}")
    for name, value in args.items():
        if isinstance(value, dict) and name.endswith("kwargs"):
            check_dit_arguments({"input_size": 1, "in_channels": 1, **value})
        elif name not in _DIT_ARGUMENTS:
            raise ValueError(f"the argument {_short(name)} is not known")
        elif not _DIT_ARGUMENTS[name][0](value):
            raise ValueError(f"{name} must be {_DIT_ARGUMENTS[name][1]}, got {_short(value)}")


def check_arguments(args: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments that are missing, of another type, or beyond any network.

    Parameters
    ----------
    args : Mapping[str, Any]
        By name, as ``args.json`` has them; unknown names are left to the builder of the network
    """
    missing = [name for name in _NEEDED if name not in args]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)}")
    for name, value in args.items():
        check, words = _ARGUMENTS.get(name, (None, ""))
        if check is not None and not check(value):
            raise ValueError(f"{name} must be {words}, got {_short(value)}")
    kind, features = args.get("model_type", "SongUNetPosEmbd"), args.get("N_grid_channels", 4)
    has, names = kind.startswith("SongUNetPos"), args.get("gridtype", "sinusoidal") is not None
    if features and has != names and "gridtype" in args and kind.startswith("SongUNet"):
        raise ValueError(f"gridtype {args['gridtype']!r} does not go with a {kind}")
    placed = place_features(args)
    if placed is not None and args.get("N_grid_channels", 4) * placed[0] * placed[1] > MOST_FEATURES:
        raise ValueError(f"position features of {placed} points have more than {MOST_FEATURES} numbers")


def place_features(args: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) of the position features that a network of checked arguments computes; None without any."""
    placed = args.get("model_type", "SongUNetPosEmbd").startswith("SongUNetPos")
    if not placed or args.get("gridtype") == "learnable":  # those are weights
        return None
    side = args["img_resolution"]
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    text = repr(value) if not isinstance(value, list | dict) or len(value) <= 20 else type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}…"
