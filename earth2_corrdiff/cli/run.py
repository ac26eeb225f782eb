# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``run-corrdiff``: downscale the weather of given times into an ensemble."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError, renamed
from earth2_corrdiff.base.object_path import AnyPath, as_path
from earth2_corrdiff.base.processes import Processes, in_array, launched, process_group
from earth2_corrdiff.cli.common import TRY_LATER, pairs, progress_bar, run_command, stored
from earth2_corrdiff.cli.loading import make_input, model_options
from earth2_corrdiff.cli.log import Log
from earth2_corrdiff.cli.measure import peak_memory, trace_path, traced
from earth2_corrdiff.cli.run_options import NAME, finish_parser, run_parser
from earth2_corrdiff.cli.run_report import announce, count, report, report_failures

if TYPE_CHECKING:
    from earth2_corrdiff.base.cases import Cases
    from earth2_corrdiff.model.earth2studio import CorrDiff
    from earth2_corrdiff.run.cluster import ClusterRun
    from earth2_corrdiff.run.downscaling import Downscaling
    from earth2_corrdiff.run.options import Options
    from earth2_corrdiff.run.tasks import Part
    from earth2_corrdiff.verification.sums import Scorer

SOME_FAILED = 3
DISTRIBUTION = ("--task", "--workers", "--scheduler", "--storage-options")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 2 for unusable input, 75 for what may work later; 3 if some times failed with
        ``--keep-going`` (75 if nothing was done, and they may work later); 130 after Ctrl-C
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command(NAME, _work, arguments, debug="--debug" in arguments)


def _work(arguments: list[str]) -> int:
    """Prepare or finish a run, or compute a part of it or all."""
    if arguments[:1] == ["finish"]:
        args = finish_parser().parse_args(arguments[1:])
        with stored(args):
            return finish(as_path(args.store))
    args = _parsed(arguments)
    with stored(args):
        return _start(args)


def _start(args: argparse.Namespace) -> int:
    processes = launched(os.environ)
    if processes.attempt:  # the launcher has started the job again: go on
        args.resume, args.overwrite = True, False
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler writes about GPUs that are missing
    if not args.shard_patches or processes.size == 1:
        return run(args, processes)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a lost process: stack traces of C++
    args.device = _device(args.device, processes)
    backend = "gloo" if args.device == "cpu" else "cpu:gloo,cuda:nccl"
    from earth2_corrdiff.run.patch_parallel import PATIENCE

    with process_group(processes, os.environ, backend, timeout=PATIENCE):
        return run(args, processes)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    prepare = arguments[:1] == ["prepare"]
    args = run_parser().parse_args(arguments[prepare:])
    args.prepare, args.command = prepare, shlex.join([NAME, *_plain(arguments[prepare:])])
    return args


def _plain(arguments: list[str]) -> Iterator[str]:
    """The arguments without those that change nothing of the store: who does what, and the keys to it."""
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        given = len(option) > 2 and any(name.startswith(option) for name in DISTRIBUTION)  # or its beginning
        if not given:
            yield word
        elif not value:
            next(words, None)


def finish(store: AnyPath) -> int:
    """Complete the store of a run whose tasks are done, or say what it misses."""
    from earth2_corrdiff.store.states import read_sums
    from earth2_corrdiff.store.target import finish

    missing, members = finish(store)
    if missing:
        print(f"{store} misses {missing} of {count(members, 'member')}; run the tasks that failed again")
        return SOME_FAILED
    print(f"{store} is complete: {count(members, 'member')}")
    if read_sums(store):
        _print_scores(store)
    return 0


