# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``verify-corrdiff``: scores of an ensemble that ``run-corrdiff`` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_file
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, as_path
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

if TYPE_CHECKING:
    from earth2_corrdiff.model.calibration import Calibration
    from earth2_corrdiff.model.downscaler import Downscaler
    from earth2_corrdiff.verification import Result, Settings, Training

NAME = "verify-corrdiff"


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Compare an ensemble that run-corrdiff wrote with the truth: CRPS, spread, ranks, spectra, events "
        "and tails, with baselines and confidence intervals.",
        "The report is one HTML file that needs nothing else. Times are UTC.",
    )
    add = parser.add_argument
    add("store", metavar="STORE", help="the Zarr store that run-corrdiff wrote, a path or URL")
    add(
        "--truth",
        help="demo, a Zarr or NetCDF on the same grid, or a source to interpolate: gfs, arco, file:PATH, … "
        "(default: the scores that run-corrdiff --score has kept in the store)",
    )
    add(
        "--stations",
        metavar="FILE",
        help="verify at weather stations, too, or instead of --truth: a CSV with time, lat, lon, station and "
        "columns like t2m or tp [mm], or isd, ghcn (from NOAA's archives)",
    )
    add(
        "--package",
        metavar="NAME",
        help=f"add the regression alone of this package: {PACKAGES}",
    )
    add(
        "--calibration",
        metavar="FILE",
        help="correct the members with a file of calibrate-corrdiff; goes with --package",
    )
    add(
        "--device",
        default="auto",
        help="for --package: cpu, cuda, cuda:1, … (default: a GPU if there is one)",
    )
    add(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=STORE",
        help="add another store of the same grid and times, as NAME; repeatable",
    )
    add(
        "--baselines",
        metavar="PAIRS",
        help="pairs of a training to fit baselines on: residual climatology, ridge regression of each pixel "
        "and, with --package, the regression plus noise",
    )
    add("--fit", metavar="FIRST/LAST", help="times of PAIRS to fit on (default: all before those verified)")
    add("--noise", metavar="FIRST/LAST", help="times of PAIRS for the noise's variance (default: as --fit)")
    add(
        "--nearest",
        action="store_true",
        help="with --baselines and --package: distance of members to the nearest training field, of --fit",
    )
    add(
        "--lead",
        metavar="LEADS",
        help="lead times of forecasts to verify, like 24h, 0/48/6h or 6,12 (default: all); scores come by "
        "lead time",
    )
    add("--variables", nargs="+", metavar="NAME", help="variables to verify, after the STORE (default: all)")
    add_truth_names(add)
    _add_scores(parser)
    _add_output(parser)
    add_storage_options(parser)
    return parser


