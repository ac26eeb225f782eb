# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of compression: one small round of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import compression

from earth2_corrdiff import CorrDiff
from earth2_corrdiff.cli.common import run_command


@pytest.mark.slow
def test_a_small_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer steps than the demo's own, and each member encoded once."""
    load = CorrDiff.load_model

    def quick(package: Any) -> CorrDiff:
        model = load(package)
        model.solver, model.number_of_steps = "euler", 2
        return model

    monkeypatch.setattr(CorrDiff, "load_model", quick)
    monkeypatch.setattr(compression, "ROUNDS", 1)
    words = ["--members", "2", "--settings", "t2m=0.5", "--times", "2024-07-24"]
    words += ["--json", str(tmp_path / "rows.json")]
    compression.run(compression.parser().parse_args(words))
    assert "fair CRPS" in capsys.readouterr().out
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
    args = compression.parser().parse_args(options)
    assert run_command("bench-compression.py", compression.run, args) == 2
    assert says in capsys.readouterr().err
