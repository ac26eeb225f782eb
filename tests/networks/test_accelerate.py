# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fast networks against the plain ones: in one call, after a whole sampling run, and when misused."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fast_kit import COND, SIGMAS, fields, make_denoiser, make_regression, noisy, with_gpu
from loguru import logger
from tiny import make_downscaler, make_spec, relerr, weather
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.fast.accelerate import FastDenoiser, FastRegression, accelerate, resolve
from earth2_corrdiff.networks.kernels import cpu_conv
from earth2_corrdiff.networks.preconditioned import Denoiser, round_to_half, set_precision

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning"
)
FOREIGN = {"encoder_type": "residual"}
SEEDS = [5, 2**31, 7]
SOLVERS = ("euler", "heun", "stochastic", "dpmpp_2m", "trigflow")


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lines.append, level="INFO", format="{message}")
    yield lines
    logger.remove(handler)


@pytest.fixture(params=["kernels", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines of a CPU: the one with and the one without its own kernels."""
    if request.param == "torch":
        monkeypatch.setattr(cpu_conv, "available", lambda: False)
    elif not cpu_conv.available():
        pytest.skip("there is no C compiler for the kernels")
    return str(request.param)


# one call


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EDMPrecondSR", "EDMPrecondSuperResolution"])
def test_denoiser_in_every_precision(engine: str, name: str) -> None:
    """float32 to 3e-6; half precision no further from it than stock operators: the rule, at each sigma."""
    plain = make_denoiser(name)
    fast = {p: accelerate(plain, p) for p in ("fp32", "bf16", "fp16")}
    stock = {p: copy.deepcopy(plain) for p in ("bf16", "fp16")}
    for p, net in stock.items():
        set_precision(net, p)
    for sigma in SIGMAS:
        x, cond = fields(2)
        x = noisy(x, sigma)
        want = plain(x, sigma, cond)
        got = fast["fp32"](x, sigma, cond)
        assert got.dtype == torch.float32 and relerr(got, want) <= 3e-6
        for p, net in stock.items():
            assert relerr(fast[p](x, sigma, cond), want) <= relerr(net(x, sigma, cond), want), (p, sigma)


@pytest.mark.slow
def test_regression_in_every_precision(engine: str) -> None:
    for args in ({}, {"embedding_type": "positional"}, {"model_type": "SongUNet", "img_in_channels": COND}):
        plain = make_regression(**args)
        stock, cond = copy.deepcopy(plain), fields(2)[1]
        set_precision(stock, "bf16")
        want, half = plain(cond), accelerate(plain, "bf16")(cond)
        assert relerr(accelerate(plain, "fp32")(cond), want) <= 3e-6
        assert 1e-4 < relerr(half, want) <= relerr(stock(cond), want)
        assert torch.equal(accelerate(plain, "bf16")(cond[1:]), half[1:])


def test_weights_rounded_to_float16(engine: str) -> None:
    """Of checkpoints with ``use_fp16``: on a CPU, the rest is float32 here as upstream."""
    plain = make_denoiser()
    rounded, (x, cond) = copy.deepcopy(plain), fields()
    round_to_half(rounded)
    want = plain(x, 0.7, cond)
    assert 1e-4 < relerr(rounded(x, 0.7, cond), want)
    assert relerr(accelerate(rounded, "fp16")(x, 0.7, cond), rounded(x, 0.7, cond)) <= 3e-6


def test_the_same_call_signature() -> None:
    x, cond = fields(3)
    for plain in (make_denoiser(sigma_data=0.8, sigma_min=0.01, sigma_max=50.0), make_regression()):
        fast = accelerate(plain)
        assert isinstance(fast, FastRegression | FastDenoiser) and isinstance(fast, type(plain))
        for name in ("forward", "given")[: 1 + isinstance(plain, Denoiser)]:
            ours, theirs = (inspect.signature(getattr(net, name)) for net in (fast, plain))
            assert list(ours.parameters) == list(theirs.parameters)
        assert fast.state_dict().keys() == plain.state_dict().keys() and fast.origin is plain.origin
        assert fast.image_channels == plain.image_channels and not fast.training
        assert all(a is b for a, b in zip(fast.parameters(), plain.parameters(), strict=True))
    fast = accelerate(make_denoiser())
    every = fast(x, 0.7, cond)
    for i in range(3):  # each alone, all with one conditioning
        assert torch.equal(fast(x[i : i + 1], 0.7, cond[i : i + 1]), every[i : i + 1])
        assert torch.equal(fast.given(cond[i : i + 1])(x, 0.7)[i], every[i])
    with pytest.raises(ValueError, match="one sigma as a number"):
        fast(x, torch.tensor([0.5, 0.7, 0.9]), cond)
    with pytest.raises((ValueError, RuntimeError)):
        fast(x, 0.7, cond[:2])
    with pytest.raises(InputError, match="'int8'.*auto, fp32, bf16, fp16"):
        accelerate(make_denoiser(), "int8")


# which precision, which network


def test_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    net, cpu = make_denoiser(), torch.device("cpu")
    for kernels, instructions, want in (
        (True, False, "bf16"),
        (False, True, "bf16"),
        (False, False, "fp32"),
    ):
        monkeypatch.setattr(cpu_conv, "available", lambda kernels=kernels: kernels)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=instructions: has)
        assert resolve("auto", net, cpu) == want
        assert [resolve(p, net, cpu) for p in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


def test_auto_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    for has_bf16, use_fp16, want in ((True, False, "bf16"), (True, True, "fp16"), (False, False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16: has)
        assert resolve("auto", make_denoiser(use_fp16=use_fp16), gpu) == want
    assert resolve("auto", make_denoiser(), torch.device("meta")) == "fp32"


def test_auto_is_what_the_pipeline_says() -> None:
    spec = make_spec()
    auto = make_downscaler(spec, "auto", accelerated=True)
    same = make_downscaler(spec, auto.precision, accelerated=True)
    assert torch.equal(auto(weather(), SEEDS), same(weather(), SEEDS))
    assert make_downscaler(spec, "auto", accelerated=False).precision == "fp32"


def test_a_foreign_architecture_runs_as_it_is(upstream: object, said: list[str]) -> None:
    plain, (x, cond) = make_denoiser(**FOREIGN), fields()
    net = accelerate(plain)
    assert net is plain and len(said) == 1 and "PhysicsNeMo" in said[0] and "without" in said[0]
    assert torch.isfinite(net(x, 0.7, cond)).all()
    for precision in ("bf16", "fp16"):
        with pytest.raises(InputError, match=f"'{precision}'.*PhysicsNeMo.*fp32"):
            accelerate(plain, precision)


@pytest.mark.slow
def test_the_pipeline_of_a_foreign_architecture(upstream: object, said: list[str]) -> None:
    """One log line for each network, and upstream's bits."""
    spec = make_spec()
    made = make_downscaler(spec, "auto", accelerated=True, **FOREIGN)
    assert made.precision == "fp32" and len(said) == 2
    fast, plain = (make_downscaler(spec, "fp32", accelerated, **FOREIGN) for accelerated in (True, False))
    assert torch.equal(fast(weather(), SEEDS), plain(weather(), SEEDS))
    with pytest.raises(InputError, match="PhysicsNeMo"):
        make_downscaler(spec, "bf16", accelerated=True, **FOREIGN)


# the whole of a sampling run

WIDER = {"channel_mult": [1, 2, 2], "attn_resolutions": [8]}


def power(ensemble: Tensor) -> np.ndarray:
    """Power of each variable [Co, k] at each wavenumber, averaged over directions and members."""
    rows, columns = ensemble.shape[-2:]
    square = np.abs(np.fft.fft2(ensemble.double().numpy())) ** 2
    ky, kx = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    ring = np.rint(np.hypot(ky, kx) * min(rows, columns)).astype(int)
    bands = [square[..., ring == k].mean(axis=-1) for k in range(min(rows, columns) // 2 + 1)]
    return np.stack(bands, axis=-1).mean(axis=(0, 1))


def errors(got: Tensor, want: Tensor) -> tuple[float, float]:
    """Of the fields, relative to their spread, and of their spectrum, relative at the worst wavenumber."""
    centre = want.mean(dim=(0, 1, 3, 4), keepdim=True)
    spectrum = power(want)
    assert spectrum.min() > 0
    return relerr(got - centre, want - centre), float(np.abs(power(got) / spectrum - 1).max())


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_fields_and_spectra_after_a_sampling_run(solver: str) -> None:
    """The bars: 1e-5 and 1e-4 in float32; in bfloat16 2e-2 and 5e-2, and stock's."""
    spec = make_spec((32, 48), sampling=Sampling(solver, 4))

    def run(precision: str, accelerated: bool) -> Tensor:
        return make_downscaler(spec, precision, accelerated, **WIDER)(weather(), SEEDS[:2])

    want = run("fp32", False)
    assert (want[:, 0] - want[:, 1]).std() > 0.1 * want.std(dim=(0, 1, 3, 4)).min()
    for precision in ("fp32", "fp16")[: 1 + (solver == "euler")]:  # on a CPU, both are float32
        field, spectrum = errors(run(precision, True), want)
        assert field <= 1e-5 and spectrum <= 1e-4, (precision, field, spectrum)
    field, spectrum = errors(run("bf16", True), want)
    stock = errors(run("bf16", False), want)
    assert 1e-4 < field <= min(2e-2, stock[0]), (field, stock)
    assert spectrum <= max(5e-2, stock[1]), (spectrum, stock)  # of few members, at waves of little power


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_member_is_the_same_alone_and_in_any_batch(precision: str) -> None:
    model, x = make_downscaler(make_spec(sampling=Sampling("heun", 2)), precision, True), weather(2)
    alone = torch.stack([torch.cat([model(x[b : b + 1], [seed])[0] for seed in SEEDS]) for b in range(2)])
    assert len({float(member.double().sum()) for member in alone.flatten(0, 1)}) == 6
    for max_batch in (1, 2, 3):
        assert torch.equal(model(x, SEEDS, max_batch), alone)
    assert torch.equal(model(x.flip(0), SEEDS[::-1]), alone.flip(0, 1))


@pytest.mark.skipif(not cpu_conv.available(), reason="there is no C compiler for the kernels")
def test_out_of_memory_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the regression, and later in the sampler."""
    found = cpu_conv.library()
    assert found is not None
    left = 0

    def winograd(call: object) -> int:
        nonlocal left
        left -= 1
        return -1 if left < 0 else found.e2c_winograd(call)

    broken = SimpleNamespace(
        e2c_vector_length=found.e2c_vector_length,
        e2c_pointwise=found.e2c_pointwise,
        e2c_winograd=winograd,
    )
    monkeypatch.setattr(cpu_conv, "library", lambda: broken)
    model = make_downscaler(make_spec(), "bf16", True)
    for left in (0, 60):
        with pytest.raises(InputError, match="one member alone does not fit the memory.*scratch"):
            list(model.members(weather(), SEEDS))
        assert left < 0


# copies, other weights, other devices, training


@pytest.mark.slow
def test_copies(engine: str) -> None:
    """Before the first call and after it."""
    x, cond = fields()
    for net, args in ((make_denoiser(), (x, 0.7, cond)), (make_regression(), (cond,))):
        fast = accelerate(net, "bf16")
        early = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
        want = fast(*args)
        late = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
        for copied in (*early, *late):
            assert type(copied) is type(fast) and torch.equal(copied(*args), want)
        with torch.no_grad():
            next(late[0].parameters()).mul_(3)
        assert not torch.equal(late[0](*args), want) and torch.equal(fast(*args), want)


def other_weights(fast: nn.Module, plain: nn.Module) -> None:
    fast.load_state_dict(plain.state_dict())


def one_weight(fast: nn.Module, plain: nn.Module) -> None:
    """Of each kind, in place, and as a new parameter."""
    with torch.no_grad():
        for name in ("norm0.weight", "conv0.bias", "affine.weight"):
            block = fast.model.get_submodule("enc.16x16_block0")
            block.get_parameter(name).copy_(plain.model.get_submodule("enc.16x16_block0").get_parameter(name))
    fast.model.enc["16x16_conv"].weight = plain.model.enc["16x16_conv"].weight
    for name, value in plain.state_dict().items():
        if not torch.equal(fast.state_dict()[name], value):
            fast.get_parameter(name).data = value.clone()


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_weights, one_weight])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_change_after_the_first_call(
    engine: str, change: Callable[[nn.Module, nn.Module], None], precision: str
) -> None:
    x, cond = fields()
    for make, args in ((make_denoiser, (x, 0.7, cond)), (make_regression, (cond,))):
        fast, other = accelerate(make(seed=1), precision), accelerate(make(seed=2), precision)
        want, first = other(*args), fast(*args)
        change(fast, make(seed=2))
        assert not torch.equal(first, want) and torch.equal(fast(*args), want)


@pytest.mark.slow
def test_weights_that_change_one_by_one(engine: str) -> None:
    """None of any kind is overlooked."""
    (x, cond), fast = fields(), accelerate(make_denoiser(additive_pos_embed=True), "fp32")
    kinds = {tuple(name.split(".")[-2:]): tensor for name, tensor in fast.state_dict(keep_vars=True).items()}
    kinds |= {(name,): tensor for name, tensor in fast.named_buffers()}
    last = fast(x, 0.7, cond)
    for name, tensor in kinds.items():
        with torch.no_grad():
            tensor.view(-1)[0] += 0.5
        made, last = last, fast(x, 0.7, cond)
        assert torch.equal(made, last) == ("filter" in name[-1]), name  # the filter is not used
        assert relerr(last, Denoiser.forward(fast, x, 0.7, cond)) <= 3e-6


def test_other_devices() -> None:
    """The "meta" device stands in for a GPU: an engine there, none that mixes, and another one back here."""
    x, cond = fields()
    fast = accelerate(make_denoiser(), "fp32")
    want, state = fast(x, 0.7, cond), {k: v.clone() for k, v in fast.state_dict().items()}
    fast.to("meta")
    away = fast(x.to("meta"), 0.7, cond.to("meta"))
    assert away.device.type == "meta" and away.shape == x.shape and away.dtype == torch.float32
    for wrong in ((x, 0.7, cond), (x.to("meta"), 0.7, cond)):
        with pytest.raises(ValueError, match="the network is on meta"):
            fast(*wrong)
    fast.to_empty(device="cpu")
    fast.load_state_dict(state)
    fast.model.pos_embd.copy_(make_denoiser().model.pos_embd)
    if not hasattr(fast.model, "zero_emb"):
        fast.model.map_noise.load_state_dict(make_denoiser().model.map_noise.state_dict(), strict=False)
    got = fast(x, 0.7, cond)
    assert torch.equal(got, want)
    with pytest.raises((ValueError, RuntimeError)):
        fast(x.to("meta"), 0.7, cond)


@pytest.mark.slow
def test_training_and_gradients_run_the_plain_network(engine: str) -> None:
    """Silently detached results, or those of evaluation in training, would be worse than slow ones."""
    (x, cond), want = fields(2), {}
    for name in ("plain", "fast"):
        for kind, net in (("denoiser", make_denoiser(dropout=0.3)), ("regression", make_regression())):
            net = net if name == "plain" else accelerate(net, "bf16")
            args = (x, torch.tensor([0.5, 2.0]), cond) if kind == "denoiser" else (cond,)
            net.train().requires_grad_(True)
            torch.manual_seed(0)
            out = net(*args)
            out.square().mean().backward()
            made = [out.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]
            assert len(made) > 40
            if name == "plain":
                want[kind] = made
            assert all(torch.equal(a, b) for a, b in zip(made, want[kind], strict=True))
            with torch.no_grad():
                torch.manual_seed(0)
                assert torch.equal(net(*args), want[kind][0])
            net.eval()
            assert net(*args[:1], *((0.7, cond) if kind == "denoiser" else ())).requires_grad
            with torch.no_grad():
                assert not net(*args[:1], *((0.7, cond) if kind == "denoiser" else ())).requires_grad


@pytest.mark.slow
def test_gradients_with_respect_to_the_input() -> None:
    """As in guided sampling, of a network that is frozen itself."""
    plain, (x, cond) = make_denoiser(), fields()
    fast = accelerate(plain, "bf16")
    for run in (
        lambda net, x, cond: net(x, 0.7, cond),
        lambda net, x, cond: net.given(cond)(x, 0.7),
    ):
        for which in range(2):
            grads = []
            for net in (plain, fast):
                given = [x.clone(), cond.clone()]
                given[which].requires_grad_(True)
                run(net, *given).square().sum().backward()
                grads.append(given[which].grad)
            assert torch.equal(*grads) and grads[0].abs().max() > 0
    with torch.no_grad():
        assert not torch.equal(fast(x, 0.7, cond), plain(x, 0.7, cond))  # the fast one, again


def test_an_engine_made_in_inference_mode_works_outside(engine: str) -> None:
    x, cond = fields()
    fast = accelerate(make_denoiser(), "fp32")
    with torch.inference_mode():
        want = fast(x, 0.7, cond)
    assert torch.equal(fast(x, 0.7, cond), want)
    with torch.inference_mode():
        assert torch.equal(fast(x, 0.7, cond), want)


def test_pytorchs_default_dtype_does_not_matter(engine: str) -> None:
    (x, cond), plain, made = fields(), (make_denoiser(), make_regression()), []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            denoiser, regression = (accelerate(net, "bf16") for net in plain)
            made.append([denoiser(x, 0.7, cond), regression(cond)])
        finally:
            torch.set_default_dtype(torch.float32)
    for a, b in zip(*made, strict=True):
        assert b.dtype == torch.float32 and torch.equal(a, b)


def test_threads_share_a_network(engine: str) -> None:
    """From the first call on, which makes the engine."""
    fast = accelerate(make_denoiser(), "bf16")
    jobs = [(fields(seed=i), 0.2 + i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda job: fast(job[0][0], job[1], job[0][1]), jobs))
    assert all(torch.equal(y, fast(x, sigma, cond)) for y, ((x, cond), sigma) in zip(got, jobs, strict=True))


@pytest.mark.gpu
@with_gpu
def test_the_pipeline_on_a_gpu_agrees_with_the_cpu() -> None:
    spec = make_spec(sampling=replace(Sampling("heun", 3), double=False))
    want = make_downscaler(spec, "fp32", accelerated=False)(weather(2), SEEDS)
    for precision, bound in (("fp32", 5e-3), ("auto", 3e-2)):
        got = make_downscaler(spec, precision, accelerated=True).to("cuda")(weather(2).to("cuda"), SEEDS)
        assert errors(got.cpu(), want)[0] < bound
