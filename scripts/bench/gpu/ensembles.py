# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""D: whole ensembles from the coarse tensor to physical fields, their errors, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.model.diffusion.noise import MemberNoise

from .. import stock
from ..measure import normalised
from ..timing import Work
from ..variants import Ours, Run, Stock
from .candidates import OURS, OURS_FP16, SHIPPED, Candidates, ensemble
from .meter import figures, relative_l2
from .record import Record
from .switches import tf32

RUNS = (("euler", 8), ("euler", 12), ("dpmpp_2m", 6))  # the last one is this package's alone
DEFAULT_BATCH = "ours bf16, default batch"
LARGE = 16  # members from which on the automatic batch is timed too, and float16 is not
SLOW = 4.0  # seconds of a first run after which there is no second one


def run(record: Record, found: Candidates, members: int) -> None:
    """Record the times of ensembles: all members in one batch, as stock has them."""
    for solver, steps in RUNS:
        works: dict[str, Work] = {}
        seconds: dict[str, float] = {}
        for name, work in _works(found, members, solver, steps).items():
            what = f"first ensemble of {members}, {solver} {steps}, {name}"
            taken = record.attempt(what, _warm, record, work, least=8)
            if taken is not None:
                works[name], seconds[name] = work, taken
        rounds = 5 if members == 1 else 3
        rows = figures(record.meter.interleave(works, rounds, share=0.25, seconds=seconds))
        record.put("ensembles", f"{members} members, {solver} {steps}", value=rows)
        said = {name: round(row["ms"], 1) for name, row in rows.items()}
        record.say(f"ensemble of {members}, {solver} {steps}, ms: {said}")
        record.free()


def _works(found: Candidates, members: int, solver: str, steps: int) -> dict[str, Run]:
    names = [*([SHIPPED] if solver == "euler" else []), OURS, *([OURS_FP16] if members < LARGE else [])]
    works = {
        name: ensemble(whole, members, solver, steps, members)
        for name in names
        if name in found.made and (whole := found.made[name].whole) is not None
    }
    if members >= LARGE and (solver, steps) == RUNS[0] and OURS in works:
        works[DEFAULT_BATCH] = ensemble(_ours(found), members, solver, steps, None)
    return works


def _ours(found: Candidates) -> Ours:
    whole = found.made[OURS].whole
    assert isinstance(whole, Ours)
    return whole


def _warm(record: Record, work: Work) -> float:
    """Seconds of the second run, where the first, which captures graphs, was not too slow."""
    first = record.meter.once(work)
    return first if first > SLOW or record.tiny else record.meter.once(work)


def errors(record: Record, found: Candidates) -> None:
    """Record relative L2 of the normalised fields of a whole run (Euler, 8 steps) with the same noise."""
    reference = found.made[found.reference].whole
    if not isinstance(reference, Stock):
        return
    members = 1 if record.tiny else 2

    def fields(whole: Stock | Ours, quick: bool) -> Tensor:
        with stock.noise_of_the_host(), tf32(quick):
            return normalised(ensemble(whole, members, *RUNS[0], members)())

    want = fields(reference, False)
    for name, candidate in found.made.items():
        if candidate.whole is not None and name != found.reference:
            got = record.attempt(f"whole run of {name}", fields, candidate.whole, True, least=5)
            if got is not None:
                record.put("errors of a whole run", name, value=relative_l2(got, want))
    record.say(f"errors of a whole run: {record.found.get('errors of a whole run')}")


def parts(record: Record, found: Candidates) -> None:
    """Record what an ensemble of ours does beside its steps."""
    problem, d = found.problem, _ours(found).downscaler
    cond, shape, many = d.condition(problem.coarse), problem.mean.shape[1:], 2 if record.tiny else LARGE

    def noise(members: int) -> Tensor:
        return MemberNoise(range(members), shape, record.device)()

    works: Mapping[str, Work] = {
        "conditioning": lambda: d.condition(problem.coarse),
        "regression": lambda: d.normalised_mean(cond),
        "noise of 1 member": lambda: noise(1),
        f"noise of {many} members": lambda: noise(many),
        "preparation of the denoiser": lambda: d.domain.given(cond, problem.mean, 1),
    }
    for work in works.values():
        work()
    rows = figures(record.meter.interleave(works, 5, share=0.3))
    record.put("parts of an ensemble, ms", value={name: row["ms"] for name, row in rows.items()})


def memory(record: Record, found: Candidates) -> None:
    """Record the automatic batch, with what PyTorch's cache holds now and without it."""
    d = _ours(found).downscaler
    with_cache = d.batch_size()
    record.free()
    row: dict[str, Any] = {"default batch with the cache": with_cache, "without": d.batch_size()}
    if record.cuda:
        row |= {
            "free GB": torch.cuda.mem_get_info()[0] / 1e9,
            "reserved GB": torch.cuda.memory_reserved() / 1e9,
        }
    record.put("memory", value=row)
