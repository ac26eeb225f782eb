#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Print results of bench-corrdiff.py as Markdown, or put them into a file between its two markers.

python scripts/bench-table.py mid.json full.json
python scripts/bench-table.py mid.json full.json --into scripts/bench/README.md
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from bench import report  # noqa: E402

from earth2_corrdiff.cli.common import ArgumentParser, run_command  # noqa: E402


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(prog="bench-table.py", description="Results of bench-corrdiff.py as Markdown.")
    made.add_argument("results", type=Path, nargs="+", metavar="FILE", help="what --json wrote")
    made.add_argument("--into", type=Path, help=f"replace what is between {report.BEGIN} and {report.END}")
    return made


def main(args: Namespace) -> None:
    """Print the tables, or write them."""
    table = report.readme_table(report.read(path) for path in args.results)
    if args.into is None:
        print(table, end="")
    else:
        report.insert(args.into, table)


if __name__ == "__main__":
    sys.exit(run_command("bench-table.py", main, parser().parse_args()))
