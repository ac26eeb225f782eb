# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The captured step of a GPU, and what is copied into it for each replay: acted on the CPU, run on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from fast_kit import COND, SIGMAS, fields, make_denoiser, noisy, with_gpu
from tiny import make_networks, make_spec, relerr, weather
from torch import Tensor

from earth2_corrdiff.model.diffusion.solvers import sample
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.fast import accelerate as module
from earth2_corrdiff.networks.fast.accelerate import FastDenoiser, accelerate
from earth2_corrdiff.networks.fast.executors import GRAPHS, TorchExecutor
from earth2_corrdiff.networks.fast.gpu import Row, TorchUNet
from earth2_corrdiff.networks.preconditioned import Denoiser

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SEEDS = [5, 2**31, 7]


class Recorder:
    """Stands in for a CUDA graph: computes again, from the same tensors and into the same tensors."""

    active: Recorder | None = None
    made: list[Recorder] = []

    def __init__(self) -> None:
        self.calls: list[tuple[TorchUNet, Tensor, Tensor, Row, Tensor]] = []
        self.replays = 0
        Recorder.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for unet, x, slab, row, out in self.calls:
            out.copy_(STEP(unet, x, slab, row))

    @contextlib.contextmanager
    def capture(self, **how: object) -> Iterator[None]:
        Recorder.active = self
        yield
        Recorder.active = None


