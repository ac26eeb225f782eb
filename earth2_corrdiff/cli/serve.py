# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``serve-corrdiff``: a package as an HTTP service."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser, run_command, share_cores
from earth2_corrdiff.cli.serve_log import Lines, configure_log

if TYPE_CHECKING:
    import socket

    from earth2_corrdiff.service.door import Door
    from earth2_corrdiff.service.settings import Settings

NAME = "serve-corrdiff"
KEY = "EARTH2_CORRDIFF_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SWITCH = 0.001  # seconds until a thread that computes lets the event loop have a turn
LATE = 1.0  # seconds after the end of the drain in which it may still end by itself
LATER = (
    *("cartopy.mpl.gridliner", "cartopy.mpl.ticker", "matplotlib.backends.backend_agg"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin"),
    *("dask.array", "scipy.sparse", "pyarrow", "earth2_corrdiff.run.packages"),
)
"""Modules that are imported when they are first used."""
NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
# Settings that are options of their own name: type, metavar, help
LIMITS: dict[str, tuple[type, str, str]] = {
    "max_samples": (int, "N", "most members per case of one request (default: 64)"),
    "max_steps": (int, "N", "most steps of one request (default: 100)"),
    "max_cases": (int, "N", "most cases in the array of one request (default: 16)"),
    "queue": (int, "N", "most requests that wait or are worked on (default: 32)"),
    "clients": (int, "N", "most requests received or answered at one time (default: 64)"),
    "streams": (int, "N", "most downloads and streams of events at one time (default: 32)"),
    "seconds": (float, "S", "longest time for one request (default: 600)"),
    "drain_seconds": (float, "S", "time from a signal to the end, to finish what was accepted (default: 30)"),
    "max_batch": (int, "N", "most members in one network call (default: 1 on a CPU)"),
    "max_jobs": (int, "N", "most jobs of /v1/downscale that wait or run (default: 8)"),
    "max_times": (int, "N", "most times of one job (default: 16)"),
    "keep_jobs": (int, "N", "finished jobs that are kept (default: 20)"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (0 after it was stopped, 2 for unusable input)."""
    args = _parser().parse_args(argv)
    return run_command(NAME, run, args, debug=args.debug)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        description="Serve a CorrDiff package over HTTP: POST /v1/infer takes an array and streams members.",
        epilog=f"An API key is read from --api-key-file, or from the environment variable {KEY}.",
    )
    add = parser.add_argument
    add("--package", default="taiwan", metavar="NAME", help="taiwan (default), demo, a folder, or a URL")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="auto", help="auto (default: the fastest), fp32 (the reference), bf16 or fp16")
    add("--no-acceleration", action="store_true", help="stock arithmetic, operation by operation: slow")
    add("--no-sharing", action="store_true", help="requests share no network calls: exact bits on a GPU")
    add("--steps", type=int, metavar="N", help="steps where a request names none (default: the package's)")
    add("--solver", help="solver where a request names none (default: the package's)")
    for name, (kind, metavar, text) in LIMITS.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    add("--max-body", type=float, metavar="MIB", help="most MiB of one request's body (default: 64)")
    add("--api-key-file", type=Path, metavar="FILE", help="file that holds the key to ask of clients")
    add("--allow-host", action="append", metavar="NAME", help="host name to answer to; may be repeated")
    add("--source", action="append", metavar="NAME", help="source that jobs may use; may be repeated")
    add("--jobs", type=Path, metavar="DIR", help="folder of jobs and their results (default: outputs/jobs)")
    add(
        "--write-example",
        type=Path,
        metavar="FILE",
        help="write an input for /v1/infer as a npy file, from the first --source (default: demo), and end",
    )
    add("--time", default="2024-07-24T12:00", help="valid time of that example (default: 2024-07-24T12:00)")
    add("--debug", action="store_true", help="show debug messages, and the traceback of an error")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check what can be checked at once, answer probes, import, load, and serve until told to stop."""
    share_cores()
    _check(args)
    if args.write_example is not None:
        _write_example(args)
        return
    from earth2_corrdiff.service.door import Door
    from earth2_corrdiff.service.listening import bind, cannot_listen

    settings = _settings(args)
    with bind(args.host, args.port) as sock, _stopped_at_once():  # a taken port is said at once
        try:
            door = Door(sock)
        except OSError as error:
            raise cannot_listen(args.host, args.port, error) from error
        with door:
            _say(f"loading the package {args.package} …")
            if settings.api_key is None and not _is_loopback(sock):
                _say(f"WARNING: whoever can reach {args.host} may use the service; give --api-key-file")
            log = configure_log(NAME, args.debug)
            _preload()
            _serve(args, settings, sock, door, log)


def _is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach the address of a socket."""
    from ipaddress import ip_address

    return ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _write_example(args: argparse.Namespace) -> None:
    """An array that the package takes: the weather of a time, or several, on its grid."""
    import numpy as np

    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.sources import Inputs, make_source

    args.device = "cpu"
    source = make_source((args.source or ["demo"])[0])
    cases = source.cases(args.time)
    configure_log(NAME, args.debug)
    spec = load_model(model_options(args)).spec
    source.check_variables(spec.inputs.names)
    inputs = Inputs(source, cases, spec.inputs.names, spec.input_grid)
    fields = np.stack([inputs.fetch(number, spec.inputs.names).numpy() for number in range(len(cases))])
    try:
        with args.write_example.open("wb") as file:  # numpy would add an ending to the name
            np.save(file, fields.astype(np.float32))
    except OSError as error:
        raise InputError(
            f"--write-example {args.write_example} cannot be written ({error.strerror})"
        ) from error
    what = " (synthetic)" if source.synthetic else ""
    _say(f"wrote {args.write_example}: {source.name}{what}, float32 {fields.shape}")


@contextmanager
def _stopped_at_once() -> Iterator[None]:
    """A signal ends the process, wherever it is: in the middle of an import nothing else is safe."""

    def stop(*_: object) -> None:
        _say("stopped")
        os._exit(0)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _check(args: argparse.Namespace) -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} is not installed; install the extra: pip install 'earth2-corrdiff[serve]'"
        )
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port must lie within 0 and 65535, got {args.port}")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps must be 1 or more, got {args.steps}")
    for name in (*LIMITS, "max_body"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be more than 0, got {value:g}")


def _settings(args: argparse.Namespace) -> Settings:
    from earth2_corrdiff.service.settings import MIB, Settings

    given = {name: getattr(args, name) for name in (*LIMITS, "jobs")}
    given["max_body"] = None if args.max_body is None else int(args.max_body * MIB)
    given["sources"] = args.source and tuple(args.source)
    given["hosts"] = tuple(args.allow_host or ())
    if args.host in LOOPBACK:  # a page from elsewhere whose name is made to point here is not answered
        given["hosts"] += (*LOOPBACK[:2], "[::1]")
    given["api_key"] = _key(args.api_key_file)
    given["sharing"] = not args.no_sharing
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(KEY)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {path} cannot be read ({error})") from error


def _preload() -> None:
    """Import what the first job or figure would: it would hold up everybody else then."""
    import gc
    from importlib import import_module

    for name in LATER:
        with suppress(ImportError):
            import_module(name)
    gc.collect()
    gc.freeze()  # a full collection would go through all of it again, a second on a slow machine


def _serve(args: argparse.Namespace, settings: Settings, sock: socket.socket, door: Door, log: Lines) -> None:
    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.service.app import create_app
    from earth2_corrdiff.service.server import Server

    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    app, signalled = create_app(settings, lambda: load_model(model_options(args))), threading.Event()

    def on_signal() -> None:
        signalled.set()
        _end_after(settings.drain_seconds)

    server = Server(
        app,
        settings.drain_seconds,
        lambda: _say(f"ready at {url}, see {url}/docs"),
        args.debug,
        door.close,
        on_signal,
    )
    sys.setswitchinterval(SWITCH)
    server.run(sockets=[sock])
    log.finish()
    if server.engine.failure is not None:
        raise server.engine.failure
    _say("stopped")
    if signalled.is_set():  # Python would take seconds to tidy up, and threads of jobs might still write
        os._exit(0)


def _end_after(seconds: float) -> None:
    """End the process if it has not ended by itself: a thread that waits for an archive could hold it."""

    def end() -> None:
        last = threading.Thread(target=_say, args=("stopped; what did not end in time was given up",))
        last.daemon = True  # stderr may be a pipe that nobody reads
        last.start()
        last.join(LATE)
        os._exit(0)

    timer = threading.Timer(seconds + LATE, end)
    timer.daemon = True
    timer.start()


def _say(text: str) -> None:
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)
