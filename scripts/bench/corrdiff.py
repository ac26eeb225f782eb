# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``bench-corrdiff.py``: stock Earth2Studio against this package."""

from __future__ import annotations

import os
import warnings
from argparse import ArgumentTypeError, Namespace
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.model.diffusion.solvers import karras_sigmas, sample

from . import counts, operators, provenance, report, roofline
from .cases import SIZES, Problem, make_problem
from .measure import Bench, Case, operations_of
from .roofline import Peaks
from .rows import Row
from .variants import WHAT, Ours, Stock, Variant, make_variants

PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def several(*allowed: str) -> Any:
    """A parser of "a,b" for argparse, each one of ``allowed``."""

    def parse(text: str) -> list[str]:
        values = text.split(",")
        wrong = [value for value in values if value not in allowed]
        if wrong:
            raise ArgumentTypeError(f"{', '.join(wrong)} is none of {', '.join(allowed)}")
        return values

    return parse


def counts_of(text: str) -> list[int]:
    if not all(part.isdigit() and int(part) for part in text.split(",")):
        raise ArgumentTypeError(f"must be whole numbers of 1 or more with commas between, got {text!r}")
    return [int(part) for part in text.split(",")]


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="bench-corrdiff.py",
        description="Time stock Earth2Studio's CorrDiff against this package: one process, same weights.",
    )
    add = made.add_argument
    add("--size", choices=SIZES, default="mid", help="112 x 112, or 448 x 448 with 80 M parameters (full)")
    add("--what", type=several(*WHAT), default=list(WHAT), metavar="A,B", help=f"of {', '.join(WHAT)}")
    add("--precision", type=several(*PRECISIONS), default=["fp32", "bf16"], metavar="A,B",
        help=f"of {', '.join(PRECISIONS)}; by default fp32,bf16")  # fmt: skip
    add("--members", type=counts_of, default=[1], metavar="N,N", help="members at once, by default 1")
    add("--steps", type=int, default=8, help="Euler steps of loop, sampler and ensemble, by default 8")
    add("--rounds", type=int, default=5, help="samples of each variant, by default 5")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="of the CPU, by default PyTorch's choice")
    add("--stock-compile", action="store_true", help="also stock with torch.compile")
    add("--fp64", action="store_true", help="errors to stock operators in float64, not to stock fp32")
    add("--all-sigmas", action="store_true", help="error of a step at every noise level: the largest")
    add("--operators", action="store_true", help="table of the ten costliest operator classes of a step")
    add("--check-sync", action="store_true", help="fail where the sampler's loop makes the host wait (GPU)")
    add("--json", type=Path, metavar="FILE", help="write all rows, with machine, versions and command")
    return made


