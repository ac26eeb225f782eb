#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Time the service against the same model in this process, with server and client on one machine.

First what NVIDIA's performance page of the CorrDiff NIM measures: seconds per request for one sample at 8
and at 18 steps, after a burn-in. Rounds alternate between the service and the model in this process, so that
a change of the machine's load meets both. Then throughput and latency with several clients at one time.

    python scripts/bench-service.py --package demo --device cpu
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # a checkout works uninstalled too

from earth2_corrdiff.base.errors import InputError  # noqa: E402
from earth2_corrdiff.cli.common import ArgumentParser, run_command, share_cores  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from earth2_corrdiff.model.earth2studio import CorrDiff

NAME = "bench-service.py"
STEPS = (8, 18)
CLIENTS = (1, 4, 16)
BAR = (0.05, 0.050)  # of the time in process, or seconds, whichever is more


@dataclass(frozen=True)
class Single:
    """One sample: medians over rounds, in seconds; ``added`` is the median of the differences per round."""

    steps: int
    in_process: float
    service: float
    added: float

    @property
    def bar(self) -> float:
        """Most that the service may add."""
        return max(BAR[0] * self.in_process, BAR[1])


@dataclass(frozen=True)
class Load:
    """Several clients: requests per second, and seconds per request."""

    clients: int
    requests: int
    per_second: float
    p50: float
    p95: float
    p99: float


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(prog=NAME, description=str(__doc__).split("\n\n")[0])
    add = made.add_argument
    add("--package", default="demo", metavar="NAME", help="taiwan, demo (default), a folder, or a URL")
    add("--device", default="auto", help="cpu, cuda, … (default: a GPU if there is one)")
    add("--precision", default="auto", help="auto (default), fp32, bf16 or fp16")
    add("--burn-in", type=int, default=3, metavar="N", help="rounds that are not counted (default: 3)")
    add("--rounds", type=int, default=10, metavar="N", help="rounds that are (default: 10)")
    add("--requests", type=int, default=4, metavar="N", help="requests of each client (default: 4)")
    add("--load-steps", type=int, default=8, metavar="N", help="steps with several clients (default: 8)")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    return made


