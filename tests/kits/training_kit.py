# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the training: tiny pairs of weather on disk, and trainings of seconds."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import yaml
from tiny import OUTPUTS, curved, hills, straight

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.training.config import Config
from earth2_corrdiff.training.pair_writer import Fields, PairPlan, PairWriter
from earth2_corrdiff.training.pairs import COARSE, Channels
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.strict import build
from earth2_corrdiff.training.train import Training
from earth2_corrdiff.training.trainer import Progress

COARSE_GRID = Grid(np.linspace(20, 25, 7, dtype=np.float32), np.linspace(118, 126, 9, dtype=np.float32))
FINE_GRID = curved(16, 24)
INPUTS = ("t2m", "u10m", "z500")
CHANNELS = Channels(INPUTS, OUTPUTS.names, ("orography",))
UNET = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}


def hours(count: int, start: str = "2020-01-01T00") -> Times:
    return np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(6, "h")


def weather(number: int, coarse: Grid = COARSE_GRID, fine: Grid = FINE_GRID) -> Fields:
    """Fields of one time: the fine ones are the coarse ones with hills, and noise of their own."""
    rng = np.random.default_rng(number)
    lat, lon = coarse.mesh()
    waves = [np.sin(lat * a + b) + np.cos(lon * c + d) for a, b, c, d in rng.uniform(0.3, 1.5, (3, 4))]
    states = np.stack([290 + 5 * waves[0], 4 * waves[1], 56000 + 500 * waves[2]]).astype(np.float32)
    warm = Regridder(coarse, fine)(torch.from_numpy(states[:1]))[0].numpy()
    noise = rng.normal(0, 1, (2, *fine.shape))
    truth = np.stack([3 + 4 * np.abs(noise[0]), warm - 0.005 * hills(fine)[0] + noise[1]])
    return states, truth.astype(np.float32)


def plan(times: Times, fine: Grid = FINE_GRID) -> PairPlan:
    return PairPlan(times, CHANNELS, COARSE_GRID, fine, {"orography": hills(fine)[0]}, {"source": "test"})


def write_pairs(path: Path, count: int = 12, fine: Grid = FINE_GRID) -> Path:
    writer = PairWriter(path, plan(hours(count), fine))
    for number in range(count):
        writer.write(number, weather(number, fine=fine))
    return path


def dataset(count: int = 5, bent: bool = False) -> xr.Dataset:
    """The same pairs in memory: what somebody might write with xarray."""
    fine = curved(16, 24) if bent else straight(16, 24)
    dims = ("y", "x") if bent else ("lat", "lon")
    made = [weather(number, fine=fine) for number in range(count)]
    coarse, truth = (np.stack(part) for part in zip(*made, strict=True))
    low = ("lat_lowres", "lon_lowres")
    data: dict[str, Any] = {
        **{f"{n}{COARSE}": (("time", *low), coarse[:, i]) for i, n in enumerate(CHANNELS.inputs)},
        **{n: (("time", *dims), truth[:, i]) for i, n in enumerate(CHANNELS.outputs)},
        "orography": (dims, hills(fine)[0]),
    }
    axes = {"lat": (dims if bent else "lat", fine.lat), "lon": (dims if bent else "lon", fine.lon)}
    coords = {"time": hours(count), "lat_lowres": COARSE_GRID.lat, "lon_lowres": COARSE_GRID.lon, **axes}
    return xr.Dataset(data, coords)


def settings(folder: Path, pairs: Path, **more: Any) -> dict[str, Any]:
    """A configuration as its YAML has it; ``regression__lr`` stands for ``lr`` of ``regression``."""
    stage = {"steps": 6, "batch": 4, "warmup": 2, "ema_halflife": 3, "network": UNET}
    told: dict[str, Any] = {
        "data": {"pairs": str(pairs)},
        "regression": dict(stage),
        "diffusion": {**stage},
        "validation": {"times": 2, "every": 3},
        "output": str(folder / "package"),
        "work": str(folder / "work"),
        "precision": "fp32",
        "checkpoint_every": 2,
    }
    for key, value in more.items():
        where, _, name = key.rpartition("__")
        (told[where] if where else told)[name] = value
    return told


def config(folder: Path, pairs: Path, **more: Any) -> Config:
    return build(Config, settings(folder, pairs, **more))


def write_config(folder: Path, pairs: Path, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(settings(folder, pairs, **more)))
    return path


class Watch:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []
        self.stages: list[str] = []

    def left(self, what: str, left: int) -> None:
        pass

    def stage(self, name: str, how: object) -> None:
        self.stages.append(name)

    def step(self, progress: Progress) -> None:
        self.steps.append(progress)


def train(told: Config, watch: Watch | None = None) -> Path:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more are no help to tiny networks
    try:
        return Training(told, World(), watch or Watch()).run()
    finally:
        torch.set_num_threads(before)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder: Path, stage: str) -> list[float]:
    return [float(row["loss"]) for row in rows(folder / "work" / f"{stage}.csv")]


def moved(told: Config, folder: Path) -> Config:
    """The same training elsewhere."""
    return replace(told, output=str(folder / "package"), work=str(folder / "work"))
