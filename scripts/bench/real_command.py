# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command behind ``scripts/real-weather.sh``: run, verify and draw the packages of real weather."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.cli.common import ArgumentParser, progress_bar, quiet_imports, run_command
from earth2_corrdiff.cli.log import Log

if TYPE_CHECKING:
    from bench.real_weather import Part, Study

NAME = "real-weather"
NOT_MET = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if all bars are reached, 1 if not, else as every command (2, 130)."""
    args = _parser().parse_args(argv)
    missed: list[int] = []
    status = run_command(NAME, lambda given: missed.append(real_weather(given)), args, debug=args.debug)
    return status or (NOT_MET if any(missed) else 0)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Run the packages of real weather on times that they were not trained on, verify "
        "them with all baselines, and draw them. Both are perfect prognosis: coarse input made of the truth.",
        epilog="The same command goes on with what is there. Exit status 1 if a bar is missed.",
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with cwa_wrf3km_taiwan.nc and mrms_qpe1h_conus.nc, or one of them")
    add(
        "--taiwan",
        default="taiwan-3km",
        metavar="PACKAGE",
        help="another package, or none (default: taiwan-3km)",
    )
    add(
        "--conus",
        default="conus-3km",
        metavar="PACKAGE",
        help="another package, or none (default: conus-3km)",
    )
    add("--members", type=int, default=8, metavar="N", help="members of each case (default: 8)")
    add("--hours", type=int, metavar="N", help="so many of the held-out times (default: all)")
    add("--leads", type=int, nargs="+", metavar="H", help="lead times of taiwan-3km in hours (default: all)")
    add("--steps", type=int, metavar="N", help="steps of the solver (default: the package's)")
    add("--solver", help="default: the package's")
    add("--seed", type=int, default=0, metavar="N", help="seed of the runs (default: 0)")
    add("--device", default="auto", help="cpu, cuda, … (default: a GPU if there is one)")
    add("--bootstrap", type=int, default=2000, metavar="N", help="draws for the intervals (default: 2000)")
    add("--block", type=int, default=1, metavar="N", help="neighbouring times drawn together (default: 1)")
    add(
        "--output",
        type=Path,
        default=Path("outputs/real-weather"),
        metavar="FOLDER",
        help="for all that is made",
    )
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def real_weather(args: argparse.Namespace) -> int:
    """Do all that is asked for; the number of bars that are not reached."""
    log = Log(NAME, "WARNING")
    with quiet_imports():
        from bench.real_weather import STUDIES
    log.import_earth2studio("file:")
    chosen = [(study, package) for study, package in zip(STUDIES, (args.taiwan, args.conus), strict=True)]
    chosen = [(study, package) for study, package in chosen if package != "none"]
    for study, _ in chosen:
        if not (args.data / study.file).is_file():
            raise InputError(
                f"{args.data} has no {study.file}; give the folder with it, or leave it out with none"
            )
    args.output.mkdir(parents=True, exist_ok=True)
    return sum(_study(study, package, args) for study, package in chosen)


def _study(study: Study, package: str, args: argparse.Namespace) -> int:
    from bench import real_weather as real
    from bench.demo_acceptance import verdict
    from bench.real_pictures import draw
    from earth2_corrdiff.model.options import ModelOptions
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.verification import files, report, tables

    start = perf_counter()
    pairs = real.make_pairs(study, args.data, args.output)
    cases = real.parts(study, pairs, args.leads, args.hours)
    stores = [(part, _run(study, package, part, args)) for part in cases]
    for part, store in stores:
        real.check_input(store, pairs, part)
    model = load_model(ModelOptions(package, args.device, "fp32")).downscaler
    bootstrap = real.settings_of(study, replicates=args.bootstrap, block=args.block)
    total = sum(len(part.valid) for part, _ in stores)
    with progress_bar(total=total, desc="verifying", unit="time", delay=1) as bar:
        found = real.verify(study, stores, pairs, model, bootstrap, bar.update)
    result = found.result
    stem = args.output / study.name
    for ending in (".csv", ".zarr"):
        files.save(result, stem.with_name(stem.name + ending))
    report.write_report(result, stem.with_name(stem.name + ".html"), f"{study.name} on held-out times")
    print(tables.report_text(result))
    names = [name for name in result.forecasts if name != "climatology"]
    more = [tables.event_table(result, names), real.extremes(result), tables.tail_table(result)]
    more += [] if found.nearest is None else [found.nearest.table()]
    for table in [*more, real.bars(study, found.criteria)]:
        print(table.text())
    print(verdict(found.criteria))
    drawn = draw(study, stores, pairs, args.output)
    took = perf_counter() - start
    print(f"wrote {stem}.html, .csv, .zarr and {', '.join(path.name for path in drawn)} ({took:.0f} s)\n")
    return sum(not criterion.met for criterion in found.criteria)


def _run(study: Study, package: str, part: Part, args: argparse.Namespace) -> Path:
    """The store of a part, made or completed by ``run-corrdiff``."""
    from earth2_corrdiff.cli import run

    store = Path(args.output) / f"{study.name}{part.label}.zarr"
    words = [*map(time_text, part.starts), "--package", package, "--source", f"file:{args.data / study.file}"]
    words += (
        [] if part.lead is None else ["--lead", f"{int(part.lead.astype('timedelta64[h]').astype(int))}h"]
    )
    words += ["--samples", str(args.members), "--seed", str(args.seed), "--device", args.device]
    words += [] if args.steps is None else ["--steps", str(args.steps)]
    words += [] if args.solver is None else ["--solver", args.solver]
    if run.main([*words, "--output", str(store), "--resume"]):
        raise InputError(f"run-corrdiff failed for {store}, as said above")
    return store