def run(args: argparse.Namespace, processes: Processes) -> int:
    """Check the options, load, run, and report what was written; the exit status."""
    from earth2_corrdiff.model.packages.names import OWN, check_name
    from earth2_corrdiff.store.paths import check_target

    _check(args)
    part = _part(args, processes)
    log = Log(NAME, "INFO" if processes.first else "WARNING", args.debug, held=True)
    source = make_input(args)
    cases = source.cases(args.times, args.lead)
    args.output = as_path(args.output or Path("outputs") / f"corrdiff-{_label(cases)}.zarr")
    if args.package != OWN:
        check_name(args.package)
    check_target(args.output, args.overwrite, args.resume or not part.whole or not processes.first)
    start = perf_counter()
    if sys.stderr.isatty() and processes.first:  # not in a log file, where an error shall be one line
        print(f"{NAME}: loading the package {args.package} …", file=sys.stderr, flush=True)
    log.import_earth2studio(args.source, args.score or "")
    if args.workers or args.scheduler:
        return _on_cluster(args, log, start)
    from earth2_corrdiff.run.packages import load_model

    args.device = _device(args.device, processes)
    model = load_model(model_options(args))
    announce(model, source, cases, args, processes.size if args.shard_patches else 1)
    loaded = perf_counter() - start
    if args.shard_patches and _follows(model, processes):
        return 0
    from earth2_corrdiff.run.downscaling import Downscaling

    options = replace(_options(args), part=part)
    downscaling = Downscaling(args.times, model, source, args.output, options, lead_time=args.lead)
    if args.prepare:
        return _prepare(downscaling, log)
    members = iter(downscaling)  # from here on nothing is refused that could be known before
    log.release()
    with _leads(downscaling, args, processes), _profiled(args):
        _advance(downscaling, members, processes)
    if args.profile:
        print(f"wrote the profile {trace_path(args.output)}; open it with https://ui.perfetto.dev")
    return _reported(downscaling, args, loaded, peak_memory(model.downscaler.device))


def _reported(run: Downscaling | ClusterRun, args: argparse.Namespace, loaded: float, peak: str) -> int:
    print(report(run, args.output, loaded, peak))
    report_failures(NAME, run)
    if args.score is not None and not run.failed and run.options.part.whole:
        _print_scores(args.output)
    if not run.failed:
        return 0
    return TRY_LATER if run.may_pass else SOME_FAILED


def _on_cluster(args: argparse.Namespace, log: Log, start: float) -> int:
    """Run on Dask's workers; they load the model."""
    import logging

    from earth2_corrdiff.run.cluster import ClusterRun, Recipe, connected

    if not args.debug:
        logging.getLogger("distributed").setLevel("WARNING")  # its import has chosen INFO
    with connected(args.workers, args.scheduler) as client:
        output = args.output.absolute() if isinstance(args.output, Path) else args.output
        data = (partial(make_input, args), output, _options(args), args.lead)
        run = ClusterRun(client, Recipe(args.times, model_options(args), *data))
        members = iter(run)
        log.release()
        loaded = perf_counter() - start
        print(f"{NAME}: dashboard of Dask: {client.dashboard_link}", file=sys.stderr, flush=True)
        _advance(run, members, Processes())
        return _reported(run, args, loaded, count(len(client.ncores()), "worker"))


def _part(args: argparse.Namespace, processes: Processes) -> Part:
    """The part of this process: as asked for, or as its launcher numbers it."""
    from earth2_corrdiff.run.tasks import Part

    if args.prepare and args.task:
        raise InputError("prepare is for all tasks; leave out --task")
    if args.prepare or args.task:
        return Part.parse(args.task or "1/1")
    array, own = in_array(os.environ), Processes() if args.shard_patches else processes
    part = Part(array.rank * own.size + own.rank, array.size * own.size)
    if (args.workers or args.scheduler) and not part.whole:
        raise InputError(
            "--workers and --scheduler are for one process, and its launcher has started several"
        )
    return part


def _check(args: argparse.Namespace) -> None:
    from earth2_corrdiff.model.packages.names import OWN, default_source
    from earth2_corrdiff.store.error_bounds import Compression

    if args.demo:
        for name in ("package", "source"):
            if getattr(args, name) not in (None, "demo"):
                raise InputError(f"--demo means --package demo --source demo; leave out --{name}")
        args.package, args.source = "demo", "demo" if args.lead is None else "demo_fx"
    args.package = args.package or ("taiwan" if args.model is None else OWN)
    args.source = args.source or default_source(args.package)
    for name in ("samples", "steps", "max_batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be 1 or more, got {args.workers}")
    alone = args.prepare or args.task or args.shard_patches or args.profile or args.model
    if (args.workers or args.scheduler) and (alone or (args.workers and args.scheduler)):
        raise InputError(
            "--workers or --scheduler computes the whole run; leave out the other one, prepare, --task, "
            "--shard-patches, --profile and --model"
        )
    if args.overwrite and args.task:
        raise InputError("one process replaces the store; run-corrdiff prepare --overwrite, then the tasks")
    if args.overwrite and args.resume:
        raise InputError("--overwrite and --resume exclude each other")
    if args.check and not args.resume:
        raise InputError("--check goes with --resume: it reads what an earlier run has left")
    args.compress = Compression.parse(args.compress)
    if args.calibration is not None and "://" not in args.calibration:  # workers may start elsewhere
        args.calibration = str(Path(args.calibration).absolute())
    if args.model is not None and args.shard_patches:
        raise InputError("--model runs the class as it is; leave out --shard-patches")


