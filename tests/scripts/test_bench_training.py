# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training: a row for each optimisation, and all rows learn the same."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import training
from bench.recipes import COMPILED, PLAIN, VARIANTS, Recipe, Size, Weather, fresh_model
from torch import nn

from earth2_corrdiff.base.errors import InputError

CPU, TINY = torch.device("cpu"), Size(patch=16, channels=8, blocks=1, per_time=2)
ROWS = (*VARIANTS, COMPILED)
FLAGS = [f.name for f in fields(PLAIN) if f.name != "name"]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` traces forward and backward, and leaves out the C++ or Triton code."""
    compile_ = nn.Module.compile

    def trace(self: nn.Module, **how: Any) -> None:
        compile_(self, backend="aot_eager", **how)

    monkeypatch.setattr(nn.Module, "compile", trace)


def test_each_row_adds_to_the_one_before() -> None:
    on = [{flag for flag in FLAGS if getattr(row, flag)} for row in ROWS]
    assert [len(after - before) for before, after in zip(on, on[1:], strict=False)] == [1] * (len(ROWS) - 1)
    assert all(before < after for before, after in zip(on, on[1:], strict=False)) and on[-1] == set(FLAGS)


@pytest.mark.slow
def test_all_rows_learn_the_same(traced: None) -> None:
    """Two steps: the second is on weights that the first one has changed."""
    weather = Weather(fresh_model(TINY, CPU))
    times = [weather.pairs(number) for number in range(2)]
    want: list[float] = []
    for row in ROWS:
        recipe = Recipe(row, TINY, CPU)
        got = [recipe.step(pairs, number) for number, pairs in enumerate(times)]
        want = want or got
        assert got == pytest.approx(want, rel=0.01), row.name
        assert set(recipe.watch.seconds) >= set(training.PARTS)


@pytest.mark.slow
def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the command; the compiler itself takes part in the test above."""
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: None)
    size = ["--patch", "16", "--channels", "8", "--blocks", "1", "--per-time", "2", "--at-once", "1"]
    how = ["--device", "cpu", "--rounds", "1", "--compile", "--curves", "2", "--output", str(tmp_path)]
    training.run(training.parser().parse_args([*size, *how]))
    said = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    for row in ROWS:
        assert row.name in said and row.name in table
    assert "2 patches of 16 x 16 per time, 1 of them in one pass" in table and "torch " in table
    kept = json.loads((tmp_path / "times.json").read_text())["seconds"]
    assert list(kept) == [row.name for row in ROWS]
    assert all(len(found["total"]) == 1 and found["total"][0] > 0 for found in kept.values())
    assert "2 steps: loss from" in said and (tmp_path / "losses.png").stat().st_size > 1000


def test_compiled_by_itself_on_a_gpu_alone() -> None:
    assert training.parser().parse_args([]).compile is None
    assert training.parser().parse_args(["--no-compile"]).compile is False


def test_wrong_sizes() -> None:
    for flags in (["--patch", "18"], ["--rounds", "0"], ["--at-once", "0"]):
        with pytest.raises(InputError, match="must be"):
            training.run(training.parser().parse_args(flags))
