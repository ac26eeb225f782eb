# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Who is timed: stock Earth2Studio in a few types and this package in its precisions, told alike."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.model.diffusion.solvers import karras_sigmas, sample
from earth2_corrdiff.model.downscaler import Downscaler

from . import stock
from .cases import INPUTS, OUTPUTS, Problem
from .roofline import TYPES

WHAT = ("regression", "step", "loop", "sampler", "ensemble")
Run = Callable[[], Tensor]


class Variant(Protocol):
    """One way to compute everything."""

    name: str
    precision: str

    def denoiser(self) -> nn.Module:
        """The network that ``step`` calls."""
        ...

    def regression(self) -> Run:
        """One regression forward: ``[1, 4, H, W]``."""
        ...

    def step(self, members: int, sigma: float) -> Run:
        """One call of the denoiser: ``[M, 4, H, W]``."""
        ...

    def loop(self, members: int) -> Run | None:
        """The sampler with a network that costs nothing; None where another variant has the same loop."""
        ...

    def sampler(self, members: int) -> Run:
        """All steps: ``[M, 4, H, W]``, normalised."""
        ...

    def ensemble(self, members: int) -> Run:
        """From the coarse tensor to physical fields ``[M, 4, H, W]``."""
        ...


class _Stand:
    """A network that costs nothing, with the signature of both sides."""

    sigma_min, sigma_max = 0.0, float("inf")
    round_sigma = staticmethod(torch.as_tensor)

    def __call__(self, x: Tensor, *ignored: object, **also: object) -> Tensor:
        return 0.5 * x.to(torch.float32)


class Ours:
    """This package: whatever ``Downscaler`` makes of the networks in a precision."""

    def __init__(self, problem: Problem, precision: str) -> None:
        self.problem, self.asked = problem, precision
        copies = copy.deepcopy((problem.regression, problem.denoiser))
        self.downscaler = Downscaler(problem.spec, *copies, precision).to(problem.device)
        self.precision = self.downscaler.precision
        self.name = "ours " + (
            precision if precision == self.precision else f"{precision} ({self.precision})"
        )

    def denoiser(self) -> nn.Module:
        return self.downscaler.denoiser

    def regression(self) -> Run:
        cond = _regression_input(self.problem)
        return lambda: self.downscaler.regression(cond)

    def step(self, members: int, sigma: float) -> Run:
        x, cond = step_inputs(self.problem, members, sigma)
        denoise = self.downscaler.denoiser.given(cond)  # once per field, as the sampler does it
        return lambda: denoise(x, sigma)

    def loop(self, members: int) -> Run:
        p, s = self.problem, self.problem.spec.sampling
        dtype = torch.float64 if self.asked == "fp32" else torch.float32
        noise, net = p.noise[:members], _Stand()
        return lambda: sample(
            net, noise, karras_sigmas(s.steps, s.sigma_min, s.sigma_max, dtype=dtype), s.solver, dtype=dtype
        )

    def sampler(self, members: int) -> Run:
        p = self.problem
        seeds = stock.member_seeds(members, p.device)
        return lambda: self.downscaler.residual(p.cond, p.mean, seeds, None)

    def ensemble(self, members: int) -> Run:
        p = self.problem
        seeds = stock.member_seeds(members, p.device)
        return lambda: self.downscaler(p.coarse, seeds)[0]


def _regression_input(problem: Problem) -> Tensor:
    together = torch.cat([problem.cond, problem.position], dim=1)
    return together.contiguous(memory_format=torch.channels_last)


def step_inputs(problem: Problem, members: int, sigma: float) -> tuple[Tensor, Tensor]:
    """A noisy state ``[M, 4, H, W]`` as wide as the sampler's, and the conditioning ``[1, 16, H, W]``."""
    cond = torch.cat([problem.mean, problem.cond], dim=1).contiguous(memory_format=torch.channels_last)
    x = problem.noise[:members] * (sigma**2 + problem.denoiser.sigma_data**2) ** 0.5
    return x, cond


