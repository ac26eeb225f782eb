# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``run-corrdiff``: downscale the weather of given times into an ensemble."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.cli.common import INPUT_ERROR, ArgumentParser, calm_bars, run_command, share_cores
from earth2_corrdiff.cli.run_log import HeldLog, configure_log
from earth2_corrdiff.cli.run_report import announce, report, report_failures
from earth2_corrdiff.errors import InputError

if TYPE_CHECKING:
    from earth2_corrdiff.model import CorrDiff
    from earth2_corrdiff.ranks import Ranks
    from earth2_corrdiff.run import Downscaling
    from earth2_corrdiff.states import States

NAME = "run-corrdiff"
SOME_FAILED = 3
EVERYWHERE = "the demo needs no network: --demo"
TIMES = "valid times, UTC, like 2024-07-24T12:00, or periods like 2024-07-20T00/2024-07-25T18/6h"
SOURCES = (
    "gfs (default), arco, ncar, wb2, cds, demo, gfs:DIR (a mirror of NOAA's bucket), or file:PATH (NetCDF, "
    "GRIB, Zarr); with --lead gfs_fx, gefs_fx, ifs_fx, ifs_ens_fx, demo_fx, gfs_fx:DIR, gefs_fx:DIR, file:…"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 2 for unusable input; 3 if some times failed with ``--keep-going``; 130 after Ctrl-C
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    status = [0]

    def work(arguments: list[str]) -> None:
        status[0] = _work(arguments)

    return run_command(NAME, work, arguments, debug="--debug" in arguments) or status[0]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Downscale global weather to kilometre scale with CorrDiff and write a Zarr store.",
        epilog=f"{EVERYWHERE}. Exit status: 0; 2 where something cannot be used; 3 where some times failed "
        "with --keep-going; 130 after Ctrl-C. Several processes of torchrun or srun share one run; with "
        "--resume several commands can, too.",
    )
    add = parser.add_argument
    add("times", nargs="+", metavar="TIME", help=f"{TIMES}; with --lead the times that forecasts start from")
    add(
        "--lead",
        metavar="LEADS",
        help="lead times of forecasts, like 24h, 0/48/6h (first, last, step) or 6,12",
    )
    add(
        "--coarse-members",
        metavar="N",
        help="members of a coarse ensemble, like 0-4: each is downscaled into --samples members of its own",
    )
    add("--samples", type=int, metavar="N", help="ensemble members (default: the package's)")
    add("--steps", type=int, metavar="N", help="steps of the solver (default: the package's)")
    add("--solver", help="euler, heun, stochastic, dpmpp_2m or trigflow (default: the package's)")
    add("--seed", type=int, metavar="N", help="seed of the run (default: drawn, and recorded in the store)")
    add("--package", metavar="NAME", help="taiwan (default), demo, a folder, or a URL that fsspec opens")
    add("--source", metavar="NAME", help=SOURCES)
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="auto", help="auto (default: the fastest), fp32 (the reference), bf16 or fp16")
    add("--no-acceleration", action="store_true", help="stock arithmetic, operation by operation: slow")
    add("--max-batch", type=int, metavar="N", help="most members in one network call (default: 1 on a CPU)")
    add(
        "--output",
        type=Path,
        metavar="STORE",
        help="Zarr store to write (default: outputs/corrdiff-TIME.zarr)",
    )
    add("--overwrite", action="store_true", help="replace an existing output, once the new run can start")
    add("--resume", action="store_true", help="go on with an interrupted run: compute only what is missing")
    add("--keep-going", action="store_true", help="report times that fail at the end, and do the others")
    add("--demo", action="store_true", help="synthetic weather and the embedded model: needs no network")
    add("--debug", action="store_true", help="show debug messages, and the traceback of an error")
    return parser


def _work(arguments: list[str]) -> int:
    """Run as one process of however many the launcher has started."""
    from earth2_corrdiff.ranks import launched, meet

    ranks = launched(os.environ)
    args = _parsed(arguments, ranks)
    share_cores()
    calm_bars()
    if ranks.world > 1:  # of a process that is gone PyTorch writes stack traces of C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    ranks = meet(ranks, os.environ)
    try:
        with ranks.refusals():
            return run(args, ranks)
    except InputError as error:
        if ranks.first:
            raise
        if "refused" in ranks.hear():
            return INPUT_ERROR  # the first process says why
        raise InputError(f"process {ranks.rank} of {ranks.world}: {error}") from error


def _parsed(arguments: list[str], ranks: Ranks) -> argparse.Namespace:
    """The options; what is wrong with them, the first process says."""
    if ranks.first:
        args = _parser().parse_args(arguments)
    else:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
            args = _parser().parse_args(arguments)
    args.command = shlex.join([NAME, *arguments])
    if ranks.attempt:  # the launcher has started the job again: go on
        args.resume, args.overwrite = True, False
    return args


