# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A whole training: pairs, regression, residual, perhaps few steps, package. Read this file first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from loguru import logger

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.base.files import make_folder
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.networks.preconditioned import DiTFlow
from earth2_corrdiff.training import checkpoints
from earth2_corrdiff.training.config import Config, FewStepConfig, Inflation, StageConfig
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.few_step import ConsistencyStage, FewStepStage, few_step_sampling
from earth2_corrdiff.training.inflation import check_inflation, fit_inflation, inflate
from earth2_corrdiff.training.log import draw
from earth2_corrdiff.training.losses import EDMLoss, FlowLoss
from earth2_corrdiff.training.means import Means, balance, checksum, residual_scale
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import Material, open_material, start
from earth2_corrdiff.training.stages import DiffusionStage, RegressionStage, Stage
from earth2_corrdiff.training.trainer import Progress, Trainer, evenly


class Watch(Protocol):
    """Progress callbacks of a training."""

    def left(self, what: str, left: int) -> None:
        """``left`` parts of what is prepared, like ``pairs``, remain."""

    def stage(self, name: str, how: StageConfig) -> None:
        """A stage begins."""

    def step(self, progress: Progress) -> None:
        """A step was done."""


class Silent:
    """Progress callbacks that do nothing."""

    def left(self, what: str, left: int) -> None:
        """Nothing."""

    def stage(self, name: str, how: StageConfig) -> None:
        """Nothing."""

    def step(self, progress: Progress) -> None:
        """Nothing."""


