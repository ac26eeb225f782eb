# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""DiTs against PhysicsNeMo's, by way of its checkpoints; what no network has is refused in a sentence."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from axes import pairwise
from dit_kit import (
    ARGS,
    CHANNELS,
    CONDITION,
    OUT,
    SIZE,
    fields,
    plain_attention,
    saved,
    stirred,
    upstream_dit,
    upstream_edm,
)
from tiny import relerr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.mdlus import Checkpoint, Nested, read_mdlus, write_mdlus
from earth2_corrdiff.networks.preconditioned import DiTDenoiser, DiTFlow, DiTMean, build, create

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


def test_rectified_flow_equals_upstream(tmp_path: Path) -> None:
    from physicsnemo.diffusion.utils import ConcatConditionWrapper
    from tensordict import TensorDict

    theirs = upstream_dit(attention_backend="natten2d")
    path, t = saved(theirs, tmp_path), 0.3
    ours, clean = (
        build(read_mdlus(path), None, lambda dit, kind=kind: DiTFlow(dit, kind, 500.0))
        for kind in ("flow", "x0")
    )
    assert isinstance(ours, DiTFlow) and isinstance(clean, DiTFlow)
    x, cond, vector = fields(OUT), fields(CHANNELS - OUT, seed=1), fields(CONDITION)[:1, :, 0, 0]
    given = {"cond_concat": cond[:1].expand(2, -1, -1, -1), "cond_vec": vector.expand(2, -1)}
    with torch.no_grad(), plain_attention():
        want = ConcatConditionWrapper(theirs)(
            x, torch.full((2,), 0.3 * 500), TensorDict(given, batch_size=[2])
        )
        y, sigma = x / (1 - t), t / (1 - t)
        assert relerr(clean.given(cond[:1], None, vector)(y, sigma), want) < 1e-5
        assert relerr(ours.given(cond[:1], None, vector)(y, sigma), x - t * want) < 1e-5
        assert relerr(ours(y, sigma, given["cond_concat"], None, given["cond_vec"]), x - t * want) < 1e-5
        with pytest.raises(InputError, match="position"):
            ours(x, 0.3, *given.values())
        for wrong in (None, vector[:, 1:]):
            with pytest.raises(InputError, match=f"condition of {CONDITION} numbers"):
                ours.given(cond[:1], None, wrong)(x, 0.3)
    with pytest.raises(InputError, match="prediction"):
        DiTFlow(ours.model, "noise")


def test_other_domains(tmp_path: Path) -> None:
    """Rotary positions suit any domain, learned positions and attention to all tokens their own."""
    size = (24, 28)
    theirs = upstream_dit(condition_dim=None, detokenizer="proj_reshape_2d_conv")
    mean, x = build(read_mdlus(saved(theirs, tmp_path))), fields(CHANNELS, size=size)
    theirs.detokenizer.proj.h_patches, theirs.detokenizer.proj.w_patches = tokens = 12, 7
    with torch.no_grad(), plain_attention():
        want = theirs(x, torch.zeros(2), attn_kwargs={"latent_hw": tokens})
        assert relerr(mean(x), want) < 1e-5
    assert mean.multiple == 4 and mean.shape_fault(size) is None
    for wrong, words in (((24, 26), "multiples of 2 x 4"), ((4, 28), "6 x 12 or more")):
        with pytest.raises(InputError, match=words):
            mean(fields(CHANNELS, size=wrong))
        assert words in (mean.shape_fault(wrong) or "")
    for change in (
        {"attention_backend": "natten2d"},
        {**BACKENDS["timm"], "tokenizer_kwargs": {"pos_embed": "none"}},
    ):
        fixed = build(Checkpoint("DiT", {**ARGS, **change}, upstream_dit(**change).state_dict(), "net.mdlus"))
        assert "made for 12 x 20" in (fixed.shape_fault(size) or "") and fixed.shape_fault(SIZE) is None


