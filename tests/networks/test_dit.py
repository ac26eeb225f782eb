# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""DiTs against PhysicsNeMo's, by way of its checkpoints; what no network has is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from axes import pairwise
from dit_kit import CHANNELS, CONDITION, OUT, fields, plain_attention, saved, upstream_dit, upstream_edm
from tiny import relerr

from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.preconditioned import DiTDenoiser, DiTMean, build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
BACKENDS: dict[str, dict[str, Any]] = {
    "timm": {"attention_backend": "timm", "attn_kwargs": {}},
    "timm, norms": {
        "attention_backend": "timm",
        "attn_kwargs": {"qk_norm_type": "RMSNorm", "scale_norm": True},
    },
    "timm, norm": {
        "attention_backend": "timm",
        "attn_kwargs": {"qk_norm_type": "LayerNorm", "qk_norm_affine": False},
    },
    "windows": {"attention_backend": "natten2d"},
    "windows, dilated": {
        "attention_backend": "natten2d",
        "attn_kwargs": {
            "attn_kernel": 3,
            "na2d_kwargs": {"dilation": 1, "scale": 0.3},
            "qk_norm": True,
            "qkv_bias": False,
        },
        "use_nan_mask_tokens": True,
        "tokenizer_kwargs": {"pos_embed": "none"},
    },
    "rotary": {},
    "rotary, norms": {"attn_kwargs": {"attn_kernel": 5, "qk_norm": True, "rope_theta": 100.0}},
}
EMBEDDERS: dict[str, dict[str, Any]] = {
    "dit": {},
    "dit, other waves": {
        "conditioning_embedder_kwargs": {
            "freq_embed_dim": 10,
            "mlp_hidden_dim": 24,
            "embed_fn": "np_sin_cos",
            "endpoint": True,
            "max_positions": 500,
        }
    },
    "edm": {
        "conditioning_embedder": "edm",
        "conditioning_embedder_kwargs": {"emb_channels": 32, "noise_channels": 12},
    },
    "no condition": {"condition_dim": None},
}
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"block_kwargs": {"mlp_drop_rate": 0.1, "norm_eps": 1e-5}},
    "convolutions": {"detokenizer": "proj_reshape_2d_conv"},
    "more convolutions": {
        "detokenizer": "proj_reshape_2d_conv",
        "detokenizer_kwargs": {"conv_layers": 3, "conv_hidden": 8, "conv_kernel": 5},
        "block_kwargs": {"mlp_drop_rate": 0.1, "final_mlp_dropout": False},
    },
}


@pytest.mark.parametrize(("backend", "embedder", "head"), pairwise(BACKENDS, EMBEDDERS, HEADS))
def test_dit_equals_upstream(tmp_path: Path, backend: str, embedder: str, head: str) -> None:
    theirs = upstream_dit(**BACKENDS[backend], **EMBEDDERS[embedder], **HEADS[head])
    ours = build(read_mdlus(saved(theirs, tmp_path))).model
    x, t, vector = fields(CHANNELS), torch.tensor([0.3, 700.0]), fields(CONDITION)[:, :, 0, 0]
    given = None if embedder == "no condition" else vector
    with torch.no_grad(), plain_attention():
        want = theirs.double()(x.double(), t.double(), None if given is None else given.double())
        assert want.std() > 0.05
        assert relerr(ours(x, t, given), want) < 1e-5
        ours.double()
        got = ours(x.double(), t.double(), None if given is None else given.double())
    assert relerr(got, want) < 1e-12


def test_wrapped_networks_equal_upstream(tmp_path: Path) -> None:
    """The mean, and diffusion with one sigma_data and one of each channel, for one and several levels."""
    theirs = upstream_dit(condition_dim=None)
    mean = build(read_mdlus(saved(theirs, tmp_path)))
    assert isinstance(mean, DiTMean) and (mean.image_channels, mean.out_channels) == (CHANNELS, OUT)
    x, cond = fields(OUT), fields(CHANNELS - OUT, seed=1)
    with torch.no_grad(), plain_attention():
        whole = fields(CHANNELS)
        assert relerr(mean(whole), theirs(whole, torch.zeros(2))) < 1e-5
        for sigma_data in (0.7, [0.3, 0.5, 2.0]):
            theirs = upstream_edm(sigma_data, condition_dim=None)
            ours = build(read_mdlus(saved(theirs, tmp_path)))
            assert isinstance(ours, DiTDenoiser) and ours.image_channels == CHANNELS
            for sigma in (0.002, 1.5, 800.0):
                noisy, level = x * max(sigma, 1), torch.full((2,), sigma)
                assert relerr(ours(noisy, sigma, cond), theirs(noisy, level, cond)) < 1e-5
            each = torch.tensor([0.05, 7.0])
            assert relerr(ours(x, each, cond), theirs(x, each, cond)) < 1e-5
        one = ours.given(cond[:1])(x, 2.0)
        assert one.dtype == torch.float32
        assert relerr(one, theirs(x, torch.full((2,), 2.0), cond[:1].expand(2, -1, -1, -1))) < 1e-5
