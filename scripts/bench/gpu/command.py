# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``check-gpu.py``: a user's first command on a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.cli.common import ArgumentParser

from .. import provenance
from . import plan
from .runner import Runner, Settings

ROOT = Path(__file__).resolve().parents[3]
PREPARED = ROOT / ".gpu-kit"  # where packages were put beside the checkout for a machine without network
SECTIONS = """
sections, in this order, each in a process of its own:
  A   which card; its copies, matrix products and convolutions: the measured ceilings
  Bk  the fused kernels against float64, at all shapes of the network
  B   captured graphs against eager steps, host waits, batches, the demo against the CPU
  D   steps, ensembles and profiles at 448 x 448, against stock and the roofline
  C   the project's tests marked gpu
  E   1056 x 1792 in patches, and its regression
  F   training recipes
  K   stock with torch.compile
  G   tile sizes of the norm

The folder of --out gets summary.md (tables), results.json (all numbers, written as they come), log.txt and
pytest.txt. Without Earth2Studio and PhysicsNeMo there is no stock to compare with. Exit status: 0 if all is
right, 1 if something is wrong, 2 for a wrong option.
"""


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="check-gpu.py",
        description="Check that this package is right and fast on this GPU.",
        epilog=SECTIONS,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--sections", default=",".join(plan.NAMES), metavar="A,B", help="by default all, in their order")
    add("--total", type=float, default=450, metavar="SECONDS", help="for everything, by default 450")
    add("--out", type=Path, metavar="FOLDER", help="for the results, by default outputs/check-gpu")
    add(
        "--ceilings",
        type=Path,
        metavar="FILE",
        help="results.json of an earlier check of this card: the roofline of a check without section A",
    )
    add("--cpu", action="store_true", help="on the CPU: a dry run, whose times mean nothing")
    add("--tiny", action="store_true", help="toy sizes and single samples")
    add("--spawn", action="store_true", help="a fresh interpreter for each section, not a fork")
    return made


def run(args: Namespace) -> bool:
    """Run the check and print its summary; True if nothing is wrong.

    Raises
    ------
    InputError
        If an option is wrong, there is no GPU, or the results cannot be written
    """
    sections = plan.chosen(args.sections)
    if not args.total > 0:
        raise InputError(f"--total {args.total:g} is not a valid time; use a positive number of seconds")
    device = "cpu" if args.cpu else _gpu()
    out = _folder(args.out or Path(os.getenv("OUT") or "outputs/check-gpu"))
    about = {"command": provenance.command(), "commit": _commit()}
    ceilings = {} if sections[0].name == "A" else _ceilings(args.ceilings)
    settings = Settings(device, args.tiny, args.spawn, args.total, out, about, ceilings)
    faults = Runner(settings).run(sections)
    print("\n" + (out / "summary.md").read_text(encoding="utf-8"), flush=True)
    return not faults


def _gpu() -> str:
    """The GPU's name for PyTorch; asking for it must not start CUDA, or sections cannot be forked."""
    import torch

    if not torch.cuda.is_available():
        raise InputError("PyTorch sees no GPU here; use --cpu --tiny for a dry run on the CPU")
    return "cuda"


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in ("log.txt", "pytest.txt"):
            (path / name).unlink(missing_ok=True)
        (path / "log.txt").touch()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({first_line(error)}); use another --out") from error
    return path.resolve()


def _commit() -> str | None:
    """The commit of this checkout: as it was noted when it was copied, or as git has it."""
    noted, git = PREPARED / "commit.txt", shutil.which("git")
    if noted.exists():
        return noted.read_text(encoding="utf-8").strip()
    if git is None:
        return None
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or None


def _ceilings(given: Path | None) -> dict[str, Any]:
    """Section A of an earlier check.

    Raises
    ------
    InputError
        If the file has none
    """
    path = given or PREPARED / "earlier.json"
    if given is None and not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["sections"]["A"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} is not a results.json with section A ({first_line(error)})") from error
    if not found.get("products TFLOP/s"):
        raise InputError(f"{path} has no measured products; use the results.json of a check with section A")
    return found