def test_gradients_equal_upstream() -> None:
    theirs = upstream_dit().double().train()
    ours = build(Checkpoint("DiT", ARGS, theirs.state_dict(), "")).model.double().requires_grad_().train()
    x, t, vector = (
        fields(CHANNELS).double(),
        torch.tensor([0.3, 2.0]).double(),
        fields(4)[:, :, 0, 0].double(),
    )
    with plain_attention():
        for net in (theirs, ours):
            (net(x, t, vector) ** 2).mean().backward()
    wanted = dict(theirs.named_parameters())
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for name, value in ours.named_parameters():
        assert relerr(value.grad, wanted[name].grad) < 1e-10, name


def test_a_fresh_network_begins_with_nothing() -> None:
    """adaLN-Zero; dropped paths leave the mean of a block as it is."""
    fresh = create(Checkpoint("DiT", {**ARGS, "detokenizer": "proj_reshape_2d_conv"}, {}, "")).model
    assert not fresh(fields(CHANNELS), torch.zeros(1)).any()
    dropping = create(Checkpoint("DiT", {**ARGS, "drop_path_rates": [0.9, 0.9]}, {}, "")).model
    stirred(dropping, 1).train()
    made = [dropping(fields(CHANNELS, 1), torch.zeros(1)) for _ in range(12)]
    assert len({float(image.sum()) for image in made}) > 1


def test_files_of_version_0_1_0(tmp_path: Path) -> None:
    kwargs = {"max_positions": 500}
    new = upstream_edm(conditioning_embedder_kwargs=kwargs)
    old = read_mdlus(saved(new, tmp_path))
    joined = old.args["model"]
    args = {k: v for k, v in joined.args["model"].args.items() if k != "conditioning_embedder_kwargs"}
    dit = Nested("DiT", {**args, "timestep_embed_kwargs": kwargs}, version="0.1.0")
    state = {key.replace("conditioning_embedder.t_emb", "t_emb"): value for key, value in old.state.items()}
    assert state.keys() != old.state.keys()
    want = build(old)
    got = build(replace(old, args={**old.args, "model": replace(joined, args={"model": dit})}, state=state))
    assert all(map(torch.equal, got.checkpoint_state().values(), want.checkpoint_state().values()))
    assert torch.equal(
        got.model.conditioning_embedder.t_embedder.freqs, want.model.conditioning_embedder.t_embedder.freqs
    )


def test_what_is_written_is_read_by_both(tmp_path: Path) -> None:
    from physicsnemo.core import Module

    theirs = upstream_edm([0.3, 0.5, 2.0])
    ours = build(read_mdlus(saved(theirs, tmp_path)))
    plain = Checkpoint("DiT", ARGS, upstream_dit().state_dict(), "")
    for wrap in (DiTMean, DiTDenoiser, DiTFlow):
        assert build(plain, None, wrap).checkpoint_state().keys() == plain.state.keys()
    fresh = {
        "model": Nested("ConcatConditionWrapper", {"model": Nested("DiT", ARGS)}),
        "sigma_data": [1, 1, 1],
    }
    write_mdlus(tmp_path / "own.mdlus", "EDMPreconditioner", "", fresh, ours.checkpoint_state())
    again = Module.from_checkpoint(str(tmp_path / "own.mdlus"))
    wanted = theirs.state_dict()
    for state in (again.state_dict(), build(read_mdlus(tmp_path / "own.mdlus")).checkpoint_state()):
        assert state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)


# what is refused