def run(args: argparse.Namespace, ranks: Ranks) -> int:
    """Check what can be checked at once, load, run, and say what was written; the exit status."""
    _check(args)
    source = _source(args)
    states = source.states(args.times, args.lead)
    args.output = args.output or Path("outputs") / f"corrdiff-{_label(states)}.zarr"
    start = perf_counter()
    if sys.stderr.isatty() and ranks.first:  # in a log file it says nothing, and an error shall be one line
        print(f"{NAME}: loading the package {args.package} …", file=sys.stderr, flush=True)
    from earth2_corrdiff.cli.loading import load
    from earth2_corrdiff.place import check_target

    log = configure_log(NAME, args.debug, ranks.first)
    if ranks.first:
        check_target(args.output, args.overwrite, args.resume)
    elif args.package == "taiwan" or "://" in args.package:
        ranks.hear()  # the first process downloads it, the others find it in the cache
    _take_device(args, ranks)
    model = load(args)
    announce(model, source, states, args, ranks.world)
    loaded = perf_counter() - start
    downscaling = _downscale(model, source, args, log, ranks)
    if ranks.first:
        print(report(downscaling, args.output, loaded))
        report_failures(NAME, downscaling, args.output)
    ranks.leave()
    return SOME_FAILED if downscaling.failed and ranks.first else 0


def _check(args: argparse.Namespace) -> None:
    if args.demo:
        for name in ("package", "source"):
            if getattr(args, name) not in (None, "demo"):
                raise InputError(f"--demo means --package demo --source demo; leave out --{name}")
        args.package, args.source = "demo", "demo" if args.lead is None else "demo_fx"
    args.package, args.source = args.package or "taiwan", args.source or "gfs"
    for name in ("samples", "steps", "max_batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if args.overwrite and args.resume:
        raise InputError("--overwrite and --resume exclude each other")
    if args.coarse_members is not None and args.lead is None:
        raise InputError("--coarse-members goes with --lead: only forecasts have them")


def _source(args: argparse.Namespace) -> Any:
    from earth2_corrdiff.sources import make_forecast, make_source

    if args.lead is None:
        return make_source(args.source)
    return make_forecast(args.source, args.coarse_members)


def _label(states: States) -> str:
    from earth2_corrdiff.times import lead_text

    times = states.times
    stamps = [str(t.astype("datetime64[m]")).replace(":", "") for t in (times[0], times[-1])]
    label = stamps[0] if len(times) == 1 else "-to-".join(stamps)
    if states.leads is None:
        return label
    leads = [lead_text(lead).replace(" ", "") for lead in (states.leads[0], states.leads[-1])]
    return f"{label}-lead-{leads[0] if len(states.leads) == 1 else '-to-'.join(leads)}"


def _take_device(args: argparse.Namespace, ranks: Ranks) -> None:
    """Of several processes on a machine each takes the next GPU."""
    import torch

    if args.device == "auto" and ranks.world > 1 and torch.cuda.is_available():
        args.device = f"cuda:{ranks.local % torch.cuda.device_count()}"


def _downscale(
    model: CorrDiff, source: Any, args: argparse.Namespace, log: HeldLog, ranks: Ranks
) -> Downscaling:
    from tqdm import tqdm

    from earth2_corrdiff.ranks import Steps
    from earth2_corrdiff.run import Downscaling, Options

    options = Options(args.seed, args.max_batch, args.overwrite, args.resume, args.command)
    options = replace(options, keep_going=args.keep_going, ranks=ranks)
    downscaling = Downscaling(args.times, model, source, args.output, options, lead_time=args.lead)
    members = iter(downscaling)  # from here on nothing is refused that could be known before
    log.release()
    every = 0.1 if sys.stderr.isatty() else 10  # seconds: a log file wants fewer lines
    look = {"desc": "denoising", "unit": "step", "dynamic_ncols": True, "mininterval": every, "delay": 0}
    with tqdm(total=downscaling.evaluations, disable=not ranks.first, **look) as bar:
        downscaling.progress = steps = Steps(ranks, bar.update)
        try:
            for _ in members:
                pass
        except (KeyboardInterrupt, InputError) as stop:
            bar.close()
            keeps = f"{args.output} keeps what is done; go on with --resume"
            if isinstance(stop, InputError):
                raise InputError(str(stop) if "--resume" in str(stop) else f"{stop}; {keeps}") from stop
            raise KeyboardInterrupt(keeps) from None
        steps.exchange()
        if not downscaling.failed:
            bar.update(bar.total - bar.n)  # what other jobs have done
    return downscaling
