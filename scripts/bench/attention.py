# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``bench-attention.py``: neighbourhood attention, its time, error and memory."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.base import peak_memory
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.networks import neighbourhood
from earth2_corrdiff.networks.neighbourhood import masked_attention, neighbourhood_attention

from . import corrdiff, provenance, report, roofline
from .measure import relative_error
from .timing import clock_of, interleave, warm_up

Qkv = tuple[Tensor, Tensor, Tensor]


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="bench-attention.py",
        description="Time neighbourhood attention against masked attention in one process.",
    )
    add = made.add_argument
    add("--tokens", type=int, default=64, help="along each side of the grid that is timed, by default 64")
    add("--kernel", type=int, default=13, help="tokens along each side of a window, by default 13")
    add("--heads", type=int, default=12)
    add("--dim", type=int, default=64, help="channels of a head, by default 64")
    add("--precision", type=corrdiff.several("fp32", "bf16", "fp16"), default=["fp32", "bf16"], metavar="A,B")
    add("--memory", type=corrdiff.counts_of, default=[64, 128, 256, 512], metavar="N,N",
        help="sides of the grids whose peak memory is measured, rising")  # fmt: skip
    add("--tiles", type=corrdiff.counts_of, default=[], metavar="N,N", help="also with tiles of these sides")
    add("--forms", action="store_true", help="also flex_attention and NATTEN")
    add("--rounds", type=int, default=5)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int)
    add("--json", type=Path, metavar="FILE", help="write all rows, with machine, versions and command")
    return made


def run(args: Namespace) -> list[dict[str, Any]]:
    """Run the benchmark and print its tables."""
    device = corrdiff.device_of(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = provenance.machine(device)
    print(f"{machine['device']}, {machine['threads']} threads, load average {machine['load'][0]:.2f}")
    with torch.inference_mode():
        rows = [row for precision in args.precision for row in _times(precision, args, device)]
        rows += [row for precision in args.precision for row in _memory(precision, args, device)]
    if args.json:
        content = {"command": provenance.command(), "machine": machine, "versions": provenance.versions()}
        text = json.dumps({**content, "rows": rows}, indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    return rows


def _draw(side: int, precision: str, args: Namespace, device: torch.device) -> Qkv:
    generator = torch.Generator(device).manual_seed(0)
    shape = 1, side, side, 3, args.heads, args.dim
    qkv = torch.empty(shape, dtype=roofline.TYPES[precision], device=device).normal_(generator=generator)
    q, k, v = qkv.unbind(3)
    return q, k, v


def _tiled(side: int, q: Tensor, k: Tensor, v: Tensor, kernel: int, device: str) -> Tensor:
    before = neighbourhood.TILES.get(device, neighbourhood.TILE)
    neighbourhood.TILES[device] = side
    try:
        return neighbourhood.tiled_attention(q, k, v, kernel)
    finally:
        neighbourhood.TILES[device] = before


def _times(precision: str, args: Namespace, device: torch.device) -> list[dict[str, Any]]:
    qkv = _draw(args.tokens, precision, args, device)
    works: dict[str, Callable[[], Tensor]] = {
        "masked": partial(masked_attention, *qkv, args.kernel),
        "ours": partial(neighbourhood_attention, *qkv, args.kernel),
    }
    for side in args.tiles:
        works[f"tiles of {side}"] = partial(_tiled, side, *qkv, kernel=args.kernel, device=device.type)
    if args.forms:
        works |= {name: partial(form, *qkv, args.kernel) for name, form in neighbourhood.FORMS.items()}
    q, k, v = (x.double() for x in qkv)
    truth = masked_attention(q, k, v, args.kernel)
    errors = {name: relative_error(work(), truth) for name, work in works.items()}
    del truth, q, k, v
    clock = clock_of(device)
    repeats = {name: warm_up(work, clock)[1] for name, work in works.items()}
    timings = interleave(works, args.rounds, clock, repeats)
    rows = []
    for name, timing in timings.items():
        ratios = [a / b for a, b in zip(timings["masked"].seconds, timing.seconds, strict=True)]
        rows.append({"what": "time", "precision": precision, "tokens": args.tokens, "version": name,
                     "seconds": timing.seconds, "ratio": timing.ratio(timings["masked"]),
                     "spread": [min(ratios), max(ratios)], "error": errors[name]})  # fmt: skip
    header = ["version", "median", "x masked", "spread", "error"]
    cells = [
        [row["version"], report.seconds(timings[row["version"]].median), f"{row['ratio']:.2f}",
         "{:.2f}-{:.2f}".format(*row["spread"]), f"{row['error']:.1e}"]
        for row in rows
    ]  # fmt: skip
    grid = f"{args.tokens} x {args.tokens} tokens, window {args.kernel} x {args.kernel}"
    print(
        f"\n{precision}, {grid}, {args.heads} heads of {args.dim}\n{report.columns(header, cells)}",
        flush=True,
    )
    return rows


def _memory(precision: str, args: Namespace, device: torch.device) -> list[dict[str, Any]]:
    rows, clock = [], clock_of(device)
    for side in args.memory:
        qkv = _draw(side, precision, args, device)
        with peak_memory.peak(device) as found:
            seconds = clock.time(partial(neighbourhood_attention, *qkv, args.kernel))
        result = qkv[0].numel() * qkv[0].element_size()
        rows.append({"what": "memory", "precision": precision, "tokens": side, "seconds": seconds,
                     "peak": found.bytes, "result": result})  # fmt: skip
        del qkv
    cells = [
        [f"{row['tokens']} x {row['tokens']}", report.seconds(row["seconds"]),
         f"{row['peak'] / 2**20:.0f} MiB",
         f"{row['result'] / 2**20:.0f} MiB", f"{row['peak'] / row['tokens'] ** 2 / 1024:.1f} KiB",
         f"{1e6 * row['seconds'] / row['tokens'] ** 2:.1f} µs"]
        for row in rows
    ]  # fmt: skip
    header = ["tokens", "once", "peak over q, k, v", "of that the result", "per token", "time per token"]
    print(f"\n{precision}, memory\n{report.columns(header, cells)}", flush=True)
    return rows