def _add_scores(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="events, like mrr=20,40 or ws10m=17.2 (default: 20, 35, 45 dBZ and 10.8, 17.2, 24.5 m/s)",
    )
    add(
        "--scales",
        nargs="+",
        type=float,
        metavar="KM",
        help="windows of FSS (default: 0 25 50 100 200)",
    )
    add(
        "--tiles",
        type=int,
        default=0,
        metavar="N",
        help="take spectra of squares of N x N points without gaps (default: of the whole domain)",
    )
    add(
        "--bootstrap",
        type=int,
        default=2000,
        metavar="N",
        help="draws for the intervals, 0 for none (default: 2000)",
    )
    add("--block", type=int, default=1, metavar="N", help="neighbouring times drawn together (default: 1)")
    add("--level", type=float, default=0.95, help="confidence level of the intervals (default: 0.95)")
    add("--interval", default="bca", metavar="KIND", help="bca (default) or percentile")
    add("--seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    add("--skip-incomplete", action="store_true", help="leave out times with missing or broken members")


def _add_output(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, metavar="PATH", help="also write the scores as PATH.csv or PATH.zarr")
    add(
        "--report",
        type=Path,
        metavar="HTML",
        help="the report, replaced if it exists (default: STORE-verification.html beside the store)",
    )
    add("--no-report", action="store_true", help="print the tables only")
    add("--overwrite", action="store_true", help="replace an existing --output")


def verify(args: argparse.Namespace) -> None:
    """Check the options, verify, write the files, print the tables."""
    if args.no_report and args.report is not None:
        raise InputError("--report and --no-report exclude each other")
    if args.calibration is not None and args.package is None:
        raise InputError("--calibration corrects members about the regression; give its --package")
    with stored(args):
        _verify(args)


def _verify(args: argparse.Namespace) -> None:
    args.store = as_path(args.store)
    log = Log(NAME)
    with quiet_imports():
        from earth2_corrdiff.verification import files, open_verification, report, tables
    settings = _settings(args)
    from_sums = args.truth is None and args.stations is None
    path = None
    if not args.no_report and (args.truth is not None or from_sums):
        path = args.report or _beside(args.store)
    if args.output is not None:
        files.check_output(args.output, args.overwrite)
    if path is not None:
        check_file(path)
    log.import_earth2studio(args.truth or "", args.stations or "")
    how: dict[str, Any] = {
        "settings": settings,
        "downscaler": _downscaler(args),
        "compare": pairs("--compare", args.compare, as_path),
        "leads": args.lead,
        "training": _training(args),
        "calibration": _calibration(args),
    }
    if args.stations is not None:
        _verify_at_stations(args, how)
    if args.truth is None and not from_sums:
        return
    if from_sums:
        result = _scored(args, settings)
    else:
        names = pairs("--truth-name", args.truth_name, str)
        if args.nearest:
            _print_nearest(args, how, names)
        verification = open_verification(args.store, args.truth, truth_names=names, **how)
        about = {"total": len(verification.times), "desc": "verifying", "unit": "time", "delay": 1}
        for _ in progress_bar(verification, **about):
            pass
        result = verification.result()
    if args.output is not None:  # saved first: what follows may end with the terminal
        files.save(result, args.output)
    if path is not None:
        report.write_report(result, path, _title(args, result))
    print(tables.report_text(result))
    for number, written in enumerate(place for place in (args.output, path) if place is not None):
        print(f"wrote {written}" if number else f"\nwrote {written}")


def _scored(args: argparse.Namespace, settings: Settings) -> Result:
    """The result of the sums that ``run-corrdiff --score`` has left in the store."""
    from earth2_corrdiff.verification.sums import scored

    fixed = ("variables", "threshold", "scales", "tiles", "package", "compare", "baselines", "lead")
    if given := [f"--{name}" for name in (*fixed, "calibration", "truth_name") if getattr(args, name)]:
        raise InputError(f"{given[0].replace('_', '-')} needs the fields; give the truth with --truth")
    return scored(args.store, settings.bootstrap, settings.skip_incomplete)


def _verify_at_stations(args: argparse.Namespace, how: dict[str, Any]) -> None:
    """Print the tables, and write them beside ``--output`` as ``NAME-stations.csv``."""
    from earth2_corrdiff.base.times import lead_text
    from earth2_corrdiff.verification import verify_at_stations

    for lead, found in verify_at_stations(args.store, args.stations, **how):
        ending = "" if lead is None else f"-{lead_text(lead).replace(' ', '')}"
        print(("" if lead is None else f"Lead time {lead_text(lead)}\n") + found.text() + "\n")
        if args.output is not None:
            path = args.output.with_name(f"{args.output.stem}-stations{ending}.csv")
            found.save(path)
            print(f"wrote {path}\n")


def _print_nearest(args: argparse.Namespace, how: dict[str, Any], names: dict[str, str]) -> None:
    from earth2_corrdiff.verification import nearest_in_training

    model, training = how["downscaler"], how["training"]
    if model is None or training is None:
        raise InputError("--nearest goes with --baselines and --package")
    print(nearest_in_training(args.store, args.truth, model, training, names).table().text())


def _settings(args: argparse.Namespace) -> Settings:
    from earth2_corrdiff.verification import Bootstrap, Settings
    from earth2_corrdiff.verification.case_statistics import SCALES_KM

    return Settings(
        variables=args.variables,
        thresholds=pairs("--threshold", args.threshold, _numbers),
        scales=SCALES_KM if args.scales is None else args.scales,
        tile=args.tiles,
        bootstrap=Bootstrap(args.bootstrap, args.level, args.block, args.interval, args.seed),
        skip_incomplete=args.skip_incomplete,
    )


def _training(args: argparse.Namespace) -> Training | None:
    if args.baselines is None:
        if args.fit or args.noise:
            raise InputError("--fit and --noise go with --baselines")
        return None
    from earth2_corrdiff.verification import Training

    return Training(args.baselines, args.fit, args.noise)


def _calibration(args: argparse.Namespace) -> Calibration | None:
    from earth2_corrdiff.model.calibration import Calibration

    return None if args.calibration is None else Calibration.read(args.calibration)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _beside(store: AnyPath) -> Path:
    """The report beside the store; of a URL, in the working directory."""
    if isinstance(store, ObjectPath):
        return Path(f"{store.name.removesuffix('.zarr')}-verification.html")
    place = store if store.name else store.absolute()
    return place.with_name(f"{place.name.removesuffix('.zarr')}-verification.html")


def _downscaler(args: argparse.Namespace) -> Downscaler | None:
    return None if args.package is None else regression_model(args.package, args.device)


def _title(args: argparse.Namespace, result: Result) -> str:
    return result.about.get("title", "CorrDiff downscaling") + f": verification of {args.store.name}"


main = entry_point(NAME, _parser, verify)
