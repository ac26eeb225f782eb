# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command behind ``scripts/bench-solvers.py``: which solver, how many steps, which noise range."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser, progress_bar, quiet_imports, run_command
from earth2_corrdiff.cli.log import Log as CommandLog

if TYPE_CHECKING:
    from bench.solver_study import Bench, Log, Setting
    from earth2_corrdiff.base.times import Times

NAME = "bench-solvers"
CALLS = (2, 3, 5, 7, 9, 11, 13, 17, 23, 35)  # odd, as Heun takes: all are compared at equal cost
SOLVERS = ("euler", "heun", "stochastic", "dpmpp_2m", "trigflow")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0, 2 for unusable input, 130 after Ctrl-C)."""
    args = _parser().parse_args(argv)
    return run_command(NAME, bench, args, debug=args.debug)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="CRPS, spread and spectra of a model against the number of network evaluations, for "
        "solvers and noise ranges, and the cheapest setting that is as good as Heun with 35 evaluations.",
        epilog="Every finished setting is kept in --json: the same command again goes on with the rest.",
    )
    add = parser.add_argument
    add("--package", default="demo", metavar="NAME", help="demo (default), taiwan, a folder or a URL")
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="fp32", help="fp32 (default), bf16 or fp16")
    add("--source", default="demo", metavar="NAME", help="where the input is from (default: demo)")
    add("--truth", default="demo", help="as verify-corrdiff takes it (default: demo)")
    add("--times", nargs="+", metavar="TIME", help="not trained on (default: the demo's, --count of them)")
    add(
        "--count",
        type=int,
        default=16,
        metavar="N",
        help="random hours of the demo's validation year: what is chosen on them can be verified on others "
        "(default: 16)",
    )
    add("--region", metavar="S,N,W,E", help="on a part of the domain in degrees, as run-corrdiff has it")
    add("--members", type=int, default=8, metavar="N", help="at each time (default: 8)")
    add("--seed", type=int, default=0, metavar="N", help="of the members' noise (default: 0)")
    add("--solvers", nargs="+", default=SOLVERS, metavar="NAME", help=f"default: {' '.join(SOLVERS)}")
    add(
        "--calls",
        nargs="+",
        type=int,
        default=CALLS,
        metavar="N",
        help=f"default: {' '.join(map(str, CALLS))}",
    )
    add("--sigma", nargs="+", metavar="MIN:MAX", help="noise ranges (default: the package's)")
    add(
        "--churn",
        nargs="+",
        type=float,
        metavar="S",
        help="S_churn of the solver stochastic: noise that its steps add and remove (default: 2 alone)",
    )
    add(
        "--few-step",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="generators of one call or few, which train-corrdiff makes of the package, beside the solvers",
    )
    add(
        "--reference",
        default="0.002:80",
        metavar="MIN:MAX",
        help="noise range of Heun with 35 evaluations and of Euler with 8 steps, by which all are judged; "
        "not the package's, which may have been chosen here (default: 0.002:80, EDM's)",
    )
    add(
        "--json",
        type=Path,
        default=Path("runs/bench-solvers.jsonl"),
        metavar="PATH",
        help="default: %(default)s",
    )
    add("--csv", type=Path, metavar="PATH", help="also write a row for each setting and quantity")
    add("--plot", type=Path, metavar="PATH", help="also draw the curves, as PNG, SVG or PDF")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def bench(args: argparse.Namespace) -> None:
    """Measure what is missing, then print the table and the choice."""
    with quiet_imports():
        from bench import solver_advice, solver_study
        from earth2_corrdiff.base.files import check_file, whole
    for path in filter(None, (args.json, args.csv, args.plot)):
        check_file(path)
    prepared = _prepare(args)
    own = [(prepared.default.sigma_min, prepared.default.sigma_max)]
    ranges = own if args.sigma is None else [sigma_range(word) for word in args.sigma]
    low, high = sigma_range(args.reference)
    default = replace(prepared.default, sigma_min=low, sigma_max=high)
    wanted = solver_study.settings(args.solvers, args.calls, ranges, default, args.churn or [None])
    log = solver_study.Log(args.json, prepared.conditions)
    _measure(prepared, [setting for setting in wanted if not log.has(setting)], log)
    for package in args.few_step:
        few = _prepare(argparse.Namespace(**{**vars(args), "package": package}))
        missing = [setting for setting in solver_study.few_steps(few) if not log.has(setting)]
        _measure(few, missing, log, prepared.conditions)
    found = solver_advice.measured(log.records, default)
    if args.csv is not None:
        with whole(args.csv) as part:
            _write_csv(log.records, part)
    if args.plot is not None:
        what = f"{prepared.downscaler.spec.name}: {len(prepared.times)} times, {args.members} members"
        kind = args.plot.suffix[1:] or "png"
        figure = solver_advice.curves(found, what)
        with whole(args.plot) as part:
            figure.savefig(part, format=kind)
    print(solver_advice.table(found, default).text())
    print(solver_advice.advice(found, default))


def sigma_range(word: str) -> tuple[float, float]:
    """``0.002:80`` → (0.002, 80.0); InputError for anything else."""
    low, _, high = word.partition(":")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise InputError(f"--sigma takes MIN:MAX, like 0.002:80, got {word!r}") from error


def _prepare(args: argparse.Namespace) -> Bench:
    """The model, its input and its truth."""
    from bench.drawn import FetchedInput
    from bench.solver_study import Bench
    from earth2_corrdiff.model.options import ModelOptions
    from earth2_corrdiff.model.spec import check_count
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.sources import make_source
    from earth2_corrdiff.verification.truth import open_truth

    if check_count("--members", args.members) < 2:
        raise InputError("--members must be 2 or more: one member has no spread")
    times = _times(args)
    model = load_model(ModelOptions(args.package, args.device, args.precision, region=args.region))
    CommandLog(NAME).import_earth2studio(args.source, args.truth)
    truth = open_truth(args.truth, model.spec.output_grid)
    coarse = FetchedInput(make_source(args.source), model.spec, times)
    return Bench(model.downscaler, coarse, truth, times, args.members, args.seed)


def _times(args: argparse.Namespace) -> Times:
    from earth2_corrdiff.base.times import distinct, to_times

    if args.times is not None:
        return distinct(to_times(args.times))
    if args.truth != "demo":
        raise InputError("give --times that were not trained on; only the demo knows its own")
    from earth2_corrdiff.demo.hours import validation_times
    from earth2_corrdiff.model.spec import check_count

    return validation_times(check_count("--count", args.count))


def _measure(
    prepared: Bench, missing: Sequence[Setting], log: Log, conditions: dict[str, Any] | None = None
) -> None:
    """Measure settings one after the other; each is kept, with the log's conditions, when it is done."""
    members = prepared.members
    total = sum(setting.calls * members * len(prepared.times) for setting in missing)
    with progress_bar(total=total, desc=NAME, unit="call") as bar:
        for setting in missing:
            bar.set_postfix_str(str(setting))
            for record in prepared.measure(setting):
                if record is None:
                    bar.update(setting.calls * members)
                else:
                    log.append(record | ({} if conditions is None else {"conditions": conditions}))


def _write_csv(records: Sequence[dict[str, Any]], path: Path) -> None:
    """A row for each setting and quantity."""
    from bench.solver_study import Setting

    rows = [
        {**asdict(Setting(**record["setting"])), "calls": record["calls"], "variable": name, **scores}
        for record in records
        for name, scores in record["scores"].items()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
