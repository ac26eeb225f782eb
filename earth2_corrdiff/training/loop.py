# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: plain, seeded, resumable; it yields, and progress belongs to the caller."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from earth2_corrdiff.errors import InputError, first_line
from earth2_corrdiff.training.data import batches

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes
    ----------
    steps, batch : int
        Optimiser steps, and samples in each
    lr : float
        Peak learning rate of Adam, after a linear warm-up and before a cosine decay to zero
    warmup : int
        Steps of the warm-up
    ema_halflife : int
        Half-life, in steps, of the running average of the weights that is kept in the end
    clip : float
        Largest norm of the gradient
    seed : int
        Of the order of samples and of the noise
    bf16 : bool
        Convolve in bfloat16 (autocast); weights, norms and losses stay float32
    """

    steps: int
    batch: int = 8
    lr: float = 1e-3
    warmup: int = 100
    ema_halflife: int = 100
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def stream(self, step: int) -> int:
        """Seed of all random numbers of a step."""
        return self.seed * 1_000_003 + step

    def decay(self, step: int) -> float:
        """Weight of the old average at a step; shorter memory at the start."""
        return float(0.5 ** (1 / min(self.ema_halflife, 1 + step / 10)))


def _save(state: dict[str, object], path: Path) -> None:
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, net: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Take up a stored state; returns the steps done."""
    try:
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except (RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is no state of this training ({first_line(error)}); remove it to start again"
        ) from error


def train(
    net: nn.Module, loss: Loss, size: int, recipe: Recipe, checkpoint: Path | None = None, every: int = 200
) -> Iterator[tuple[int, float]]:
    """Train ``net`` in place, and leave the average of its weights in it.

    Parameters
    ----------
    net : nn.Module
        The network
    loss : Callable[[Tensor, torch.Generator], Tensor]
        Indices of a batch, and the noise's generator → scalar loss of ``net``
    size : int
        Number of training samples
    recipe : Recipe
        Steps, rates and the seed
    checkpoint : Path | None, optional
        File that the state is written to every so many steps, and taken up from if it exists
    every : int, optional
        Steps between two checkpoints, by default 200

    Yields
    ------
    tuple[int, float]
        Steps done, and the loss of the last one

    Raises
    ------
    InputError
        If a loss or a gradient is not finite: the message names the step; or if the checkpoint is of
        something else
    """
    # channels last: convolutions in bfloat16 are a third faster on CPUs, and need it on GPUs
    net.train().requires_grad_(True).to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, betas=(0.9, 0.99))
    done = 0
    if checkpoint is not None and checkpoint.exists():
        done = _resume(checkpoint, net, average, optimiser)
    order = batches(size, recipe.batch, recipe.seed, done)
    for step in range(done, recipe.steps):
        generator = torch.Generator().manual_seed(recipe.stream(step))
        value = _step(net, optimiser, partial(loss, next(order), generator), recipe, step)
        _update_average(average, net, recipe.decay(step))
        if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == recipe.steps):
            state = {"step": step + 1, "optimiser": optimiser.state_dict()}
            _save({**state, "net": net.state_dict(), "average": average.state_dict()}, checkpoint)
        yield step + 1, value
    net.load_state_dict(average.state_dict())
    net.eval().requires_grad_(False)


def _step(
    net: nn.Module, optimiser: torch.optim.Adam, loss: Callable[[], Tensor], recipe: Recipe, step: int
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = recipe.rate(step)
    device = next(net.parameters()).device
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16),
    ):
        torch.manual_seed(recipe.stream(step) + 2**40)  # drop-out's, which takes no generator
        value = loss()
    optimiser.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    for what, number in (("loss", value), ("gradient", norm)):
        if not torch.isfinite(number):
            raise InputError(f"the {what} became {float(number)} at step {step}; lower the learning rate")
    optimiser.step()
    return float(value.detach())


@torch.no_grad()
def _update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    for old, new in zip(average.parameters(), net.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
