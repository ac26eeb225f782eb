# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``plot-corrdiff``: pictures of a store that ``run-corrdiff`` wrote."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.cli.common import ArgumentParser, run_command
from earth2_corrdiff.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NAME = "plot-corrdiff"
FORMATS = ("png", "jpg", "pdf", "svg")

Save = Callable[[Path], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0, 2 for unusable input, 130 after Ctrl-C)."""
    args = _parser().parse_args(argv)
    return run_command(NAME, plot, args, debug=args.debug)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Plot a store that run-corrdiff wrote. Needs no network.",
        epilog="Files are named corrdiff-TIME-sample-N.FORMAT, corrdiff-TIME-lowres.FORMAT, "
        "corrdiff-TIME-ensemble.FORMAT and corrdiff-TIME-animation.gif, TIME like 2024-07-24T1200 (UTC).",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="the Zarr folder that run-corrdiff wrote")
    parser.add_argument("--plot-lowres", action="store_true", help="also plot the coarse input")
    parser.add_argument(
        "--samples", nargs="+", metavar="N", help="members to plot, like 0 2 or 0-3 or 0,2,5-7 (default: all)"
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="made if missing (default: working directory)",
    )
    parser.add_argument("--format", default="png", metavar="FORMAT", help="png (default), jpg, pdf or svg")
    parser.add_argument(
        "--animate", action="store_true", help="also make a GIF that cycles through the members"
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="also plot mean, spread and an exceedance probability of all written members",
    )
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="threshold of the probability, in plotted units, repeatable (default: mrr=35 t2m=30 ws10m=17.2)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def plot(args: argparse.Namespace) -> None:
    """Check everything that was asked for, then make one picture after the other."""
    if args.format not in FORMATS:
        raise InputError(f"--format takes one of {', '.join(FORMATS)}, got {args.format}")
    samples = None if args.samples is None else parse_samples(args.samples)
    thresholds = parse_thresholds(args.threshold)
    from earth2_corrdiff.plotting import figures, open_store, panels

    ds = open_store(args.store)
    figures.checked_thresholds(ds, thresholds)
    if args.plot_lowres:
        panels.require_coarse(ds)
    members_of = _plottable(ds, samples, ensemble=args.ensemble)
    _make_folder(args.output_dir)
    for index, members in members_of.items():
        for name, save in _pictures(ds, index, members, thresholds, args):
            _write(args.output_dir / name, save)


def parse_samples(words: Sequence[str]) -> list[int]:
    """``["0", "2-4,7"]`` as ``[0, 2, 3, 4, 7]``; `InputError` for anything else."""
    found: list[int] = []
    for word in (part for text in words for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)  # a list of more would not end
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"--samples takes members like 0 2 or 0-3, after the STORE, got {word!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def parse_thresholds(words: Sequence[str]) -> dict[str, float]:
    """``["mrr=40"]`` as ``{"mrr": 40.0}``; `InputError` for anything else."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise InputError(f"--threshold takes NAME=VALUE, like mrr=40, got {word!r}") from error
    return found


def _plottable(ds: xr.Dataset, samples: list[int] | None, ensemble: bool) -> dict[int, list[int]]:
    """For each time that has them (by position) the written members to plot; the others are warned of."""
    from loguru import logger

    from earth2_corrdiff.plotting import fields
    from earth2_corrdiff.times import time_text

    asked = fields.checked_samples(ds, samples)
    written = {index: fields.written_members(ds, index) for index in range(ds.sizes["time"])}
    if ensemble and max(map(len, written.values()), default=0) < 2:
        raise InputError("--ensemble needs two written members, and the store has fewer: run more samples")
    found = {index: [sample for sample in asked if sample in there] for index, there in written.items()}
    if not any(found.values()):
        raise InputError(
            "none of the members to plot has been written: finish the run with run-corrdiff --resume"
        )
    for index, members in found.items():
        for sample in sorted(set(asked) - set(members)):
            when = time_text(ds["time"].values[index])
            logger.warning("Sample {} at {} has not been written: skipped.", sample, when)
    return {index: members for index, members in found.items() if members}


def _pictures(
    ds: xr.Dataset, index: int, members: list[int], thresholds: dict[str, float], args: argparse.Namespace
) -> Iterator[tuple[str, Save]]:
    """Name of each picture of one time, and what writes it."""
    from loguru import logger

    from earth2_corrdiff import plotting

    time = plotting.time_label(ds["time"].values[index])
    stem = f"corrdiff-{time}"
    scales = plotting.color_scales(ds, index)
    for sample in members:
        figure = plotting.plot_member(ds, index, sample, scales)
        yield f"{stem}-sample-{sample}.{args.format}", _saving(figure, args.format)
    if args.plot_lowres:
        yield f"{stem}-lowres.{args.format}", _saving(plotting.plot_lowres(ds, index, scales), args.format)
    if args.ensemble and len(plotting.written_members(ds, index)) < 2:
        logger.warning("Only one member has been written at {}: no ensemble picture.", time)
    elif args.ensemble:
        figure = plotting.plot_ensemble(ds, index, thresholds, scales=scales)
        yield f"{stem}-ensemble.{args.format}", _saving(figure, args.format)
    if args.animate:
        yield f"{stem}-animation.gif", lambda path: plotting.animate(ds, path, index, members, scales)


def _saving(figure: Figure, file_format: str) -> Save:
    jpeg: dict[str, Any] = {"pil_kwargs": {"quality": 92}} if file_format == "jpg" else {}
    return lambda path: figure.savefig(path, format=file_format, dpi="figure", **jpeg)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder} ({error.strerror}): name another --output-dir"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write into {folder}: name another --output-dir")


def _write(path: Path, save: Save) -> None:
    """Write a picture under its name only once it is whole, and say so."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(part)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): name another --output-dir") from error
    finally:
        part.unlink(missing_ok=True)
    print(path, flush=True)