@dataclass
class Training:
    """A training, step by step.

    Attributes
    ----------
    config : Config
        Its configuration
    world : World, optional
        This process among those of the job, by default a single one
    watch : Watch, optional
        Progress callbacks, by default none
    """

    config: Config
    world: World = World()
    watch: Watch = Silent()

    def run(self) -> Path:
        """Train all stages and write the package; returns its folder.

        Each part goes on where an earlier run of the same configuration was stopped. A finished stage whose
        ``steps`` were raised goes on with those that were added (see ``schedule.rate``).

        Raises
        ------
        InputError
            If the data, the configuration or the work folder cannot be used, or a loss is not finite
        """
        config, world = self.config, self.world
        for name in ("regression", "diffusion", *(["few_step"] if config.few_step else [])):
            world.check_batch(name, getattr(config, name).batch)
        for folder in (config.output, config.work):  # before days of work, not after them
            make_folder(Path(folder))
        self.check_checkpoints()
        material = open_material(config, world, self.watch.left)
        if config.inflation is not None and not material.splits.validation:
            raise InputError("the inflation is fitted to validation times, and there are none")
        model = start(config, material, world).to(find_device(config.device, world.local))
        if config.inflation is not None:
            check_inflation(model)
        self._train("regression", self.regression_stage(model), config.regression, material)
        fresh = config.start_from is None
        model = self._balanced(model, material) if fresh else model
        base = f"regression {checksum(model.regression)}"
        self._train("diffusion", self.residual_stage(model, material), config.diffusion, material, base)
        if config.few_step is not None:
            model = self._few_step(model, material, config.few_step)
        if config.inflation is not None:
            model = self._inflated(model, material, config.inflation)
        if world.first:
            model.cpu()
            save_package(config.output, model.spec, model.regression, model.denoiser, half=config.half)
        world.wait()
        return Path(config.output)

    def check_checkpoints(self) -> None:
        """Refuse the checkpoint of a stage that learnt from another which is going to change; InputError."""
        names = ("regression", "diffusion", *(["few_step"] if self.config.few_step else []))
        for name, after in zip(names, names[1:], strict=False):
            own, later = (Path(self.config.work) / f"{stage}.ckpt" for stage in (name, after))
            steps = getattr(self.config, name).steps
            if steps and later.exists() and (not own.exists() or checkpoints.about(own)[1] < steps):
                raise InputError(
                    f"{later} was trained on a {name} that these steps would change; remove it to train the "
                    f"{after} again from its start after them, or leave {name}.steps alone"
                )

    def _train(self, name: str, stage: Stage, how: StageConfig, material: Material, base: str = "") -> None:
        if not how.steps:
            return
        splits = (material.splits.train, material.splits.validation)
        trainer = Trainer(name, stage, how, self.config, material.pairs, splits, self.world, base)
        self.watch.stage(name, how)
        for progress in trainer:
            self.watch.step(progress)
        if self.world.first:
            draw({name: trainer.curve}, trainer.curve.with_suffix(".png"), f"Loss of the {name}")

    def _cutter(self, how: StageConfig, model: Downscaler) -> Cutter:
        wet = how.patches.wet if how.patches is not None else None
        names = model.spec.outputs.names
        if wet is not None and wet.variable not in names:
            raise InputError(
                f"patches.wet.variable {wet.variable!r} is not an output; use one of {listed(names)}"
            )
        return Cutter(how.patches, self.config.data.flips, names.index(wet.variable) if wet else 0)

    def regression_stage(self, model: Downscaler) -> RegressionStage:
        """The first stage of a model."""
        return RegressionStage(model, self._cutter(self.config.regression, model))

    def residual_stage(self, model: Downscaler, material: Material) -> DiffusionStage:
        """The second stage of a model, whose regression is trained."""
        how = self.config.diffusion
        settings = model.denoiser.sigma_data, how.P_mean, how.P_std
        flow = isinstance(model.denoiser, DiTFlow)
        loss = FlowLoss(*settings, model.spec.sampling.clip) if flow else EDMLoss(*settings)
        return DiffusionStage(model, self._cutter(how, model), loss, self._means(model, material))

    def _means(self, model: Downscaler, material: Material) -> Means:
        folder = Path(self.config.work) if self.config.diffusion.cache_means else None
        return Means(model, material.pairs, folder)

    def _few_step(self, model: Downscaler, material: Material, how: FewStepConfig) -> Downscaler:
        """The model with a generator of few calls, which begins with the denoiser's weights, in its place."""
        cutter, means = self._cutter(how, model), self._means(model, material)
        stage = FewStepStage(model, cutter, how, means)
        tuning = replace(how, steps=how.consistency or how.steps)
        base = f"denoiser {checksum(model.denoiser)}"
        if how.consistency:
            self._train("consistency", ConsistencyStage(model, cutter, how, means), tuning, material, base)
        self._train("few_step", stage, how, material, base)
        spec = replace(model.spec, sampling=few_step_sampling(how, model.spec.sampling))
        return Downscaler(spec, model.regression, model.denoiser, "fp32", accelerated=False)

    def _inflated(self, model: Downscaler, material: Material, how: Inflation) -> Downscaler:
        """The model with residuals whose size fits the validation times."""
        times = evenly(material.splits.validation, how.times)
        nets = model.regression, model.denoiser

        def fitted() -> tuple[float, ...]:
            fast = Downscaler(model.spec, *nets, self.config.precision).to(model.device)
            return fit_inflation(fast, material.pairs, times, how.members, self.config.seed)

        key = f"{times}, {how.members} members, seed {self.config.seed}, {' '.join(map(checksum, nets))}"
        found = self._once("inflation.json", key, "factors", fitted)
        factors = dict(zip(model.spec.outputs.names, found, strict=True))
        logger.info("residuals are inflated by {}", ", ".join(f"{k} {v:.3f}" for k, v in factors.items()))
        return inflate(model, found)

    def _balanced(self, model: Downscaler, material: Material) -> Downscaler:
        """The model with outputs scaled to the residual of its regression."""

        def measured() -> tuple[float, ...]:
            means = Means(model, material.pairs)
            return residual_scale(model, material.pairs, material.splits.train, means)

        scale = self._once("residual.json", checksum(model.regression), "scale", measured)
        return balance(model, scale, self.config.diffusion.sigma_data)

    def _once(
        self, file: str, key: str, name: str, compute: Callable[[], Sequence[float]]
    ) -> Sequence[float]:
        """Numbers that the first process computes for a key, and that later runs read again."""
        path = Path(self.config.work) / file
        with self.world.in_turn():  # the first process makes the file, the others read it
            stored = checkpoints.load_json(path, key)
            if stored is None:
                stored = {name: compute()}
                checkpoints.save_json(path, key, stored)
        return cast(Sequence[float], stored[name])
