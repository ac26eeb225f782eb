# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``run-corrdiff``: downscale the weather of given times into an ensemble."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError, renamed
from earth2_corrdiff.base.object_path import as_path, storage_options
from earth2_corrdiff.cli.common import INPUT_ERROR, pairs, progress_bar, run_command
from earth2_corrdiff.cli.log import Log
from earth2_corrdiff.cli.measure import trace_path, traced
from earth2_corrdiff.cli.run_options import NAME, run_parser
from earth2_corrdiff.cli.run_report import announce, report, report_failures

if TYPE_CHECKING:
    from earth2_corrdiff.base.cases import Cases
    from earth2_corrdiff.base.processes import Processes
    from earth2_corrdiff.model.earth2studio import CorrDiff
    from earth2_corrdiff.run.downscaling import Downscaling

SOME_FAILED = 3
OPTION = "--storage-options"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 2 for unusable input, 75 for what may work later; 3 if some times failed with
        ``--keep-going``; 130 after Ctrl-C
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_command(NAME, _work, arguments, debug="--debug" in arguments)


def _work(arguments: list[str]) -> int:
    """Run as one of the processes that the launcher has started."""
    from earth2_corrdiff.base.processes import launched, meet

    processes = launched(os.environ)
    args = _parsed(arguments, processes)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler writes about GPUs that are missing
    if processes.size > 1:  # of a process that is gone PyTorch writes stack traces of C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    processes = meet(processes, os.environ)
    try:
        with processes.refusals(), storage_options(pairs(OPTION, args.storage_options, str)):
            return run(args, processes)
    except InputError as error:
        if processes.first:
            raise
        if "refused" in processes.message():
            return INPUT_ERROR  # the first process prints why
        raise renamed(error, f"process {processes.rank} of {processes.size}: {error}") from error


def _parsed(arguments: list[str], processes: Processes) -> argparse.Namespace:
    """The options; errors are printed by the first process."""
    if processes.first:
        args = run_parser().parse_args(arguments)
    else:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stderr(nowhere),
            redirect_stdout(nowhere),
        ):
            args = run_parser().parse_args(arguments)
    args.command = shlex.join([NAME, *without_secrets(arguments)])
    if processes.attempt:  # the launcher has started the job again: go on
        args.resume, args.overwrite = True, False
    return args


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Arguments without the values of storage options, which may be keys."""
    found = list(arguments)
    for i, word in enumerate(found):
        given = i > 0 and found[i - 1] == OPTION
        if given or word.startswith(f"{OPTION}="):
            found[i] = f"{'' if given else f'{OPTION}='}{word.removeprefix(f'{OPTION}=').partition('=')[0]}=…"
    return found


def run(args: argparse.Namespace, processes: Processes) -> int:
    """Check the options, load, run, and report what was written; the exit status."""
    from earth2_corrdiff.model.packages.names import OWN, check_name, is_remote
    from earth2_corrdiff.store.paths import check_target

    _check(args)
    log = Log(NAME, "INFO" if processes.first else "WARNING", args.debug, held=True)
    source = _source(args)
    cases = source.cases(args.times, args.lead)
    args.output = as_path(args.output or Path("outputs") / f"corrdiff-{_label(cases)}.zarr")
    if args.package != OWN:
        check_name(args.package)
    if processes.first:
        check_target(args.output, args.overwrite, args.resume)
    start = perf_counter()
    if sys.stderr.isatty() and processes.first:  # not in a log file, where an error shall be one line
        print(f"{NAME}: loading the package {args.package} …", file=sys.stderr, flush=True)
    log.import_earth2studio(args.source)
    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model

    if not processes.first and (args.package == OWN or is_remote(args.package)):
        processes.message()  # the first process downloads it, the others find it in the cache
    args.device = _device(args.device, processes)
    model = load_model(model_options(args))
    announce(model, source, cases, args, processes.size)
    loaded = perf_counter() - start
    if args.shard_patches and _follows(model, processes):
        return 0
    downscaling = _downscale(model, source, args, log, processes)
    if processes.first:
        if args.profile:
            print(f"wrote the profile {trace_path(args.output)}; open it with https://ui.perfetto.dev")
        print(report(downscaling, args.output, loaded))
        report_failures(NAME, downscaling)
    processes.leave()
    return SOME_FAILED if downscaling.failed and processes.first else 0


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
    if args.overwrite and args.resume:
        raise InputError("--overwrite and --resume exclude each other")
    if args.check and not args.resume:
        raise InputError("--check goes with --resume: it reads what an earlier run has left")
    args.compress = Compression.parse(args.compress)
    if args.model is not None and args.shard_patches:
        raise InputError("--model runs the class as it is; leave out --shard-patches")
    if args.coarse_members is not None and args.lead is None:
        raise InputError("--coarse-members goes with --lead: only forecasts have them")


def _source(args: argparse.Namespace) -> Any:
    from earth2_corrdiff.sources import make_forecast, make_source, parse_rename

    rename = parse_rename(args.rename or ())
    if args.lead is None:
        return make_source(args.source, rename=rename)
    return make_forecast(args.source, args.coarse_members, rename=rename)


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

    check_shares(model.patching, processes.size)
    if processes.first:
        return False
    if "refused" in (message := processes.message()):
        raise InputError(message["refused"])
    follow(processes, model.downscaler)
    return True


@contextmanager
def _leads(downscaling: Downscaling, args: argparse.Namespace, processes: Processes) -> Iterator[None]:
    """With ``--shard-patches``, lead the others as long as the block lasts."""
    if not args.shard_patches:
        yield
        return
    from earth2_corrdiff.run.patch_parallel import lead

    processes.announce(seed=downscaling.seed)  # the store is ready
    with lead(processes, downscaling.model.downscaler) as downscaling.make_members:
        yield


def _profiled(args: argparse.Namespace, processes: Processes) -> AbstractContextManager[None]:
    """With ``--profile``, the trace of the first process."""
    return traced(trace_path(args.output)) if args.profile and processes.first else nullcontext()


def _downscale(
    model: CorrDiff, source: Any, args: argparse.Namespace, log: Log, processes: Processes
) -> Downscaling:
    from earth2_corrdiff.base.processes import Processes, Steps
    from earth2_corrdiff.run.downscaling import Downscaling, Options

    own = Processes() if args.shard_patches else processes  # then no other process has members of its own
    names = ("seed", "overwrite", "resume", "command", "keep_going", "compress", "check")
    options = Options(processes=own, **{name: getattr(args, name) for name in names})
    downscaling = Downscaling(args.times, model, source, args.output, options, lead_time=args.lead)
    members = iter(downscaling)  # from here on nothing is refused that could be known before
    log.release()
    look = {"desc": "denoising", "unit": "step", "delay": 0, "disable": not processes.first}
    with progress_bar(total=downscaling.evaluations, **look) as bar:
        downscaling.progress = steps = Steps(own, bar.update)
        try:
            with _leads(downscaling, args, processes), _profiled(args, processes):
                for _ in members:
                    pass
        except (KeyboardInterrupt, InputError) as stop:
            bar.close()
            keeps = downscaling.output.keeps
            if isinstance(stop, InputError):
                raise renamed(stop, str(stop) if "--resume" in str(stop) else f"{stop}; {keeps}") from stop
            raise KeyboardInterrupt(keeps) from None
        steps.exchange()
        if not downscaling.failed:
            bar.update(bar.total - bar.n)  # what other jobs have done
    return downscaling
