# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``run-corrdiff``: downscale the weather of given times into an ensemble."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.cli.common import ArgumentParser, calm_bars, run_command, share_cores
from earth2_corrdiff.errors import InputError

if TYPE_CHECKING:
    from earth2_corrdiff.model import CorrDiff
    from earth2_corrdiff.run import Downscaling
    from earth2_corrdiff.times import Times

NAME = "run-corrdiff"
EVERYWHERE = "the demo needs no network: --demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0, 2 for unusable input, 130 after Ctrl-C)."""
    args = _parser().parse_args(argv)
    args.command = shlex.join([NAME, *(sys.argv[1:] if argv is None else argv)])
    return run_command(NAME, run, args, debug=args.debug)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Downscale global weather to kilometre scale with CorrDiff and write a Zarr store.",
        epilog=f"{EVERYWHERE}. Times are UTC, like 2024-07-24T12:00.",
    )
    add = parser.add_argument
    add("times", nargs="+", metavar="TIME", help="valid time or times, UTC, like 2024-07-24T12:00")
    add("--samples", type=int, metavar="N", help="ensemble members (default: the package's)")
    add("--steps", type=int, metavar="N", help="steps of the solver (default: the package's)")
    add("--solver", help="euler, heun, stochastic, dpmpp_2m or trigflow (default: the package's)")
    add("--seed", type=int, metavar="N", help="seed of the run (default: drawn, and recorded in the store)")
    add("--package", metavar="NAME", help="taiwan (default), demo, a folder, or a URL that fsspec opens")
    add(
        "--source",
        metavar="NAME",
        help="gfs (default), arco, ncar, wb2, cds, demo, gfs:DIR (a mirror of NOAA's bucket), "
        "or file:PATH (NetCDF, GRIB, Zarr)",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="fp32", help="fp32 (default, the reference), bf16 or fp16")
    add("--max-batch", type=int, metavar="N", help="most members in one network call (default: 1 on a CPU)")
    add(
        "--output",
        type=Path,
        metavar="STORE",
        help="Zarr store to write (default: outputs/corrdiff-TIME.zarr)",
    )
    add("--overwrite", action="store_true", help="replace an existing output, once the new run can start")
    add("--resume", action="store_true", help="go on with an interrupted run: compute only what is missing")
    add("--demo", action="store_true", help="synthetic weather and the embedded model: needs no network")
    add("--debug", action="store_true", help="show debug messages, and the traceback of an error")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check what can be checked at once, load, run, and say what was written."""
    from earth2_corrdiff.sources import make_source
    from earth2_corrdiff.times import distinct, to_times

    share_cores()
    calm_bars()
    _check(args)
    times = distinct(to_times(args.times))
    source = make_source(args.source)
    source.check_times(times)
    args.output = args.output or Path("outputs") / f"corrdiff-{_label(times)}.zarr"
    start = perf_counter()
    if sys.stderr.isatty():  # in a log file it says nothing, and an error shall be one line
        print(f"{NAME}: loading the package {args.package} …", file=sys.stderr, flush=True)
    from earth2_corrdiff.cli.loading import load
    from earth2_corrdiff.store import check_target

    log = _configure_log(args.debug)
    check_target(args.output, args.overwrite, args.resume)
    model = load(args)
    _announce(model, source, times, args)
    loaded = perf_counter() - start
    print(_report(_downscale(model, source, times, args, log), args.output, loaded))


def _check(args: argparse.Namespace) -> None:
    if args.demo:
        for name in ("package", "source"):
            if getattr(args, name) not in (None, "demo"):
                raise InputError(f"--demo means --package demo --source demo; leave out --{name}")
        args.package = args.source = "demo"
    args.package, args.source = args.package or "taiwan", args.source or "gfs"
    for name in ("samples", "steps", "max_batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if args.overwrite and args.resume:
        raise InputError("--overwrite and --resume exclude each other")


def _label(times: Times) -> str:
    stamps = [str(t.astype("datetime64[m]")).replace(":", "") for t in (times[0], times[-1])]
    return stamps[0] if len(times) == 1 else "-to-".join(stamps)


class HeldLog:
    """Log lines on stderr, held back until the run has started: what is refused before that is one line."""

    def __init__(self, held: bool) -> None:
        self.lines: list[str] | None = [] if held else None

    def write(self, line: str) -> None:
        """Take what a logger says: this is the file that it writes to."""
        from tqdm import tqdm

        if self.lines is None:
            tqdm.write(line, file=sys.stderr, end="")
        else:
            self.lines.append(line)

    def release(self) -> None:
        """Show what was held back, and from now on every line at once."""
        lines, self.lines = self.lines or [], None
        for line in lines:
            self.write(line)


def _configure_log(debug: bool) -> HeldLog:
    """One place for all that the libraries log, after Earth2Studio's imports have set up theirs."""
    import logging

    import earth2studio.data
    import earth2studio.io  # noqa: F401
    from loguru import logger

    log = HeldLog(held=not debug)
    logging.basicConfig(stream=log, format=NAME + ": %(levelname)s: %(message)s")
    logging.captureWarnings(True)
    logger.remove()
    logger.add(
        log,
        level="DEBUG" if debug else "INFO",
        format=NAME + ": {level.name}: {message}" if not debug else "{time} {level.name} {name}: {message}",
    )
    return log


