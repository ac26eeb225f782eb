# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command bench-scaling.py: whole runs, each in processes of their own, and the tables made of them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from bench import scheduling
from bench.cases import OUTPUTS
from bench.extrapolation import MEGA, PUBLISHED, Cost, Run, exponent, fit, targets
from bench.provenance import command, machine, versions
from bench.report import columns
from bench.scaling_run import NETWORKS, child, make_package
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser

ASSUMPTIONS = (
    "Assumed: the cost grows with points, members and network calls (the fit says how well that holds); "
    "patches of 448 points with 6 of overlap and boundary, as published; one network call per step (Euler); "
    "reading and writing beside the compute; output in float32 before compression. NVIDIA's figures hold for "
    "its own networks and services: eight variables, the time of a request, one member."
)


@dataclass(frozen=True)
class Case:
    """One run to measure.

    Attributes
    ----------
    shape : tuple[int, int]
        The domain
    members, workers : int
        Members, and Dask's workers that share them; 0 for one process without Dask
    """

    shape: tuple[int, int]
    members: int
    workers: int = 0


def parser() -> ArgumentParser:
    """The options; the defaults end within minutes on two cores."""
    p = ArgumentParser(prog="bench-scaling.py", description=__doc__)
    add = p.add_argument
    add(
        "--domains",
        nargs="+",
        default=["64x96", "128x192", "256x384"],
        metavar="HxW",
        help="areas to compare",
    )
    add("--members", nargs="+", type=int, default=[1, 2, 4, 8], metavar="N", help="ensembles to compare")
    add("--workers", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="Dask's workers; 0 for none")
    add("--steps", type=int, default=8, metavar="N", help="Euler steps of each member (default: 8)")
    add("--network", default="small", choices=sorted(NETWORKS), help="width of the networks (default: small)")
    add("--precision", default="auto", help="auto (default), fp32, bf16 or fp16")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--cost",
        type=float,
        metavar="S",
        help="extrapolate from this cost instead: seconds a megapixel and step",
    )
    add("--target-members", type=int, default=64, metavar="N", help="of the extrapolated runs (default: 64)")
    add("--target-steps", type=int, default=12, metavar="N", help="of the extrapolated runs (default: 12)")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add(
        "--simulate",
        nargs=3,
        type=float,
        metavar=("TASKS", "WORKERS", "S"),
        help="instead: so many tasks of S seconds through Dask's scheduler, and its overhead on the demo",
    )
    add("--child", help=argparse.SUPPRESS)
    return p


