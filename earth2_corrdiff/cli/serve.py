# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``serve-corrdiff``: an HTTP service for a package."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import (
    ArgumentParser,
    add_model_options,
    add_storage_options,
    add_variant_options,
    command_parser,
    entry_point,
    stored,
)
from earth2_corrdiff.cli.serve_log import Lines, configure_log
from earth2_corrdiff.model.packages.names import NAMES as PACKAGES

if TYPE_CHECKING:
    import socket

    from earth2_corrdiff.base.object_path import AnyPath
    from earth2_corrdiff.service.settings import Settings
    from earth2_corrdiff.service.startup import StartupAnswers

NAME = "serve-corrdiff"
KEY = "EARTH2_CORRDIFF_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SWITCH = 0.001  # seconds until Python switches from a computing thread to the event loop
LATE = 1.0  # seconds after the drain, in which the process may still end by itself
LATER = (
    *("cartopy.mpl.gridliner", "cartopy.mpl.ticker", "matplotlib.backends.backend_agg"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin"),
    *("dask.array", "scipy.sparse", "pyarrow", "earth2_corrdiff.run.packages"),
)
"""Modules that would be imported when they are first used."""
NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def _parser() -> ArgumentParser:
    parser = command_parser(
        NAME,
        "Serve a CorrDiff package over HTTP: POST /v1/infer takes an array and streams members.",
        f"An API key is read from --api-key-file, or from the environment variable {KEY}.",
        debug="show debug messages, and the traceback of an error",
    )
    add = parser.add_argument
    add("--package", default="taiwan", metavar="NAME", help=f"{PACKAGES} (default: taiwan)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    add_model_options(parser)
    add("--no-sharing", action="store_true", help="requests share no network calls: exact bits on a GPU")
    add("--steps", type=int, metavar="N", help="steps where a request names none (default: the package's)")
    add("--solver", help="solver where a request names none (default: the package's)")
    for name, item in limits().items():
        kind, metavar = (float, "S") if isinstance(item.default, float) else (int, "N")
        default = "" if item.default is None else f" (default: {item.default:g})"
        add(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=item.metadata["help"] + default)
    add("--max-body", type=float, metavar="MIB", help="most MiB of one request's body (default: 64)")
    add("--api-key-file", type=Path, metavar="FILE", help="file with the key that clients need")
    add("--allow-host", action="append", metavar="NAME", help="accepted host name; may be repeated")
    add("--source", action="append", metavar="NAME", help="accepted source of jobs; may be repeated")
    add("--jobs", type=Path, metavar="DIR", help="folder of jobs and their results (default: outputs/jobs)")
    add("--stores", metavar="URL", help="where jobs write their fields instead, like s3://BUCKET/jobs")
    add_storage_options(parser)
    add(
        "--scheduler",
        metavar="WHERE",
        help="compute jobs on a Dask cluster: its scheduler's address, or file",
    )
    add(
        "--write-example",
        type=Path,
        metavar="FILE",
        help="write an input for /v1/infer as a npy file, from the first --source (default: demo), and exit",
    )
    add("--time", default="2024-07-24T12:00", help="valid time of that example (default: 2024-07-24T12:00)")
    parser.add_config_options()
    add_variant_options(parser)
    return parser


def limits() -> dict[str, Field[Any]]:
    """Settings that have an option of their name."""
    from earth2_corrdiff.service.settings import Settings

    return {item.name: item for item in fields(Settings) if "help" in item.metadata}


def run(args: argparse.Namespace) -> None:
    """Check the options, answer probes, import, load, and serve until a signal."""
    _check(args)
    if args.write_example is not None:
        _write_example(args)
        return
    from earth2_corrdiff.service.listening import bind, cannot_listen
    from earth2_corrdiff.service.startup import StartupAnswers

    settings = _settings(args)
    with bind(args.host, args.port) as sock, _stopped_at_once():  # a port that is taken is reported at once
        try:
            answers = StartupAnswers(sock)
        except OSError as error:
            raise cannot_listen(args.host, args.port, error) from error
        with answers:
            _say(f"loading the package {args.package} …")
            if settings.api_key is None and not _is_loopback(sock):
                _say(f"WARNING: whoever can reach {args.host} may use the service; give --api-key-file")
            log = configure_log(NAME, args.debug, settings.sources)
            _preload()
            _serve(args, settings, sock, answers, log)


def _is_loopback(sock: socket.socket) -> bool:
    """True if only this machine can reach the address of a socket."""
    from ipaddress import ip_address

    return ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _write_example(args: argparse.Namespace) -> None:
    """Write an array for the package: the weather of one or more times on its grid."""
    import numpy as np

    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model
    from earth2_corrdiff.sources import Inputs, make_source

    args.device = "cpu"
    source = make_source((args.source or ["demo"])[0])
    cases = source.cases(args.time)
    configure_log(NAME, args.debug, [source.name])
    spec = load_model(model_options(args)).spec
    inputs = Inputs.of(source, cases, spec)
    fields = np.stack([inputs.fetch(number, spec.inputs.names).numpy() for number in range(len(cases))])
    try:
        with args.write_example.open("wb") as file:  # numpy would add a suffix to the name
            np.save(file, fields.astype(np.float32))
    except OSError as error:
        text = f"--write-example {args.write_example} cannot be written ({error.strerror})"
        raise InputError(text) from error
    what = " (synthetic)" if source.synthetic else ""
    _say(f"wrote {args.write_example}: {source.name}{what}, float32 {fields.shape}")


@contextmanager
def _stopped_at_once() -> Iterator[None]:
    """End the process at a signal: in the middle of an import nothing else is safe."""

    def stop(*_: object) -> None:
        _say("stopped")
        os._exit(0)

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
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{' and '.join(missing)} {verb} not installed; install the extra: pip install "
            "'earth2-corrdiff[serve]'"
        )
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port must lie within 0 and 65535, got {args.port}")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps must be 1 or more, got {args.steps}")
    if ":/" in str(args.jobs):
        raise InputError(f"--jobs {args.jobs} is a URL; give a folder here, and --stores URL for the fields")
    for name in (*limits(), "max_body"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} must be more than 0, got {value:g}")


