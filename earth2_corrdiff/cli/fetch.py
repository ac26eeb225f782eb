# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``fetch-corrdiff``: the coarse input of a run into a local mirror, ahead of the run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from earth2_corrdiff.cli.common import (
    ArgumentParser,
    add_region,
    command_parser,
    entry_point,
    progress_bar,
    stored,
)
from earth2_corrdiff.cli.loading import make_input, model_options
from earth2_corrdiff.cli.log import Log
from earth2_corrdiff.cli.run_options import add_input
from earth2_corrdiff.model.packages.names import NAMES as PACKAGES
from earth2_corrdiff.model.packages.names import check_name, default_source

NAME = "fetch-corrdiff"
SOME_FAILED = 3


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Fetch the coarse input of a run, cut out for its package, into a folder that run-corrdiff reads as "
        "--source file:DIR without network.",
        "The same command goes on with what is missing. Times are UTC. Exit status as of run-corrdiff.",
    )
    add_input(parser)
    add = parser.add_argument
    add("--package", default="taiwan", metavar="NAME", help=f"{PACKAGES} (default: taiwan)")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the mirror")
    add("--keep-going", action="store_true", help="report times that fail at the end, and do the others")
    add_region(parser.add_argument)
    return parser


def fetch(args: argparse.Namespace) -> int:
    """Fetch what is missing, one time after the other."""
    with stored(args):
        return _fetch(args)


def _fetch(args: argparse.Namespace) -> int:
    log = Log(NAME, "INFO", args.debug)
    args.source, args.device = args.source or default_source(args.package), "cpu"
    source = make_input(args)
    cases = source.cases(args.times, args.lead)
    if args.package != "demo":
        check_name(args.package)
    log.import_earth2studio(args.source)
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.sources import Inputs
    from earth2_corrdiff.sources.mirror import Mirror

    inputs = Inputs.of(source, cases, load_model(model_options(args)).spec)
    mirror = Mirror(inputs, args.output, args.keep_going)
    for _ in progress_bar(mirror, total=len(mirror), desc="fetching", unit="time", delay=1):
        pass
    for label, reason in mirror.failed.items():
        print(f"{NAME}: {label}: {reason}", file=sys.stderr)
    there = mirror.found + len(mirror) - len(mirror.failed)
    print(f"{args.output} has {there} of {mirror.found + len(mirror)} files; use --source file:{args.output}")
    return SOME_FAILED if mirror.failed else 0


main = entry_point(NAME, _parser, fetch)
