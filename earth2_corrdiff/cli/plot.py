# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``plot-corrdiff``: pictures of a store that ``run-corrdiff`` wrote."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import make_folder, whole, writing
from earth2_corrdiff.cli.common import ArgumentParser, run_command

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from earth2_corrdiff.plotting.panels import Scales

NAME = "plot-corrdiff"
FORMATS = ("png", "jpg", "pdf", "svg")
OVER = ("members", "times")
HINT = "; give another --output-dir"

Save = Callable[[Path], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0, 2 for unusable input, 130 after Ctrl-C)."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(_bare_animate(words))
    return run_command(NAME, plot, args, debug=args.debug)


def _bare_animate(words: list[str]) -> list[str]:
    """``--animate`` without a word of its own, so that it does not take the STORE for it."""
    following = [*words[1:], ""]
    bare = [word == "--animate" and after not in OVER for word, after in zip(words, following, strict=True)]
    return [f"{word}=auto" if alone else word for word, alone in zip(words, bare, strict=True)]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Plot a store that run-corrdiff wrote. Needs no network.",
        epilog="Files are named corrdiff-TIME-sample-N.FORMAT, corrdiff-TIME-lowres.FORMAT, "
        "corrdiff-TIME-ensemble.FORMAT and corrdiff-TIME-animation.gif, TIME like 2024-07-24T1200 (UTC), of "
        "forecasts start and lead time like 2024-07-24T1200+006h; with coarse members coarse-N comes before "
        "sample-N.",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="the Zarr folder that run-corrdiff wrote")
    parser.add_argument(
        "--lead",
        metavar="LEADS",
        help="lead times of forecasts to plot, like 24h, 0/48/6h (first, last, step) or 6,12 (default: all)",
    )
    parser.add_argument("--plot-lowres", action="store_true", help="also plot the coarse input")
    parser.add_argument(
        "--samples", nargs="+", metavar="N", help="members to plot, like 0 2 or 0-3 or 0,2,5-7 (default: all)"
    )
    parser.add_argument(
        "--coarse-members",
        nargs="+",
        metavar="N",
        help="coarse members whose members to plot, likewise (default: all)",
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
        "--animate",
        choices=("auto", *OVER),
        metavar="WHAT",
        help="also make GIFs: over the members of each time (--animate members), or over the times of each "
        "member, of forecasts the lead times of each start (--animate times); without a word over members if "
        "there are several",
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


@dataclass(frozen=True)
class Choice:
    """What is plotted: times by their positions, each with its written members, and coarse members.

    Attributes
    ----------
    members : dict[int, list[int]]
        Numbers of the members by time; times without any are left out
    coarse : list[int]
        Positions of the coarse members, one where there is but one coarse input
    """

    members: dict[int, list[int]]
    coarse: list[int]


def plot(args: argparse.Namespace) -> None:
    """Check everything that was asked for, then make one picture after the other."""
    if args.format not in FORMATS:
        raise InputError(f"--format takes one of {', '.join(FORMATS)}, got {args.format}")
    samples = None if args.samples is None else parse_samples(args.samples)
    coarse = None if args.coarse_members is None else parse_samples(args.coarse_members, "--coarse-members")
    thresholds = parse_thresholds(args.threshold)
    from earth2_corrdiff.plotting import figures, open_store, panels

    ds = open_store(args.store)
    figures.checked_thresholds(ds, thresholds)
    if args.plot_lowres:
        panels.require_coarse(ds)
    choice = _plottable(ds, _times(ds, args.lead), samples, coarse, ensemble=args.ensemble)
    make_folder(args.output_dir, HINT)
    for index, members in choice.members.items():
        for name, save in _pictures(ds, index, members, choice.coarse, thresholds, args):
            _write(args.output_dir / name, save)
    if args.animate == "times" or (args.animate and max(map(len, choice.members.values())) < 2):
        for name, save in _animations(ds, choice):
            _write(args.output_dir / name, save)


def _times(ds: xr.Dataset, lead: str | None) -> list[int]:
    """Positions of the times to plot: all, or those of some lead times."""
    from earth2_corrdiff.base.times import chosen_leads
    from earth2_corrdiff.plotting import cases

    every = cases(ds)
    if lead is None:
        return list(range(len(every)))
    wanted = chosen_leads(lead, every.leads)
    return [index for index, case in enumerate(every) if case.lead in wanted]


def parse_samples(words: Sequence[str], option: str = "--samples") -> list[int]:
    """``["0", "2-4,7"]`` as ``[0, 2, 3, 4, 7]``; `InputError` for anything else."""
    found: list[int] = []
    for word in (part for text in words for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)  # a list of more would not end
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{option} takes members like 0 2 or 0-3, after the STORE, got {word!r}")
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


def _plottable(
    ds: xr.Dataset, times: list[int], samples: list[int] | None, coarse: list[int] | None, ensemble: bool
) -> Choice:
    """The written ones of the members to plot, at each of the times; the others are warned of."""
    from loguru import logger

    from earth2_corrdiff.plotting import cases
    from earth2_corrdiff.store import reader

    asked = _members(ds, samples, coarse)
    written = {index: reader.written_members(ds, index) for index in times}
    if ensemble and max(map(len, written.values()), default=0) < 2:
        raise InputError("--ensemble needs two written members, and the store has fewer: run more samples")
    found = {index: [sample for sample in asked if sample in there] for index, there in written.items()}
    if not any(found.values()):
        raise InputError(
            "none of the members to plot has been written: finish the run with run-corrdiff --resume"
        )
    every = cases(ds)
    for index, members in found.items():
        for sample in sorted(set(asked) - set(members)):
            name = reader.member_text(ds, sample).replace("member", "sample", 1)
            logger.warning("{} at {} has not been written: skipped.", name.capitalize(), every[index])
    numbers = reader.coarse_numbers(ds) or [0]
    shown = [i for i, number in enumerate(numbers) if coarse is None or number in coarse]
    return Choice({index: members for index, members in found.items() if members}, shown)


def _members(ds: xr.Dataset, samples: list[int] | None, coarse: list[int] | None) -> list[int]:
    """Numbers of the members to plot; InputError if the store has no room for one of them."""
    from earth2_corrdiff.store import reader

    numbers = reader.coarse_numbers(ds)
    if numbers is None:
        if coarse is not None:
            raise InputError("the store has no coarse members; leave out --coarse-members")
        return reader.checked_samples(ds, samples)
    for what, wanted, there in (
        ("coarse member", coarse, numbers),
        ("sample", samples, [int(number) for number in ds["sample"].values]),
    ):
        for number in wanted or ():
            if number not in there:
                raise InputError(f"the store has no {what} {number}: it has {', '.join(map(str, there))}")
    named = {number: reader.member_names(ds, number) for number in reader.sample_numbers(ds)}
    return [
        number
        for number, (own, sample) in named.items()
        if (coarse is None or own in coarse) and (samples is None or sample in samples)
    ]


def _pictures(
    ds: xr.Dataset,
    index: int,
    members: list[int],
    coarse: list[int],
    thresholds: dict[str, float],
    args: argparse.Namespace,
) -> Iterator[tuple[str, Save]]:
    """Name of each picture of one time, and what writes it."""
    from loguru import logger

    from earth2_corrdiff import plotting

    case = plotting.cases(ds)[index]
    stem = f"corrdiff-{plotting.case_label(case)}"
    scales = plotting.color_scales(ds, index)
    for sample in members:
        figure = plotting.plot_member(ds, index, sample, scales)
        yield f"{stem}-{_member_label(ds, sample)}.{args.format}", _saving(figure, args.format)
    if args.plot_lowres:
        yield from _coarse_pictures(ds, index, coarse, stem, scales, args.format)
    if args.ensemble and len(plotting.written_members(ds, index)) < 2:
        logger.warning("Only one member has been written at {}: no ensemble picture.", case)
    elif args.ensemble:
        figure = plotting.plot_ensemble(ds, index, thresholds, scales=scales)
        yield f"{stem}-ensemble.{args.format}", _saving(figure, args.format)
    if args.animate == "members" or (args.animate == "auto" and len(members) > 1):
        yield f"{stem}-animation.gif", lambda path: plotting.animate(ds, path, index, members, scales)


def _coarse_pictures(
    ds: xr.Dataset, index: int, coarse: list[int], stem: str, scales: Scales, file_format: str
) -> Iterator[tuple[str, Save]]:
    """The coarse input of each coarse member that is chosen."""
    from earth2_corrdiff import plotting
    from earth2_corrdiff.store.reader import coarse_numbers

    numbers = coarse_numbers(ds)
    for position in coarse:
        own = "" if numbers is None else f"-coarse-{numbers[position]}"
        figure = plotting.plot_lowres(ds, index, scales, position)
        yield f"{stem}{own}-lowres.{file_format}", _saving(figure, file_format)


def _animations(ds: xr.Dataset, choice: Choice) -> Iterator[tuple[str, Save]]:
    """Name of each GIF over times, and what writes it: for each member, of forecasts also for each start."""
    from earth2_corrdiff import plotting
    from earth2_corrdiff.plotting import panels

    every = plotting.cases(ds)
    groups: dict[object, list[int]] = {}
    for index in choice.members:
        groups.setdefault(None if every.leads is None else every[index].time, []).append(index)
    for times in groups.values():
        scales = panels.color_scales(ds, {index: choice.members[index] for index in times})
        first, last = (plotting.case_label(every[index]) for index in (times[0], times[-1]))
        span = first if len(times) == 1 else f"{first}-to-{last}"
        for sample in sorted({sample for index in times for sample in choice.members[index]}):
            at = [index for index in times if sample in choice.members[index]]
            yield (
                f"corrdiff-{span}-{_member_label(ds, sample)}-animation.gif",
                partial(_animate_times, ds, sample, at, scales),
            )


def _animate_times(ds: xr.Dataset, sample: int, times: list[int], scales: Scales, path: Path) -> None:
    from earth2_corrdiff import plotting

    plotting.animate_times(ds, path, sample, times, scales)


def _member_label(ds: xr.Dataset, sample: int) -> str:
    """``sample-2``, or ``coarse-1-sample-2``."""
    from earth2_corrdiff.store import reader

    coarse, own = reader.member_names(ds, sample)
    return f"sample-{own}" if coarse is None else f"coarse-{coarse}-sample-{own}"


def _saving(figure: Figure, file_format: str) -> Save:
    jpeg: dict[str, Any] = {"pil_kwargs": {"quality": 92}} if file_format == "jpg" else {}
    return lambda path: figure.savefig(path, format=file_format, dpi="figure", **jpeg)


def _write(path: Path, save: Save) -> None:
    """Write a picture, complete or not at all, and print its path."""
    with writing(path, HINT), whole(path) as part:
        save(part)
    print(path, flush=True)
