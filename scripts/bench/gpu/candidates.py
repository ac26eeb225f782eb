# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""D: the denoiser of the published size in all ways that are compared, as steps and as whole ensembles."""

from __future__ import annotations

import copy
import importlib
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.networks.fast.accelerate import FastDenoiser

from .. import counts
from .. import stock as upstream
from ..cases import Problem, make_problem
from ..variants import Ours, Run, Stock, step_inputs
from .correctness import eager_step
from .layers import size_of
from .record import Record
from .switches import Undrawn, searching, tf32, within

STOCK_FP32, STOCK_TF32 = "stock fp32, no TF32", "stock fp32"
SHIPPED, STOCK_BF16 = "stock as shipped (fp16)", "stock bf16"
OURS, OURS_FP16, OURS_FP32 = "ours bf16", "ours fp16", "ours fp32"
SEARCHED = "ours bf16, cuDNN's search"
EAGER = {"bf16": "ours bf16, no graph", "fp16": "ours fp16, no graph"}
PLAIN = "plain fp32, no TF32"  # this package's operator by operator, where there is no stock
ALL = (
    *(STOCK_FP32, STOCK_TF32, SHIPPED, STOCK_BF16, PLAIN),
    *(OURS, OURS_FP16, OURS_FP32, SEARCHED, *EAGER.values()),
)
_CORRDIFF = "earth2studio.models.dx.corrdiff"


@dataclass(frozen=True)
class Candidate:
    """One way to compute a step.

    Attributes
    ----------
    precision : str
        "fp32", "tf32", "bf16" or "fp16": whose roofline it is held against
    step : Callable[[int, float], Run]
        A denoising step of so many members at a noise level
    whole : Stock | Ours | None
        What makes whole ensembles
    """

    precision: str
    step: Callable[[int, float], Run]
    whole: Stock | Ours | None = None


