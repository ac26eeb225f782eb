# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``calibrate-corrdiff``: a correction of members, learnt from past runs and their truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_file, whole, writing
from earth2_corrdiff.cli.common import (
    ArgumentParser,
    add_storage_options,
    add_truth_names,
    command_parser,
    entry_point,
    pairs,
    progress_bar,
    quiet_imports,
    stored,
)
from earth2_corrdiff.cli.loading import regression_model
from earth2_corrdiff.cli.log import Log
from earth2_corrdiff.model.packages.names import NAMES as PACKAGES

NAME = "calibrate-corrdiff"


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Learn a correction of the mean and the spread of members from past runs and their truth, for "
        "run-corrdiff --calibration and verify-corrdiff --calibration.",
        "A variable whose CRPS on held-out times does not improve is left as it is. Times are UTC.",
    )
    add = parser.add_argument
    add("stores", nargs="+", metavar="STORE", help="Zarr stores that run-corrdiff wrote, of one kind of run")
    add("--truth", help="demo, a Zarr or NetCDF, or a source, as of verify-corrdiff")
    add("--package", metavar="NAME", help=f"the package that made the stores: {PACKAGES}")
    add(
        "--output",
        type=Path,
        default=Path("calibration.json"),
        metavar="FILE",
        help="the file to write (default: calibration.json)",
    )
    add("--overwrite", action="store_true", help="replace an existing --output")
    add("--variables", metavar="NAMES", help="variables to correct, like t2m,tp (default: all of the truth)")
    add_truth_names(add)
    add("--folds", type=int, default=5, metavar="N", help="blocks of time held out in turn (default: 5)")
    add(
        "--network",
        action="store_true",
        help="fit small networks of place, hour and regression, too; each is taken where held-out times "
        "are better with it",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add_storage_options(parser)
    return parser


def calibrate(args: argparse.Namespace) -> None:
    """Check the options, read the stores, fit, write the file, print the table."""
    for name in ("truth", "package"):
        if getattr(args, name) is None:
            raise InputError(f"a calibration needs the truth and the regression; give --{name}")
    if args.output.exists() and not args.overwrite:
        raise InputError(f"{args.output} exists; use --overwrite or another --output")
    check_file(args.output)
    with stored(args):
        _calibrate(args)


def _calibrate(args: argparse.Namespace) -> None:
    log = Log(NAME)
    with quiet_imports():
        from earth2_corrdiff.verification.calibration_runs import CalibrationFit
    log.import_earth2studio(args.truth)
    names = pairs("--truth-name", args.truth_name, str)
    variables = args.variables and args.variables.split(",")
    model = regression_model(args.package, args.device)
    fit = CalibrationFit(args.stores, args.truth, model, variables, names, args.folds, args.network)
    for _ in progress_bar(fit, total=len(fit.cases), desc="reading", unit="time", delay=1):
        pass
    calibration, table = fit.result()
    with writing(args.output), whole(args.output) as part:
        part.write_text(calibration.text(), encoding="utf-8")
    print(table.text())
    for note in fit.notes:
        print(f"Note: {note}")
    print(f"wrote {args.output}")


main = entry_point(NAME, _parser, calibrate)
