# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m earth2_corrdiff tune``: measures the fastest kernels of this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.cli.common import ArgumentParser, run_command
from earth2_corrdiff.cli.log import Log

NAME = "python -m earth2_corrdiff"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after a wrong option."""
    args = _parser().parse_args(argv)
    return run_command(f"{NAME} {args.command}", tune, args, debug=args.debug)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Preparation of a machine. Runs are started with run-corrdiff.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tuning = commands.add_parser(
        "tune",
        help="measure what is fastest on this machine, in under a minute, and keep it",
        description="Measure tile sizes and captured graphs on a GPU, or kernels on a CPU, in under a "
        "minute, and keep the choice beside the compiled kernels. Later runs on the same device, driver and "
        "versions use it, and --debug shows it; EARTH2_CORRDIFF_TUNED=0 ignores it. Other kernels "
        "round differently: stores record a choice that changes results, and are not resumed with another.",
    )
    add = tuning.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--debug", action="store_true", help="show debug messages, and the traceback of an error")
    return parser


def tune(args: argparse.Namespace) -> None:
    """Measure, write the table, and print what was chosen.

    Raises
    ------
    InputError
        If the device is not there, or the table cannot be written
    """
    Log(NAME, "INFO", args.debug)
    from earth2_corrdiff.base.devices import find_device
    from earth2_corrdiff.networks.fast import tuning

    device = find_device(args.device)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{args.device!r} is not a device that can be tuned; use cpu or cuda")
    print(f"measuring on {device}, under a minute …", flush=True)
    try:
        found = tuning.tune(device)
    except OSError as error:
        raise InputError(
            f"the table cannot be written ({first_line(error)}); set EARTH2_CORRDIFF_CACHE to another folder"
        ) from error
    print("\n".join([*tuning.lines(found), f"kept in {found.path}"]))
