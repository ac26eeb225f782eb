# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``plot-corrdiff``: pictures of a store that ``run-corrdiff`` wrote."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import make_folder, whole, writing
from earth2_corrdiff.base.object_path import AnyPath, as_path
from earth2_corrdiff.cli.common import (
    ArgumentParser,
    add_storage_options,
    command_parser,
    entry_point,
    pairs,
    stored,
)
from earth2_corrdiff.cli.log import Log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "plot-corrdiff"
FORMATS = ("png", "jpg", "pdf", "svg")
OVER = ("members", "times")
DATED = re.compile(r"corrdiff-\d{4}-\d\d-\d\d\.zarr")
"""A store's name without the time of day, as AMD's published programs write it."""
HINT = "; give another --output-dir"


def _bare_animate(words: list[str]) -> list[str]:
    """``--animate`` without a word of its own, so that it does not take the STORE for it."""
    following = [*words[1:], ""]
    bare = [word == "--animate" and after not in OVER for word, after in zip(words, following, strict=True)]
    return [f"{word}=auto" if alone else word for word, alone in zip(words, bare, strict=True)]


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Plot a store that run-corrdiff wrote. Needs no network.",
        "Files are named corrdiff-TIME-sample-N.FORMAT, corrdiff-TIME-lowres.FORMAT, "
        "corrdiff-TIME-ensemble.FORMAT and corrdiff-TIME-animation.gif, TIME like 2024-07-24T1200 (UTC), of "
        "forecasts start and lead time like 2024-07-24T1200+006h; with coarse members coarse-N comes before "
        "sample-N.",
    )
    add = parser.add_argument
    add(
        "store",
        metavar="STORE",
        help="the Zarr store that run-corrdiff wrote, a path or URL; "
        "corrdiff-DATE.zarr is the only store of a date",
    )
    add(
        "--lead",
        metavar="LEADS",
        help="lead times of forecasts to plot, like 24h, 0/48/6h (first, last, step) or 6,12 (default: all)",
    )
    add(
        "--variables",
        nargs="+",
        metavar="NAME",
        help="quantities to plot, like t2m ws10m tp, after the STORE (default: all of them, at most nine)",
    )
    add("--plot-lowres", action="store_true", help="also plot the coarse input")
    add(
        "--samples", nargs="+", metavar="N", help="members to plot, like 0 2 or 0-3 or 0,2,5-7 (default: all)"
    )
    add("--sample", dest="samples", nargs=1, metavar="N", help="the only member to plot")
    add(
        "--coarse-members",
        nargs="+",
        metavar="N",
        help="coarse members whose members to plot, likewise (default: all)",
    )
    add(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder of the pictures, made if missing (default: working directory)",
    )
    add("--format", default="png", metavar="FORMAT", help="png (default), jpg, pdf or svg")
    add(
        "--colormap",
        metavar="NAME",
        help="colour map of Matplotlib for all fields, like magma (default: one for each quantity)",
    )
    add("--show", action="store_true", help="also show each picture in a window; close it to go on")
    add(
        "--animate",
        choices=("auto", *OVER),
        metavar="WHAT",
        help="also make GIFs: over the members of each time (--animate members), or over the times of each "
        "member, of forecasts the lead times of each start (--animate times); without a word over members if "
        "there are several",
    )
    add(
        "--ensemble",
        action="store_true",
        help="also plot mean, spread and an exceedance probability of all written members",
    )
    add(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="threshold of the probability, in plotted units, repeatable (default: mrr=35 t2m=30 ws10m=17.2)",
    )
    add_storage_options(parser)
    return parser