def _announce(model: CorrDiff, source: Any, times: Times, args: argparse.Namespace) -> None:
    from loguru import logger

    what = "SYNTHETIC demo weather, neither observed nor forecast; " if source.synthetic else ""
    if model.spec.synthetic and not source.synthetic:
        what = "a demo model trained on SYNTHETIC weather: its output is no forecast; "
    if args.package == "taiwan" and args.source.startswith("gfs"):
        logger.info("the model was trained on ERA5; how it does on GFS has not been evaluated")
    logger.info(
        "{}{} x {}, {} with {}, {}, on {}",
        *(what, _count(len(times), "time"), _count(model.number_of_samples, "member")),
        *(model.solver, _count(model.number_of_steps, "step"), args.precision, model.downscaler.device),
    )


def _downscale(
    model: CorrDiff, source: Any, times: Times, args: argparse.Namespace, log: HeldLog
) -> Downscaling:
    from tqdm import tqdm

    from earth2_corrdiff.run import Downscaling, Options

    options = Options(args.seed, args.max_batch, args.overwrite, args.resume, args.command)
    downscaling = Downscaling(times, model, source, args.output, options)
    members = iter(downscaling)  # from here on nothing is refused that could be known before
    log.release()
    every = 0.1 if sys.stderr.isatty() else 10  # seconds: a log file wants fewer lines
    look = {"desc": "denoising", "unit": "step", "dynamic_ncols": True, "mininterval": every, "delay": 0}
    with tqdm(total=downscaling.evaluations, **look) as bar:
        downscaling.progress = bar.update
        try:
            for _ in members:
                pass
        except (KeyboardInterrupt, InputError) as stop:
            bar.close()
            keeps = f"{args.output} keeps what is done; go on with --resume"
            if isinstance(stop, InputError):
                raise InputError(str(stop) if "--resume" in str(stop) else f"{stop}; {keeps}") from stop
            raise KeyboardInterrupt(keeps) from None
    return downscaling


def _report(run: Downscaling, output: Path, loaded: float) -> str:
    from earth2_corrdiff.layout import made_up

    model = run.model
    H, W = model.spec.output_grid.shape
    synthetic = made_up(model.spec, run.source.synthetic)
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in {"load": loaded, **run.seconds}.items())
    count = f"{_count(len(run.times), 'time')} x {_count(model.number_of_samples, 'member')}"
    done = f"wrote {output}"
    if run.written == 0:
        done = f"nothing to do, {output} is complete"
    elif run.written < run.members:
        done = f"completed {output} ({run.written} of {_count(run.members, 'member')} were missing)"
    return (
        f"{done}: {count} of {', '.join(model.output_variables)} on {H} x {W} points{synthetic}; "
        f"seed {run.seed}; {stages}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
