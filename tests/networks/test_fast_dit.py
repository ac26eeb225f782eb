# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Accelerated DiTs: the plain one's results in float32, no more error than stock operators in bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from dit_kit import ARGS, CHANNELS, CONDITION, OUT, fields, plain_attention, stirred, upstream_dit
from meter import Meter
from tiny import relerr
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.dit import DiT, turned, turns_of
from earth2_corrdiff.networks.fast.accelerate import accelerate, resolve
from earth2_corrdiff.networks.kernels import cpu_norm, cpu_window
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.memory_model import memory_of_dit
from earth2_corrdiff.networks.preconditioned import DiTDenoiser, DiTFlow, DiTMean, build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
CPU = torch.device("cpu")


def network(wrap: Any = DiTMean, **change: Any) -> Any:
    args = {**ARGS, **change}
    state = stirred(DiT(**args)).state_dict()
    return build(Checkpoint("DiT", args, state, ""), None, wrap)


@pytest.mark.parametrize("wrap", [DiTMean, DiTDenoiser, DiTFlow])
def test_float32_is_the_plain_network(wrap: Any) -> None:
    plain = network(wrap, condition_dim=None)
    fast = accelerate(plain, "fp32")
    inputs = (fields(CHANNELS),) if wrap is DiTMean else (fields(OUT), 0.7, fields(CHANNELS - OUT))
    assert isinstance(fast, wrap) and fast.origin is plain.origin
    with torch.no_grad():
        assert relerr(fast(*inputs), plain(*inputs)) < 1e-6
        first = fast(*inputs)
        plain.model.blocks[0].attention.proj.weight.mul_(2)  # the weights are shared
        assert relerr(fast(*inputs), plain(*inputs)) < 1e-6 < relerr(first, plain(*inputs))
        assert torch.equal(copy.deepcopy(fast)(*inputs), fast(*inputs))


def test_bfloat16_keeps_the_error_rule() -> None:
    """Against float64; stock runs under autocast."""
    theirs = upstream_dit(detokenizer="proj_reshape_2d_conv")
    args = {**ARGS, "detokenizer": "proj_reshape_2d_conv"}
    net = accelerate(build(Checkpoint("DiT", args, theirs.state_dict(), ""), None, DiTFlow), "bf16")
    x, vector, t = fields(CHANNELS), fields(CONDITION)[:1, :, 0, 0], torch.full((2,), 299.7)
    with torch.no_grad(), plain_attention():
        ours = net(x[:, :OUT] / 0.7, 0.3 / 0.7, x[:, OUT:], None, vector)
        with torch.autocast("cpu", torch.bfloat16):
            stock = theirs(x, t, vector)
        want = theirs.double()(x.double(), t.double(), vector.double())
    assert 1e-4 < relerr(ours, want) <= relerr(stock, want)


def test_new_weights_are_cast_anew() -> None:
    plain = network(condition_dim=None)
    fast, x = accelerate(plain, "bf16"), fields(CHANNELS)
    with torch.no_grad():
        first = fast(x)
        assert torch.equal(first, fast(x))
        own, cast = (net.state_dict() for net in (plain.model, fast._executor(CPU)))
        assert all(
            (own[key].data_ptr() == cast[key].data_ptr()) == (own[key].dtype == cast[key].dtype)
            for key in own
        )
        plain.model.blocks[1].linear["layers"][0].weight.zero_()
        assert relerr(fast(x), plain(x)) < 0.05 < relerr(first, plain(x))


def test_gradients_go_through_the_plain_network() -> None:
    plain = network(condition_dim=None)
    fast, x = accelerate(plain, "bf16"), fields(CHANNELS).requires_grad_()
    assert torch.equal(fast(x), plain(x))
    fast(x).sum().backward()
    assert x.grad is not None and x.grad.std() > 0


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = accelerate(network())
    for has, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert resolve("auto", fast, CPU) == wanted and resolve("fp32", fast, CPU) == "fp32"
    for wrong in ({"maps": "host"}, {"precision": "fp8"}):
        with pytest.raises(InputError):
            accelerate(network(), **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "change",
    [{}, {"attention_backend": "natten2d", "mlp_ratio": 0.5}, {"detokenizer": "proj_reshape_2d_conv"}],
)
def test_memory_model(dtype: torch.dtype, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model says holds what a call takes, as on a GPU: without the CPU's kernels."""
    monkeypatch.setattr(cpu_norm, "supports_residual", lambda x: False)
    monkeypatch.setattr(cpu_window, "supports", lambda q, k, v: False)
    size = (48, 72)
    net = DiT(**{**ARGS, "input_size": size, **change}).requires_grad_(False)
    net.cast(dtype)
    x, t = fields(CHANNELS, 1, size=size), torch.zeros(1)
    with torch.no_grad(), Meter(net) as meter:
        net(x, t)
    assert meter.peak <= memory_of_dit(net, size, dtype) <= 2.2 * meter.peak


@pytest.mark.parametrize("count", [1, 17, 8195])
def test_gelu_of_the_own_kernel(count: int) -> None:
    x = 4 * torch.randn(count, generator=torch.Generator().manual_seed(0))
    if not cpu_norm.supports_residual(x):
        pytest.skip("there is no C compiler")
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):
        given = x.to(dtype)
        want = F.gelu(given.double(), approximate="tanh")
        assert torch.allclose(cpu_norm.gelu_(given).double(), want, rtol=bound, atol=bound / 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_by_the_own_kernel(dtype: torch.dtype) -> None:
    """Of a view as attention has it, in place; the values beside it stay."""
    h, w, heads, dim = 3, 5, 2, 12
    qkv = torch.randn(2, h, w, 3, heads, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept, turns = qkv.clone(), turns_of((h, w), dim, 100.0, CPU)
    q = qkv[:, :, :, 0]
    if not cpu_norm.supports_turn(q):
        pytest.skip("there is no C compiler")
    want = turned(q.double(), turns)
    with torch.no_grad():
        got = turned(q, turns)
    assert got is q and relerr(got, want) < (1e-6 if dtype is torch.float32 else 3e-3)
    assert torch.equal(qkv[:, :, :, 1:], kept[:, :, :, 1:]) and not torch.equal(q, kept[:, :, :, 0])
