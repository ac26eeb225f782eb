#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Make the README's picture from a demo run: the coarse input above two members.

python scripts/run-corrdiff.py 2024-07-24T12:00 --samples 4 --demo --seed 0 --overwrite
python scripts/readme-picture.py outputs/corrdiff-2024-07-24T1200.zarr examples/demo-ensemble.png
"""

import io
import sys
from argparse import Namespace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import ArgumentParser, run_command  # noqa: E402


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="readme-picture.py", description="The coarse input above two members, as one PNG."
    )
    made.add_argument("store", type=Path, metavar="STORE", help="the Zarr store that run-corrdiff wrote")
    made.add_argument("output", type=Path, metavar="PNG", help="the picture, replaced if it exists")
    made.add_argument("--width", type=int, default=1000, metavar="N", help="pixels (default: 1000)")
    return made


def main(args: Namespace) -> None:
    """Stack three figures, reduced to the width of a page."""
    from PIL import Image

    from earth2_corrdiff import plotting

    ds = plotting.open_store(args.store)
    scales, width = plotting.color_scales(ds, 0), args.width
    figures = [
        plotting.plot_lowres(ds, 0, scales),
        *(plotting.plot_member(ds, 0, i, scales) for i in (0, 1)),
    ]
    rows = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi="figure")
        row = Image.open(buffer).convert("RGB")
        rows.append(row.resize((width, round(row.height * width / row.width)), Image.Resampling.LANCZOS))
    page = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    page.save(args.output, optimize=True)


if __name__ == "__main__":
    sys.exit(run_command("readme-picture.py", main, parser().parse_args()))
