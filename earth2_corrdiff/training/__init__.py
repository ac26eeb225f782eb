# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Training of CorrDiff packages: pairs on disk, the two stages, fine-tuning.

Pairs of coarse and fine weather come from two data sources, or from arrays::

    from earth2_corrdiff.training import Channels, make_pairs

    channels = Channels(("t2m", "u10m", "v10m"), ("t2m", "refc"))
    for left in make_pairs("arco", "radar.zarr", "2020-01-01/2023-12-31T18/6h", channels, "pairs.zarr"):
        print(left)  # continues where it was stopped

    writer = PairWriter("pairs.zarr", PairPlan(times, channels, coarse_grid, fine_grid))
    writer.write(0, (coarse, fine))  # number of the time, [C, h, w] and [Co, H, W]

A training is configured by a YAML file or a ``Config``; ``train.py`` is the file to read first::

    from earth2_corrdiff.training import Training, read_config

    folder = Training(read_config("train.yaml")).run()  # a package for CorrDiff.load_model

The same call continues a training that was stopped. ``World`` and ``world`` are for several processes, a
``Watch`` has progress callbacks. The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.training.config import Config as Config
    from earth2_corrdiff.training.config import read_config as read_config
    from earth2_corrdiff.training.convert import Area as Area
    from earth2_corrdiff.training.convert import Conversion as Conversion
    from earth2_corrdiff.training.convert import make_pairs as make_pairs
    from earth2_corrdiff.training.pair_writer import PairPlan as PairPlan
    from earth2_corrdiff.training.pair_writer import PairWriter as PairWriter
    from earth2_corrdiff.training.pair_writer import fill as fill
    from earth2_corrdiff.training.pairs import Channels as Channels
    from earth2_corrdiff.training.pairs import PairFile as PairFile
    from earth2_corrdiff.training.pairs import Pairs as Pairs
    from earth2_corrdiff.training.parallel import World as World
    from earth2_corrdiff.training.parallel import world as world
    from earth2_corrdiff.training.train import Training as Training
    from earth2_corrdiff.training.train import Watch as Watch
    from earth2_corrdiff.training.trainer import Progress as Progress

_HOME = {
    "Area": "convert",
    "Channels": "pairs",
    "Config": "config",
    "Conversion": "convert",
    "PairFile": "pairs",
    "PairPlan": "pair_writer",
    "PairWriter": "pair_writer",
    "Pairs": "pairs",
    "Progress": "trainer",
    "Training": "train",
    "Watch": "train",
    "World": "parallel",
    "fill": "pair_writer",
    "make_pairs": "convert",
    "read_config": "config",
    "world": "parallel",
}
__all__ = list(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
