# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command behind ``scripts/train-demo.py``: train the demo package, and say how good it is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from earth2_corrdiff.cli.common import ArgumentParser, run_command, share_cores

if TYPE_CHECKING:
    from earth2_corrdiff.downscaler import Downscaler

TEST_TIMES, TEST_MEMBERS = 16, 4


@dataclass(frozen=True)
class Setting:
    """What the command line asks for."""

    output: Path
    work: Path
    pairs: int
    regression_steps: int
    diffusion_steps: int
    batch: int
    seed: int
    threads: int
    evaluate: bool


def train_demo(setting: Setting) -> None:
    """Train where that is asked for, then score the package on storms that it has not seen."""
    share_cores()
    import torch

    from earth2_corrdiff.cli.demo_recipe import held_out_times
    from earth2_corrdiff.cli.demo_skill import evaluate

    torch.set_num_threads(setting.threads)
    model = _load(setting.output) if setting.evaluate else _train(setting)
    print(f"{TEST_TIMES} random hours of years not trained on, {TEST_MEMBERS} members (dBZ, K, m/s, m/s):")
    print(evaluate(model, held_out_times(TEST_TIMES), TEST_MEMBERS))


def _load(folder: Path) -> Downscaler:
    from earth2_corrdiff.downscaler import Downscaler
    from earth2_corrdiff.package import Folder, read_package

    loaded = read_package(Folder(folder))
    return Downscaler(loaded.spec, loaded.regression, loaded.denoiser)


def _train(setting: Setting) -> Downscaler:
    """Pairs, both stages, package; each long part goes on where it was stopped."""
    import torch
    from tqdm import tqdm

    from earth2_corrdiff.cli import demo_recipe
    from earth2_corrdiff.package_writer import save_package
    from earth2_corrdiff.training.loop import Recipe

    setting.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(setting.seed)
    times = demo_recipe.training_times(setting.pairs, setting.seed)
    pairs = demo_recipe.load_pairs(times, setting.work / "pairs.pt", setting.threads)
    model = demo_recipe.fresh_downscaler(pairs)
    recipe = Recipe(setting.regression_steps, setting.batch, seed=setting.seed)
    stages = (
        ("regression", demo_recipe.train_regression, recipe),
        ("diffusion", demo_recipe.train_diffusion, replace(recipe, steps=setting.diffusion_steps)),
    )
    for name, stage, how in stages:
        curve = setting.work / f"{name}.csv"
        with tqdm(total=how.steps, desc=name, unit="step") as bar, curve.open("a") as log:
            for step, value in stage(model, pairs, how, setting.work / f"{name}.pt"):
                bar.update(step - bar.n)
                log.write(f"{step},{value:.6g}\n")
    save_package(setting.output, model.spec, model.regression, model.denoiser, half=True)
    return model


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = ArgumentParser(prog="train-demo", description=__doc__)
    p.add_argument("--output", type=Path, default=Path("runs/demo/package"), help="where the package goes")
    p.add_argument("--work", type=Path, default=Path("runs/demo"), help="pairs, checkpoints, loss curves")
    p.add_argument("--pairs", type=int, default=3200, help="training times")
    p.add_argument("--regression-steps", type=int, default=900)
    p.add_argument("--diffusion-steps", type=int, default=1800)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--evaluate", action="store_true", help="do not train; score the package at --output")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command("train-demo", train_demo, Setting(**vars(args)))