def _settings(args: argparse.Namespace) -> Settings:
    from earth2_corrdiff.service.settings import MIB, Settings

    given = {name: getattr(args, name) for name in (*limits(), "jobs")}
    given["max_body"] = None if args.max_body is None else int(args.max_body * MIB)
    given["sources"] = args.source and tuple(args.source)
    given["hosts"] = tuple(args.allow_host or ())
    if args.host in LOOPBACK:  # refuse a page of another site whose name was made to point here
        given["hosts"] += (*LOOPBACK[:2], "[::1]")
    given["api_key"] = _key(args.api_key_file)
    given["sharing"] = not args.no_sharing
    given["stores"] = None if args.stores is None else _stores(args)
    given["scheduler"] = args.scheduler
    if args.scheduler is not None:
        from earth2_corrdiff.cli.loading import model_options

        given["options"] = model_options(args)
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _stores(args: argparse.Namespace) -> AnyPath:
    """Where jobs write their fields; it must be writable."""
    from earth2_corrdiff.base.object_path import as_path
    from earth2_corrdiff.store.paths import check_target

    with stored(args):
        path = as_path(args.stores)
    check_target(path / "job.zarr", overwrite=False, resume=False)
    return path.absolute()


def _key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(KEY)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {path} cannot be read ({error})") from error


def _preload() -> None:
    """Import what the first job or figure needs: then it would hold up all other requests."""
    import gc
    from importlib import import_module

    for name in LATER:
        with suppress(ImportError):
            import_module(name)
    gc.collect()
    gc.freeze()  # else a full collection takes a second more on a slow machine


def _serve(
    args: argparse.Namespace, settings: Settings, sock: socket.socket, answers: StartupAnswers, log: Lines
) -> None:
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
        answers.close,
        on_signal,
    )
    sys.setswitchinterval(SWITCH)
    server.run(sockets=[sock])
    log.finish()
    if server.engine.failure is not None:
        raise server.engine.failure
    _say("stopped")
    if signalled.is_set():  # Python would take seconds to clean up, and threads of jobs might still write
        os._exit(0)


def _end_after(seconds: float) -> None:
    """End the process later, as a thread that waits for an archive could keep it from ending."""

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


main = entry_point(NAME, _parser, run)
