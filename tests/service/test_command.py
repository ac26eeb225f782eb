# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``serve-corrdiff`` as its operator meets it: how it starts, what it refuses, how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import xarray as xr
from rank_kit import finish, start
from run_kit import CENTERS, NAMES, OUTPUTS, ROOT, TIMES, command, make_package
from service_kit import INFER, form, npy, untar, until

from earth2_corrdiff.cli import serve, serve_log
from earth2_corrdiff.service.listening import listen

SCRIPT = ROOT / "scripts/serve-corrdiff.py"
SECRET = "not for the log at all"
LOGGED = re.compile(r"serve-corrdiff: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO: request [0-9a-f]{12} .*")
Finished = tuple[int, str]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(serve.KEY, raising=False)


class Process:
    """The script as a process of its own, and what it has written to stderr so far."""

    def __init__(self, *argv: object) -> None:
        arguments = [sys.executable, str(SCRIPT), "--port", "0", *map(str, argv)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(arguments, **pipes)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, text: str) -> bool:
        assert self.alive(), self.lines
        return text in "".join(self.lines)

    def url(self) -> str:
        """Where it is, once it is ready."""
        until(lambda: self.said("ready at"), 120)
        found = re.search(r"ready at (http://127\.0\.0\.1:\d+), see ", "".join(self.lines))
        assert found
        return found[1]

    def finish(self, how: signal.Signals | None = None) -> Finished:
        """Exit status and stderr, after a signal."""
        if how is not None:
            os.kill(self.process.pid, how)
        return self.ended()

    def ended(self) -> Finished:
        self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None and self.process.stdout.read() == ""
        return self.process.returncode, "".join(self.lines)


class Fork(Process):
    """The command in a fork of a process that has imported what it needs."""

    def __init__(self, *argv: object) -> None:
        module = "earth2_corrdiff.cli.serve"
        self.process = start(Path.cwd(), {}, ("--port", 0, *argv), program=module)

    @property
    def lines(self) -> list[str]:  # type: ignore[override]
        path = self.process.said.with_suffix(".err")
        return path.read_text().splitlines(keepends=True) if path.exists() else []

    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def ended(self) -> Finished:
        outcome = finish(self.process)
        assert outcome.out == ""
        return outcome.status, outcome.err  # type: ignore[return-value]


@contextmanager
def started(*argv: object, kind: type[Process] = Fork) -> Iterator[Process]:
    process = kind(*argv)
    try:
        yield process
    finally:
        process.process.kill()


# what it is


@pytest.mark.process
def test_help_is_quick_and_light() -> None:
    heavy = {"torch", "numpy", "earth2studio", "fastapi", "uvicorn", "prometheus_client"}
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from earth2_corrdiff.cli.serve import main\n"
        "try: main(['--help'])\n"
        f"finally: print(time.perf_counter() - start, sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    seconds, found = done.stderr.split(" ", 1)
    assert done.returncode == 0 and found == "[]\n" and float(seconds) < 1
    for option in ("package", "host", "port", "device", "max-samples", "max-body", "queue", "clients"):
        assert f"--{option} " in done.stdout
    assert "127.0.0.1, this machine alone" in re.sub(r"\s+", " ", done.stdout)


def test_the_script_is_the_console_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["serve-corrdiff"].split(":")
    assert callable(getattr(import_module(module), function)) and os.access(SCRIPT, os.X_OK)
    source = SCRIPT.read_text()
    assert f"from {module} import {function}" in source and f"sys.exit({function}())" in source


# a service