class Stock:
    """Stock ``CorrDiffTaiwan`` with the same weights.

    Parameters
    ----------
    problem : Problem
        Weights and inputs
    module : ModuleType
        ``earth2studio.models.dx.corrdiff``
    how : str
        A precision of ``TYPES`` for stock operators in that type, or "as shipped"
    compiled : bool, optional
        Whether ``torch.compile`` gets both networks, by default False
    """

    def __init__(self, problem: Problem, module: ModuleType, how: str, compiled: bool = False) -> None:
        self.name = f"stock {how}" + (", compiled" if compiled else "")
        self.problem = problem
        on_gpu = problem.device.type == "cuda"
        self.precision = how if how in TYPES else "fp16" if on_gpu else "fp32"
        nets: list[Any] = [
            stock.network(net).to(problem.device) for net in (problem.regression, problem.denoiser)
        ]
        if how == "as shipped":
            nets = [stock.as_shipped(net) for net in nets]
        elif how != "fp32":
            nets = [stock.in_type(net, TYPES[how]) for net in nets]
        if compiled:
            nets = [torch.compile(net) for net in nets]
        self.regression_net, self.residual_net = nets
        self.module, self.how, self.compiled = module, how, compiled
        self.model = self._model()

    def _model(self) -> Any:
        p = self.problem
        statistics = [
            torch.tensor(values, device=p.device).view(-1, 1, 1)
            for values in (INPUTS.center, INPUTS.scale, OUTPUTS.center, OUTPUTS.scale)
        ]
        grid = [torch.from_numpy(np.array(axis)).to(p.device) for axis in (p.outer.lat, p.outer.lon)]
        model = stock.taiwan_class(self.module, p.size.side)(
            self.residual_net, self.regression_net, *statistics, *grid, seed=0
        )
        model.number_of_steps = p.spec.sampling.steps
        return model.to(p.device)

    def denoiser(self) -> nn.Module:
        return cast(nn.Module, self.residual_net)

    def regression(self) -> Run:
        cond = _regression_input(self.problem)
        return lambda: self.model.unet_regression(self.regression_net, cond, len(OUTPUTS.names), 1)

    def step(self, members: int, sigma: float) -> Run:
        x, cond = step_inputs(self.problem, members, sigma)
        cond = cond.expand(members, -1, -1, -1)
        level = torch.tensor(sigma, device=self.problem.device)
        return lambda: self.residual_net(x, cond, level)

    def loop(self, members: int) -> Run | None:
        if self.how != "fp32" or self.compiled:
            return None
        p = self.problem
        draws = self.module.StackedRandomGenerator(p.device, stock.member_seeds(members, p.device))
        cond = p.cond.expand(members, -1, -1, -1)
        return lambda: self.module.deterministic_sampler(
            _Stand(),
            p.noise[:members],
            cond,
            randn_like=draws.randn_like,
            num_steps=p.spec.sampling.steps,
            solver="euler",
        )

    def sampler(self, members: int) -> Run:
        p = self.problem
        seeds = stock.member_seeds(members, p.device)
        solve = partial(self.module.deterministic_sampler, num_steps=p.spec.sampling.steps, solver="euler")
        return lambda: self.module.diffusion_step(
            net=self.residual_net,
            sampler_fn=solve,
            img_shape=tuple(p.cond.shape[2:]),
            img_out_channels=len(OUTPUTS.names),
            rank_batches=[seeds],
            img_lr=p.cond.expand(members, -1, -1, -1),
            rank=1,
            device=p.device,
            mean_hr=p.mean,
        )

    def ensemble(self, members: int) -> Run:
        p = self.problem
        coords = OrderedDict(self.model.input_coords(), batch=np.arange(1))

        def run() -> Tensor:
            self.model.number_of_samples = members
            fields: Tensor = self.model(p.coarse, coords)[0][0]
            return fields

        return run


def make_variants(
    problem: Problem, module: ModuleType, precisions: Sequence[str], compiled: bool
) -> list[Variant]:
    """The variants in the order of a round: stock in float32 first, then what was asked for."""
    made: list[Variant] = [Stock(problem, module, "fp32")]
    on_gpu = problem.device.type == "cuda"
    if on_gpu or "fp16" in precisions:
        made.append(Stock(problem, module, "as shipped"))
    halves = [p for p in precisions if p in ("bf16", "fp16") and not (on_gpu and p == "fp16")]
    made += [Stock(problem, module, half) for half in halves]
    if compiled:
        made += [Stock(problem, module, p, compiled=True) for p in precisions if p in TYPES]
    return [*made, *(Ours(problem, p) for p in precisions)]


def work(variant: Variant, what: str, members: int, sigma: float) -> Run | None:
    """What one variant does in one case; None where it has nothing of its own to do."""
    if what == "regression":
        return variant.regression()
    if what == "step":
        return variant.step(members, sigma)
    run: Run | None = getattr(variant, what)(members)
    return run
