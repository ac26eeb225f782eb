# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model's recipe: pairs of synthetic weather, the untrained networks, the two stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.checkpoint import Checkpoint
from earth2_corrdiff.demo import DemoWeather
from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.grid import Grid, Regridder
from earth2_corrdiff.networks import Denoiser, Regression, create
from earth2_corrdiff.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.training.data import Pairs, channel_statistics
from earth2_corrdiff.training.loop import Recipe, train
from earth2_corrdiff.training.losses import EDMLoss, regression_loss

INPUTS = DemoWeather.VARIABLES[:-1]  # all but refc, the coarse reflectivity
OUTPUTS = DemoWeather.TRUTH_VARIABLES
INVARIANTS = ("orography", "land_fraction")
FIRST_TEST, LAST_TEST = "2022-01-01T00", "2025-12-31T23"
SIGMA_DATA = 0.5


def _one_pair(time: np.datetime64) -> tuple[Any, Any]:
    fields = DemoWeather().fields(time)
    return fields.coarse[: len(INPUTS)], fields.fine


def training_times(count: int, seed: int) -> list[np.datetime64]:
    """Random hours of the storm years that the demo may learn from."""
    return _random_hours("2012-01-01T00", "2021-12-31T23", count, seed, DemoWeather.is_training_time)


def held_out_times(count: int, seed: int = 1) -> list[np.datetime64]:
    """Random hours of later years, of which no storm was trained on."""
    return _random_hours(
        FIRST_TEST, LAST_TEST, count, seed, lambda time: not DemoWeather.is_training_time(time)
    )


def _random_hours(first: str, last: str, count: int, seed: int, keep: Any) -> list[np.datetime64]:
    hours = np.arange(np.datetime64(first), np.datetime64(last), np.timedelta64(1, "h"))
    order = np.random.default_rng(seed).permutation(len(hours))
    return [hours[i] for i in order if keep(hours[i])][:count]


def load_pairs(times: Sequence[np.datetime64], cache: Path | None, workers: int) -> Pairs:
    """Make the pairs of many times in several processes, or take them from an earlier run."""
    if cache is not None and cache.exists():
        stored = torch.load(cache, weights_only=True)
        return Pairs(stored["coarse"], stored["fine"])
    with ProcessPoolExecutor(workers) as pool:
        made = list(pool.map(_one_pair, times, chunksize=16))
    coarse, fine = (torch.from_numpy(np.stack(part)).float() for part in zip(*made, strict=True))
    if cache is not None:
        torch.save({"coarse": coarse, "fine": fine}, cache)
    return Pairs(coarse, fine)


def fresh_downscaler(pairs: Pairs) -> Downscaler:
    """An untrained demo model, with the normalisation of the pairs."""
    spec = _spec(pairs)
    side = spec.output_grid.shape[0]
    regression = _network("UNet", spec.condition_channels, side, {"embedding_type": "zero", "num_blocks": 1})
    seen = spec.condition_channels + len(OUTPUTS)  # the mean is part of the denoiser's conditioning
    denoiser = _network("EDMPrecondSuperResolution", seen, side, {"sigma_data": SIGMA_DATA, "num_blocks": 2})
    networks = cast(Regression, regression), cast(Denoiser, denoiser)
    return Downscaler(spec, *networks, "fp32", accelerated=False)


def _spec(pairs: Pairs) -> CorrDiffSpec:
    """What the package will say.

    Outputs are scaled so that what interpolation leaves over has the standard deviation ``sigma_data``:
    the preconditioning of EDM, and the solver ``trigflow``, are best there.
    """
    coarse, fine = pairs.coarse[:500], pairs.fine[:500]
    grids = _grids()
    rest = fine.clone()
    twins = [INPUTS.index(name) for name in OUTPUTS[1:]]
    rest[:, 1:] -= Regridder(*grids)(coarse[:, twins])
    static = DemoWeather.static()
    fields = np.stack([static[name] for name in INVARIANTS])
    return CorrDiffSpec(
        inputs=channel_statistics(INPUTS, coarse),
        outputs=replace(
            channel_statistics(OUTPUTS, fine), scale=channel_statistics(OUTPUTS, rest, 1 / SIGMA_DATA).scale
        ),
        input_grid=grids[0],
        output_grid=grids[1],
        sampling=Sampling("heun", 12),
        invariants=channel_statistics(INVARIANTS, torch.from_numpy(fields)[None]),
        invariant_fields=fields,
        number_of_samples=4,
        name="earth2_corrdiff demo",
        synthetic=True,
    )


def _grids() -> tuple[Grid, Grid]:
    """The coarse and the fine grid, float32 as the fields."""
    coarse, fine = (
        Grid(lat.astype(np.float32), lon.astype(np.float32))
        for lat, lon in (DemoWeather.coarse_grid(), DemoWeather.fine_grid())
    )
    return coarse, fine


def _network(name: str, channels: int, side: int, extra: dict[str, Any]) -> Regression | Denoiser:
    """A small U-Net: 32 channels at full resolution, 64 at a half, a quarter and an eighth of it."""
    args = {
        "img_resolution": side,
        "img_in_channels": channels,
        "img_out_channels": len(OUTPUTS),
        "model_type": "SongUNet",
        "model_channels": 32,
        "channel_mult": [1, 2, 2, 2],
        "attn_resolutions": [side // 8],
        "dropout": 0.0,
        **extra,
    }
    return create(Checkpoint(name, args, {}, "the demo's recipe"))


def _normalised(model: Downscaler, fine: Tensor) -> Tensor:
    return (fine - model.center_out) / model.scale_out


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def train_regression(
    model: Downscaler, pairs: Pairs, recipe: Recipe, state: Path
) -> Iterator[tuple[int, float]]:
    """First stage: the mean."""

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        cond = _last(model.condition(pairs.coarse[index]))
        return regression_loss(model.regression, cond, _normalised(model, pairs.fine[index]))

    yield from train(model.regression, loss, len(pairs), recipe, state)


def train_diffusion(
    model: Downscaler, pairs: Pairs, recipe: Recipe, state: Path
) -> Iterator[tuple[int, float]]:
    """Second stage: the residual, whose mean is computed once."""
    with torch.no_grad():
        parts = torch.split(pairs.coarse, 8)
        means = torch.cat([model.normalised_mean(model.condition(part)) for part in parts])
    edm = EDMLoss()

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        mean = means[index]
        cond = torch.cat([mean, model.condition(pairs.coarse[index])], dim=1)
        return edm(model.denoiser, _last(cond), _normalised(model, pairs.fine[index]) - mean, generator)

    yield from train(model.denoiser, loss, len(pairs), recipe, state)
