# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of ``run-corrdiff`` before and after a run."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from earth2_corrdiff.model.packages.names import PUBLISHED

if TYPE_CHECKING:
    from earth2_corrdiff.base.cases import Cases
    from earth2_corrdiff.base.object_path import AnyPath
    from earth2_corrdiff.model.earth2studio import CorrDiff
    from earth2_corrdiff.run.cluster import ClusterRun
    from earth2_corrdiff.run.downscaling import Downscaling
    from earth2_corrdiff.sources import Forecast, Source


def announce(
    model: CorrDiff, source: Source | Forecast, cases: Cases, args: argparse.Namespace, world: int
) -> None:
    """Log the extent of a run, its settings, and how far its output can be trusted."""
    from loguru import logger

    from earth2_corrdiff.model.downscaler import Downscaler

    what = "SYNTHETIC demo weather, neither observed nor forecast; " if source.synthetic else ""
    if model.spec.synthetic and not source.synthetic:
        what = "a demo model trained on SYNTHETIC weather: its output is no forecast; "
    if args.package in PUBLISHED and not source.synthetic and args.source.partition(":")[0] in NOT_ERA5:
        logger.info("the model was trained on ERA5; how it does on {} has not been evaluated", args.source)
    how = f"{args.model}, as Earth2Studio runs it, without acceleration"
    if isinstance(model.downscaler, Downscaler):
        how = f"{model.solver} with {count(model.number_of_steps, 'step')}, {model.downscaler.precision}"
    logger.info(
        "{}{}, {}, on {}{}",
        *(what, extent(cases, model.number_of_samples), how, model.downscaler.device),
        f", {world} processes" if world > 1 else "",
    )


def report(run: Downscaling | ClusterRun, output: AnyPath, loaded: float, peak: str) -> str:
    """One line about the run that has ended, and one about what was compressed."""
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in {"load": loaded, **run.seconds}.items())
    part = run.options.part
    what = str(output) if part.whole else f"part {part.number + 1} of {part.of} of {output}"
    done = f"wrote {what}"
    if run.found == run.members:
        done = f"nothing to do, {what} is complete"
    elif run.found:
        done = f"completed {what} ({run.members - run.found} of {count(run.members, 'member')} were missing)"
    if run.failed:
        done += f" but for {len(run.failed)} of {count(len(run.cases), _case(run.cases))} that failed"
    return (
        f"{done}: {extent(run.cases, run.samples)} of {run.what}; seed {run.seed}; {stages}; "
        f"{peak}{_compressed(run)}"
    )


def _compressed(run: Downscaling | ClusterRun) -> str:
    """Compression ratio, and the largest error of each variable beside its bound."""
    from earth2_corrdiff.base.variables import cf_attributes

    if not run.kept:
        return ""
    ratio = sum(kept.raw for kept in run.kept.values()) / sum(kept.stored for kept in run.kept.values())
    errors = (
        f"{name} {kept.error:.3g} of {kept.bound:g} {cf_attributes(name).get('units', '')}".rstrip()
        for name, kept in run.kept.items()
    )
    return f"\ncompressed {ratio:.1f} times; largest errors, as read again: {', '.join(errors)}"


def report_failures(name: str, run: Downscaling | ClusterRun) -> None:
    """One line on stderr for each case that the run went on without, and one about the way out."""
    for number, error in sorted(run.failed.items()):
        print(f"{name}: failed: {run.cases[number]}: {error}", file=sys.stderr)
    if run.failed:
        kept = f"{run.output.target} keeps the others"
        if run.output.replaces:
            kept = f"{run.output.target} is as it was, the others of the new one are kept"
        print(f"{name}: {kept}; try the failed ones again with --resume", file=sys.stderr)


def extent(cases: Cases, members: int) -> str:
    """``2 times x 4 members``, or ``1 forecast x 9 lead times x 5 coarse members x 4 members``."""
    parts = [count(len(cases.times), _case(cases, "forecast"))]
    parts += [] if cases.leads is None else [count(len(cases.leads), "lead time")]
    parts += [] if cases.coarse is None else [count(len(cases.coarse), "coarse member")]
    return " x ".join([*parts, count(members, "member")])


def count(number: int, what: str) -> str:
    """``1 time``, ``2 times``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _case(cases: Cases, forecast: str = "case") -> str:
    return "time" if cases.leads is None else forecast


NOT_ERA5 = ("gfs", "gfs_fx", "gefs_fx", "ifs_fx", "ifs_ens_fx")
