# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``make-pairs``: coarse and fine weather of two data sources, as the pairs a training reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import (
    ArgumentParser,
    command_parser,
    entry_point,
    progress_bar,
    quiet_imports,
)
from earth2_corrdiff.cli.log import Log

NAME = "make-pairs"
MOST_HOURS = 24 * 366
"""Longest lead time that ``--every-run`` takes: of seasonal forecasts."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _box(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) != 4:
        raise ValueError
    return numbers


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours <= MOST_HOURS:
        raise argparse.ArgumentTypeError(f"needs a lead time of 0 hours or more, got {text}")
    return hours


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Make a Zarr of coarse and fine pairs, for train-corrdiff, from two data sources.",
        "The same command goes on with what is missing. Times are UTC.",
    )
    add = parser.add_argument
    add(
        "--coarse",
        metavar="SOURCE",
        help="gfs, arco, ncar, wb2, cds, demo, gfs:DIR or file:PATH, on 1-D lat and lon",
    )
    add(
        "--coarse-from-fine",
        type=int,
        metavar="N",
        help="instead: block means of N x N fine points; inputs are variables of the fine source, too",
    )
    add(
        "--fine-means",
        type=int,
        default=1,
        metavar="N",
        help="average the fine source over N x N points first",
    )
    add(
        "--every-run",
        type=_hours,
        metavar="HOURS",
        help="a pair of every run in a file of forecasts, from this lead time on (default: one of each time)",
    )
    add(
        "--fine",
        required=True,
        metavar="SOURCE",
        help="likewise, hrrr, mrms, or the path of a NetCDF or Zarr, whose lat and lon may be 2-D",
    )
    add("--times", required=True, nargs="+", metavar="TIME", help="times, periods like FIRST/LAST/6h, or all")
    add("--inputs", required=True, type=_names, metavar="A,B", help="coarse variables in channel order")
    add(
        "--outputs",
        required=True,
        type=_names,
        metavar="C,D",
        help="likewise fine variables; tp=NAME if the file calls it NAME",
    )
    add(
        "--output",
        required=True,
        type=Path,
        metavar="PAIRS.zarr",
        help="the pairs; completed if incomplete",
    )
    add(
        "--append",
        action="store_true",
        help="add the times to pairs that exist, of the same grids, variables and options",
    )
    add(
        "--box",
        type=_box,
        metavar="S,N,W,E",
        help="part of the fine grid in degrees (--box=-35,-30,... where the first is negative)",
    )
    add(
        "--multiple",
        type=int,
        default=16,
        metavar="N",
        help="trim the fine grid to multiples of N points (default: 16)",
    )
    add("--margin", type=float, metavar="DEGREES", help="width of coarse grid around it (default: two cells)")
    add("--grid", type=Path, metavar="FILE", help="interpolate the fine source to lat and lon of this file")
    add(
        "--invariants",
        type=Path,
        metavar="FILE",
        help="fields without time on the fine grid; all are used",
    )
    return parser


def make_pairs(args: argparse.Namespace) -> None:
    """Check, print what is cut, make missing pairs, report failures."""
    log = Log(NAME)
    if (args.coarse is None) == (args.coarse_from_fine is None):
        raise InputError("give either --coarse or --coarse-from-fine")
    if args.coarse is not None and (args.every_run is not None or args.fine_means != 1):
        raise InputError("--every-run and --fine-means go with --coarse-from-fine")
    with quiet_imports():
        import numpy as np

        from earth2_corrdiff.base.block_means import Blocks
        from earth2_corrdiff.training.block_means import make_own_pairs
        from earth2_corrdiff.training.convert import Area, Conversion
        from earth2_corrdiff.training.convert import make_pairs as prepare
        from earth2_corrdiff.training.pairs import Channels
    log.import_earth2studio(args.coarse or args.fine, args.fine)
    area = Area(args.box, args.multiple, args.margin, args.grid, args.invariants)
    channels = Channels(args.inputs, args.outputs)
    conversion: Conversion
    if args.coarse_from_fine is not None:
        blocks, times = Blocks(args.coarse_from_fine, args.fine_means), args.times
        lead = None if args.every_run is None else np.timedelta64(round(args.every_run * 3600), "s")
        every = "all" if times == ["all"] else times
        conversion = make_own_pairs(args.fine, every, channels, args.output, blocks, area, lead)
    else:
        conversion = prepare(args.coarse, args.fine, args.times, channels, args.output, area)
    conversion.append = args.append
    for line in conversion.notes:
        print(line, flush=True)
    for _ in progress_bar(conversion, total=len(conversion), desc="pairs", unit="time", delay=1):
        pass
    total = len(conversion.plan.times)
    if conversion.empty:
        print(f"{len(conversion.empty)} of {total} times have no values and are left out")
        if len(conversion.empty) == total:
            raise InputError("there are no values; nothing was written")
    if conversion.failed:
        for time, reason in conversion.failed.items():
            print(f"{NAME}: {time}: {reason}", file=sys.stderr)
        if not args.output.exists():
            raise InputError(f"none of the {total} times could be made, as said above; nothing was written")
        raise InputError(
            f"{len(conversion.failed)} of {total} times could not be made, as said above; a training leaves "
            "them out, and the same command tries them again"
        )
    print(f"{args.output} has {conversion.complete} pairs")


main = entry_point(NAME, _parser, make_pairs)
