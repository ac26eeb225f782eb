# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""D: one denoising step at the published size: errors, times against stock and the roofline, profiles."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .. import counts, roofline
from ..variants import Run
from . import ensembles, profiles
from .candidates import EAGER, OURS, OURS_FP16, PLAIN, SHIPPED, STOCK_TF32, Candidates
from .ceilings import WAYS, peaks_of, type_of
from .meter import figures, relative_l2
from .record import Record

PROFILED = (SHIPPED, OURS, EAGER["bf16"])
ROUNDS = {1: 9, 4: 5}  # by batch
FEWER_ROUNDS = 3  # of larger batches
LARGE = 16  # a batch whose captured graphs hold much memory


@torch.inference_mode()
def run(record: Record) -> None:
    """Measure steps of all batches, then ensembles, the largest first: it is what a run is about."""
    found = record.attempt("networks", Candidates, record, least=20)
    if found is None:
        return
    record.attempt("errors", errors, record, found, least=10)
    batches = (1, 2) if record.tiny else (1, 4, LARGE)
    for number, batch in enumerate(batches):
        few = [SHIPPED, PLAIN, OURS, *([OURS_FP16] if batch < LARGE else []), STOCK_TF32]
        record.attempt(f"steps, batch {batch}", steps, record, found, batch, few if number else found.made)
    for name in PROFILED:
        if name in found.made:
            record.attempt(f"profile of {name}", _profile, record, found, name, least=8)
    for members in reversed(batches):
        record.attempt(f"ensembles of {members}", ensembles.run, record, found, members, least=15)
    record.attempt("errors of a whole run", ensembles.errors, record, found, least=15)
    record.attempt("parts of an ensemble", ensembles.parts, record, found, least=8)
    record.attempt("memory", ensembles.memory, record, found, least=8)


def _profile(record: Record, found: Candidates, name: str) -> None:
    profiles.profile_of(record, name, found.made[name].step(1, found.sigma))


def errors(record: Record, found: Candidates) -> None:
    """Record relative L2 to float32 at three noise levels, and whether graphs equal eager steps."""
    sigmas = found.problem.sigmas
    for sigma in (sigmas[0], found.sigma, sigmas[-1]):
        want = found.made[found.reference].step(1, sigma)().clone()
        outputs: dict[str, Tensor] = {}
        for name, candidate in found.made.items():
            got = record.attempt(f"error of {name}", lambda c=candidate, s=sigma: c.step(1, s)(), least=3)
            if got is not None and name != found.reference:
                outputs[name] = got
                error = relative_l2(got, want)
                record.put("errors", name, f"sigma {sigma:.3g}", value=error)
        for precision, eager in EAGER.items():
            pair = [outputs.get(name) for name in (f"ours {precision}", eager)]
            if record.cuda and pair[0] is not None and pair[1] is not None:
                equal = torch.equal(pair[0], pair[1])
                record.put("graph equals eager", f"{precision}, sigma {sigma:.3g}", value=equal)
    record.say(f"errors: {record.found.get('errors')}")


def steps(record: Record, found: Candidates, batch: int, names: Iterable[str]) -> None:
    """Record the times of a step of so many members, in turn; rates; memory."""
    works: dict[str, Run] = {}
    for name in names:
        if name in found.made:
            work = record.attempt(f"first step of {name}, batch {batch}", _warm, record, found, batch, name)
            if work is not None:
                works[name] = work
    rounds = ROUNDS.get(batch, FEWER_ROUNDS)
    for name, row in figures(record.meter.interleave(works, rounds, share=0.35)).items():
        row |= rates(record, found, name, batch, row["ms"] / 1e3)
        record.update("steps", f"batch {batch}", name, value=row)
        record.say(f"step of {name}, batch {batch}: {row['ms']:.2f} ms")
    works.clear()
    record.free()


def _warm(record: Record, found: Candidates, batch: int, name: str) -> Run:
    """A step that has run: its kernels are chosen and its graph is captured."""
    work = found.made[name].step(batch, found.sigma)
    start = time.perf_counter()
    peak = record.meter.peak(work)
    first = time.perf_counter() - start
    record.put("steps", f"batch {batch}", name, value={"first call s": round(first, 2), "peak GB": peak})
    work()
    return work


def rates(record: Record, found: Candidates, name: str, batch: int, seconds: float) -> dict[str, Any]:
    """TFLOP/s, and the shares of the rooflines at the ceilings that section A measured on this card."""
    precision, ceilings = found.made[name].precision, record.task.ceilings
    # weights are counted once per member: a little too much for batches
    row = {"TFLOP/s": batch * counts.flops(found.operations) / seconds / 1e12}
    peaks = peaks_of(ceilings, precision)
    if peaks is not None:
        for model in counts.MODELS:
            least = batch * roofline.floor(found.operations, type_of(precision), model, peaks)
            row[f"of roofline, {model}"] = least / seconds
    alone = ceilings.get("convolutions of a step, ms", {}).get(f"batch {batch}", {}).get(WAYS[0])
    if alone and precision in ("bf16", "fp16"):
        row["convolutions alone, share"] = alone / 1e3 / seconds
    return row
