# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of compression: one small round of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_a_small_round(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPTS / "bench-compression.py"), "--members", "2", "--settings", "t2m=0.5"]
    words += ["--times", "2024-07-24", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "fair CRPS" in done.stdout and "python scripts/bench-compression.py" in done.stdout
    lossless, coarse = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert lossless["error"] == lossless["spectrum"] == 0 and set(lossless["crps"].values()) == {0}
    assert 0.5 < coarse["error"] <= 1 and coarse["crps"]["t2m"] > 0.01 > coarse["crps"]["mrr"] == 0
    assert coarse["fields"] < lossless["fields"] < lossless["raw"] == 4 * 2 * 4 * 112 * 112


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--settings", "lossless"], "lossless is always among them"),
        (["--settings", "t2m=1", "t2m=1"], "give each of --settings once"),
        (["--members", "1"], "--members must be 2 or more"),
    ],
)
def test_what_is_refused(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bench import compression

    from earth2_corrdiff.cli.common import run_command

    args = compression.parser().parse_args(options)
    assert run_command("bench-compression.py", compression.run, args) == 2
    assert says in capsys.readouterr().err
