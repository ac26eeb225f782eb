# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Start of a training: pairs, normalisation, untrained networks; or a package, to fine-tune it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch

from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import IndexRegridder, Regridder
from earth2_corrdiff.model.channels import PLACES, SUN, Channel
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.spec import DEFAULT_SAMPLING, CorrDiffSpec, Sampling
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.networks.architectures import EDM, JOINED
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.mdlus import Checkpoint, Nested
from earth2_corrdiff.networks.preconditioned import Denoiser, DiTFlow, Regression, create
from earth2_corrdiff.networks.unet import SongUNet
from earth2_corrdiff.training.config import (
    FLOW,
    LAYOUT_SOLVERS,
    TRIGFLOW,
    Config,
    Data,
    DiffusionConfig,
    SamplingConfig,
    StageConfig,
)
from earth2_corrdiff.training.demo_set import demo_plan, make_demo_fields
from earth2_corrdiff.training.pair_writer import PairWriter, fill
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.splits import Splits, split_demo, split_times
from earth2_corrdiff.training.statistics import Normalisation, normalisation
from earth2_corrdiff.training.strict import unknown

FROM_PAIRS = ("img_resolution", "in_channels", "out_channels")  # arguments that the pairs determine
NOT_OF_TRAINING = ("input_size", "in_channels", "out_channels", "condition_dim", "use_nan_mask_tokens")
FLOW_CLIP = 0.05  # smallest t that the error of x0 is divided by: Li and He, arXiv 2511.13720
STORED_SOLVERS = (*LAYOUT_SOLVERS, TRIGFLOW, FEW_STEP)  # the last two by networks of their own
TRIGFLOW_STEPS = 12  # below, residuals that are smaller than sigma_data get too large a spread
FIXED = (*PLACES, *SUN)  # features that belong to a place
Names = tuple[str, ...]
Report = Callable[[str, int], None]
"""Called with the name of what is prepared, and how many parts of it are left."""


@dataclass(frozen=True)
class Material:
    """The data of a training.

    Attributes
    ----------
    pairs : PairFile
        Coarse and fine fields
    splits : Splits
        Times for training, validation and tests
    """

    pairs: PairFile
    splits: Splits


def open_material(config: Config, world: World, report: Report) -> Material:
    """Open the pairs; the demo's are made first.

    Raises
    ------
    InputError
        If there are none, or a split has no times
    """
    data = config.data
    path = Path(data.pairs) if data.pairs is not None else Path(config.work) / "pairs.zarr"
    if data.demo is not None and world.first:
        demo = data.demo
        writer = PairWriter(path, demo_plan(demo.train, demo.validation, demo.seed))
        for left in fill(writer, make_demo_fields):
            report("pairs", left)
    world.wait()
    inputs, outputs, invariants = _variables(config)
    if data.block_shift and config.diffusion.cache_means:
        raise InputError(
            "data.block_shift changes the means with every step; set diffusion.cache_means to false"
        )
    pairs = PairFile(
        path,
        inputs,
        outputs,
        invariants,
        keep=2 * data.window,
        gaps=data.missing == "mask",
        fine_inputs=data.block_shift,
    )
    splits = split_demo(pairs.times) if data.demo is not None else split_times(pairs.times, data.split)
    return Material(pairs, splits)


def _variables(config: Config) -> tuple[Names, Names, Names | None]:
    """Inputs, outputs and invariants: those of the package that is fine-tuned, else of the configuration."""
    if config.start_from is None:
        return config.data.inputs, config.data.outputs, config.data.invariants
    spec = read_package(Folder(Path(config.start_from))).spec
    names = spec.inputs.names, spec.outputs.names, spec.invariants.names
    for key, own in zip(("inputs", "outputs", "invariants"), names, strict=True):
        given = getattr(config.data, key)
        if given and given != own:
            raise InputError(f"the {key} of start_from are {', '.join(own)}; leave out data.{key}")
    return names


def start(config: Config, material: Material, world: World) -> Downscaler:
    """The model before its training: fresh networks, or those of the package to fine-tune.

    Raises
    ------
    InputError
        If the networks cannot be built, or do not fit the pairs
    """
    if config.start_from is not None:
        model = _from_package(config, material)
    else:
        model = _fresh(config, _spec(config, material, world))
    _check_patches(config, model)
    return model


def _fresh(config: Config, spec: CorrDiffSpec) -> Downscaler:
    channels, outputs = spec.condition_channels, len(spec.outputs.names)
    patches = config.diffusion.patches
    whole = channels if patches is not None and patches.whole else 0
    torch.manual_seed(config.seed)
    regression = _network("UNet", "regression", config.regression, channels, spec, {"embedding_type": "zero"})
    denoiser = _network(
        "EDMPrecondSuperResolution",
        "diffusion",
        config.diffusion,
        channels + outputs + whole,  # the mean is part of the conditioning
        spec,
        {"sigma_data": config.diffusion.sigma_data},
    )
    cast(Denoiser, denoiser).angle = config.diffusion.formulation == TRIGFLOW
    for net in (regression, denoiser) if config.data.flips else ():
        if isinstance(net.model, DiT) and net.model.tokenizer.pos_embed is not None:
            raise InputError("data.flips cannot be used with a DiT that learns positions; use natten2d_rope")
    return Downscaler(spec, cast(Regression, regression), cast(Denoiser, denoiser), "fp32", accelerated=False)


