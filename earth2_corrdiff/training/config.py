# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training: the keys of its YAML file, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.spec import check_count, check_levels
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.training.strict import build, read_yaml

FLOW = "rectified_flow"  # a formulation, and a schedule
TRIGFLOW = "trigflow"  # a formulation, and a solver
LAYOUT_SOLVERS = ("euler", "heun")  # that a package of the generic layout can name


@dataclass(frozen=True)
class DemoSet:
    """A generated set of the demo's synthetic weather.

    Attributes
    ----------
    train, validation : int
        Random hours of the storm years to learn from, and of the year after them
    seed : int
        Of the choice of hours
    """

    train: int
    validation: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Periods of valid times, ends included, like ``2012-01-01/2020-12-31T23``.

    Without them the first 80 % of the times are for training, the next 10 % for validation and the last
    10 % for tests.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """The pairs, and the part of them that is used.

    Attributes
    ----------
    pairs : str | None
        A Zarr or NetCDF of pairs (see ``pairs.py``)
    demo : DemoSet | None
        Instead: a generated set, written to the work folder
    inputs, outputs, invariants : tuple[str, ...]
        Variables in channel order; by default all that the file has
    split : Split
        Times for training, validation and tests
    window : int
        Chunks of times among which the order is drawn; the reader keeps twice as many in memory
    missing : {"refuse", "mask"}
        Missing values of the pairs: refuse them, or mask them, which leaves them out of losses and
        statistics; inputs that are missing count as the mean
    flips : bool
        Flip images at random, and turn square ones: for scalars without a place or a direction of their own
    differences : bool
        Let the regression learn the difference of outputs to the interpolated input of the same name
    block_shift : bool
        Move the origin of the coarse blocks at random in training, for pairs of block means
    transforms : Mapping[str, Transform]
        Of inputs and outputs by their names, before they are normalised
    features : tuple[str, ...]
        Conditioning that is computed from valid time and place: ``sin_hour``, ``cos_zenith``, ``sin_lat``, …
        (see ``model/channels.py``)
    """

    pairs: str | None = None
    demo: DemoSet | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    invariants: tuple[str, ...] | None = None
    split: Split = field(default_factory=Split)
    window: int = 8
    missing: str = "refuse"
    flips: bool = False
    differences: bool = False
    block_shift: bool = False
    transforms: dict[str, Transform] = field(default_factory=dict)
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.missing not in ("refuse", "mask"):
            raise InputError(f"data.missing must be refuse or mask, got {self.missing!r}")
        if (self.pairs is None) == (self.demo is None):
            raise InputError("the key data needs either pairs or demo")


@dataclass(frozen=True)
class Wet:
    """Choice of patches by precipitation, or by another variable that is mostly absent.

    Attributes
    ----------
    variable : str
        An output
    least : float
        Pixels with this value or more are wet, in the variable's units
    share : float
        Part of a patch that must be wet
    dry : float
        Part of the patches that are taken wherever they lie: the weight of dry weather in the training
    """

    variable: str
    least: float
    share: float = 0.05
    dry: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 <= self.dry <= 1):
            raise InputError("patches.wet: share and dry must be parts of 1, and share more than 0")

    def part_of(self, field: Tensor) -> float:
        """Part of a field that is wet; missing values are not."""
        return float((field >= self.least).float().mean())


@dataclass(frozen=True)
class Patches:
    """Random patches of each time, instead of the whole domain.

    Attributes
    ----------
    shape : tuple[int, int]
        Height and width in pixels
    per_time : int
        How many of each time: they share the regression's mean and the regridded conditioning
    overlap, boundary : int
        For sampling with the finished package, in pixels
    whole : bool
        True if each patch also gets the inputs of the whole domain, shrunk to its size
    coverage : float
        Part of a patch that must have values, where data are missing
    wet : Wet | None
        Choice of patches by what is in them; by default all are as likely
    """

    shape: tuple[int, int]
    per_time: int = 1
    overlap: int = 0
    boundary: int = 0
    whole: bool = True
    coverage: float = 0.0
    wet: Wet | None = None

    @property
    def chosen(self) -> bool:
        """True if it matters what is in a patch."""
        return self.coverage > 0 or self.wet is not None

    def __post_init__(self) -> None:
        if not 0 <= self.coverage <= 1:
            raise InputError(f"patches.coverage must be a part of 1, got {self.coverage}")
        for number in (*self.shape, self.per_time):
            check_count("patches: shape and per_time", number)


