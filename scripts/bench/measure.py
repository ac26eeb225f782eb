# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One case: every variant's error and time, interleaved, as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.networks.float32 import full_float32

from . import counts, roofline, stock
from .cases import OUTPUTS, Problem
from .roofline import Peaks
from .rows import Row
from .timing import Timing, clock_of, interleave, warm_up
from .variants import Ours, Run, Stock, Variant, work

EXACT = 1e-5  # relative error that fp32 may have
Errors = Mapping[str, tuple[float, bool]]  # of each variant; and whether all bits are equal


@dataclass(frozen=True)
class Case:
    """What is timed, and with how many members in it."""

    what: str
    members: int


def relative_error(found: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over that of the reference."""
    found, reference = found.double(), reference.double()
    return float((found - reference).norm() / reference.norm())


def normalised(fields: Tensor) -> Tensor:
    """Physical fields in units of their spread: the 295 K of a temperature would hide any error."""
    center, scale = (
        torch.tensor(values, device=fields.device, dtype=torch.float64).view(-1, 1, 1)
        for values in (OUTPUTS.center, OUTPUTS.scale)
    )
    return (fields.double() - center) / scale


@dataclass(frozen=True)
class _Warm:
    """What the first calls of a variant gave."""

    fields: Tensor
    first: float
    repeats: int
    memory: int | None


class Bench:
    """All cases of one size.

    Parameters
    ----------
    problem : Problem
        Weights and inputs
    variants : Sequence[Variant]
        Stock fp32 first
    reference : Variant | None
        What errors are measured against; None for the first variant's own result
    peaks : Peaks
        Of the machine, for the precisions of the variants
    rounds : int
        Samples per variant
    all_sigmas : bool
        Judge the error of a step at every noise level, and not at the middle one alone
    """

    def __init__(
        self,
        problem: Problem,
        variants: Sequence[Variant],
        reference: Variant | None,
        peaks: Peaks,
        rounds: int,
        all_sigmas: bool,
    ) -> None:
        self.problem, self.variants, self.reference = problem, variants, reference
        self.peaks, self.rounds, self.all_sigmas = peaks, rounds, all_sigmas
        self.clock = clock_of(problem.device)
        self.sigma = problem.sigmas[len(problem.sigmas) // 2]

    @torch.inference_mode()
    def run(self, case: Case) -> list[Row]:
        """Time one case; the rows are in the order of the variants."""
        works = self._works(case, self.sigma)
        warm = {v.name: self._warm(v, works[v.name]) for v in self.variants if v.name in works}
        errors = [self._judge(case, self.sigma, {name: w.fields for name, w in warm.items()})]
        if case.what == "step" and self.all_sigmas:
            errors += [self._judge(case, sigma) for sigma in self.problem.sigmas if sigma != self.sigma]
        operations = operations_of(self.problem, self.variants[0], case)
        repeats = {name: w.repeats for name, w in warm.items()}
        timings = interleave(works, self.rounds, self.clock, repeats)
        return [
            self._row(case, v, timings, errors, warm[v.name], operations)
            for v in self.variants
            if v.name in works
        ]

    def _works(self, case: Case, sigma: float) -> dict[str, Run]:
        works = {v.name: work(v, case.what, case.members, sigma) for v in self.variants}
        return {name: run for name, run in works.items() if run is not None}

    def _warm(self, variant: Variant, run: Run) -> _Warm:
        fields: list[Tensor] = []

        def keep() -> None:
            fields[:] = [run()]

        compiled = isinstance(variant, Stock) and variant.compiled
        with stock.noise_of_the_host():
            first, repeats = warm_up(keep, self.clock, settle=math.inf if compiled else 2.0)
        return _Warm(fields[0], first, repeats, self._memory(run))

    def _memory(self, run: Run) -> int | None:
        if self.problem.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _judge(self, case: Case, sigma: float, outputs: Mapping[str, Tensor] | None = None) -> Errors:
        """Error of each variant at a noise level, and whether it has the bits of the reference."""
        with stock.noise_of_the_host():
            if outputs is None:
                outputs = {name: run() for name, run in self._works(case, sigma).items()}
            reference = self._exact(case, sigma, outputs[self.variants[0].name])
        if case.what == "ensemble":
            outputs = {name: normalised(fields) for name, fields in outputs.items()}
            reference = normalised(reference)
        return {n: (relative_error(y, reference), torch.equal(y, reference)) for n, y in outputs.items()}

    def _exact(self, case: Case, sigma: float, stock_fp32: Tensor) -> Tensor:
        """The reference: stock fp32 without TF32, or what was asked for instead."""
        on_cpu = self.problem.device.type == "cpu"
        run = self.reference and work(self.reference, case.what, case.members, sigma)
        if run is None and on_cpu:
            return stock_fp32
        run = run or work(self.variants[0], case.what, case.members, sigma)
        assert run is not None
        with full_float32(self.problem.device):
            return run()

    def _row(
        self,
        case: Case,
        variant: Variant,
        timings: Mapping[str, Timing],
        errors: Sequence[Errors],
        warm: _Warm,
        operations: Sequence[counts.Operation],
    ) -> Row:
        timing, base = timings[variant.name], timings[self.variants[0].name]
        same = self.same_type(variant)
        same = same if same in timings else None  # the loop has no types
        return Row(
            what=case.what,
            members=case.members,
            steps=self.problem.spec.sampling.steps,
            variant=variant.name,
            precision=variant.precision,
            seconds=timing.seconds,
            median=timing.median,
            low=timing.low,
            high=timing.high,
            first_call=warm.first,
            ratio=timing.ratio(base),
            ratio_same_type=timing.ratio(timings[same]) if same else None,
            error=max(at[variant.name][0] for at in errors),
            equal=all(at[variant.name][1] for at in errors),
            accepted=accepted(variant, same, errors),
            peak_memory=warm.memory,
            **self._rates(variant, operations, timing.median),
        )

    def same_type(self, variant: Variant) -> str | None:
        """Name of the stock operators in the type of a variant of ours."""
        if not isinstance(variant, Ours):
            return None
        names = {
            v.precision: v.name for v in reversed(self.variants) if isinstance(v, Stock) and not v.compiled
        }
        return names.get(variant.precision)

    def _rates(
        self, variant: Variant, operations: Sequence[counts.Operation], seconds: float
    ) -> dict[str, Any]:
        if not operations:
            return dict.fromkeys(("flop_rate", "byte_rate", "roofline", "roofline_ideal"))
        eager = isinstance(variant, Stock) and not variant.compiled
        moved = counts.elements(operations, "eager" if eager else "fused")
        least = {m: roofline.floor(operations, variant.precision, m, self.peaks) for m in counts.MODELS}
        return {
            "flop_rate": counts.flops(operations) / seconds,
            "byte_rate": moved * roofline.TYPES[variant.precision].itemsize / seconds,
            "roofline": least["fused"] / seconds,
            "roofline_ideal": least["ideal"] / seconds,
        }


def accepted(variant: Variant, same: str | None, errors: Sequence[Errors]) -> bool | None:
    """Whether a variant of ours keeps the error rule at every noise level; None for stock.

    The rule: at most 1e-5 in fp32, and in half precision at most the error of stock operators in that type,
    ``same``.
    """
    if not isinstance(variant, Ours):
        return None
    if variant.precision == "fp32" or same is None:
        return all(at[variant.name][0] <= EXACT for at in errors)
    return all(at[variant.name][0] <= at[same][0] for at in errors)


def operations_of(problem: Problem, variant: Variant, case: Case) -> list[counts.Operation]:
    """Operators of a case, counted on stock's networks."""
    assert isinstance(variant, Stock)
    side, steps = problem.size.side, problem.spec.sampling.steps

    def of(net: object, channels: int, batch: int) -> list[counts.Operation]:
        unet = getattr(net, "model")  # noqa: B009
        return counts.count(unet, (batch, channels, side, side))

    if case.what == "loop":
        return []
    if case.what == "regression":
        return of(variant.regression_net, problem.regression.image_channels, 1)
    step = of(variant.residual_net, problem.denoiser.image_channels, case.members)
    if case.what == "step":
        return step
    regression = of(variant.regression_net, problem.regression.image_channels, 1)
    return step * steps + (regression if case.what == "ensemble" else [])
