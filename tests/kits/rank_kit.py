# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of several processes: the command in processes that can be stopped at a write."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command has it, before PyTorch is imported
# What the command imports while it runs takes longer than the run: the server of forks imports it once.
PRELOAD = ["torch", "torch._dynamo", "zarr", "earth2studio.io", "earth2_corrdiff.run.downscaling", "tqdm"]
PRELOAD += ["earth2_corrdiff.cli.run", "earth2_corrdiff.demo", "earth2_corrdiff.model.earth2studio", "pint"]
PRELOAD += [
    "earth2_corrdiff.run.cluster",
    "dask.array",
    "dask.distributed",
    "psutil",
    "pyarrow.pandas_compat",
    "scipy.fftpack",
    "h5py",
]
PATIENCE = 240  # seconds, of a machine that does much else


@dataclass(frozen=True)
class Hook:
    """What a process does at its writes of member seeds, counted from 1.

    Attributes
    ----------
    die_at : int
        Kill itself instead of this write, and leave the file ``died``; 0 for never
    die_sum : int
        Kill itself instead of this sum over all processes, counted from 1; 0 for never
    """

    die_at: int = 0
    die_sum: int = 0


@dataclass
class Outcome:
    """How a process ended: exit status (negative for a signal), stdout, stderr, members that it wrote."""

    status: int | None
    out: str
    err: str
    wrote: list[str] = field(default_factory=list)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def job(folder: Path, world: int, *argv: object, hooks: dict[int, Hook] | None = None) -> list[Outcome]:
    """All processes of one job, as ``srun`` starts them, until they have ended."""
    address = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{**address, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    started = [start(folder, env, argv, (hooks or {}).get(rank, Hook())) for rank, env in enumerate(ranks)]
    outcomes = [finish(process) for process in started]
    assert all(outcome.status is not None for outcome in outcomes), f"some did not end: {outcomes}"
    return outcomes


def start(
    folder: Path,
    env: dict[str, str],
    argv: tuple[object, ...],
    hook: Hook = Hook(),
    program: str = "earth2_corrdiff.cli.run",
) -> Any:
    """One process of the module of a command, started; what it says is in files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)  # imports once what all of them need
    said = folder / f"said-{time.monotonic_ns()}"
    process = context.Process(
        target=_child, args=(folder, said, env, [str(arg) for arg in argv], hook, program)
    )
    process.said = said
    process.start()
    return process


def finish(process: Any) -> Outcome:
    """The outcome of a process, once it has ended."""
    process.join(PATIENCE)
    status = process.exitcode  # None if it did not end
    process.kill()
    process.join()
    texts = [_text(process.said, end) for end in ("out", "err", "wrote")]
    for end in ("out", "err", "wrote"):
        process.said.with_suffix(f".{end}").unlink(missing_ok=True)
    return Outcome(status, texts[0], texts[1], texts[2].split())


@contextmanager
def forked_workers() -> Iterator[None]:
    """In this block Dask forks its workers from the server that has imported what they need."""
    import dask

    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def dying_source(armed: str) -> Any:
    """The demo's weather; the worker that removes the file kills itself at its second write of a seed."""
    from distributed import get_worker

    from earth2_corrdiff.sources import make_source

    with suppress(ValueError, FileNotFoundError):  # not in a worker; another one was first
        get_worker()
        os.unlink(armed)
        folder = Path(armed).parent
        _hook(folder, folder / "wrote", Hook(die_at=2))
    return make_source("demo")


def _text(said: Path, end: str) -> str:
    path = said.with_suffix(f".{end}")
    return path.read_text() if path.exists() else ""


def _child(folder: Path, said: Path, env: dict[str, str], argv: list[str], hook: Hook, program: str) -> None:
    """The process: the command, with its output in files, and a hook in Zarr's writes."""
    os.chdir(folder)
    os.environ.update(env)
    for stream, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(said.with_suffix(f".{end}"), os.O_WRONLY | os.O_CREAT), stream)
    _hook(folder, said.with_suffix(".wrote"), hook)
    _hook_sums(hook.die_sum)
    main = import_module(program).main
    try:
        status = main(argv)
    except SystemExit as stop:
        status = int(stop.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _hook(folder: Path, wrote: Path, hook: Hook) -> None:
    import obstore
    from zarr.storage import _local

    put, count, send = _local._put, 0, obstore.put_async

    async def sent(store: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        hooked(Path(key), put=lambda _: None)
        return await send(store, key, *args, **kwargs)

    def hooked(path: Path, *args: Any, put: Any = put, **kwargs: Any) -> Any:
        nonlocal count
        if "member_seed/c" not in str(path):
            return put(path, *args, **kwargs)
        count += 1
        if count == hook.die_at:
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with wrote.open("a") as file:
            file.write("/".join(path.parts[-2:]) + "\n")
        return put(path, *args, **kwargs)

    _local._put, obstore.put_async = hooked, sent


def _hook_sums(die_at: int) -> None:
    import torch.distributed as dist

    add, count = dist.all_reduce, 0

    def hooked(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(*args, **kwargs)

    dist.all_reduce = hooked
