# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command bench-training.py: what each optimisation of the training gives; that all learn the same."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.provenance import command, machine, settings, versions
from bench.recipes import COMPILED, PLAIN, VARIANTS, Recipe, Size, Stopwatch, Variant, Weather, fresh_model
from bench.report import columns, markdown
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.training.log import COLUMNS, draw

PARTS = ("regression", "forward", "backward")
HEADER = (
    "cumulative",
    "regression",
    "diffusion forward",
    "backward",
    "total ms/patch",
    "patches/s",
    "times plain",
)


@dataclass
class Samples:
    """Seconds per step of a variant, one entry per round."""

    total: list[float]
    parts: dict[str, list[float]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="bench-training.py", description=__doc__)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--patch", type=int, default=64, help="side of a patch; the domain has nine patch areas")
    p.add_argument("--per-time", type=int, default=16, help="patches of each time")
    p.add_argument("--channels", type=int, default=64, help="width of the U-Nets' first level")
    p.add_argument("--blocks", type=int, default=2, help="blocks per level")
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds, after one to warm up")
    p.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: its own)")
    p.add_argument(
        "--at-once", type=int, metavar="N", help="patches in one pass, where several are (default: all)"
    )
    p.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="with torch.compile at the end (default: on a GPU; on a CPU it takes minutes to compile)",
    )
    p.add_argument(
        "--curves", type=int, default=0, metavar="STEPS", help="train plain and last so many steps"
    )
    p.add_argument(
        "--output", type=Path, default=Path("outputs/bench-training"), help="folder for the results"
    )
    return p


def run(args: argparse.Namespace) -> None:
    """Time all variants, print the table, draw the loss curves."""
    if args.patch % 4 or min(args.patch, args.per_time, args.rounds, args.channels, args.blocks) < 1:
        raise InputError("--patch must be a multiple of 4, and all sizes and rounds 1 or more")
    if args.at_once is not None and args.at_once < 1:
        raise InputError("--at-once must be 1 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    size = Size(args.patch, args.channels, args.blocks, args.per_time, args.at_once)
    compiled = device.type == "cuda" if args.compile is None else args.compile
    variants = [*VARIANTS, *([COMPILED] if compiled else [])]
    about = {"machine": machine(device), "versions": versions(), "settings": settings(), "command": command()}
    samples = time_all(variants, size, device, args.rounds)
    rows = table(variants, samples, size)
    print(columns(HEADER, rows))
    print(f"\n{_caption(about, args.rounds, size)}")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "table.md").write_text(
        f"{markdown(HEADER, rows)}\n\n*{_caption(about, args.rounds, size)}*\n", encoding="utf-8"
    )
    stored = {name: asdict(value) for name, value in samples.items()}
    (args.output / "times.json").write_text(
        json.dumps({**about, "seconds": stored}, indent=1), encoding="utf-8"
    )
    if args.curves:
        print(curves(variants[-1], size, device, args.curves, args.output))


def time_all(
    variants: Sequence[Variant], size: Size, device: torch.device, rounds: int
) -> dict[str, Samples]:
    """Every variant in every round, A B C A B C …; the first round warms up and does not count."""
    recipes = [Recipe(variant, size, device) for variant in variants]
    weather = Weather(fresh_model(size, device))
    found = {variant.name: Samples([], {part: [] for part in PARTS}) for variant in variants}
    for number in range(rounds + 1):
        pairs = weather.pairs(number)
        for recipe in recipes:
            recipe.watch.seconds.clear()
            whole = Stopwatch(device)
            with whole.part("step"):
                recipe.step(pairs, number)
            if number:
                samples = found[recipe.variant.name]
                samples.total.append(whole.seconds["step"])
                for part in PARTS:
                    samples.parts[part].append(recipe.watch.seconds[part])
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return found


def table(variants: Sequence[Variant], samples: dict[str, Samples], size: Size) -> list[list[str]]:
    """Milliseconds per patch, patches per second, and the median of the ratios per round with its range."""
    plain, rows = samples[PLAIN.name], []
    for variant in variants:
        found = samples[variant.name]
        parts = [statistics.median(found.parts[part]) for part in PARTS]
        total = statistics.median(found.total)
        ratios = [before / after for before, after in zip(plain.total, found.total, strict=True)]
        cells = [f"{1e3 * seconds / size.per_time:.1f}" for seconds in (*parts, total)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([variant.name, *cells, f"{size.per_time / total:.1f}", spread])
    return rows


def _caption(about: dict[str, Any], rounds: int, size: Size) -> str:
    of, known, tf32 = about["machine"], about["versions"], about["settings"]["tf32 in convolutions"]
    passes = f", {size.at_once} of them in one pass" if size.at_once else ""
    loose = ", fp32 with TF32 in convolutions" if tf32 and "clocks and power" in of else ""
    return (
        f"{size.per_time} patches of {size.patch} x {size.patch} per time{passes}, "
        f"domain {size.side} x {size.side}, U-Nets of {size.channels} channels and {size.blocks} blocks; "
        f"milliseconds per patch, median of {rounds} interleaved rounds in one process; the total includes "
        f"the optimiser and the making of the images; ratios per round, median and range. "
        f"{of['device']}, {of['threads']} threads{loose}, "
        f"load {of['load'][0]:.1f}; "
        f"{', '.join(f'{name} {version}' for name, version in known.items() if version)}. {about['command']}"
    )


def curves(last: Variant, size: Size, device: torch.device, steps: int, folder: Path) -> str:
    """Train the plain and the last variant on the same times, patches and noise; how their losses compare."""
    weather = Weather(fresh_model(size, device))
    names = {"plain": PLAIN, "optimised": last}
    recipes = {name: Recipe(variant, size, device) for name, variant in names.items()}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for number in range(steps):
        pairs = weather.pairs(number)
        for name, recipe in recipes.items():
            losses[name].append(recipe.step(pairs, number))
    paths = {name: folder / f"{name}.csv" for name in names}
    for name, path in paths.items():
        lines = [f"{i},{loss:.6g},,," for i, loss in enumerate(losses[name], 1)]
        path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
    draw(paths, folder / "losses.png", f"Plain recipe and {len(VARIANTS) - 1} optimisations: the same steps")
    half = steps // 2
    means = [statistics.fmean(losses[name][half:]) for name in names]
    apart = statistics.fmean(
        abs(a - b) / a for a, b in zip(losses["plain"], losses["optimised"], strict=True)
    )
    return (
        f"{steps} steps: loss from {losses['plain'][0]:.3f} to {means[0]:.4f} (plain) and {means[1]:.4f} "
        f"(optimised), means of the second half; step by step {100 * apart:.2g} % apart; "
        f"{folder / 'losses.png'}"
    )
