# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Check of a training before it begins: times, package, and by some real steps its memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.files import check_writable
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.base.peak_memory import peak
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.training import checkpoints
from earth2_corrdiff.training.config import Config, DiffusionConfig, StageConfig, Validation
from earth2_corrdiff.training.means import Means
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import Material, open_material, start
from earth2_corrdiff.training.splits import Splits
from earth2_corrdiff.training.stages import Stage, normalised
from earth2_corrdiff.training.statistics import ConstantError
from earth2_corrdiff.training.sufficiency import check_memory, persistence, warnings_of
from earth2_corrdiff.training.train import Training
from earth2_corrdiff.training.trainer import Trainer, evenly

STEPS = 4
"""Real steps that are timed; the first one warms up, the last one validates."""
TIMES, VALIDATED = 32, 2
"""Training times whose statistics stand for those of all, and validation times for all that are validated."""


@dataclass(frozen=True)
class Cost:
    """What a stage costs.

    Attributes
    ----------
    memory : int
        Bytes of the process, or on a GPU of the device, at the peak of a step
    step, validation, first : float
        Seconds of a step, of a validation, and of what is computed once: means that are kept
    """

    memory: int
    step: float
    validation: float
    first: float

    def seconds(self, how: StageConfig, every: int, done: int = 0) -> float:
        """Of the steps that are left."""
        left = how.steps - done
        return left * self.step + -(-left // every) * self.validation + (0 if done else self.first)


def check(config: Config) -> Iterator[str]:
    """What a training will need, line by line, and warnings; nothing is written but in a temporary folder.

    Raises
    ------
    InputError
        Where a training would refuse the configuration, or a step does not fit the memory
    """
    for folder in (config.output, config.work):
        check_writable(Path(folder) / "x")
    Training(config).check_checkpoints()
    with TemporaryDirectory() as folder:
        own = replace(config, work=folder, output=f"{folder}/package")
        yield from _Check(config, _small_demo(own)).lines()


def _small_demo(config: Config) -> Config:
    """The same with few of the times that a demo's set has, as they are generated."""
    demo, most = config.data.demo, 2 * max(config.regression.batch, config.diffusion.batch)
    if demo is None:
        return config
    few = replace(demo, train=min(demo.train, most), validation=min(demo.validation, 2))
    return replace(config, data=replace(config.data, demo=few))


@dataclass
class _Check:
    """The check of a training.

    Attributes
    ----------
    config : Config
        Its configuration
    own : Config
        The same in a folder of the check
    """

    config: Config
    own: Config

    def lines(self) -> Iterator[str]:
        config = self.config
        material = open_material(self.own, World(), lambda what, left: None)
        yield self._times(material)
        model = self._model(material)
        nets = {"regression": model.regression, "diffusion": model.denoiser}
        weights = {
            name: sum(p.numel() for p in net.parameters())
            for name, net in nets.items()
            if getattr(config, name).steps
        }
        model = model.to(find_device(config.device))
        total = 0.0
        for name in weights:
            cost = self._cost(name, model, material)
            seconds = cost.seconds(getattr(config, name), config.validation.every, self._done(name))
            total += seconds
            yield self._stage(name, cost, seconds)
        if config.few_step is not None:
            steps = config.few_step.steps
            yield f"few_step: {steps} steps, not measured here; each takes longer than one of the diffusion"
        yield f"in all about {duration(total)}, statistics of the pairs apart"
        model = model.cpu()  # after some steps, as zeros would be compressed
        save_package(self.own.output, model.spec, model.regression, model.denoiser, half=config.half)
        size = sum(file.stat().st_size for file in Path(self.own.output).rglob("*") if file.is_file())
        parts = [f"{name} of {count:,} weights" for name, count in weights.items()]
        yield f"package: {size / 1e6:.2f} MB; {', '.join(parts)}"
        if config.data.demo is None:
            lasting = persistence(material.pairs, material.splits.train, config.data.transforms)
            for line in warnings_of(config, material.pairs, material.splits, weights, lasting):
                yield f"warning: {line}"

    def _times(self, material: Material) -> str:
        demo, pairs = self.config.data.demo, material.pairs
        if demo is not None:
            return f"pairs: {demo.train} times for training and {demo.validation} for validation, generated"
        parts = []
        for name, part in vars(material.splits).items():
            ends = " to ".join(time_text(pairs.times[part[i]]) for i in (0, -1)) if part else "none"
            parts.append(f"{len(part)} for {name} ({ends})")
        return f"pairs: {len(pairs.times)} times in {pairs.path}; {', '.join(parts)}"

    def _model(self, material: Material) -> Downscaler:
        """The untrained model, with the statistics of some times, or of all where these never vary."""
        splits = material.splits
        try:
            return start(self.own, Material(material.pairs, _some(splits, TIMES)), World())
        except ConstantError:  # like rain in a dry season
            return start(self.own, material, World())

    def _done(self, name: str) -> int:
        path = Path(self.config.work) / f"{name}.ckpt"
        return checkpoints.about(path)[1] if path.exists() else 0

    def _stage(self, name: str, cost: Cost, seconds: float) -> str:
        how, done = getattr(self.config, name), self._done(name)
        steps = f"{how.steps} steps" + (f", {done} of them done" if done else "")
        memory = f"; peak memory {cost.memory / 1e9:.2f} GB" if cost.memory else ""
        each = f"of {duration(cost.step)}, and validations of {duration(cost.validation)}"
        return f"{name}: {steps}, {each}: about {duration(seconds)}{memory}"

    def _cost(self, name: str, model: Downscaler, material: Material) -> Cost:
        """Memory and time of a stage, by steps of it."""
        how: StageConfig = getattr(self.own, name)
        images = how.batch * (how.patches.per_time if how.patches else 1)
        most = min(how.micro_batch or images, images)
        kept = isinstance(how, DiffusionConfig) and how.cache_means
        # of means that are kept, so many times that the first step computes all
        splits = _some(material.splits, how.batch) if kept else material.splits
        few = Material(material.pairs, splits)
        self._check_memory(name, model, few, most)
        first = self._first(model, material) if kept else 0.0
        with peak(model.device) as found:
            marks = [perf_counter() for _ in self._steps(name, model, few, STEPS, how.micro_batch)]
        steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
        step, seen = median(steps[1:-1]), min(len(splits.validation), self.config.validation.times)
        validation = max(steps[-1] - step, 0.0) * max(seen / VALIDATED, 1)
        return Cost(found.before + found.bytes, step, validation, first)

    def _check_memory(self, name: str, model: Downscaler, material: Material, most: int) -> None:
        """Refuse steps that do not fit, by steps of one and, where that is not enough to know, two images."""
        used, free = [], free_bytes(model.device)
        for size in (1, 2):
            with peak(model.device) as found:
                for _ in self._steps(name, model, material, 1, size):
                    pass
            used.append(found.bytes)
            if used[0] * most < free:
                return
        each = max(used[1] - used[0], 1)
        fits = int((free - used[0]) // each) + 1
        check_memory(name, used[0] + each * (most - 1), free, fits if fits > 0 else None)

    def _steps(
        self, name: str, model: Downscaler, material: Material, steps: int, size: int | None
    ) -> Iterator[object]:
        """Real steps of a stage, from its start."""
        config = replace(self.own, validation=Validation(VALIDATED, every=10**9))
        how = replace(getattr(config, name), steps=steps, micro_batch=size)
        training, pairs = Training(config), (material.splits.train, material.splits.validation)
        stage: Stage = training.regression_stage(model)
        if name == "diffusion":
            stage = training.residual_stage(model, material)
        trainer = Trainer(name, stage, how, config, material.pairs, pairs, World())
        trainer.checkpoint.unlink(missing_ok=True)
        return iter(trainer)

    def _first(self, model: Downscaler, material: Material) -> float:
        """Seconds that the regression's means of all training times take."""
        pairs, (index, *_) = material.pairs, material.splits.train
        means, (cond, _) = Means(model, pairs), normalised(model, pairs.read([index]))
        demo, begun = self.config.data.demo, perf_counter()
        means([index], cond)
        return (perf_counter() - begun) * (demo.train if demo else len(material.splits.train))


def _some(splits: Splits, most: int) -> Splits:
    return replace(splits, train=evenly(splits.train, most))


def duration(seconds: float) -> str:
    """``0.35 s``, ``4 min``, ``2 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