STEP = TorchUNet.__call__


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Fast networks take the GPU's way on the CPU; the graphs that they made."""

    def recorded(unet: TorchUNet, x: Tensor, slab: Tensor, row: Row) -> Tensor:
        out = STEP(unet, x, slab, row)
        if Recorder.active is not None:
            Recorder.active.calls.append((unet, x, slab, row, out))
        return out

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = {
        "CUDAGraph": Recorder,
        "graph": Recorder.capture,
        "graph_pool_handle": lambda: None,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(TorchUNet, "__call__", recorded)
    monkeypatch.setattr(module, "executor_of", lambda net, p, *where: TorchExecutor(net, DTYPES[p], True))
    Recorder.made = []
    return Recorder.made


def eager(net: Denoiser, precision: str = "fp32") -> Callable[[Tensor, float, Tensor], Tensor]:
    run = TorchExecutor(net.model, DTYPES[precision], False)  # type: ignore[arg-type]
    level = FastDenoiser(net, precision)._level
    return lambda x, sigma, cond: run(x, run.prepare(cond), level(sigma))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replays_equal_eager_steps(graphs: list[Recorder], precision: str) -> None:
    """Other x, other noise levels, other conditionings in turn; and no result is written over by the next."""
    net = make_denoiser()
    fast, run = accelerate(net, precision), eager(net, precision)
    conds = [fields(seed=i)[1] for i in range(3)]
    given = [fast.given(cond) for cond in conds]
    jobs = [(i, sigma) for sigma in (*SIGMAS, SIGMAS[0]) for i in (0, 1, 1, 0, 2)]
    got = [given[i](noisy(fields(seed=10 + n)[0], sigma), sigma) for n, (i, sigma) in enumerate(jobs)]
    for n, (i, sigma) in enumerate(jobs):
        assert torch.equal(got[n], run(noisy(fields(seed=10 + n)[0], sigma), sigma, conds[i])), n
    assert len(graphs) == 1 and graphs[0].replays == len(jobs) and len(graphs[0].calls) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_conditioning_that_is_written_into_again(
    graphs: list[Recorder], layout: torch.memory_format
) -> None:
    """The same tensor with other values is another slab."""
    net = make_denoiser(model_type="SongUNet", N_grid_channels=0, img_in_channels=COND)
    fast, (x, cond) = accelerate(net, "fp32"), fields()
    buffer = torch.empty_like(cond, memory_format=layout)
    for seed in range(3):
        buffer.copy_(fields(seed=seed)[1])
        assert torch.equal(fast(x, 0.7, buffer), eager(net)(x, 0.7, buffer))
    assert len(graphs) == 1


@pytest.mark.slow
def test_shapes_in_turn(graphs: list[Recorder]) -> None:
    """Each has its graph; beyond ``GRAPHS`` the one that was not used for longest goes."""
    net = make_denoiser()
    fast, run = accelerate(net, "fp32"), eager(net)

    def step(batch: int) -> int:
        x, cond = fields(batch, seed=batch)
        assert torch.equal(fast(x, 0.7, cond[:1]), run(x, 0.7, cond[:1]))
        return len(graphs)

    assert [step(n) for n in (1, 2, 1, 2, 1)] == [1, 2, 2, 2, 2]
    assert [step(n) for n in range(3, GRAPHS + 1)] == list(range(3, GRAPHS + 1))
    assert [step(n) for n in (1, GRAPHS + 1, 1, 2)] == [GRAPHS, GRAPHS + 1, GRAPHS + 1, GRAPHS + 2]
    kept = fast.__dict__["_made"][1]._captured
    assert len(kept) == GRAPHS


def test_a_graph_of_a_run_in_inference_mode_works_outside(graphs: list[Recorder]) -> None:
    """A pipeline runs in inference mode, whose tensors cannot be written outside of it."""
    net, (x, cond) = make_denoiser(), fields()
    fast = accelerate(net, "fp32")
    with torch.inference_mode():
        first = fast(x, 0.7, cond)
    for sigma in (0.7, 3.0, 0.7):
        assert torch.equal(fast(x, sigma, cond), eager(net)(x, sigma, cond))
    with torch.inference_mode():
        assert torch.equal(fast(x, 0.7, cond), first)
    assert len(graphs) == 1


def test_other_weights_make_other_graphs(graphs: list[Recorder]) -> None:
    fast, (x, cond) = accelerate(make_denoiser(seed=1), "fp32"), fields()
    fast(x, 0.7, cond)
    fast.load_state_dict(make_denoiser(seed=2).state_dict())
    assert torch.equal(fast(x, 0.7, cond), eager(make_denoiser(seed=2))(x, 0.7, cond)) and len(graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_a_sampling_run_of_replays(
    graphs: list[Recorder], monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    """Two states, whose means are two slabs, and members after members."""
    spec = make_spec(sampling=Sampling(solver, 3))
    got = Downscaler(spec, *make_networks(spec), "fp32")(weather(2), SEEDS)
    assert len(graphs) == 2  # one of the regression, one of the denoiser
    monkeypatch.setattr(module, "executor_of", lambda net, p, *where: TorchExecutor(net, DTYPES[p], False))
    assert torch.equal(got, Downscaler(spec, *make_networks(spec), "fp32")(weather(2), SEEDS))


def test_threads_share_a_graph(graphs: list[Recorder]) -> None:
    fast = accelerate(make_denoiser(), "fp32")
    jobs = [(fields(seed=i), 0.2 + i) for i in range(9)]
    alone = [fast(x, sigma, cond) for (x, cond), sigma in jobs]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda job: fast(job[0][0], job[1], job[0][1]), jobs))
    assert all(torch.equal(a, b) for a, b in zip(got, alone, strict=True)) and len(graphs) == 1


@pytest.mark.gpu
@with_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_captured_step_on_a_gpu(precision: str) -> None:
    """Bit for bit the eager one, and the loop never waits for the device."""
    net = make_denoiser().to("cuda")
    fast, (x, cond) = accelerate(net, precision), fields(2)
    run = TorchExecutor(net.model, DTYPES[precision], False)
    slab, noise = run.prepare(cond[:1].to("cuda")), x.to("cuda")
    want = sample(lambda y, sigma: run(y, slab, fast._level(sigma)), noise, [*SIGMAS, 0.0], "heun")
    given = fast.given(cond[:1].to("cuda"))
    given(noise, SIGMAS[0])  # chooses kernels and captures, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = sample(given, noise, [*SIGMAS, 0.0], "heun")
        again = sample(given, noise, [*SIGMAS, 0.0], "heun")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, want) and torch.equal(again, want)
    net.exact = True  # PyTorch allows TF32
    exact = sample(net.given(cond[:1].to("cuda")), noise, [*SIGMAS, 0.0], "heun")
    assert relerr(got, exact) < (1e-5 if precision == "fp32" else 3e-2)