def _label(cases: Cases) -> str:
    from earth2_corrdiff.base.times import lead_text

    times = cases.times
    stamps = [str(t.astype("datetime64[m]")).replace(":", "") for t in (times[0], times[-1])]
    label = stamps[0] if len(times) == 1 else "-to-".join(stamps)
    if cases.leads is None:
        return label
    leads = [lead_text(lead).replace(" ", "") for lead in (cases.leads[0], cases.leads[-1])]
    return f"{label}-lead-{leads[0] if len(cases.leads) == 1 else '-to-'.join(leads)}"


def _device(name: str, processes: Processes) -> str:
    """The device of this process: of several on a machine each takes the next GPU."""
    from earth2_corrdiff.base.devices import find_device

    return str(find_device(name, processes.local if processes.size > 1 else None))


def _follows(model: CorrDiff, processes: Processes) -> bool:
    """Compute what the first process sends; False in the first process itself."""
    from earth2_corrdiff.run.patch_parallel import check_shares, follow

    check_shares(model.downscaler.domain.patches, processes.size)
    if not processes.first:
        follow(processes, model.downscaler)
    return not processes.first


@contextmanager
def _leads(downscaling: Downscaling, args: argparse.Namespace, processes: Processes) -> Iterator[None]:
    """With ``--shard-patches``, lead the others as long as the block lasts."""
    if not args.shard_patches:
        yield
        return
    from earth2_corrdiff.run.patch_parallel import lead

    with lead(processes, downscaling.model.downscaler) as downscaling.make_members:
        yield


def _profiled(args: argparse.Namespace) -> AbstractContextManager[None]:
    """With ``--profile``, the trace."""
    return traced(trace_path(args.output)) if args.profile else nullcontext()


def _options(args: argparse.Namespace) -> Options:
    from earth2_corrdiff.run.options import Options

    names = ("seed", "overwrite", "resume", "command", "keep_going", "compress", "check", "keep")
    return Options(scorer=_scorer(args), **{name: getattr(args, name) for name in names})


def _scorer(args: argparse.Namespace) -> Scorer | None:
    if args.score is None:
        if args.truth_name or args.score_variables:
            raise InputError("--truth-name and --score-variables go with --score")
        return None
    from earth2_corrdiff.verification import Settings
    from earth2_corrdiff.verification.sums import Scorer

    variables = args.score_variables and args.score_variables.split(",")
    return Scorer(args.score, pairs("--truth-name", args.truth_name, str), Settings(variables))


def _print_scores(store: AnyPath) -> None:
    """The table of a store whose states are all scored."""
    from earth2_corrdiff.verification import tables
    from earth2_corrdiff.verification.sums import scored

    print("\n" + tables.report_text(scored(store)))


def _prepare(downscaling: Downscaling, log: Log) -> int:
    missing = sum(map(len, downscaling.prepare()))
    log.release()
    print(
        f"prepared {downscaling.output.target}: {missing} of {count(downscaling.members, 'member')} to "
        f"compute; seed {downscaling.seed}; run all --task I/N, in any order, with the same options"
    )
    return 0


def _advance(run: Downscaling | ClusterRun, members: Iterator[Any], processes: Processes) -> None:
    """Run, with a progress bar; what ends it says what is kept."""
    look = {"desc": "denoising", "unit": "step", "delay": 0, "disable": not processes.first}
    with progress_bar(total=run.evaluations, **look) as bar:
        run.progress = bar.update
        try:
            for _ in members:
                pass
        except (KeyboardInterrupt, InputError) as stop:
            bar.close()
            keeps = run.output.keeps
            if isinstance(stop, InputError):
                raise renamed(stop, str(stop) if "--resume" in str(stop) else f"{stop}; {keeps}") from stop
            raise KeyboardInterrupt(keeps) from None