class Candidates:
    """Candidates by name, in the order of ``ALL``; one that cannot be made is missing.

    Parameters
    ----------
    record : Record
        Where it is recorded which are missing, and why
    names : tuple[str, ...], optional
        Those to make, by default all
    """

    @torch.inference_mode(False)  # networks are made as a user makes them
    def __init__(self, record: Record, names: tuple[str, ...] = ALL) -> None:
        self.record = record
        with Undrawn():
            self.problem = make_problem(size_of(record.tiny), 8, 2 if record.tiny else 16, record.device)
        self.module = record.attempt("stock", stock_module, least=10)
        self.made: dict[str, Candidate] = {}
        for name in names:
            made = None if self._is_no_case(name) else record.attempt(f"make {name}", self._make, name)
            if made is not None:
                self.made[name] = made
        record.say(f"made {', '.join(self.made)}")

    def _is_no_case(self, name: str) -> bool:
        has_stock = self.module is not None
        return name == PLAIN if has_stock else name.startswith("stock")

    @property
    def sigma(self) -> float:
        """The noise level in the middle of the schedule."""
        return self.problem.sigmas[len(self.problem.sigmas) // 2]

    @property
    def reference(self) -> str:
        """Name of what errors are measured against: float32 without TF32."""
        return STOCK_FP32 if STOCK_FP32 in self.made else PLAIN

    @cached_property
    def operations(self) -> list[counts.Operation]:
        """Operators of one step of one member, counted."""
        net: Any = self.problem.denoiser
        side = self.problem.size.side
        return counts.count(net.model, (1, net.image_channels, side, side))

    def _make(self, name: str) -> Candidate:
        if name == PLAIN:
            return self._plain()
        if name.startswith("stock"):
            return self._stock(name)
        precision = name.removeprefix("ours ").partition(",")[0]
        if name in EAGER.values():
            return Candidate(precision, partial(self._eager, precision))
        ours = Ours(self.problem, precision)
        if name == SEARCHED:
            return Candidate(precision, lambda members, sigma: within(searching, ours.step(members, sigma)))
        return Candidate(precision, ours.step, ours)

    def _stock(self, name: str) -> Candidate:
        how = {SHIPPED: "as shipped", STOCK_BF16: "bf16"}.get(name, "fp32")
        assert self.module is not None
        stock = self._same_stock(name) or make_stock(self.problem, self.module, how)
        if how != "fp32":
            return Candidate("fp16" if name == SHIPPED else "bf16", stock.step, stock)
        quick = name == STOCK_TF32
        switch = partial(tf32, quick)
        step = lambda members, sigma: within(switch, stock.step(members, sigma))  # noqa: E731
        return Candidate("tf32" if quick else "fp32", step, stock)

    def _same_stock(self, name: str) -> Stock | None:
        """Stock in float32 is the same with and without TF32."""
        found = self.made.get(STOCK_FP32) if name == STOCK_TF32 else None
        return found.whole if found is not None and isinstance(found.whole, Stock) else None

    def _plain(self) -> Candidate:
        net = copy.deepcopy(self.problem.denoiser).to(self.problem.device)
        net.to(memory_format=torch.channels_last)

        def step(members: int, sigma: float) -> Run:
            x, cond = step_inputs(self.problem, members, sigma)
            denoise = net.given(cond)
            return within(partial(tf32, False), lambda: denoise(x, sigma))

        return Candidate("fp32", step)

    def _eager(self, precision: str, members: int, sigma: float) -> Run:
        whole = self.made[f"ours {precision}"].whole
        assert isinstance(whole, Ours) and isinstance(whole.downscaler.denoiser, FastDenoiser)
        x, cond = step_inputs(self.problem, members, sigma)
        step = eager_step(whole.downscaler.denoiser, precision, cond)
        return lambda: step(x, sigma)


def make_stock(problem: Problem, module: types.ModuleType, how: str) -> Stock:
    """Stock with the problem's weights; its own are not drawn first."""
    with Undrawn(), torch.inference_mode(False):
        return Stock(problem, module, how)


def stock_module() -> types.ModuleType:
    """Earth2Studio's module of the stock class, without the other models of its package.

    Raises
    ------
    ModuleNotFoundError
        If Earth2Studio or PhysicsNeMo is not installed
    ImportError
        If it lacks something that the stock class needs
    """
    importlib.import_module("physicsnemo")
    models = importlib.import_module("earth2studio.models")
    parent = _CORRDIFF.rpartition(".")[0]
    bare = types.ModuleType(parent)
    bare.__path__ = [str(Path(p) / "dx") for p in models.__path__]
    added = parent not in sys.modules
    sys.modules.setdefault(parent, bare)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(_CORRDIFF)
    finally:
        if added:  # others may want the whole package
            del sys.modules[parent]
    if getattr(module, "StackedRandomGenerator", None) is None:
        raise ImportError(f"{_CORRDIFF} was imported without PhysicsNeMo's samplers")
    return module


def ensemble(whole: Stock | Ours, members: int, solver: str, steps: int, batch: int | None) -> Run:
    """From the coarse tensor to fields ``[M, 4, H, W]``; stock takes all members at once, with Euler.

    Parameters
    ----------
    whole : Stock | Ours
        Who does it
    members, solver, steps : int, str, int
        Of the run; the range of noise levels is the solver's own
    batch : int | None
        Most members at once; None for what the package chooses
    """
    if isinstance(whole, Stock):
        stock_run = whole.ensemble(members)

        def run() -> Tensor:
            whole.model.number_of_steps = steps
            return stock_run()

        return run
    d, coarse = whole.downscaler, whole.problem.coarse
    seeds = upstream.member_seeds(members, coarse.device)
    low, high = (0.05, 40.0) if solver == "dpmpp_2m" else (0.002, 80.0)
    sampling = replace(d.sampling, solver=solver, steps=steps, sigma_min=low, sigma_max=high)

    def ours() -> Tensor:
        fields: Tensor = d(coarse, seeds, batch, sampling=sampling)[0]
        return fields

    return ours
