# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command bench-object.py: a store in S3 against one on the disk, without a model.

S3 is moto's server on the loopback, in a process of its own, or a bucket that --url names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep

import numpy as np
import torch

from bench.provenance import command, machine
from bench.report import columns
from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, as_path
from earth2_corrdiff.base.times import to_times
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.store import objects
from earth2_corrdiff.store.layout import Layout, member_seeds
from earth2_corrdiff.store.reader import field, open_store, output_variables

NAMES = ("mrr", "t2m", "u10m", "v10m")
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def parser() -> ArgumentParser:
    """The parser."""
    made = ArgumentParser(prog="bench-object.py", description=__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--size", type=int, default=448, help="points of each side of a field (default: 448)")
    made.add_argument("--members", type=int, default=8, help="members of a store (default: 8)")
    made.add_argument("--rounds", type=int, default=3, help="stores of each kind, in turns (default: 3)")
    made.add_argument("--url", help="measure with this S3, like s3://BUCKET/PATH (default: moto)")
    return made


def run(args: argparse.Namespace) -> None:
    """Write and read stores in turns; print medians in milliseconds: of the clock, of the processor."""
    layout = _layout(args.members, args.size)
    block = 280 + torch.randn(len(NAMES), args.size, args.size).cumsum(-1)
    with tempfile.TemporaryDirectory() as folder, _bucket(args.url) as bucket:
        places: dict[str, AnyPath] = {"disk": Path(folder), "S3": bucket}
        seconds: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in places}
        for number in range(args.rounds):
            for name, place in places.items():
                seconds[name].append(_measure(place / f"{number}.zarr", layout, block))
    rows = [
        [
            name,
            *(
                " / ".join(f"{1e3 * median(s):.0f}" for s in zip(*part, strict=True))
                for part in zip(*found, strict=True)
            ),
        ]
        for name, found in seconds.items()
    ]
    print(columns(["", "create ms", "write ms/member", "read ms/member"], rows))
    print(f"{len(NAMES)} fields of {args.size} x {args.size}; {command()}; {machine(torch.device('cpu'))}")


def _measure(path: AnyPath, layout: Layout, block: torch.Tensor) -> list[tuple[float, float]]:
    """Seconds to make a store, to write a member and to read one, of the clock and of this process."""
    from earth2_corrdiff.store.writer import Store  # imports Earth2Studio

    marks = [_now()]
    store = Store.create(path, layout)
    marks.append(_now())
    for member in range(layout.members):
        store.write_members(0, member, block[None])
    store.finish()
    marks.append(_now())
    ds = open_store(path)
    for member in range(layout.members):
        for name in output_variables(ds):
            field(ds, name, 0, member)
    marks.append(_now())
    if isinstance(path, ObjectPath):
        objects.remove(path)
    spent = np.diff(marks, axis=0) / [[1], [layout.members], [layout.members]]
    return [(float(clock), float(processor)) for clock, processor in spent]


def _now() -> tuple[float, float]:
    return perf_counter(), process_time()


def _layout(members: int, size: int) -> Layout:
    fine, coarse = (Grid(np.linspace(20, 30, n), np.linspace(115, 125, n)) for n in (size, 36))
    cases = Cases(to_times("2024-07-24T12"))
    about = {"package_sha256": "0" * 64, "seed": 0}
    return Layout(cases, member_seeds(cases, 0, members), NAMES, ("t2m",), fine, coarse, about)


@contextmanager
def _bucket(url: str | None) -> Iterator[AnyPath]:
    if url is not None:
        yield as_path(url)
        return
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        try:
            _make_bucket(f"http://127.0.0.1:{port}/runs")
            yield as_path("s3://runs")
        finally:
            server.terminate()


def _make_bucket(url: str) -> None:
    """Put a bucket, once the server listens."""
    import requests

    for _ in range(300):
        try:
            requests.put(url, timeout=60).raise_for_status()
            return
        except requests.ConnectionError:
            sleep(0.2)
