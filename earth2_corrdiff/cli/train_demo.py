# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Train the demo package on the synthetic weather, and say how good it is on storms not trained on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from earth2_corrdiff.cli.common import ArgumentParser, run_command, share_cores

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from earth2_corrdiff.downscaler import Downscaler
    from earth2_corrdiff.networks import Denoiser, Regression
    from earth2_corrdiff.training.data import Pairs
    from earth2_corrdiff.training.loop import Recipe

INPUTS = ("tcwv", "z500", "t500", "u500", "v500", "z850", "t850", "u850", "v850", "t2m", "u10m", "v10m")
OUTPUTS = ("mrr", "t2m", "u10m", "v10m")
INVARIANTS = ("orography", "land_fraction")
FIRST_TEST, LAST_TEST = "2022-01-01T00", "2025-12-31T23"
SIGMA_DATA = 0.5


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


def _one_pair(time: np.datetime64) -> tuple[Any, Any]:
    from earth2_corrdiff.demo import DemoWeather

    fields = DemoWeather().fields(time)
    return fields.coarse[: len(INPUTS)], fields.fine


def training_times(count: int, seed: int) -> list[np.datetime64]:
    """Random hours of the storm years that the demo may learn from."""
    from earth2_corrdiff.demo import DemoWeather

    return _random_hours("2012-01-01T00", "2021-12-31T23", count, seed, DemoWeather.is_training_time)


def held_out_times(count: int, seed: int = 1) -> list[np.datetime64]:
    """Random hours of later years, of which no storm was trained on."""
    from earth2_corrdiff.demo import DemoWeather

    return _random_hours(
        FIRST_TEST, LAST_TEST, count, seed, lambda time: not DemoWeather.is_training_time(time)
    )


def _random_hours(first: str, last: str, count: int, seed: int, keep: Any) -> list[np.datetime64]:
    hours = np.arange(np.datetime64(first), np.datetime64(last), np.timedelta64(1, "h"))
    order = np.random.default_rng(seed).permutation(len(hours))
    return [hours[i] for i in order if keep(hours[i])][:count]


