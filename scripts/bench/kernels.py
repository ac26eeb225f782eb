# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``bench-kernels.py``: each fused kernel at the sizes of a U-Net."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.networks.kernels import cpu_conv

from . import corrdiff, provenance, report, roofline
from .cases import SIZES, Size
from .measure import relative_error
from .timing import Timing, clock_of, interleave, warm_up
from .trials import TRIALS, Trial


@dataclass(frozen=True)
class KernelRow:
    """One version of one kernel at one shape; ``ratio`` is to stock, ``error`` relative L2 to float64."""

    kernel: str
    shape: tuple[int, int, int, int]
    precision: str
    version: str
    seconds: tuple[float, ...]
    median: float
    ratio: float
    error: float
    byte_rate: float | None
    flop_rate: float | None


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="bench-kernels.py",
        description="Time each fused kernel against stock operators and its reference.",
    )
    add = made.add_argument
    add(
        "--size",
        choices=SIZES,
        default="mid",
        help="whose tensor shapes: 112 x 112 (mid) or 448 x 448 (full)",
    )
    add(
        "--kernel",
        type=corrdiff.several(*TRIALS),
        default=list(TRIALS),
        metavar="A,B",
        help=f"of {', '.join(TRIALS)}",
    )
    add("--precision", type=corrdiff.several("fp32", "bf16", "fp16"), default=["fp32", "bf16"], metavar="A,B")
    add("--batch", type=int, default=1, help="images in a tensor, by default 1; the convolution takes one")
    add("--rounds", type=int, default=5)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int)
    add("--json", type=Path, metavar="FILE", help="write all rows, with machine, versions and command")
    return made


def shapes(size: Size, batch: int) -> list[tuple[int, int, int, int]]:
    """Tensors of a U-Net: at each level its own width, and that with a skip beside it."""
    found = []
    for level, factor in enumerate(size.mult):
        side, width = size.side >> level, size.channels * factor
        found += [(batch, c, side, side) for c in (width, 2 * width)]
    return found


def run(args: Namespace) -> list[KernelRow]:
    """Run the benchmark and print a table per kernel and precision."""
    device = corrdiff.device_of(args)
    if args.batch < 1:
        raise InputError(f"--batch must be 1 or more, got {args.batch}")
    if args.threads:
        torch.set_num_threads(args.threads)
    peaks = roofline.measure(device, args.precision)
    machine = provenance.machine(device)
    print(f"{machine['device']}, {machine['threads']} threads, load average {machine['load'][0]:.2f}")
    print(f"measured peaks: {report.peaks_text(asdict(peaks))}")
    rows: list[KernelRow] = []
    for kernel in args.kernel:
        if kernel == "convolution" and (device.type != "cpu" or not cpu_conv.available()):
            print("\nconvolution: not timed, the C kernels of the CPU are not here")
            continue
        for precision in args.precision:
            found = [
                row
                for at in shapes(SIZES[args.size], args.batch)
                for row in _rows(kernel, at, precision, args)
            ]
            print(f"\n{kernel}, {precision}: {_first_line(kernel)}\n{_table(found, peaks.copy)}", flush=True)
            rows += found
    machine["load"].append(os.getloadavg()[0])
    if args.json:
        _write(args.json, machine, peaks, rows)
    return rows


def _first_line(kernel: str) -> str:
    return (TRIALS[kernel].__doc__ or "").partition("\n")[0]


def _rows(
    kernel: str, shape: tuple[int, int, int, int], precision: str, args: Namespace
) -> Iterator[KernelRow]:
    device, dtype = torch.device(args.device), roofline.TYPES[precision]
    trial = TRIALS[kernel](shape, dtype, device)
    clock = clock_of(device)
    with torch.no_grad():
        errors = {name: relative_error(work(), trial.truth) for name, work in trial.works.items()}
        repeats = {name: warm_up(work, clock)[1] for name, work in trial.works.items()}
        timings = interleave(trial.works, args.rounds, clock, repeats)
    for name, timing in timings.items():
        rates = _rates(trial, name, timing, dtype.itemsize)
        seconds, ratio = timing.seconds, timing.ratio(timings["stock"])
        yield KernelRow(kernel, shape, precision, name, seconds, timing.median, ratio, errors[name], *rates)


def _rates(trial: Trial, name: str, timing: Timing, size: int) -> tuple[float | None, float | None]:
    moved = trial.passes.get(name)
    return moved and moved * size / timing.median, trial.flops / timing.median if trial.flops else None


def _table(rows: list[KernelRow], copy: float) -> str:
    header = ["B, C, H, W", "version", "median", "x stock", "error", "GB/s", "of copy", "GFLOP/s"]
    lines = [
        [
            ", ".join(map(str, row.shape)) if row.version == "stock" else "",
            row.version,
            report.seconds(row.median),
            f"{row.ratio:.2f}",
            f"{row.error:.1e}",
            f"{row.byte_rate / 1e9:.1f}" if row.byte_rate else "",
            f"{100 * row.byte_rate / copy:.0f} %" if row.byte_rate else "",
            f"{row.flop_rate / 1e9:.0f}" if row.flop_rate else "",
        ]
        for row in rows
    ]
    used = [i for i in range(len(header)) if any(line[i] for line in lines)]
    return report.columns([header[i] for i in used], ([line[i] for i in used] for line in lines))


def _write(path: Path, machine: dict[str, Any], peaks: roofline.Peaks, rows: list[KernelRow]) -> None:
    content = {
        "command": provenance.command(),
        "machine": machine,
        "versions": provenance.versions(),
        "settings": provenance.settings(),
        "peaks": asdict(peaks),
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
