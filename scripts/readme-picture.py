#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Make the README's picture from a demo run: the coarse input above two members.

python scripts/run-corrdiff.py 2024-07-24T12:00 --samples 4 --demo --seed 0 --overwrite
python scripts/readme-picture.py outputs/corrdiff-2024-07-24T1200.zarr examples/demo-ensemble.png
"""

import io
import sys

from PIL import Image

from earth2_corrdiff import plotting


def main(store: str, output: str, width: int = 1000) -> None:
    """Stack three figures, reduced to the width of a page."""
    ds = plotting.open_store(store)
    scales = plotting.color_scales(ds, 0)
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
    page.save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