def load_stock() -> ModuleType:
    """Earth2Studio's module of the stock class; its package imports every model, which takes a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from earth2studio.models.dx import corrdiff
    module: ModuleType = corrdiff
    return module


def run(args: Namespace, module: ModuleType | None = None) -> dict[str, Any]:
    """Run the benchmark and print its tables.

    Parameters
    ----------
    args : Namespace
        Of ``parser``
    module : ModuleType | None, optional
        Earth2Studio's module of the stock class, where it is loaded already

    Returns
    -------
    dict[str, Any]
        What ``--json`` writes; ``rows`` are ``Row``
    """
    device = device_of(args)
    if args.steps < 2:
        raise InputError("need --steps of 2 or more: stock divides by steps - 1")
    if args.check_sync and device.type != "cuda":
        raise InputError("--check-sync asks what a GPU waits for; it needs --device cuda")
    if args.threads:
        torch.set_num_threads(args.threads)
    module = module or load_stock()
    problem = make_problem(SIZES[args.size], args.steps, max(args.members), device)
    variants = make_variants(problem, module, args.precision, args.stock_compile)
    peaks = roofline.measure(device, dict.fromkeys(v.precision for v in variants))
    content = _header(args, problem, peaks)
    print(_introduction(content), flush=True)
    reference = Stock(problem, module, "fp64") if args.fp64 else None
    bench = Bench(problem, variants, reference, peaks, args.rounds, args.all_sigmas)
    rows: list[Row] = []
    for what in args.what:
        for members in [1] if what == "regression" else args.members:
            found = bench.run(Case(what, members))
            print(f"\n{report.title(what, members, args.steps)}\n{report.case_table(found)}", flush=True)
            rows += found
    if args.check_sync:
        check_sync(problem, [v for v in variants if isinstance(v, Ours)])
    if args.operators:
        content["operators"] = _operators(problem, variants, bench, peaks)
    content["machine"]["load"].append(os.getloadavg()[0])
    if args.json:
        report.write(args.json, content, rows)
    return {**content, "rows": rows}


def device_of(args: Namespace) -> torch.device:
    """The device that was asked for.

    Raises
    ------
    InputError
        If it is not there, or nothing shall be timed on it
    """
    if args.rounds < 1:
        raise InputError(f"--rounds must be 1 or more, got {args.rounds}")
    return find_device(args.device)


def _header(args: Namespace, problem: Problem, peaks: Peaks) -> dict[str, Any]:
    side = problem.size.side
    numbers = [sum(p.numel() for p in net.parameters()) for net in (problem.regression, problem.denoiser)]
    return {
        "command": provenance.command(),
        "size": f"{args.size}, {side} x {side}",
        "parameters": numbers,
        "reference": ("stock operators in fp64" if args.fp64 else "stock fp32")
        + (", the largest of all noise levels" if args.all_sigmas else ""),
        "machine": provenance.machine(problem.device),
        "versions": provenance.versions(),
        "settings": provenance.settings(),
        "peaks": asdict(peaks),
    }


def _introduction(content: dict[str, Any]) -> str:
    machine = content["machine"]
    regression, denoiser = content["parameters"]
    return (
        f"{content['size']}; parameters: {regression / 1e6:.2f} M and {denoiser / 1e6:.2f} M\n"
        f"{machine['device']}, {machine['threads']} threads, {machine['isa']}, "
        f"load average {machine['load'][0]:.2f}\n"
        f"{', '.join(f'{n} {v}' for n, v in content['versions'].items() if v)}\n"
        f"measured peaks: {report.peaks_text(content['peaks'])}\n"
        f"errors: relative L2 to {content['reference']}; of normalised fields"
    )


def check_sync(problem: Problem, variants: list[Ours]) -> None:
    """Run the sampler's loop with PyTorch's check on: an operator that makes the host wait raises."""
    for variant in variants:
        denoise = variant.downscaler.denoiser.given(torch.cat([problem.mean, problem.cond], dim=1))
        dtype = torch.float64 if variant.asked == "fp32" else torch.float32
        s = problem.spec.sampling
        sigmas = karras_sigmas(s.steps, s.sigma_min, s.sigma_max, dtype=dtype)
        with torch.inference_mode():
            for mode in ("default", "error"):  # the first call may compile, capture, and wait
                torch.cuda.set_sync_debug_mode(mode)
                try:
                    sample(denoise, problem.noise, sigmas, dtype=dtype)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        print(f"{variant.name}: the sampler's loop never made the host wait")


def _operators(problem: Problem, variants: list[Variant], bench: Bench, peaks: Peaks) -> list[dict[str, Any]]:
    """A table per precision of ours: stock fp32, stock in that type, ours, and the roofline of each class."""
    plain = [v for v in variants if not (isinstance(v, Stock) and v.compiled)]
    on_gpu = problem.device.type == "cuda"
    found: dict[str, list[dict[str, float]]] = {v.name: [] for v in plain}
    for _ in range(bench.rounds):
        for variant in plain:
            step = variant.step(1, bench.sigma)
            found[variant.name].append(operators.breakdown(variant.denoiser(), step, on_gpu))
    profiles = {name: operators.median_of(calls) for name, calls in found.items()}
    kinds = counts.by_kind(operations_of(problem, variants[0], Case("step", 1)))
    tables = []
    for ours in (v for v in variants if isinstance(v, Ours)):
        names = dict.fromkeys((variants[0].name, bench.same_type(ours), ours.name))
        table: dict[str, Any] = {
            "profiles": {name: profiles[name] for name in names if name in profiles},
            "least": {k: roofline.floor(ops, ours.precision, "fused", peaks) for k, ops in kinds.items()},
            "flops": {k: counts.flops(ops) for k, ops in kinds.items()},
        }
        tables.append(table)
        print(f"\n{report.OPERATORS}\n{report.columns(*report.operator_table(**table))}")
    return tables