def _spec(config: Config, material: Material, world: World) -> CorrDiffSpec:
    pairs, kept, data = material.pairs, Path(config.work) / "statistics.json", config.data
    by_index = bool(pairs.coarse_from_fine)
    regrid = (
        IndexRegridder(pairs.fine_grid.shape) if by_index else Regridder(pairs.coarse_grid, pairs.fine_grid)
    )
    sigma = config.diffusion.sigma_data
    _check_names(config, pairs)
    with world.in_turn():  # the first process makes the file, the others read it
        made = normalisation(pairs, material.splits.train, regrid, sigma, kept, data.transforms)
    return CorrDiffSpec(
        inputs=made.inputs,
        outputs=made.outputs,
        input_grid=pairs.coarse_grid,
        output_grid=pairs.fine_grid,
        sampling=_sampling(config.sampling, _default_sampling(config.diffusion)),
        invariants=made.invariants,
        invariant_fields=pairs.invariant_fields,
        number_of_samples=4 if config.sampling.samples is None else config.sampling.samples,
        patching=_patching(config, pairs.fine_grid),
        channels=_conditioning(data, made),
        regridding="index" if by_index else "bilinear",
        rules=_rules(data, made.outputs.names),
        missing_inputs=data.missing == "mask",
        differences=data.differences,
        name=config.name,
        synthetic=pairs.synthetic,
        attribution=config.attribution,
        blocks=pairs.blocks,
    )


def _conditioning(data: Data, made: Normalisation) -> tuple[Channel, ...]:
    """Conditioning channels; none for inputs and invariants as they are."""
    if not data.features and not set(data.transforms) & set(made.inputs.names):
        return ()
    inputs = [
        Channel("input", name, transform=data.transforms.get(name, Transform())) for name in made.inputs.names
    ]
    still = [Channel("invariant", name) for name in made.invariants.names]
    return (*inputs, *still, *(Channel("feature", name) for name in data.features))


def _rules(data: Data, outputs: Names) -> tuple[OutputRule, ...]:
    """Rules of the outputs; none where no output has a transform."""
    if not set(data.transforms) & set(outputs):
        return ()
    return tuple(OutputRule(data.transforms.get(name, Transform())) for name in outputs)


def _check_names(config: Config, pairs: PairFile) -> None:
    """Refuse transforms of what is not there, and flips of what has a place or a direction."""
    data, channels = config.data, pairs.channels
    known = {*channels.inputs, *channels.outputs}
    if wrong := [name for name in data.transforms if name not in known]:
        raise InputError(f"data.transforms names {wrong[0]}, which is no input or output")
    if not data.flips:
        return
    placed = [*channels.invariants, *(name for name in data.features if name in FIXED)]
    placed += [name for name in known if re.fullmatch(r"[uv]\d+m?", name)]
    for stage in (config.regression, config.diffusion):
        own = stage.network
        if str(own.get("model_type", "")).startswith("SongUNetPos") or own.get("additive_pos_embed"):
            placed.append("the network's embedding of position")
    if placed:
        raise InputError(f"data.flips cannot be used with {', '.join(placed)}, which flips would make wrong")


def _default_sampling(how: DiffusionConfig) -> Sampling:
    if how.formulation == "edm":
        return DEFAULT_SAMPLING
    if how.formulation == TRIGFLOW:
        return replace(DEFAULT_SAMPLING, solver=TRIGFLOW, steps=TRIGFLOW_STEPS)
    return Sampling("heun", 12, schedule=FLOW, clip=FLOW_CLIP if how.prediction == "x0" else 0.0)


def _sampling(how: SamplingConfig, default: Sampling) -> Sampling:
    names = ("solver", "steps", "sigma_min", "sigma_max", "t_max", "shift")
    given = {name: value for name in names if (value := getattr(how, name)) is not None}
    for name in given:
        default.check_setting(name)
    if not given:
        return default
    return replace(default if default.solver in STORED_SOLVERS else Sampling("heun", 12), **given)


def _patching(config: Config, grid: Grid) -> PatchGeometry | None:
    patches = config.diffusion.patches
    if patches is None:
        return None
    return PatchGeometry(grid.shape, patches.shape, patches.overlap, patches.boundary)