def load_pairs(times: Sequence[np.datetime64], cache: Path | None, workers: int) -> Pairs:
    """Make the pairs of many times in several processes, or take them from an earlier run."""
    import torch

    from earth2_corrdiff.training.data import Pairs

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
    """An untrained demo model, with the normalisation of the pairs.

    Outputs are scaled so that what interpolation leaves over has the standard deviation ``sigma_data``:
    the preconditioning of EDM, and the solver ``trigflow``, are best there.
    """
    from earth2_corrdiff.checkpoint import Checkpoint
    from earth2_corrdiff.demo import DemoWeather
    from earth2_corrdiff.downscaler import Downscaler
    from earth2_corrdiff.grid import Grid, Regridder
    from earth2_corrdiff.networks import create
    from earth2_corrdiff.spec import CorrDiffSpec, Sampling, Statistics
    from earth2_corrdiff.training.data import channel_statistics

    static = DemoWeather.static()
    fields = np.stack([static[name] for name in INVARIANTS])
    coarse, fine = _coarse_grid(), Grid(*(x.astype(np.float32) for x in DemoWeather.fine_grid()))
    some = slice(0, 500)
    interpolated = Regridder(coarse, fine)(pairs.coarse[some, 9:])
    rest = pairs.fine[some].clone()
    rest[:, 1:] -= interpolated
    center = channel_statistics(OUTPUTS, pairs.fine[some]).center
    scale = channel_statistics(OUTPUTS, rest, 1 / SIGMA_DATA).scale
    import torch

    spec = CorrDiffSpec(
        inputs=channel_statistics(INPUTS, pairs.coarse[some]),
        outputs=Statistics(OUTPUTS, center, scale),
        input_grid=coarse,
        output_grid=fine,
        sampling=Sampling("heun", 12),
        invariants=channel_statistics(INVARIANTS, torch.from_numpy(fields)[None]),
        invariant_fields=fields,
        number_of_samples=4,
        name="earth2_corrdiff demo",
        synthetic=True,
    )
    common = {
        "img_resolution": fine.shape[0],
        "img_out_channels": len(OUTPUTS),
        "model_channels": 32,
        "channel_mult": [1, 2, 2, 2],
        "attn_resolutions": [fine.shape[0] // 8],
        "dropout": 0.0,
    }
    condition = len(INPUTS) + len(INVARIANTS)
    regression = create(
        Checkpoint(
            "UNet",
            {
                "img_in_channels": condition,
                "model_type": "SongUNet",
                "embedding_type": "zero",
                "num_blocks": 1,
                **common,
            },
            {},
            "demo",
        )
    )
    denoiser = create(
        Checkpoint(
            "EDMPrecondSuperResolution",
            {
                "img_in_channels": condition + len(OUTPUTS),
                "model_type": "SongUNet",
                "num_blocks": 2,
                "sigma_data": SIGMA_DATA,
                **common,
            },
            {},
            "demo",
        )
    )
    return Downscaler(spec, cast("Regression", regression), cast("Denoiser", denoiser))


def _coarse_grid() -> Any:
    from earth2_corrdiff.grid import Grid

    return Grid(
        np.linspace(19.25, 28.0, 36, dtype=np.float32), np.linspace(116.0, 125.75, 40, dtype=np.float32)
    )


def _normalised(model: Downscaler, fine: Tensor) -> Tensor:
    return (fine - model.center_out) / model.scale_out


def _last(x: Tensor) -> Tensor:
    import torch

    return x.contiguous(memory_format=torch.channels_last)


def train_regression(
    model: Downscaler, pairs: Pairs, recipe: Recipe, state: Path
) -> Iterator[tuple[int, float]]:
    """First stage: the mean."""
    from earth2_corrdiff.training.loop import train
    from earth2_corrdiff.training.losses import regression_loss

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        cond = _last(model.condition(pairs.coarse[index]))
        return regression_loss(model.regression, cond, _normalised(model, pairs.fine[index]))

    yield from train(model.regression, loss, len(pairs), recipe, state)


def train_diffusion(
    model: Downscaler, pairs: Pairs, recipe: Recipe, state: Path
) -> Iterator[tuple[int, float]]:
    """Second stage: the residual, whose mean is computed once."""
    import torch

    from earth2_corrdiff.training.loop import train
    from earth2_corrdiff.training.losses import EDMLoss

    with torch.no_grad():
        means = torch.cat(
            [model.normalised_mean(model.condition(part)) for part in pairs.coarse.split(8)]  # type: ignore[no-untyped-call]
        )
    edm = EDMLoss()

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        mean = means[index]
        cond = torch.cat([mean, model.condition(pairs.coarse[index])], dim=1)
        return edm(model.denoiser, _last(cond), _normalised(model, pairs.fine[index]) - mean, generator)

    yield from train(model.denoiser, loss, len(pairs), recipe, state)


def evaluate(model: Downscaler, times: Sequence[np.datetime64], members: int) -> str:
    """Table of mean absolute errors on held-out times: interpolation, regression, ensemble mean, CRPS."""
    import torch

    from earth2_corrdiff.demo import DemoWeather
    from earth2_corrdiff.noise import member_seed

    rows = []
    for time in times:
        fields = DemoWeather().fields(time)
        coarse, truth = torch.from_numpy(fields.coarse)[None], torch.from_numpy(fields.fine)
        # the coarse reflectivity stands where interpolation has no mrr
        guess = model.regrid(coarse[0, [len(INPUTS), 9, 10, 11]])
        state = coarse[:, : len(INPUTS)]
        seeds = [member_seed(0, time, i) for i in range(members)]
        ensemble = model(state, seeds)[0]
        mean = model.mean(state)[0]
        pairs = (ensemble[:, None] - ensemble[None]).abs().sum((0, 1)) / (2 * members * (members - 1))
        errors = [guess - truth, mean - truth, ensemble.mean(0) - truth]
        crps = (ensemble - truth).abs().mean(0) - pairs
        spread = ensemble.var(0).mean((-2, -1))
        skill = (ensemble.mean(0) - truth).square().mean((-2, -1)) * members / (members + 1)
        scores = [e.abs().mean((-2, -1)) for e in errors] + [crps.mean((-2, -1)), spread, skill]
        rows.append(torch.stack(scores))
    interpolation, regression, ensemble_mean, crps, spread, skill = torch.stack(rows).mean(0)
    heads = ("interpolation", "regression", "ensemble mean", "fair CRPS", "spread/skill")
    lines = [f"{'':6}" + "".join(f"{head:>15}" for head in heads)]
    for i, name in enumerate(OUTPUTS):
        ratio = (spread[i] / skill[i]).sqrt()
        values = (interpolation[i], regression[i], ensemble_mean[i], crps[i], ratio)
        lines.append(f"{name:6}" + "".join(f"{float(value):15.3f}" for value in values))
    lines.append(f"MAE and CRPS over {len(times)} held-out times, {members} members (dBZ, K, m/s, m/s)")
    return "\n".join(lines)


def train_demo(setting: Setting) -> None:
    """Pairs, both stages, package, evaluation; each long part resumes where it was stopped."""
    import torch
    from tqdm import tqdm

    from earth2_corrdiff.package_writer import save_package
    from earth2_corrdiff.training.loop import Recipe

    torch.set_num_threads(setting.threads)
    setting.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(setting.seed)
    pairs = load_pairs(
        training_times(setting.pairs, setting.seed), setting.work / "pairs.pt", setting.threads
    )
    model = fresh_downscaler(pairs)
    recipe = Recipe(setting.regression_steps, setting.batch, seed=setting.seed)
    stages = (
        ("regression", train_regression, recipe),
        ("diffusion", train_diffusion, replace(recipe, steps=setting.diffusion_steps)),
    )
    for name, stage, how in stages:
        curve = setting.work / f"{name}.csv"
        with tqdm(total=how.steps, desc=name, unit="step") as bar, curve.open("a") as log:
            for step, value in stage(model, pairs, how, setting.work / f"{name}.pt"):
                bar.update(step - bar.n)
                log.write(f"{step},{value:.6g}\n")
    save_package(setting.output, model.spec, model.regression, model.denoiser, half=True)
    print(evaluate(model, held_out_times(16), members=4))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = ArgumentParser(prog="train-demo", description=__doc__)
    p.add_argument("--output", type=Path, default=Path("runs/demo/package"), help="where the package goes")
    p.add_argument("--work", type=Path, default=Path("runs/demo"), help="pairs, checkpoints, loss curves")
    p.add_argument("--pairs", type=int, default=4000, help="training times")
    p.add_argument("--regression-steps", type=int, default=1500)
    p.add_argument("--diffusion-steps", type=int, default=4000)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    share_cores()
    return run_command("train-demo", train_demo, Setting(**vars(args)))
