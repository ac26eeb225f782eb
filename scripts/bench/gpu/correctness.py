# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""B: captured graphs against eager steps, DiTs, host waits in the samplers' loops, and members in batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.model.diffusion.solvers import SOLVERS, karras_sigmas, sample
from earth2_corrdiff.networks.fast.accelerate import FastDenoiser, accelerate
from earth2_corrdiff.networks.fast.executors import TorchExecutor
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import PRECISIONS, DiTDenoiser, create

from ..cases import SIZES, Problem, make_problem
from ..variants import Ours, step_inputs
from . import demo
from .meter import relative_l2
from .record import Record
from .switches import Undrawn, tf32

NO_WAIT = "no wait"
# batches and noise levels in turn: each change must reach the captured graph
CALLS = ((1, 80.0), (4, 3.0), (1, 0.05), (2, 1.0), (4, 80.0), (1, 3.0))
Step = Callable[[Tensor, float], Tensor]


def run(record: Record) -> None:
    """Check all of them; the width and depth of the published network at a quarter of its side."""
    problem = record.attempt("problem", _problem, record)
    if problem is not None:
        for precision in ("bf16", "fp16", "fp32"):
            record.attempt(f"graph {precision}", graph, record, problem, precision, least=8)
        record.attempt("batches", batches, record, problem, least=8)
        for precision in ("bf16", "fp32"):
            record.attempt(f"host waits {precision}", host_waits, record, problem, precision, least=8)
        record.attempt("default batch", default_batch, record, problem, least=8)
        del problem
        record.free()
    for precision in ("fp32", "bf16", "fp16"):
        record.attempt(f"DiT {precision}", transformer, record, precision, least=8)
    record.attempt("demo", demo.run, record, least=15)


def _problem(record: Record) -> Problem:
    with Undrawn():
        return make_problem(SIZES["tiny" if record.tiny else "mid"], 6, 4, record.device)


def eager_step(net: FastDenoiser, precision: str, cond: Tensor) -> Step:
    """A denoising step of the operators that a captured graph has, launched one by one."""
    model: Any = net.model
    engine = TorchExecutor(model, PRECISIONS[precision], False)
    slab = engine.prepare(cond)
    return lambda x, sigma: engine(x, slab, net._level(sigma))


@torch.inference_mode()
def graph(record: Record, problem: Problem, precision: str) -> None:
    """Record whether replays have the bits of the eager step; on a CPU, which captures none, its error."""
    plain = copy.deepcopy(problem.denoiser).to(record.device)
    fast = accelerate(plain, precision)
    assert isinstance(fast, FastDenoiser)
    equal, worst = True, 0.0
    for number, (members, sigma) in enumerate(CALLS):
        x, cond = step_inputs(problem, members, sigma)
        cond = cond * (1 + 0.1 * number)
        given, want = fast.given(cond), eager_step(fast, precision, cond)(x, sigma)
        for got in [given(x, sigma) for _ in range(3)]:
            equal, worst = equal and torch.equal(got, want), max(worst, relative_l2(got, want))
    x, cond = step_inputs(problem, 2, 1.0)
    with tf32(False):
        exact = plain.given(cond)(x, 1.0)
    row: dict[str, Any] = {"equal": equal} if record.cuda else {}
    row |= {"error to eager": worst, "error to fp32": relative_l2(fast.given(cond)(x, 1.0), exact)}
    record.put("graph", precision, value=row)
    record.say(f"graph {precision}: {row}")


DIT = {
    **{"attention_backend": "natten2d_rope", "attn_kwargs": {"attn_kernel": 13}},
    **{"in_channels": 16, "out_channels": 4, "patch_size": 2, "hidden_size": 256, "depth": 4, "num_heads": 4},
}


@torch.inference_mode()
def transformer(record: Record, precision: str) -> None:
    """Record the error of a DiT with rotary windows against the CPU's in float32, and its memory."""
    size = (28, 36) if record.tiny else (192, 256)
    with torch.inference_mode(False):
        net: Any = create(Checkpoint("DiT", {"input_size": size, **DIT}, {}, ""), None, DiTDenoiser).eval()
        generator = torch.Generator().manual_seed(0)
        for value in net.requires_grad_(False).parameters():
            value.add_(0.03 * torch.randn(value.shape, generator=generator))
    x, cond = (torch.randn(1, c, *size, generator=generator) for c in (4, 12))
    want = net.given(cond)(x, 1.0)
    fast = accelerate(copy.deepcopy(net).to(record.device), precision)
    given, x = fast.given(cond.to(record.device)), x.to(record.device)
    row: dict[str, Any] = {"error to the CPU": relative_l2(given(x, 1.0).cpu(), want)}
    peak = record.meter.peak(lambda: given(x, 1.0))
    row |= {} if peak is None else {"peak GB": peak, "as predicted": peak * 1e9 / fast.member_bytes(size)}
    record.put("DiT", precision, value=row)
    record.say(f"DiT {precision}: {row}")


def batches(record: Record, problem: Problem) -> None:
    """Record a member alone against the same member in company, and whether a run repeats its bits."""
    d = Ours(problem, "bf16").downscaler
    seeds = [3, 5, 8, 13]

    def normalised(fields: Tensor) -> Tensor:
        return (fields - d.center_out) / d.scale_out

    together, again = (normalised(d(problem.coarse, seeds, 4)) for _ in range(2))
    alone = torch.cat([normalised(d(problem.coarse, [seed], 1)) for seed in seeds], dim=1)
    row = {
        "same run again, same bits": torch.equal(together, again),
        "alone against together, error": relative_l2(alone, together),
    }
    record.put("batches", value=row)
    record.say(f"batches: {row}")


@torch.inference_mode()
def host_waits(record: Record, problem: Problem, precision: str) -> None:
    """Record per solver whether its loop makes the host wait, which PyTorch's check raises on a GPU."""
    net = Ours(problem, precision).downscaler.denoiser
    cond = torch.cat([problem.mean, problem.cond], dim=1)
    dtype = torch.float64 if precision == "fp32" else torch.float32
    noise, zeros = problem.noise[:2], torch.zeros_like(problem.noise[:2])
    sigmas = karras_sigmas(4, 0.05, 40)

    def loop(solver: str) -> Tensor:
        return sample(net.given(cond), noise, sigmas, solver, draw=lambda: zeros, dtype=dtype)

    for solver in SOLVERS:
        loop(solver)  # captures and compiles, which may wait
        record.put("host waits", f"{precision} {solver}", value=_said_of_waits(record, solver, loop))
    record.say(f"host waits: {record.found['host waits']}")


def _said_of_waits(record: Record, solver: str, loop: Callable[[str], Tensor]) -> str:
    if not record.cuda:
        loop(solver)
        return NO_WAIT
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop(solver)
    except RuntimeError as error:
        return str(error)[:300]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return NO_WAIT


def default_batch(record: Record, problem: Problem) -> None:
    """Record the automatic batch before a run and after each of two, when PyTorch holds memory."""
    d = Ours(problem, "bf16").downscaler
    found = [d.batch_size()]
    for _ in range(2):
        d(problem.coarse, list(range(4)))
        found.append(d.batch_size())
    record.put("default batch", value=found)
    record.say(f"default batch: {found}")
