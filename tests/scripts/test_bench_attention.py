# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of neighbourhood attention and of a DiT's step, tiny: what they compare is equal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from bench import attention, dit

if sys.platform != "linux":
    pytest.skip("memory is measured by /proc", allow_module_level=True)


@pytest.mark.slow
def test_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--tokens",
        "12",
        "--kernel",
        "5",
        "--heads",
        "1",
        "--dim",
        "16",
        "--memory",
        "6,8",
        "--tiles",
        "4",
    ]
    file = tmp_path / "rows.json"
    rows = attention.run(attention.parser().parse_args([*sizes, "--rounds", "1", "--json", str(file)]))
    times = [row for row in rows if row["what"] == "time"]
    assert [row["version"] for row in times] == 2 * ["masked", "ours", "tiles of 4"]
    for row in times:
        assert row["error"] < (1e-6 if row["precision"] == "fp32" else 5e-3) and row["ratio"] > 0
    assert [row["tokens"] for row in rows if row["what"] == "memory"] == [6, 8, 6, 8]
    assert len(json.loads(file.read_text())["rows"]) == len(rows) == 10
    assert "12 x 12 tokens, window 5 x 5, 1 heads of 16" in capsys.readouterr().out


@pytest.mark.slow
def test_dit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("physicsnemo")
    torch.manual_seed(0)
    sizes = ["--cells", "8,12", "--kernel", "3", "--hidden", "32", "--depth", "1", "--heads", "2"]
    file = tmp_path / "rows.json"
    rows = dit.run(dit.parser().parse_args([*sizes, "--rounds", "1", "--json", str(file)]))
    assert {row["version"]: row["error"] < 2e-6 for row in rows} == {
        "stock fp32": True, "stock bf16": False, "ours fp32": True, "ours bf16": False
    }  # fmt: skip
    assert all(row["error"] < 2e-2 for row in rows) and "x stock fp32" in capsys.readouterr().out
    assert len(json.loads(file.read_text())["rows"]) == 4
