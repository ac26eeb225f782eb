# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""F: milliseconds per patch of training recipes, from PhysicsNeMo's plain one to this package's."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import torch

from .candidates import stock_module
from .record import Record

ROUNDS = 5  # after one that warms up
COMPILES = 75.0  # seconds that must be left to compile
PARTS = ("regression", "forward", "backward", "optimiser")


@dataclass
class _Samples:
    """Of a recipe: seconds per round, those of its parts, and losses."""

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def run(record: Record) -> None:
    """Measure all recipes in turn, and the compiled one where there is time."""
    record.attempt("recipes", _all, record, least=0)


def _all(record: Record) -> None:
    from .. import recipes

    has_stock = record.attempt("stock", stock_module) is not None
    size = recipes.Size(16, 8, 1, 2) if record.tiny else recipes.Size(128, 128, 2, 8)
    record.put("size", value=str(size))
    variants = [v for v in recipes.VARIANTS if has_stock or v.norm]
    made = {}
    for variant in variants:
        recipe = record.attempt(f"make {variant.name}", recipes.Recipe, variant, size, record.device)
        if recipe is not None:
            made[variant.name] = recipe
    _rounds(record, size, made)
    if made and record.cuda and record.left() > COMPILES:
        name, last = recipes.COMPILED.name, list(made)[-1]
        compiled = record.attempt(f"make {name}", recipes.Recipe, recipes.COMPILED, size, record.device)
        if compiled is not None:
            _rounds(record, size, {last: made[last], name: compiled})


def _rounds(record: Record, size: Any, made: dict[str, Any]) -> None:
    """Record the recipes' times, A B C A B C …; the first round warms up."""
    from .. import recipes

    weather = recipes.Weather(recipes.fresh_model(size, record.device))
    samples = {name: _Samples() for name in made}
    for number in range((1 if record.tiny else ROUNDS) + 1):
        pairs = weather.pairs(number)
        for name in list(made):
            step = record.attempt(f"step of {name}", _step, record, made[name], pairs, number, least=4)
            if step is None:
                del made[name]
                continue
            seconds, loss, peak = step
            samples[name].losses.append(loss)
            if number:
                samples[name].seconds.append(seconds)
                samples[name].parts.append(dict(made[name].watch.seconds))
            else:
                record.put("recipes", name, value={"peak GB": peak})
        if number:
            _record_rows(record, size, {name: samples[name] for name in made})
        if not record.tiny and record.left() < 6:
            break


def _step(record: Record, recipe: Any, pairs: Any, number: int) -> tuple[float, float, float | None]:
    """Seconds and loss of a step, and the GB that were allocated at its peak."""
    recipe.watch.seconds.clear()
    if record.cuda:
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    seconds = record.meter.once(lambda: losses.append(recipe.step(pairs, number)))
    return seconds, losses[0], torch.cuda.max_memory_allocated() / 1e9 if record.cuda else None


def _record_rows(record: Record, size: Any, samples: dict[str, _Samples]) -> None:
    base = next(iter(samples.values()), _Samples()).seconds
    for name, found in samples.items():
        ratios = [a / b for a, b in zip(base, found.seconds, strict=False)]
        middle = {part: statistics.median(p.get(part, 0.0) for p in found.parts) for part in PARTS}
        row = {
            "ms per patch": 1e3 * statistics.median(found.seconds) / size.per_time,
            "parts, ms per patch": {part: 1e3 * s / size.per_time for part, s in middle.items()},
            "times faster than first": statistics.median(ratios),
            "first": next(iter(samples)),
            "rounds": len(found.seconds),
            "losses": found.losses,
        }
        record.update("recipes", name, value=row)
        record.say(f"{name}: {row['ms per patch']:.2f} ms per patch")
