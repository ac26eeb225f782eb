# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""K: stock under torch.compile, with its compile time, against stock as shipped and this package."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..variants import Run, Stock
from .candidates import OURS, SHIPPED, Candidates, make_stock
from .meter import figures
from .record import Record

MODES = (("default", 30.0), ("reduce-overhead", 60.0))  # with the seconds that they want


@torch.inference_mode()
def run(record: Record) -> None:
    """Measure each mode against the two that are not compiled."""
    found = record.attempt("networks", partial(Candidates, record, (SHIPPED, OURS)), least=20)
    if found is None or found.module is None:
        return
    works: dict[str, Run] = {}
    for name in found.made:
        work = record.attempt(f"first step of {name}", _warm, found.made[name].step(1, found.sigma))
        if work is not None:
            works[name] = work
    for mode, least in MODES[: 1 if record.tiny else None]:
        work = record.attempt(f"compile, {mode}", _compiled, record, found, mode, least=least)
        if work is not None:
            works[f"{SHIPPED}, compiled, {mode}"] = work
            rows = figures(record.meter.interleave(works, 7, share=0.3))
            record.put("steps", value=rows)
            record.say(f"{mode}: { {name: round(row['ms'], 2) for name, row in rows.items()} }")


def _warm(work: Run) -> Run:
    for _ in range(2):
        work()
    return work


def _compiled(record: Record, found: Candidates, mode: str) -> Run:
    assert found.module is not None
    stock: Stock = make_stock(found.problem, found.module, "as shipped")
    stock.residual_net = torch.compile(stock.residual_net, mode=mode)
    work = stock.step(1, found.sigma)
    start = time.perf_counter()
    row: dict[str, Any] = {"peak GB": record.meter.peak(work)}
    row["first call s"] = time.perf_counter() - start
    record.put("compile", mode, value=row)
    for _ in range(3):
        work()

    def kept() -> Tensor:
        return work().clone()  # graphs of PyTorch's own write over their last result

    return kept if mode == "reduce-overhead" else work