def plot(args: argparse.Namespace) -> None:
    """Check everything that was asked for, then make one picture after the other."""
    if args.format not in FORMATS:
        raise InputError(f"--format takes one of {', '.join(FORMATS)}, got {args.format}")
    samples = None if args.samples is None else parse_samples(args.samples)
    coarse = None if args.coarse_members is None else parse_samples(args.coarse_members, "--coarse-members")
    thresholds = pairs("--threshold", args.threshold, float)
    from earth2_corrdiff.plotting import figures, open_store, panels, pictures, style

    Log(NAME)
    cmap = None if args.colormap is None else style.colormap(args.colormap)
    with stored(args):
        ds = panels.only(open_store(_only_store(as_path(args.store))), args.variables)
    figures.checked_thresholds(ds, thresholds)
    if args.plot_lowres:
        panels.require_coarse(ds)
    chosen = pictures.choose(ds, args.lead, samples, coarse, args.ensemble, cmap)
    make_folder(args.output_dir, HINT)
    show = _show if args.show and _has_display() else None
    for index, members in chosen.members.items():
        for name, figure in chosen.figures(index, args.plot_lowres, thresholds if args.ensemble else None):
            _write(args.output_dir / f"{name}.{args.format}", partial(_save, figure, args.format))
            if show is not None:
                show(figure, name)
        if args.animate == "members" or (args.animate == "auto" and len(members) > 1):
            name, write = chosen.over_members(index)
            _write(args.output_dir / f"{name}.gif", write)
    if args.animate == "times" or (args.animate and max(map(len, chosen.members.values())) < 2):
        for name, write in chosen.over_times():
            _write(args.output_dir / f"{name}.gif", write)


def _only_store(path: AnyPath) -> AnyPath:
    """The store itself, or for ``corrdiff-2024-07-24.zarr``, if it is not there, the only one of that date.

    Raises
    ------
    InputError
        If there are several
    """
    if not isinstance(path, Path):
        return path
    found = sorted(path.parent.glob(f"{path.stem}T*.zarr")) if DATED.fullmatch(path.name) else []
    if path.exists() or not found:
        return path
    if len(found) > 1:
        raise InputError(f"{path} stands for several stores, name one: {', '.join(map(str, found))}")
    print(f"{NAME}: {path} stands for {found[0]}", file=sys.stderr, flush=True)
    return found[0]


def parse_samples(words: Sequence[str], option: str = "--samples") -> list[int]:
    """``["0", "2-4,7"]`` as ``[0, 2, 3, 4, 7]``; `InputError` for anything else."""
    found: list[int] = []
    for word in (part for text in words for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)  # a list of more would not end
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{option} takes members like 0 2 or 0-3, after the STORE, got {word!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def _has_display() -> bool:
    """True if Matplotlib can open windows; otherwise one warning."""
    import matplotlib.pyplot as plt

    try:
        window = plt.figure()  # a backend is chosen, or refused, when it is first used
    except ImportError:
        found = False
    else:
        found = window.canvas.required_interactive_framework is not None
        plt.close(window)
    if not found:
        from loguru import logger

        logger.warning("there is no display for --show; the pictures are written and not shown")
    return found


def _show(figure: Figure, title: str) -> None:
    """Show a picture as it is written, until its window is closed."""
    import matplotlib.pyplot as plt

    canvas: Any = figure.canvas
    canvas.draw()
    window = plt.figure(num=title, figsize=tuple(figure.get_size_inches()))
    axes = window.add_axes((0, 0, 1, 1))
    axes.imshow(canvas.buffer_rgba())
    axes.set_axis_off()
    plt.show(block=True)
    plt.close(window)


def _save(figure: Figure, file_format: str, path: Path) -> None:
    jpeg: dict[str, Any] = {"pil_kwargs": {"quality": 92}} if file_format == "jpg" else {}
    figure.savefig(path, format=file_format, dpi="figure", **jpeg)


def _write(path: Path, save: Callable[[Path], None]) -> None:
    """Write a picture, complete or not at all, and print its path."""
    with writing(path, HINT), whole(path) as part:
        save(part)
    print(path, flush=True)


main = entry_point(NAME, _parser, plot, _bare_animate)
