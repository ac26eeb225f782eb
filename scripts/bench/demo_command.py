# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command behind ``scripts/verify-demo.py``: is a demo package as good as it should be?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser, progress_bar, quiet_imports, run_command
from earth2_corrdiff.cli.log import Log

if TYPE_CHECKING:
    from bench.demo_acceptance import Criterion
    from earth2_corrdiff.model.earth2studio import CorrDiff
    from earth2_corrdiff.verification import Result, Verification

NAME = "verify-demo"
NOT_MET = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if all criteria are met, 1 if not, else as every command (2, 130)."""
    args = _parser().parse_args(argv)
    missed: list[Criterion] = []
    status = run_command(NAME, lambda given: missed.extend(verify(given)), args, debug=args.debug)
    return status or (NOT_MET if missed else 0)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Score a demo package on hours of synthetic weather that it was not trained on: CRPS "
        "against its regression alone and interpolation, spread and skill, power spectra.",
        epilog="Exit status 1 if a criterion is not met. Members are those of run-corrdiff --demo.",
    )
    add = parser.add_argument
    add("--package", default="demo", metavar="NAME", help="the demo's (default), a folder or a URL")
    add("--times", type=int, default=64, metavar="N", help="random held-out hours (default: 64)")
    add("--samples", type=int, default=4, metavar="N", help="members at each time (default: 4)")
    add("--solver", metavar="NAME", help="default: the package's")
    add("--steps", type=int, metavar="N", help="of the solver (default: the package's)")
    add("--sigma", metavar="MIN:MAX", help="noise range (default: the package's)")
    add("--seed", type=int, default=0, metavar="N", help="of the run (default: 0)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="auto", help="auto (default), fp32, bf16 or fp16")
    add("--bootstrap", type=int, default=2000, metavar="N", help="draws for the intervals (default: 2000)")
    add("--output", type=Path, metavar="PATH", help="also write all scores as PATH.csv or PATH.zarr")
    add("--report", type=Path, metavar="HTML", help="also write the report, replaced if it exists")
    add("--overwrite", action="store_true", help="replace an existing --output")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def verify(args: argparse.Namespace) -> list[Criterion]:
    """Verify, print the tables and the verdict, write the files; return the criteria that are not met."""
    with quiet_imports():
        from bench import demo_acceptance
        from earth2_corrdiff.base.files import check_file
        from earth2_corrdiff.verification import files, report
    if args.output is not None:
        files.check_output(args.output, args.overwrite)
    if args.report is not None:
        check_file(args.report)
    result = _run(_prepare(args))
    criteria = demo_acceptance.criteria(result)
    if args.output is not None:
        files.save(result, args.output)
    if args.report is not None:
        title = (
            f"{result.about['package']}: {result.about['solver']}, {result.about['number_of_steps']} steps"
        )
        report.write_report(result, args.report, title)
    for table in demo_acceptance.tables(result):
        print(table.markdown() if args.markdown else table.text())
    print(demo_acceptance.verdict(criteria))
    return [criterion for criterion in criteria if not criterion.met]


def _prepare(args: argparse.Namespace) -> Verification:
    """The model with its settings, the times and the baselines."""
    from bench.demo_skill import demo_verification
    from earth2_corrdiff.demo.hours import held_out_times
    from earth2_corrdiff.model.spec import check_count
    from earth2_corrdiff.verification import Bootstrap, Settings

    if check_count("--samples", args.samples) < 2:
        raise InputError("--samples must be 2 or more: one member has no spread")
    times = held_out_times(check_count("--times", args.times))
    settings = Settings(bootstrap=Bootstrap(args.bootstrap))
    model = _model(args)
    Log(NAME)
    return demo_verification(model.downscaler, times, args.samples, args.seed, settings)


def _model(args: argparse.Namespace) -> CorrDiff:
    from dataclasses import replace

    from bench.solver_command import sigma_range
    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model

    model = load_model(model_options(args))
    if args.sigma is not None:
        low, high = sigma_range(args.sigma)
        own = model.downscaler.sampling
        model.downscaler.sampling = replace(own, sigma_min=low, sigma_max=high)
    return model


def _run(verification: Verification) -> Result:
    about = verification.about
    how = f"{about['solver']} with {about['network_calls_per_member']} network calls, {about['precision']}"
    T, M = len(verification.times), verification.forecasts[0].size
    print(f"{about['package']}: {how}; {T} held-out times, {M} members\n")
    look = {"total": T, "desc": "verifying", "unit": "time"}
    for _ in progress_bar(verification, **look):
        pass
    return verification.result()