ODD: dict[str, tuple[dict[str, Any], str]] = {
    "transformer engine": ({"attention_backend": "transformer_engine"}, "attention_backend must be"),
    "tokens of a sphere": ({"tokenizer": "hpx_patch_embed"}, "tokenizer must be"),
    "a tokenizer of its own": ({"tokenizer": Nested("Mine", {})}, "tokenizer must be"),
    "no embedding": ({"conditioning_embedder": "zero"}, "conditioning_embedder must be"),
    "unknown": ({"colour": "red"}, "'colour' is not known"),
    "unknown inside": ({"attn_kwargs": {"na2d_kwargs": {"is_causal": True}}}, "'is_causal' is not known"),
    "of another part": ({"attn_kwargs": {"conv_layers": 2}}, "conv_layers"),
    "no size": ({"input_size": None}, "input_size must be"),
    "no multiple": ({"input_size": [12, 21]}, "no multiple"),
    "heads": ({"num_heads": 3}, "3 heads"),
    "pairs of channels": ({"num_heads": 16}, "16 heads"),
    "a text for a number": ({"mlp_ratio": "4"}, "mlp_ratio must be"),
    "endless": ({"depth": 10**9}, "depth must be"),
    "many waves": ({"conditioning_embedder_kwargs": {"freq_embed_dim": 10**12}}, "freq_embed_dim must be"),
    "another width": (
        {
            "conditioning_embedder": "edm",
            "conditioning_embedder_kwargs": {"emb_channels": 64, "noise_channels": 8},
        },
        "emb_channels of 64",
    ),
}


@pytest.mark.parametrize(("change", "words"), ODD.values(), ids=ODD.keys())
def test_arguments_of_no_network_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(Checkpoint("DiT", {**ARGS, **change}, {}, "net.mdlus"))


def test_weights_that_do_not_fit_are_refused() -> None:
    edm = {"model": Nested("ConcatConditionWrapper", {"model": Nested("DiT", ARGS)})}
    good = {f"model.model.{key}": value for key, value in upstream_dit().state_dict().items()}
    bias = "model.model.blocks.1.attention.proj.bias"
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        f"missing: {bias.removeprefix('model.model.')}": (edm, {k: v for k, v in good.items() if k != bias}),
        "unexpected: /blocks.0": (edm, {**good, "blocks.0.attention.proj.bias": good[bias]}),
        "not finite: model.blocks.1": (edm, {**good, bias: good[bias] * torch.nan}),
        "instead of": (edm, {**good, bias: good[bias][1:]}),
        "of 2 channels does not fit 3": ({**edm, "sigma_data": [1, 2]}, good),
        "positive": (edm, {**good, "sigma_data": torch.tensor(-1.0)}),
        "EDMPreconditioner of DiT is no": ({"model": Nested("DiT", ARGS)}, good),
        "EDMPreconditioner is no": ({}, good),
        "version '0.3.0'": (
            {"model": Nested("ConcatConditionWrapper", {"model": Nested("DiT", ARGS, "", "0.3.0")})},
            good,
        ),
    }
    for words, (args, state) in cases.items():
        with pytest.raises(InputError, match=words):
            build(Checkpoint("EDMPreconditioner", args, state, "net.mdlus"))
    with pytest.raises(InputError, match="holds a denoiser"):
        build(Checkpoint("EDMPreconditioner", edm, good, "net.mdlus"), None, DiTFlow)


@pytest.mark.parametrize(
    "args",
    [
        {"model": "__physicsnemo.Module__.other"},
        {"model": "__physicsnemo.Module__.model"},
        {"model": "__physicsnemo.Module__"},
    ],
)
def test_modules_that_are_not_there_are_refused(tmp_path: Path, args: dict[str, Any]) -> None:
    path = saved(upstream_dit(), tmp_path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "bad.mdlus", "w") as target:
        target.writestr("args.json", json.dumps({"__name__": "EDMPreconditioner", "__args__": args}))
        target.writestr("model.pt", source.read("model.pt"))
    with pytest.raises(InputError, match="is damaged"):
        read_mdlus(tmp_path / "bad.mdlus")


def test_modules_nested_without_end_are_refused(tmp_path: Path) -> None:
    write_mdlus(tmp_path / "deep.mdlus", "A", "a", {"model": chain(12)}, {})
    with pytest.raises(InputError, match="levels deep"):
        read_mdlus(tmp_path / "deep.mdlus")


def chain(length: int) -> Nested:
    return Nested("A", {"model": chain(length - 1)} if length else {})


def test_weights_of_a_file_are_not_drawn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device ``meta`` PyTorch imports its compiler for random numbers, which takes seconds."""
    state = upstream_dit().state_dict()
    monkeypatch.setattr(DiT, "initialise", lambda self: pytest.fail("drawn"))
    build(Checkpoint("DiT", ARGS, state, ""))