@dataclass(frozen=True)
class StageConfig:
    """How one network is built and trained.

    Attributes
    ----------
    steps : int
        Optimiser steps; 0 keeps the network of ``start_from`` as it is
    batch : int
        Times in each step, over all processes
    network : Mapping[str, Any]
        Arguments of PhysicsNeMo's U-Net over the defaults: model_type, model_channels, channel_mult,
        num_blocks, attn_resolutions, dropout, …; with the model_type DiT those of its DiT: patch_size,
        hidden_size, depth, num_heads, attention_backend (by default natten2d_rope), attn_kwargs, …
    lr : float
        Peak learning rate of Adam, after a linear warm-up and before a cosine decay to zero
    warmup : int
        Steps of the warm-up
    ema_halflife : int
        Half-life, in steps, of the running average of the weights that is kept in the end
    clip : float
        Largest norm of the gradient
    patches : Patches | None
        Train on patches; by default on the whole domain
    micro_batch : int | None
        Most images in one forward and backward pass; gradients of several are added. By default all
    """

    steps: int
    batch: int = 8
    network: dict[str, Any] = field(default_factory=dict)
    lr: float = 1e-3
    warmup: int = 100
    ema_halflife: int = 100
    clip: float = 1.0
    patches: Patches | None = None
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "ema_halflife"):
            check_count(name, getattr(self, name))
        if self.micro_batch is not None:
            check_count("micro_batch", self.micro_batch)
        if self.steps < 0 or self.warmup < 0 or not self.lr > 0 or not self.clip > 0:
            raise InputError("steps and warmup must be 0 or more, lr and clip positive")


@dataclass(frozen=True)
class DiffusionConfig(StageConfig):
    """The second stage.

    Attributes
    ----------
    formulation : {"edm", "rectified_flow", "trigflow"}
        EDM, for a DiT rectified flow, or TrigFlow, whose network is given the angle atan(sigma / sigma_data)
        of the noise; with ``start_from`` that of its package
    prediction : {"x0", "flow"}
        What a network of rectified flow makes: the clean residual, or the flow
    sigma_data : float
        Standard deviation of the residual in normalised units: outputs are scaled to it
    P_mean, P_std : float
        Mean and standard deviation of the logarithm of the noise level (Karras et al. 2022, table 1), of
        rectified flow the same, log(t / (1 - t))
    cache_means : bool
        Keep the regression's means in a file of the work folder, so that later epochs read them
    """

    formulation: str = "edm"
    prediction: str = "x0"
    sigma_data: float = 0.5
    P_mean: float = 0.0
    P_std: float = 1.2
    cache_means: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.formulation not in ("edm", FLOW, TRIGFLOW) or self.prediction not in ("x0", "flow"):
            raise InputError(
                "diffusion.formulation must be edm or rectified_flow or trigflow, its prediction x0 or flow"
            )
        if self.formulation != FLOW and self.prediction != "x0":
            raise InputError("diffusion.prediction belongs to the formulation rectified_flow")


@dataclass(frozen=True)
class Phase:
    """A part of the third stage.

    Attributes
    ----------
    first : int
        The step that it begins with, 0 for the first part
    alpha : float
        Of the almost fair CRPS: 1 is fair, 0 that of the members as they are
    finest : float
        Weight of the finest differences
    """

    first: int = 0
    alpha: float = 0.95
    finest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not 0 <= self.finest < 1e6:
            raise InputError("few_step.phases: alpha must be a part of 1, and finest 0 or more")


@dataclass(frozen=True)
class PhysicalScore:
    """CRPS of a variable in its units, over the amount that is one deviation of its normalised values.

    Attributes
    ----------
    weight : float
        Of this score, added to the others
    least : float
        Values below count as this one, like 0 for rain that is mostly absent
    """

    weight: float = 1.0
    least: float = float("-inf")