def run(args: argparse.Namespace) -> None:
    """Measure, print, and complain where the service adds too much."""
    share_cores()
    import numpy as np

    from earth2_corrdiff.cli.loading import model_options
    from earth2_corrdiff.run.packages import load_model

    for name in ("burn_in", "rounds", "requests", "load_steps"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(args, name)}")
    model = load_model(model_options(args))
    x = typical(model)
    file = io.BytesIO()
    np.save(file, x)
    _describe(model)
    with served(args) as url:
        client = Client(url, file.getvalue())
        singles = [single(model, x, client, steps, args) for steps in STEPS]
        loads = [under_load(client, clients, args.requests, args.load_steps) for clients in CLIENTS]
    _print(singles, loads)
    if args.json is not None:
        figures = {"single": [asdict(s) for s in singles], "load": [asdict(some) for some in loads]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    slow = [str(s.steps) for s in singles if s.added > s.bar]
    if slow:
        raise InputError(f"the service adds more than 5 % or 50 ms at {' and '.join(slow)} steps")


def typical(model: CorrDiff) -> NDArray[np.float32]:
    """An input with the statistics of the package, ``[1, C, h, w]``; the time depends on its shape alone."""
    import numpy as np

    stats, shape = model.spec.inputs, model.spec.input_grid.shape
    noise = np.random.default_rng(0).normal(size=(len(stats.names), *shape))
    center, scale = (np.array(part)[:, None, None] for part in (stats.center, stats.scale))
    x: NDArray[np.float32] = (center + scale * noise).astype(np.float32)[None]
    return x


class Client:
    """Sends what the published client sends: a new connection, a form, and the whole answer is read."""

    def __init__(self, url: str, array: bytes) -> None:
        self.address, self.array = urlsplit(url).netloc, array

    def seconds(self, steps: int) -> float:
        """From the connection to the last byte of one member."""
        start = perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=3600)
        kind, body = self._form({"samples": 1, "steps": steps, "seed": 0})
        headers = {"accept": "application/x-tar", "content-type": kind}
        connection.request("POST", "/v1/infer", body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        taken = perf_counter() - start
        if answer.status != 200:
            raise InputError(f"the service answered {answer.status}: {data[:300].decode(errors='replace')}")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            if tar.getnames() != ["000_000.npy"]:
                raise InputError(f"the service answered with {tar.getnames()}")
        return taken

    def _form(self, fields: dict[str, int]) -> tuple[str, bytes]:
        line = uuid.uuid4().hex
        head = '--{}\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        parts = [f"{head.format(line, name, '')}{value}\r\n".encode() for name, value in fields.items()]
        parts += [head.format(line, "input_array", '; filename="input.npy"').encode(), self.array]
        return f"multipart/form-data; boundary={line}", b"".join([*parts, f"\r\n--{line}--\r\n".encode()])


@contextmanager
def served(args: argparse.Namespace) -> Iterator[str]:
    """The service in a process of its own; its address."""
    script = str(ROOT / "scripts/serve-corrdiff.py")
    options = ["--package", args.package, "--device", args.device, "--precision", args.precision]
    argv = [sys.executable, script, "--port", "0", "--queue", "64", *options]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said = line
            found = re.search(r"ready at (http://\S+?),", line)
            if found:
                yield found[1]
                break
        else:
            raise InputError(f"the service did not start ({said.strip()})")
        process.terminate()
        process.communicate()


def in_process(model: CorrDiff, x: NDArray[np.float32], steps: int) -> float:
    """Seconds from the array to one member in this process."""
    import torch

    model.number_of_steps = steps
    start = perf_counter()
    model.downscaler(torch.from_numpy(x).to(model.downscaler.device), [0]).numpy(force=True)
    return perf_counter() - start


def single(
    model: CorrDiff, x: NDArray[np.float32], client: Client, steps: int, args: argparse.Namespace
) -> Single:
    """One sample, here and there in turns."""
    rounds = [
        (in_process(model, x, steps), client.seconds(steps)) for _ in range(args.burn_in + args.rounds)
    ][args.burn_in :]
    here, there = zip(*rounds, strict=True)
    added = statistics.median(b - a for a, b in rounds)
    return Single(steps, statistics.median(here), statistics.median(there), added)


def under_load(client: Client, clients: int, each: int, steps: int) -> Load:
    """Clients that ask again as soon as they have their answer."""
    client.seconds(steps)
    start = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = sorted(pool.map(client.seconds, [steps] * clients * each))
    wall = perf_counter() - start
    p50, p95, p99 = (taken[min(len(taken) - 1, int(q * len(taken)))] for q in (0.5, 0.95, 0.99))
    return Load(clients, len(taken), len(taken) / wall, p50, p95, p99)


def _describe(model: CorrDiff) -> None:
    spec, downscaler = model.spec, model.downscaler
    shapes = [(len(s.names), *g.shape) for s, g in zip(*_sides(spec), strict=True)]
    made = " to ".join(" x ".join(map(str, shape)) for shape in shapes)
    print(f"{spec.name or spec.root}: {made}, {model.solver}, {downscaler.precision} on {downscaler.device}")


def _sides(spec: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (spec.inputs, spec.outputs), (spec.input_grid, spec.output_grid)


def _print(singles: list[Single], loads: list[Load]) -> None:
    print("\none sample   in process     service       added    may add")
    for s in singles:
        print(f"{s.steps:4} steps  {s.in_process:9.3f} s {s.service:9.3f} s {s.added:9.3f} s {s.bar:8.3f} s")
    print("\nclients  requests  requests/s      p50       p95       p99")
    for some in loads:
        times = "".join(f"{t:8.3f} s" for t in (some.p50, some.p95, some.p99))
        print(f"{some.clients:7} {some.requests:9} {some.per_second:11.3f} {times}")


if __name__ == "__main__":
    sys.exit(run_command(NAME, run, parser().parse_args()))
