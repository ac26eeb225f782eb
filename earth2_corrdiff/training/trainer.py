# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, data-parallel, resumable; a generator of its progress."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from earth2_corrdiff.base.background import prefetched
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.fast.accelerate import compile_network, fuse
from earth2_corrdiff.training import checkpoints
from earth2_corrdiff.training.config import Config, DiffusionConfig, FewStepConfig, StageConfig
from earth2_corrdiff.training.log import Log
from earth2_corrdiff.training.losses import generator
from earth2_corrdiff.training.order import Order
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.schedule import decay, earlier_ends, rate, steps_text
from earth2_corrdiff.training.shifts import shifted
from earth2_corrdiff.training.stages import Batch, Images, Stage

TRAINING, VALIDATION, DROPOUT = 0, 1, 2  # purposes of random numbers: part of their key


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Attributes
    ----------
    step, images : int
        Steps done, and images seen in the last one, over all processes
    loss : float
        Of the last step
    validation : float | None
        Of the averaged weights, where the step has one
    """

    step: int
    images: int
    loss: float
    validation: float | None


@dataclass
class Trainer:
    """Trains the network of a stage in place, and leaves the average of its weights in it.

    Attributes
    ----------
    name : str
        Of the stage: names its files, and is part of its random numbers
    stage : Stage
        Images and loss
    how : StageConfig
        Steps, rates, batches
    config : Config
        The whole training
    pairs : PairFile
        The data
    splits : tuple[Sequence[int], Sequence[int]]
        Numbers of the times for training and validation
    world : World
        This process among those of the job
    base : str
        What the stage builds on, like the checksum of a regression: its checkpoint goes with no other
    """

    name: str
    stage: Stage
    how: StageConfig
    config: Config
    pairs: PairFile
    splits: tuple[Sequence[int], Sequence[int]]
    world: World
    base: str = ""

    def __post_init__(self) -> None:
        self.net: nn.Module = self.stage.net
        self.device = next(self.net.parameters()).device
        # channels last: bfloat16 convolutions are a third faster on CPUs, and need it on GPUs
        self.net.train().requires_grad_(True).to(memory_format=torch.channels_last)
        if self.config.fused:
            fuse(self.stage.net)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        if self.config.compiled:
            compile_network(self.stage.net)
        fused = self.device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=self.how.lr, betas=(0.9, 0.99), fused=fused
        )
        self.loss = self.world.wrap(self.stage.loss, self.device)
        work = Path(self.config.work)
        self.checkpoint, self.curve = work / f"{self.name}.ckpt", work / f"{self.name}.csv"
        self._ends: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Text that identifies this training: its steps, and everything else."""
        return f"{steps_text(self.how.steps, self._ends)} {self._apart_from_steps}"

    @property
    def _apart_from_steps(self) -> str:
        h = self.how
        sizes = f"{sum(p.numel() for p in self.net.parameters())} weights, {len(self.splits[0])} times"
        rates = f"lr {h.lr:g}, warm-up {h.warmup}, clip {h.clip:g}, EMA {h.ema_halflife}"
        what = f"{h.patches}" if h.patches else "whole domains"
        if isinstance(h, DiffusionConfig) and h.formulation != "edm":
            what += f", {h.formulation} of {h.prediction}"
        if isinstance(h, FewStepConfig):
            own = ("sigmas", "members", "phases", "pooling", "differences", "spectral", "physical")
            what += "".join(f", {name} {getattr(h, name)}" for name in own)
        base = f", {self.base}" if self.base else ""
        return f"of {h.batch}, {sizes}, {what}, {rates}, seed {self.config.seed}{base}"

    def _resume(self, parts: dict[str, Any]) -> int:
        """Load the checkpoint, if there is one; the steps done."""
        if not self.checkpoint.exists():
            return 0
        text, done = checkpoints.about(self.checkpoint)
        self._ends = earlier_ends(text, done, self.how.steps)
        added = self._ends[-1:] == (done,)
        before = steps_text(done, self._ends[:-1]) if added else steps_text(self.how.steps, self._ends)
        checkpoints.resume(self.checkpoint, f"{before} {self._apart_from_steps}", parts)
        if added and self.world.first:
            logger.warning(
                "the {} was finished and goes on from step {} to {}, with another warm-up and cosine",
                *(self.name, done, self.how.steps),
            )
        return done

    def __iter__(self) -> Iterator[Progress]:
        """Train; yield after every step, the first time with what an earlier run has done.

        Raises
        ------
        InputError
            If a loss or a gradient is not finite: the message names the step and the last checkpoint
        """
        parts = {"net": self.net, "average": self.average, "optimiser": self.optimiser}
        done = self._resume(parts)
        self._good = done
        log = Log(self.curve, done, self._channels) if self.world.first else None
        yield Progress(done, done * self._images_per_step, math.nan, None)
        try:
            for step, batch in zip(range(done, self.how.steps), self._batches(done), strict=False):
                losses, norm = self._step(step, self.stage.images(batch))
                loss = sum(losses) / len(losses)
                seen = self._validate() if self._due(step + 1, self.config.validation.every) else None
                if log is not None:
                    each = {f"loss_{name}": one for name, one in zip(self._channels, losses, strict=True)}
                    row = {"step": step + 1, "loss": loss, "gradient_norm": norm, **each}
                    log.write({**row, "validation": seen, "learning_rate": self._rate(step)})
                if self._due(step + 1, self.config.checkpoint_every):
                    self._save(step + 1, parts)
                yield Progress(step + 1, self._images_per_step, loss, seen)
        finally:
            if log is not None:
                log.close()
        self.net.load_state_dict(self.average.state_dict())
        self.net.eval().requires_grad_(False)

    def _rate(self, step: int) -> float:
        return rate(self.how, step, self._ends)

    @property
    def _channels(self) -> tuple[str, ...]:
        return self.pairs.channels.outputs

    @property
    def _images_per_step(self) -> int:
        return self.how.batch * (self.how.patches.per_time if self.how.patches else 1)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.how.steps

    def _save(self, step: int, parts: dict[str, object]) -> None:
        if self.world.first:
            checkpoints.save(self.checkpoint, step, self.key, parts)
        self._good = step

    def _batches(self, done: int) -> Iterator[Batch]:
        """This process's share of every batch, the next one read, with its noise, while one is worked on."""
        order = Order(
            self.splits[0], self.how.batch, self.config.seed, self.pairs.chunks, self.config.data.window
        )

        def read() -> Iterator[Batch]:
            for step, drawn in enumerate(order.batches(done), done):
                all_keys = [(self.config.seed, self._kind, TRAINING, step, i) for i in range(len(drawn))]
                mine, keys = self.world.share(drawn), self.world.share(all_keys)
                pairs = self.pairs.read(mine)
                if pairs.fine_inputs is not None:
                    pairs = shifted(pairs, self.pairs.coarse_from_fine, keys)
                batch = Batch(mine, pairs, keys, self.stage.draw(keys), step)
                yield batch.pinned() if self.device.type == "cuda" else batch

        return prefetched(read())

    @property
    def _kind(self) -> int:
        return int.from_bytes(self.name.encode()[:4], "little")

    def _step(self, step: int, images: Images) -> tuple[list[float], float]:
        """One step of the optimiser; loss of each channel, and norm of the gradient."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        self.optimiser.zero_grad(set_to_none=True)
        parts = images.split(self.how.micro_batch)
        total = torch.zeros(len(self._channels), device=self.device)
        for i, part in enumerate(parts):
            last = i + 1 == len(parts)
            alone = nullcontext() if last or self.world.size == 1 else self.loss.no_sync()  # type: ignore[operator]
            with alone, _seeded(self.device, self.config.seed, self._kind, DROPOUT, step, self.world.rank, i):
                with self._autocast():
                    channels: Tensor = self.loss(part) * (len(part) / len(images))
                channels.mean().backward()  # type: ignore[no-untyped-call]
            total += channels.detach()
        losses = self.world.means(total)
        value = sum(losses) / len(losses)
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.how.clip))
        self._check(step + 1, value, norm)
        self.optimiser.step()
        self._update_average(decay(self.how, step))
        return losses, norm

    def _check(self, step: int, loss: float, norm: float) -> None:
        for what, number in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(number):
                kept = (
                    f"{self.checkpoint} holds step {self._good}" if self._good else "there is no checkpoint"
                )
                raise InputError(
                    f"the {what} of the {self.name} became {number} at step {step}; {kept}; "
                    "use a lower lr, a lower clip or more warmup"
                )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @torch.no_grad()
    def _update_average(self, weight: float) -> None:
        old: list[Tensor] = list(self.average.parameters())
        new: list[Tensor] = list(self.net.parameters())
        torch._foreach_lerp_(old, new, 1 - weight)

    @torch.no_grad()
    def _validate(self) -> float | None:
        """Loss of the averaged weights on fixed times, noise and patches."""
        chosen = evenly(self.splits[1], self.config.validation.times)
        mine = list(enumerate(chosen))[self.world.rank :: self.world.size]
        loss, total = copy.copy(self.stage.loss), torch.zeros((), device=self.device)
        loss._modules = {**loss._modules, "net": self.average.eval()}
        for number, index in mine:
            keys = [(self.config.seed, self._kind, VALIDATION, number)]
            images = self.stage.images(Batch([index], self.pairs.read([index]), keys))
            with self._autocast():
                total += loss(images).mean()
        value = self.world.mean(total) * self.world.size
        return value / len(chosen) if chosen else None


@contextmanager
def _seeded(device: torch.device, *key: int) -> Iterator[None]:
    """The global random numbers, seeded for the time of a block: drop-out takes no generator."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(generator(*key).initial_seed())
        yield


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """At most so many of these, evenly spaced."""
    if len(indices) <= most:
        return list(indices)
    return [indices[i * len(indices) // most] for i in range(most)]