@dataclass(frozen=True)
class FewStepConfig(StageConfig):
    """The third stage: the denoiser becomes a generator of one call or few, by the CRPS of its ensembles.

    Attributes
    ----------
    sigmas : tuple[float, ...]
        Noise levels of the calls, falling: of the noise that the first one sees, and of the noise that is
        added to its field for the next
    members : int
        In the ensemble of each image
    phases : tuple[Phase, ...]
        Parts of the stage, one after the other
    pooling : tuple[int, ...]
        Points along each side that fields are averaged over, before their differences are scored
    differences, spectral : float
        Weights of the scores of differences, and of Fourier coefficients
    physical : Mapping[str, PhysicalScore]
        Outputs that are also scored in their units
    consistency : int
        Steps of consistency tuning before this stage; 0 for none
    """

    lr: float = 2e-4
    sigmas: tuple[float, ...] = (2.0,)
    members: int = 2
    phases: tuple[Phase, ...] = (Phase(),)
    pooling: tuple[int, ...] = (1, 2, 4)
    differences: float = 1.0
    spectral: float = 0.0
    physical: dict[str, PhysicalScore] = field(default_factory=dict)
    consistency: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(self.sigmas)
        for number in (self.steps, *self.pooling):
            check_count("few_step: steps and pooling", number)
        starts = [phase.first for phase in self.phases]
        if self.network or self.members < 2 or self.consistency < 0 or not self.pooling:
            raise InputError(
                "few_step needs 2 members or more, a pooling, and no network: it has the denoiser's"
            )
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise InputError("few_step.phases must begin with first: 0, and rise")

    def phase(self, step: int | None) -> Phase:
        """The part that a step belongs to; the last one for None."""
        return [p for p in self.phases if step is None or p.first <= step][-1]


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling settings of the package; by default those of ``start_from``, or none.

    Attributes
    ----------
    solver : str | None
        ``euler`` or ``heun``, which the package's layout has
    steps : int | None
        Of the solver
    sigma_min, sigma_max : float | None
        Range of noise levels
    t_max, shift : float | None
        Of rectified flow: first time, and shift towards noise
    samples : int | None
        Members; by default 4
    """

    solver: str | None = None
    steps: int | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    t_max: float | None = None
    shift: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.solver not in (None, *LAYOUT_SOLVERS):
            raise InputError(f"sampling.solver must be euler or heun in a package, got {self.solver!r}")


@dataclass(frozen=True)
class Validation:
    """Losses on a fixed set with fixed noise, of the averaged weights.

    Attributes
    ----------
    times : int
        How many times of the validation split, evenly spaced
    every : int
        Steps between two validations
    """

    times: int = 32
    every: int = 200

    def __post_init__(self) -> None:
        check_count("validation.times", self.times)
        check_count("validation.every", self.every)


@dataclass(frozen=True)
class Inflation:
    """A fit of the residual's size to validation times, after the second stage (see ``inflation.py``).

    Attributes
    ----------
    times : int
        How many of the validation split, evenly spaced
    members : int
        Of the ensemble at each of them
    """

    times: int = 32
    members: int = 8

    def __post_init__(self) -> None:
        check_count("inflation.times", self.times)
        if self.members < 2:
            raise InputError("inflation.members must be 2 or more: one member has no spread")


@dataclass(frozen=True)
class Config:
    """A whole training.

    Attributes
    ----------
    data, regression, diffusion, validation, sampling
        See there
    few_step : FewStepConfig | None
        See there
    inflation : Inflation | None
        See there; by default members are as the networks make them
    output : str
        Folder of the package
    work : str
        Folder of checkpoints, statistics, means and loss curves
    name : str
        Name of the package
    attribution : str
        Who made the data of the pairs, and their licence: a line that goes into the package, its stores and
        pictures
    start_from : str | None
        Package whose networks, statistics and variables are the start: fine-tuning
    seed : int
        Of weights, order, noise and patches
    device : str
        ``auto``, ``cpu``, ``cuda``, …
    precision : {"bf16", "fp32"}
        Of the convolutions; weights, norms and losses stay float32
    fused : bool
        Norm, shift and activation in one kernel, backward included
    compiled : bool
        ``torch.compile`` of the network
    checkpoint_every : int
        Steps between two checkpoints
    half : bool
        Store the weights of the package as float16
    """

    data: Data
    regression: StageConfig
    diffusion: DiffusionConfig
    output: str
    work: str
    validation: Validation = field(default_factory=Validation)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    few_step: FewStepConfig | None = None
    inflation: Inflation | None = None
    name: str = ""
    attribution: str = ""
    start_from: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "bf16"
    fused: bool = True
    compiled: bool = False
    checkpoint_every: int = 200
    half: bool = False

    def __post_init__(self) -> None:
        if len(self.attribution) > 200 or not self.attribution.isprintable():
            raise InputError("attribution must be a line of at most 200 characters")
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"precision must be bf16 or fp32 for a training, got {self.precision!r}")
        check_count("checkpoint_every", self.checkpoint_every)
        self._check_start()
        if self.few_step is not None and self.inflation is not None:
            raise InputError("few_step fits the spread by itself; leave out inflation")
        if self.few_step is not None and replace(self.sampling, samples=None) != SamplingConfig():
            raise InputError("few_step has its own sampling; leave out all of sampling but samples")

    def _check_start(self) -> None:
        """Refuse settings that only fresh networks, or only those of a package, can have."""
        for name in ("regression", "diffusion"):
            stage: StageConfig = getattr(self, name)
            if self.start_from is None and not stage.steps:
                raise InputError(f"{name}.steps of 0 keep the network of a package; set start_from")
            if self.start_from is not None and stage.network:
                raise InputError(f"the package of start_from has its own networks; leave out {name}.network")
        if self.diffusion.formulation == "edm":
            return
        if self.start_from is not None:
            raise InputError("the package of start_from has its own; leave out diffusion.formulation")
        if self.diffusion.formulation == FLOW and self.diffusion.network.get("model_type") != "DiT":
            raise InputError("diffusion.formulation rectified_flow needs a DiT; set network.model_type to it")


def read_config(path: str | Path) -> Config:
    """A training's YAML file.

    Raises
    ------
    InputError
        If it cannot be read, has an unknown key, or lacks one
    """
    return build(Config, read_yaml(Path(path)))
