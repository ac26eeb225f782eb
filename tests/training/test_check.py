# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a training: what it says, compared with a training; and its rules, by hand and by NumPy."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_kit import config, hours, train, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.train import main
from earth2_corrdiff.training import check as module
from earth2_corrdiff.training.check import Cost, check, duration
from earth2_corrdiff.training.config import StageConfig
from earth2_corrdiff.training.splits import Splits
from earth2_corrdiff.training.sufficiency import Persistence, check_memory, persistence, warnings_of

H, W, R = 24, 40, 0.7
HOUR = np.timedelta64(1, "h")


class Weather:
    """A first-order autoregression in time on a fixed pattern; every 6 hours, but for a gap."""

    def __init__(self, count: int = 60) -> None:
        rng = np.random.default_rng(5)
        noise = rng.normal(0, 1, (count, 2, H, W))
        for i in range(1, count):
            noise[i] = R * noise[i - 1] + (1 - R**2) ** 0.5 * noise[i]
        fields = noise + 10 * rng.normal(0, 1, (2, H, W))
        fields[:, 0, :3] = np.nan
        self.fields = torch.from_numpy(fields.astype(np.float32))
        self.times = hours(count)
        self.times[count // 2 :] += 48 * HOUR
        self.fine_grid = SimpleNamespace(shape=(H, W))
        self.channels = SimpleNamespace(outputs=("t2m", "tp"))

    def read(self, numbers: list[int]) -> Any:
        return SimpleNamespace(fine=self.fields[numbers])


def test_persistence_and_independent_times() -> None:
    pairs: Any = Weather()
    lasting = persistence(pairs, range(60))
    assert lasting.step == 6 * HOUR and lasting.correlation == pytest.approx(R, abs=0.06)  # less by the mean
    assert persistence(pairs, [7]).independent(1) == 1
    known = Persistence(0.5, 6 * HOUR)
    assert known.independent(30) == 10 and known.over(12 * HOUR) == 0.25
    # the variance of the mean of an autoregression by its covariances, to the next order in 1 / n
    lags = np.abs(np.subtract.outer(np.arange(900), np.arange(900)))
    assert known.independent(900) == pytest.approx(900**2 / (0.5**lags).sum(), rel=0.01)


def test_what_there_is_too_little_of(tmp_path: Path) -> None:
    pairs: Any = Weather()
    told = config(tmp_path, tmp_path, regression__warmup=6, data__flips=True)
    few = Splits(list(range(30)), [30, 31], [])
    said = list(
        warnings_of(told, pairs, few, {"regression": 10, "diffusion": 10**6}, Persistence(0.5, 6 * HOUR))
    )
    values = 10 * 4 * H * W * 2  # 10 independent times, 4 orientations
    assert [line.split(":")[0] for line in said] == [
        "there are few training times",
        "there are few validation times",
        "there are no test times",
        f"about {values:,} independent values are few for the diffusion of 1,000,000 weights",
        "regression.warmup of 6 steps is as long as its training of 6",
    ]
    assert "30, worth about 10 independent ones (fields 6 h apart correlate 0.50)" in said[0]
    near = Splits(list(range(20)), [20, 21], [50])
    (line,) = [
        line for line in warnings_of(told, pairs, near, {}, Persistence(0.5, 6 * HOUR)) if "come" in line
    ]
    assert line.startswith(
        "the validation times come within 6 h of the training, where fields still correlate 0.50"
    )
    plenty = Splits(list(range(45)), list(range(48, 53)), list(range(54, 60)))
    many = replace(told, regression=StageConfig(steps=600))
    assert list(warnings_of(many, pairs, plenty, {"regression": 9000}, Persistence(0.0, 6 * HOUR))) == [
        "there are few test times: 6; 10 independent ones are a small set"
    ]


def test_memory_and_time_by_hand() -> None:
    check_memory("diffusion", 2e9, 2e9, 3)
    with pytest.raises(
        InputError, match=r"diffusion needs about 2.5 GB and 2.0 GB are free; .*micro_batch to 3"
    ):
        check_memory("diffusion", 2.5e9, 2e9, 3)
    with pytest.raises(InputError, match="use smaller patches, or a smaller network"):
        check_memory("diffusion", 2.5e9, 2e9, None)
    cost = Cost(memory=1, step=2.0, validation=10.0, first=100.0)
    assert cost.seconds(StageConfig(steps=25), 10) == 50 + 30 + 100
    assert cost.seconds(StageConfig(steps=25), 10, done=20) == 10 + 10
    assert [duration(s) for s in (0.123, 90, 600, 7500)] == ["0.12 s", "90 s", "10 min", "2 h 05 min"]


@pytest.mark.slow
def test_a_check_and_the_training_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is the package's; nothing is written; what does not fit the memory is refused."""
    pairs = write_pairs(tmp_path / "pairs.zarr", 8)
    told = config(tmp_path, pairs, diffusion__cache_means=True, regression__steps=2, diffusion__steps=1)
    said = list(check(told))
    parts = ["pairs", "regression", "diffusion", "in all", "package"]
    assert all(line.startswith(part) for line, part in zip(said, parts, strict=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.zarr"]
    assert "8 times in" in said[0] and "7 for train (2020-01-01T00:00 to 2020-01-02T12:00)" in said[0]
    size = float(re.findall(r"package: ([\d.]+) MB", said[4])[0])
    memory = float(re.findall(r"peak memory ([\d.]+) GB", said[1])[0])
    package = train(told)
    assert size == pytest.approx(sum(file.stat().st_size for file in package.iterdir()) / 1e6, abs=0.01)
    assert 0.1 < memory < 8
    (again,) = [line for line in check(told) if line.startswith("regression")]
    assert "2 steps, 2 of them done" in again and "about 0 s" in again
    monkeypatch.setattr(module, "free_bytes", lambda device: 1)
    with pytest.raises(InputError, match="a step of the regression needs about"):
        list(check(told))
    assert main(["--check", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.startswith("train-corrdiff: error: cannot read the configuration")