@pytest.mark.process
def test_the_same_fields_as_the_command_line_and_sigterm_in_mid_request(
    package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit; and what was accepted before the signal is answered in full."""
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 4, "--steps", 8, "--seed", 5)
    assert command(capfd, *argv, "--device", "cpu", "--output", "run.zarr")[0] == 0
    ds = xr.open_zarr("run.zarr").isel(time=0)
    with started("--package", package, "--device", "cpu") as process:
        url = process.url()
        names = [v["name"] for v in httpx.get(f"{url}/v1/metadata").json()["input"]["variables"]]
        x = np.stack([ds[f"{name}_lowres"].values for name in names])[None]
        request = form(npy(x), samples=4, steps=8, seed=5, time=TIMES[0])
        with httpx.stream("POST", url + INFER, timeout=60, **request) as answer:
            pieces = answer.iter_bytes()
            data = next(pieces)
            os.kill(process.process.pid, signal.SIGTERM)
            data += b"".join(pieces)
        status, err = process.finish()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/v1/health/live")
    for (m, _), member in untar(data).items():
        for value, name in zip(member[0, 0], OUTPUTS.names, strict=True):
            assert np.array_equal(value, ds[name].values[m]), name
    assert len(untar(data)) == 4 and status == 0 and "Traceback" not in err
    lines = [line for line in err.splitlines() if not LOGGED.fullmatch(line)]
    assert len(err.splitlines()) - len(lines) == 2
    assert re.search(r" POST /v1/infer: 200 in \d+\.\d{3} s, 4 members$", err, re.MULTILINE)
    assert lines[0] == f"serve-corrdiff: loading the package {package} …"
    assert lines[1:] == [f"serve-corrdiff: ready at {url}, see {url}/docs", "serve-corrdiff: stopped"]


@pytest.mark.process
def test_what_takes_too_long_is_broken_off_at_the_end(package: Path) -> None:
    limits = ("--drain-seconds", 0.2, "--max-steps", 9000)
    with started("--package", package, "--device", "cpu", *limits) as process:
        url = process.url()
        x = np.broadcast_to(np.float32(CENTERS)[:, None, None], (1, 12, 36, 40))
        codes: list[Any] = []

        def ask(**numbers: Any) -> None:
            try:
                codes.append(httpx.post(url + INFER, timeout=60, **form(npy(x), **numbers)).status_code)
            except httpx.RemoteProtocolError:
                codes.append("broken off")

        asking = [
            threading.Thread(target=ask, kwargs={"steps": steps, "samples": samples})
            for steps, samples in ((1, 64), (9000, 1))
        ]
        for thread in asking:
            thread.start()
        queued = 'corrdiff_queue{what="requests"} 2.0'
        until(lambda: queued in httpx.get(f"{url}/v1/metrics").text)
        start = time.monotonic()
        status, err = process.finish(signal.SIGINT)
        assert time.monotonic() - start < 20
        for thread in asking:
            thread.join(30)
    assert status == 0 and "Traceback" not in err and err.endswith("serve-corrdiff: stopped\n")
    assert 503 in codes and set(codes) <= {503, 200, "broken off"}


def free_port() -> int:
    with listen("127.0.0.1", 0) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.process
def test_probes_are_answered_from_the_first_moment(package: Path) -> None:
    """As long as it is imported, loaded and warmed up: no probe is refused, lost, or waits for that."""
    port = free_port()
    ready: list[int] = []
    seconds: list[float] = []
    with started("--package", package, "--device", "cpu", "--port", port, kind=Process) as process:
        until(lambda: connects(port), 120)
        while 200 not in ready:
            start = time.perf_counter()
            assert status_of(port, "/v1/health/live") == 200
            seconds.append(time.perf_counter() - start)
            ready.append(status_of(port, "/v1/health/ready"))
            assert process.alive()
            time.sleep(0.02)
        status, err = process.finish(signal.SIGTERM)
    assert set(ready) == {200, 503} and ready.index(200) == len(ready) - 1 and len(ready) > 20
    assert np.median(seconds) < 0.25, sorted(seconds)[-5:]  # not as long as imports take
    assert status == 0 and "Traceback" not in err


def status_of(port: int, path: str) -> int:
    """Of an answer; asked for without a client that takes longer than the service."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.process
def test_what_hangs_does_not_outlive_the_drain(package: Path) -> None:
    """Clients that send half a head or half a body, or do not read, a stream, and a job that takes long."""
    with started(
        "--package", package, "--device", "cpu", "--drain-seconds", 2, "--source", "demo"
    ) as process:
        url = process.url()
        port = int(url.rpartition(":")[2])
        job = httpx.post(f"{url}/v1/downscale", json={"time": TIMES[0], "samples": 64, "steps": 100})
        hanging = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        start = b"POST /v1/downscale HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        hanging[0].sendall(start)
        hanging[1].sendall(start + b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        events = f"GET {job.json()['links']['events']} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        hanging[2].sendall(events.encode())
        until(lambda: 'corrdiff_queue{what="jobs"} 1.0' in httpx.get(f"{url}/v1/metrics").text)
        begun = time.monotonic()
        status, err = process.finish(signal.SIGTERM)
        assert time.monotonic() - begun < 2 + 8  # it may take a while to be scheduled on a busy machine
        for client in hanging:
            client.close()
    assert status == 0 and "Traceback" not in err and "ERROR" not in err, err
    assert "serve-corrdiff: stopped" in err.splitlines()[-1]


@pytest.mark.process
def test_interrupted_while_it_loads() -> None:
    """On the owner thread, when the server answers already."""
    port = free_port()
    live = f"http://127.0.0.1:{port}/v1/health/live"

    with started("--package", "demo", "--device", "cpu", "--port", port, kind=Process) as process:
        until(lambda: process.said("loading the package demo"), 120)  # it listens before it says so
        assert httpx.get(live, timeout=120).status_code == 200
        status, err = process.finish(signal.SIGINT)
        assert status == 0 and err.splitlines()[-1] == "serve-corrdiff: stopped" and "Fatal" not in err


# refusals


def refused(capfd: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line of a command that must end with exit status 2."""
    capfd.readouterr()
    try:
        status = serve.main(["--port", "0", *map(str, argv)])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("serve-corrdiff: loading ")]
    assert status == 2 and out == "" and len(lines) == 1 and len(lines[0]) < 600, err
    assert lines[0].startswith("serve-corrdiff: error: ") and SECRET not in err
    return lines[0].removeprefix("serve-corrdiff: error: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--port", "70000"), "--port must lie within 0 and 65535, got 70000"),
        (("--port", "eighty"), "argument --port: invalid int value: 'eighty'"),
        (("--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid port 0 ("),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0 (Cannot assign requested address)"),
        (("--max-samples", "0"), "--max-samples must be more than 0, got 0"),
        (("--seconds", "-1"), "--seconds must be more than 0, got -1"),
        (("--seconds", "nan"), "--seconds must be more than 0, got nan"),
        (("--max-body", "0"), "--max-body must be more than 0, got 0"),
        (("--steps", "0"), "--steps must be 1 or more, got 0"),
        (("--api-key-file", "missing"), "--api-key-file missing cannot be read"),
        (("--sampels", "3"), "unrecognized arguments: --sampels 3"),
        (
            ("--package", "missing"),
            "there is no package folder missing; give taiwan, cmip6, cosmo-rea6, cosmo-rea2, hrrr",
        ),
        (("--package", "demo", "--device", "cuda:99"), "there is no device cuda:99"),
        (("--package", "demo", "--precision", "int4"), "unknown precision 'int4'"),
        (("--package", "demo", "--solver", "magic"), "unknown solver 'magic'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_refused_in_one_line(capfd: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str) -> None:
    assert said in refused(capfd, *argv)


def test_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        said = refused(capfd, "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use); give another" in said


def test_keys_that_are_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("short\n")
    assert "an API key must have 8 characters or more" in refused(capfd, "--api-key-file", "key")
    monkeypatch.setenv(serve.KEY, "")
    assert "an API key must have 8 characters or more" in refused(capfd)


def test_without_the_extra(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "NEEDS", ("uvicorn", "no_such_package"))
    assert "no_such_package is not installed; install the extra: pip install 'earth2" in refused(capfd)
    monkeypatch.setattr(serve, "NEEDS", ("no_such_package", "uvicorn", "nor_this_one"))
    assert "no_such_package and nor_this_one are not installed; install" in refused(capfd)


# options


def test_options_become_settings(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    argv = ["--max-samples", "3", "--seconds", "2.5", "--max-body", "0.5", "--api-key-file", "key"]
    argv += ["--allow-host", "corrdiff.example", "--source", "demo", "--source", "gfs", "--no-sharing"]
    settings = serve._settings(serve._parser().parse_args(argv))
    assert (settings.max_samples, settings.seconds, settings.max_body) == (3, 2.5, 2**19)
    assert settings.api_key == SECRET and SECRET not in repr(settings) and not settings.sharing
    assert settings.hosts == ("corrdiff.example", "127.0.0.1", "localhost", "[::1]")
    assert settings.sources == ("demo", "gfs") and settings.queue == 32
    public = serve._settings(serve._parser().parse_args(["--host", "0.0.0.0"]))
    assert public.hosts == () and public.sharing and public.api_key is None


def test_defaults_in_the_help_are_those_of_the_settings() -> None:
    defaults = serve._settings(serve._parser().parse_args([]))
    text = " ".join(serve._parser().format_help().split())
    for name in serve.limits():
        if name != "max_batch":
            option = re.search(rf"--{name.replace('_', '-')} [NS] ([^()]+) \(default: ([0-9.]+)\)", text)
            assert option and float(option[2]) == getattr(defaults, name), name


def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio switches Nagle's algorithm off only where the socket says that it is TCP."""
    with listen("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP


# an example


@pytest.mark.slow
def test_an_example_input(package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["--package", str(package), "--write-example", "input.npy", "--time", TIMES[1]]
    assert serve.main(argv) == 0
    out, err = capfd.readouterr()
    assert out == "" and err == "serve-corrdiff: wrote input.npy: demo (synthetic), float32 (1, 12, 36, 40)\n"
    x = np.load("input.npy")
    assert x.dtype == np.float32
    assert command(capfd, TIMES[1], "--package", package, "--source", "demo", "--output", "run.zarr")[0] == 0
    ds = xr.open_zarr("run.zarr").isel(time=0)
    for name, field in zip(NAMES, x[0], strict=True):
        np.testing.assert_array_equal(field, ds[f"{name}_lowres"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--time", "soon"), "'soon' is not a valid time"),
        (("--source", "nowhere"), "there is no source 'nowhere'"),
        (("--write-example", "no/such/folder.npy"), "--write-example no/such/folder.npy cannot be written"),
    ],
)
def test_an_example_that_cannot_be(
    package: Path, capfd: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str
) -> None:
    assert said in refused(capfd, "--package", package, "--write-example", "input.npy", *argv)


# who may use it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "warned"),
    [(("--host", "0.0.0.0"), True), (("--host", "0.0.0.0", "--api-key-file", "key"), False), ((), False)],
)
def test_an_open_address_without_a_key_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], argv: tuple[str, ...], warned: bool
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    serve.main(["--port", "0", "--package", "missing", *argv])
    warning = "serve-corrdiff: WARNING: whoever can reach 0.0.0.0 may use the service; give --api-key-file\n"
    assert (warning in capfd.readouterr().err) == warned


# the log


def test_a_log_that_nobody_reads_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stderr may be a pipe that is full; what is lost then is said once it is read again."""
    reads, writes = os.pipe()
    monkeypatch.setattr(serve_log, "MOST", 1000)
    with open(writes, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        lines = serve_log.Lines("serve-corrdiff")
        for number in range(5000):
            lines.write(f"{number:0100d}\n")
        with open(reads) as reader:
            threading.Thread(target=lambda: (lines.finish(30), full.close()), daemon=True).start()
            said = reader.read().splitlines()
    kept = [int(line) for line in said if line.isdigit()]
    told = [re.fullmatch(r"serve-corrdiff: (\d+) lines of the log were lost", line) for line in said]
    assert kept == sorted(set(kept)) and len(kept) >= 1000 and any(told)
    assert len(kept) + sum(int(found[1]) for found in told if found) == 5000
    assert len(kept) + sum(found is not None for found in told) == len(said)
