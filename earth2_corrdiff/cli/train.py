# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``train-corrdiff``: train a CorrDiff package on pairs of coarse and fine weather."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import command_parser, entry_point, progress_bar
from earth2_corrdiff.cli.log import Log

if TYPE_CHECKING:
    from earth2_corrdiff.training.config import StageConfig
    from earth2_corrdiff.training.trainer import Progress

NAME = "train-corrdiff"


class Bars:
    """Progress bars: samples per second, time to go, and the losses; silent in all but the first process."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None
        self._prepared: Any = None
        self._last: dict[str, str] = {}

    def left(self, what: str, left: int) -> None:
        """Count a prepared time."""
        if self._prepared is None:
            self._prepared = self._make(total=left + 1, desc=what, unit="time")
        self._prepared.update()
        if not left:
            self._prepared.close()

    def stage(self, name: str, how: StageConfig) -> None:
        """Start the bar of a stage."""
        per_time = how.patches.per_time if how.patches else 1
        self.close()
        self._bar = self._make(total=how.steps * how.batch * per_time, desc=name, unit="sample")

    def step(self, progress: Progress) -> None:
        """Show a step; the first time, what an earlier run has done."""
        bar = self._bar
        if math.isnan(progress.loss):
            bar.initial = bar.n = bar.last_print_n = progress.images
            return
        self._last["step"], self._last["loss"] = str(progress.step), f"{progress.loss:.4g}"
        if progress.validation is not None:
            self._last["validation"] = f"{progress.validation:.4g}"
        bar.set_postfix(self._last, refresh=False)
        bar.update(progress.images)

    def close(self) -> None:
        """End the bar of a stage."""
        if self._bar is not None:
            self._bar.close()

    def _make(self, **about: Any) -> Any:
        return progress_bar(disable=not self._shown, **about)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a number of 1 or more, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        NAME,
        "Train both stages of CorrDiff on pairs of coarse and fine weather, and write a package.",
        "The same command goes on with a training that was stopped. torchrun --nproc-per-node N "
        f"scripts/{NAME}.py CONFIG.yaml shares every batch among N processes.",
    )
    parser.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG.yaml", help="networks, data and length of a training"
    )
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print all keys with their meanings and values, those of CONFIG.yaml or the defaults, and end",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say how much memory, time and room a training takes, and of what there is too little; end then",
    )
    parser.add_argument("--output", help="folder of the package, instead of the configuration's")
    parser.add_argument(
        "--work", help="folder of checkpoints and loss curves, instead of the configuration's"
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="threads of PyTorch in each process")
    return parser


def train(args: argparse.Namespace) -> None:
    """Train as the configuration says."""
    Log(NAME)
    from dataclasses import replace

    from earth2_corrdiff.training.config import read_config

    if args.show_config:
        from earth2_corrdiff.training.config_text import config_text

        print(config_text(None if args.config is None else read_config(args.config)), end="")
        return
    if args.config is None:
        raise InputError("name the configuration of the training, or see --show-config")
    given = {name: value for name in ("output", "work") if (value := getattr(args, name)) is not None}
    config = replace(read_config(args.config), **given)
    import torch

    from earth2_corrdiff.training.parallel import world
    from earth2_corrdiff.training.train import Training

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.check:
        from earth2_corrdiff.training.check import check

        for line in check(config):
            print(line, flush=True)
        return
    with world(config.device, os.environ) as processes:
        bars = Bars(processes.first)
        try:
            folder = Training(config, processes, bars).run()
        except KeyboardInterrupt:
            keeps = f"{config.work} keeps what is done; the same command goes on with it"
            raise KeyboardInterrupt(keeps) from None
        finally:
            bars.close()
        if processes.first:
            print(f"the package is in {folder}, the loss curves are in {os.path.join(config.work, '*.png')}")


main = entry_point(NAME, _parser, train)
