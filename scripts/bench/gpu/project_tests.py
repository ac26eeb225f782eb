# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""C: the project's own tests that need a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from .record import Record

ROOT = Path(__file__).resolve().parents[3]
MARKED = re.compile(r"\bmark\.gpu\b")
SHOWN = 60  # lines about what did not pass


def run(record: Record) -> None:
    """Run the tests that are marked ``gpu``; ``pytest.txt`` has what they print."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(p.relative_to(ROOT)) for p in tests if MARKED.search(p.read_text(encoding="utf-8"))]
    if not files or not _has("pytest"):
        record.put("left out", "tests", value="the project's tests, or pytest, are not here")
        return
    record.attempt("tests", _run, record, files)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _run(record: Record, files: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "pytest", "-m", "gpu", *files, "-q", "-ra", "--tb=short"),
        *("-p", "no:cacheprovider", "--continue-on-collection-errors", "--durations=8"),
    ]
    if _has("xdist") and record.cuda:
        command += ["-n", "6", "--dist", "load"]
    folders = [str(ROOT / "tests" / "kits"), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "2"}
    said = record.task.out / "pytest.txt"
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            status: int | str = process.wait(max(1.0, record.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "out of time"
    lines = said.read_text(encoding="utf-8").strip().splitlines()
    record.put("status", value=status)
    record.put("last line", value=lines[-1] if lines else "")
    other = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    record.put("not passed", value=other[:SHOWN])
    record.say(f"tests: {status}; {record.found['last line']}")