def run(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    if args.child is not None:
        child(json.loads(args.child))
        return
    if args.simulate is not None:
        tasks, workers, seconds = args.simulate
        if tasks < 20 or workers < 1 or seconds <= 0:
            raise InputError("--simulate takes 20 tasks or more, 1 worker or more, and seconds above 0")
        scheduling.report(scheduling.simulate(int(tasks), int(workers), seconds), scheduling.overhead())
        return
    shapes = [_shape(text) for text in args.domains]
    if min(*args.members, args.steps) < 1 or min(args.workers) < 0:
        raise InputError("--members and --steps take whole numbers of 1 or more, --workers of 0 or more")
    middle, most = shapes[len(shapes) // 2], max(args.members)
    plan = {
        "members": [Case(middle, members) for members in args.members],
        "area": [Case(shape, most) for shape in shapes],
        "workers": [Case(middle, most, workers) for workers in args.workers],
    }
    rows: dict[Case, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for cases in plan.values():
            for case in cases:
                rows[case] = rows.get(case) or measure(case, args, Path(folder))
    found = {name: [rows[case] for case in cases] for name, cases in plan.items()}
    report(args, found)


def measure(case: Case, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do a run in a process of its own, with as many workers; peak memory of the largest process."""
    name = f"{case.shape[0]}x{case.shape[1]}"
    package = folder / name
    if not package.exists():
        make_package(package, case.shape, NETWORKS[args.network])
    output = folder / f"{name}-{case.members}-{case.workers}.zarr"
    asked = {"package": str(package), "output": str(output), "members": case.members, "steps": args.steps}
    asked |= {"precision": args.precision, "device": args.device, "workers": case.workers}
    words = [sys.executable, sys.argv[0], "--child", json.dumps(asked)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"a run of {case.members} members on {name} points failed; see above")
    result = json.loads(done.stdout.splitlines()[-1])
    chunks = [path for name in OUTPUTS.names for path in (output / name / "c").rglob("*") if path.is_file()]
    return {
        **asdict(case),
        "megapixels": case.shape[0] * case.shape[1] / MEGA,
        **result,
        "stored": sum(path.stat().st_size for path in chunks),
    }


def report(args: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """Tables on stdout, and the file."""
    device = torch.device(args.device)
    about: dict[str, Any] = {"machine": machine(device), "versions": versions(), "command": command()}
    print(
        f"{about['machine']['device']}; {args.network} networks, {args.precision}, {args.steps} Euler steps"
    )
    for name, rows in found.items():
        print(f"\nagainst {name}\n{_table(rows)}")
    alone = list({json.dumps(row, sort_keys=True): row for row in found["members"] + found["area"]}.values())
    runs = [Run(row["megapixels"], row["members"], row["calls"], row["seconds"]["compute"]) for row in alone]
    try:
        cost = fit(runs)
    except ValueError as error:
        raise InputError(f"{error}; give more --domains and --members") from error
    areas = [run for run in runs if run.members == max(args.members)]
    print(
        f"\nfit: {cost.fixed:.3g} s + {cost.step:.3g} s per megapixel, member and network call, within "
        f"{100 * cost.error:.0f} %; time grows with the area to the power of {exponent(areas):.2f}\n"
        "stored: of float32; peak: of the largest process, Python and its libraries included"
    )
    if args.cost is not None:
        cost = replace(cost, step=args.cost)
    print(f"\n{_extrapolated(args, cost)}\n\n{fill(ASSUMPTIONS, 110)}")
    for each in PUBLISHED:
        print(f"  {each.device}: {each.step:.3f} s per megapixel, member and step ({each.source})")
    if args.json is not None:
        content = {**about, "rows": found, "cost": asdict(cost), "published": [asdict(p) for p in PUBLISHED]}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _table(rows: list[dict[str, Any]]) -> str:
    stages = ("fetch", "compute", "write")
    header = ("domain", "members", "workers", *stages, "wall", "Mpx-steps/s", "peak", "stored")
    lines = []
    for row in rows:
        raw = row["megapixels"] * row["members"] * len(OUTPUTS.names) * 4
        work = row["megapixels"] * row["members"] * row["calls"]
        lines.append(
            (
                *("x".join(map(str, row["shape"])), str(row["members"]), str(row["workers"] or "none")),
                *(f"{row['seconds'][stage]:.2f} s" for stage in stages),
                *(f"{row['wall']:.2f} s", f"{work / row['wall']:.3f}", f"{row['peak'] / 2**20:.0f} MiB"),
                f"{100 * row['stored'] / (raw * MEGA):.0f} %",
            )
        )
    return columns(header, lines)


def _extrapolated(args: argparse.Namespace, cost: Cost) -> str:
    """Hours and terabytes of the runs that are too large, for this machine and for the published devices."""
    here = "given cost" if args.cost is not None else "this machine"
    header = ("on one device", "Mpx", "members", "steps", "TB", here, *(each.device for each in PUBLISHED))
    lines = []
    for target in targets(args.target_members):
        hours = [target.hours(cost.step, args.target_steps)]
        # what NVIDIA measured was in patches already
        plain = replace(target, overlap=target.overlap / targets(1)[0].overlap)
        hours += [
            (plain if i < 3 else target).hours(each.step, args.target_steps)
            for i, each in enumerate(PUBLISHED)
        ]
        size = (f"{target.megapixels:.2f}", str(target.members), str(args.target_steps))
        lines.append((target.name, *size, f"{target.terabytes(4):.3g}", *(f"{h:,.0f} h" for h in hours)))
    return columns(header, lines)


def _shape(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal() or min(int(height), int(width)) < 16:
        raise InputError(f"a domain is given as HxW, at least 16x16, like 192x320; got {text!r}")
    return int(height), int(width)
