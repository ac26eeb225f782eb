# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The core runs where Earth2Studio is not installed: in a process of its own, with the import blocked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What makes an Earth2Studio model, data source or store of the core, and what runs those.
ADAPTERS = ("model.earth2studio", "run", "service", "sources.settled", "workflows")
ADAPTERS += ("model.cmip6", "model.cosmo", "model.hrrr", "model.timed", "store.arrays", "store.target")
ADAPTERS += ("store.writer", "bench.scaling", "bench.scaling_run", "bench.scheduling")
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "earth2studio":
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
"""
COMPUTE = """
import numpy as np
import torch
from earth2_corrdiff import demo
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.reader import read_package

loaded = read_package(demo.folder())
model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32")
coarse = demo.DemoWeather()(np.datetime64("2024-07-24T12"), loaded.spec.inputs.names).values
member = model(torch.from_numpy(coarse), seeds=[7])
assert member.shape == (1, 1, 4, 112, 112) and torch.isfinite(member).all()
assert 270 < member[0, 0, 1].mean() < 310, member[0, 0, 1].mean()
"""

IMPORT = """
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
    print(name)
"""
# This package's rows of the benchmark, without PhysicsNeMo too.
TRAIN = """
sys.modules["physicsnemo"] = None
import math
import torch
from bench.recipes import VARIANTS, Recipe, Size, Weather, fresh_model

size, cpu = Size(patch=16, channels=8, blocks=1, per_time=2), torch.device("cpu")
pairs = Weather(fresh_model(size, cpu)).pairs(0)
ours = [row for row in VARIANTS if row.norm]
assert len(ours) == 4
for row in (ours[0], ours[-1]):
    assert math.isfinite(Recipe(row, size, cpu).step(pairs, 0))
"""


def run_blocked(program: str, *arguments: str) -> str:
    paths = [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def modules() -> list[str]:
    """All of the package but the adapters, and all of the benchmarks."""
    found = []
    for folder in (ROOT / "earth2_corrdiff", ROOT / "scripts" / "bench"):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            inside = name.removeprefix("earth2_corrdiff.")
            if not any(f"{inside}.".startswith(f"{adapter}.") for adapter in ADAPTERS):
                found.append(name)
    return found


@pytest.mark.process
def test_the_core_is_imported_computes_and_trains() -> None:
    names = modules()
    for name in ("model.downscaler", "model.packages.reader", "networks.fast.executors", "training.train"):
        assert f"earth2_corrdiff.{name}" in names
    assert "bench.training" in names and "bench.solver_study" in names
    assert run_blocked(COMPUTE + IMPORT + TRAIN, *names).split() == names