def _network(
    name: str, stage: str, how: StageConfig, channels: int, spec: CorrDiffSpec, more: dict[str, Any]
) -> Regression | Denoiser:
    """A fresh network; arguments of PhysicsNeMo's U-Net that are not given are those of its ``SongUNet``."""
    if how.network.get("model_type") == "DiT":
        return _dit(stage, how, channels, spec)
    known = ["model_type", *(key for key in signature(SongUNet).parameters if key not in FROM_PAIRS)]
    _check_keys(stage, how, known)
    H, W = spec.output_grid.shape
    given = {"model_type": "SongUNet", **more, **how.network}
    lead_time = int(given.get("lead_time_channels") or 0)
    position = int(given.get("N_grid_channels", 4)) if given["model_type"].startswith("SongUNetPos") else 0
    args = {
        "img_resolution": H if H == W else [H, W],
        "img_in_channels": channels + position + lead_time,
        "img_out_channels": len(spec.outputs.names),
        **given,
    }
    net = create(Checkpoint(name, args, {}, f"{stage}.network"))
    if not isinstance(net.model, SongUNet):
        raise InputError(f"{stage}.network: this package cannot train a {given['model_type']}")
    return net


def _dit(stage: str, how: StageConfig, channels: int, spec: CorrDiffSpec) -> Regression | Denoiser:
    """A fresh DiT; arguments that are not given are PhysicsNeMo's, but for windows and rotary positions."""
    known = ["model_type", *(key for key in signature(DiT).parameters if key not in NOT_OF_TRAINING)]
    _check_keys(stage, how, known)
    outputs, where = len(spec.outputs.names), f"{stage}.network"
    args: dict[str, Any] = {"attention_backend": "natten2d_rope", **how.network}
    args |= {"input_size": list(spec.output_grid.shape), "in_channels": channels, "out_channels": outputs}
    del args["model_type"]
    if not isinstance(how, DiffusionConfig):
        return create(Checkpoint("DiT", args, {}, where))
    args["in_channels"] += outputs  # the latent
    if how.formulation == FLOW:
        wrap = partial(DiTFlow, prediction=how.prediction)
        return create(Checkpoint("DiT", args, {}, where), wrap=wrap)
    joined = Nested(JOINED, {"model": Nested("DiT", args)})
    return create(Checkpoint(EDM, {"model": joined, "sigma_data": how.sigma_data}, {}, where))


def _check_keys(stage: str, how: StageConfig, known: list[str]) -> None:
    for key in how.network:
        if key not in known:
            raise InputError(unknown(f"{stage}.network", str(key), known))


def _check_patches(config: Config, model: Downscaler) -> None:
    """Refuse patches that do not fit the domain or the network."""
    domain = model.spec.output_grid.shape
    nets = {"regression": model.regression, "diffusion": model.denoiser, "few_step": model.denoiser}
    for name, net in nets.items():
        how: StageConfig | None = getattr(config, name)
        if how is None or how.patches is None:
            continue
        h, w = how.patches.shape
        if h > domain[0] or w > domain[1]:
            raise InputError(
                f"{name}.patches of {h} x {w} are larger than the domain of {domain[0]} x {domain[1]}"
            )
        PatchGeometry(domain, (h, w), multiple=net.multiple)  # raises with sizes that are multiples
        if fault := net.shape_fault(domain, (h, w)):
            raise InputError(f"the {name} network {fault}; leave out {name}.patches")
    for name in ("diffusion", "few_step"):
        how = getattr(config, name)
        if how is not None and how.steps and how.patches is None and model.domain.whole:
            patch = model.spec.patching
            whose = "of start_from " if config.start_from else ""
            raise InputError(
                f"the diffusion network {whose}was trained on patches; set "
                f"{name}.patches with the shape {list(patch.shape) if patch else ''}"
            )


def _from_package(config: Config, material: Material) -> Downscaler:
    """The networks and statistics of a package, on the grids of the pairs."""
    loaded, pairs = read_package(Folder(Path(cast(str, config.start_from)))), material.pairs
    spec = loaded.spec
    if spec.regression_grid:
        raise InputError("a package of the Taiwan layout cannot be fine-tuned: its regression takes a grid")
    if spec.beyond_generic:
        raise InputError(
            f"a package with {listed(spec.beyond_generic)} cannot be fine-tuned: pairs have none"
        )
    if spec.lead_time_hours:
        raise InputError("a package with lead times cannot be fine-tuned: pairs have none")
    if spec.sampling.schedule == FEW_STEP and config.diffusion.steps:
        raise InputError("the package of start_from is one of few_step; set diffusion.steps to 0")
    sampling = _sampling(config.sampling, spec.sampling)
    if sampling.solver not in STORED_SOLVERS and sampling != DEFAULT_SAMPLING:  # a package cannot hold it
        raise InputError("the package of start_from names no solver; set sampling.solver")
    own, domain = config.diffusion.patches, pairs.fine_grid.shape
    patching = None if spec.patching is None else replace(spec.patching, domain=domain)
    fitted = replace(
        spec,
        input_grid=pairs.coarse_grid,
        output_grid=pairs.fine_grid,
        invariant_fields=pairs.invariant_fields,
        patching=patching if own is None else _patching(config, pairs.fine_grid),
        sampling=sampling,
        number_of_samples=config.sampling.samples or spec.number_of_samples,
        name=config.name or spec.name,
        attribution=config.attribution or spec.attribution,
        blocks=pairs.blocks if spec.regridding == "index" else None,
        synthetic=spec.synthetic or pairs.synthetic,
    )
    return Downscaler(fitted, loaded.regression, loaded.denoiser, "fp32", accelerated=False)
