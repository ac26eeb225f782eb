# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of a package and its model, validated once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.channels import Channel, check_vector
from earth2_corrdiff.model.diffusion.noise import check_where
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.rectified_flow import check_flow, flow_sigmas
from earth2_corrdiff.model.diffusion.solvers import (
    FEW_STEP,
    SOLVERS,
    Churn,
    check_solver,
    karras_sigmas,
    network_calls,
)
from earth2_corrdiff.model.outputs import HubWinds, OutputRule
from earth2_corrdiff.model.transforms import Transform

INFERENCE_MODES = ("both", "regression", "diffusion")
REGRIDDINGS = ("bilinear", "index")
FILTERED = {"sea_ice": ("siconc", "snc")}
"""Filters of coarse fields (``conditioning.FILTERS``) → inputs that they need."""
_BEYOND = ("vector", "input_hours", "daily_hour", "padding", "flip", "filters", "hub_winds", "seen_grid")
RESERVED = (
    *("time", "lead_time", "ensemble", "sample", "lat", "lon", "lat_lowres", "lon_lowres"),
    *("member_seed", "compression_error", "y", "x"),
)
"""Names of a store's own arrays, which no variable may have."""
Field = NDArray[np.float32]


MOST_STEPS = 10_000
"""Steps of a solver: hundreds are as good as any number, and each costs an evaluation of the network."""
SCHEDULES = {
    "karras": ("sigma_min", "sigma_max", "rho"),
    "rectified_flow": ("t_max", "shift", "clip"),
    FEW_STEP: ("levels",),
}
"""Schedules of noise levels, with the settings that belong to each."""


@dataclass(frozen=True)
class Sampling:
    """Sampler of the residual: solver, steps, noise range.

    Attributes
    ----------
    solver : str
        One of ``solvers.SOLVERS``, or ``few_step`` for networks that were trained for it, and for them alone
    steps : int
        Steps of the solver
    sigma_min, sigma_max : float
        Range of noise levels, in units of the normalised residual
    churn : Churn
        For the solver ``stochastic``
    double : bool
        True if reference mode keeps schedule and state in float64, as upstream's deterministic sampler,
        or in float32, as its stochastic one
    noise : {"host", "device"}
        Home of noise: on the host, or on the device as stock does (``noise.py``)
    schedule : {"karras", "rectified_flow", "few_step"}
        Noise levels of Karras et al., or of the times of rectified flow: Euler and Heun then step in these;
        or those that a network of few calls was trained for
    rho : float
        Exponent of the first
    t_max, shift, clip : float
        First time, shift towards noise, and smallest divisor of the second (``rectified_flow.py``)
    levels : tuple[float, ...]
        Noise levels of the third, one per call, falling
    """

    solver: str
    steps: int
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    churn: Churn = field(default_factory=Churn)
    double: bool = True
    noise: str = "host"
    schedule: str = "karras"
    rho: float = 7.0
    t_max: float = 0.99
    shift: float = 1.0
    clip: float = 0.0
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_solver(self.solver)
        self._check_few_step()
        check_where(self.noise)
        if self.schedule not in SCHEDULES:
            raise InputError(f"{self.schedule!r} is not a valid schedule; use {' or '.join(SCHEDULES)}")
        if not 0 < self.rho <= 100:
            raise InputError(f"rho must be positive and at most 100, got {self.rho}")
        check_flow(self.t_max, self.shift, self.clip)
        if check_count("the number of steps", self.steps) > MOST_STEPS:
            raise InputError(f"the number of steps must be {MOST_STEPS} or less, got {self.steps}")
        if not 1e-9 <= self.sigma_min < self.sigma_max <= 1e9:  # their squares, too, are float32
            raise InputError(
                "need 0 < sigma_min < sigma_max, within 1e-9 and 1e9; "
                f"got {self.sigma_min} and {self.sigma_max}"
            )

    def _check_few_step(self) -> None:
        """Refuse a solver for networks of the other kind, and calls that the network was not trained for."""
        if (self.solver == FEW_STEP) != (self.schedule == FEW_STEP):
            raise InputError(f"{self.solver!r} {_OTHER[self.schedule == FEW_STEP]}")
        if self.schedule != FEW_STEP:
            return
        if check_count("the number of steps", self.steps) > check_levels(self.levels):
            raise InputError(
                f"the network makes a field in {len(self.levels)} calls or fewer, not in {self.steps}"
            )

    @property
    def solvers(self) -> tuple[str, ...]:
        """Solvers that the network can be sampled with."""
        return (FEW_STEP,) if self.schedule == FEW_STEP else SOLVERS

    def check_network(self, own: Sampling) -> None:
        """Raise InputError if a network of the package's sampling ``own`` was not trained for this one."""
        if FEW_STEP in (self.schedule, own.schedule) and self.levels != own.levels:
            raise InputError(f"{self.solver!r} {_OTHER[own.schedule == FEW_STEP]}")

    @property
    def calls(self) -> int:
        """Evaluations of the denoiser per member."""
        return network_calls(self.solver, self.steps)

    def sigmas(self, lowest: float, highest: float, dtype: torch.dtype) -> list[float]:
        """Noise levels from the highest to 0, computed in ``dtype``, for a network that supports this range.

        Raises
        ------
        InputError
            If the network supports less noise than rectified flow, or its generator, begins with
        """
        if self.schedule == FEW_STEP:
            if self.levels[-1] < lowest or self.levels[0] > highest:
                raise InputError(f"the network supports noise levels from {lowest:g} to {highest:g} alone")
            return [*self.levels[: self.steps], 0.0]
        if self.schedule == "karras":
            low, high = max(self.sigma_min, lowest), min(self.sigma_max, highest)
            return karras_sigmas(self.steps, low, high, self.rho, dtype)
        levels = flow_sigmas(self.steps, self.t_max, self.shift, dtype)
        if levels[0] > highest or levels[-2] < lowest:
            raise InputError(
                f"the network supports noise levels from {lowest:g} to {highest:g}, and rectified flow has "
                f"{levels[-2]:g} to {levels[0]:g}; use another t_max or shift, or the schedule karras"
            )
        return levels

    def check_setting(self, name: str) -> None:
        """Raise InputError if a setting belongs to another schedule, and would do nothing."""
        for schedule, settings in SCHEDULES.items():
            if name in settings and schedule != self.schedule:
                raise InputError(
                    f"{name} belongs to the schedule {schedule}, and the model has {self.schedule}; "
                    f"use {', '.join(SCHEDULES[self.schedule])}"
                )


_OTHER = {
    True: f"is not the sampling that the network was trained for; use the package's own, {FEW_STEP}",
    False: f"needs a network that was trained for it; use one of {', '.join(SOLVERS)}",
}


def check_levels(levels: tuple[float, ...]) -> int:
    """The number of noise levels of a network of few calls; InputError if they do not fall or are none."""
    falling = all(1e-9 <= after < before <= 1e9 for before, after in pairwise((*levels, 1e-9)))
    if not levels or not falling:
        raise InputError(
            f"the noise levels of few_step must be positive and fall, like 2.0, 0.8; got {levels}"
        )
    return len(levels)


def check_count(what: str, value: object) -> int:
    """``value`` as a positive int, or InputError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{what} must be a whole number of 1 or more, got {value!r}")
    return int(value)


def check_seed(value: object) -> int | None:
    """``value`` as an int, or None for a seed that is drawn, or InputError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"the seed must be a whole number or None, got {value!r}")
    if not -(2**63) <= value < 2**64:  # what a generator of PyTorch takes
        raise InputError("the seed must be a whole number from -2**63 to 2**64 - 1")
    return int(value)


def _is_name(name: object) -> bool:
    """True for what can be the name of an array, in a store and elsewhere."""
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        return False
    return name.strip() == name and not name.startswith((".", "__")) and not {"/", "\\"} & set(name)


DEFAULT_SAMPLING = Sampling("dpmpp_2m", 6, 0.05, 40.0)
"""Sampler of packages that name none; chosen by ``scripts/bench-solvers.py`` on the demo."""


@dataclass(frozen=True)
class Statistics:
    """Normalisation of named channels: ``(x - center) / scale``.

    Attributes
    ----------
    names : tuple[str, ...]
        One name per channel, each once
    center, scale : tuple[float, ...]
        In the units of the variable; scales are positive, in float32 too

    Raises
    ------
    InputError
        If a name is not valid or occurs twice, or a number is missing, not finite or not positive
    """

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise InputError(f"each variable may be named once; the package repeats {listed(twice)}")
        wrong = [name for name in self.names if not _is_name(name)]
        if wrong:
            raise InputError(f"{wrong[0]!r:.80} is not a valid name of a variable; use one like t2m")
        with np.errstate(over="ignore", under="ignore"):  # what networks and fields are computed in
            center, scale = (np.asarray(part, dtype=np.float32) for part in (self.center, self.scale))
        fits = len(self.names) == len(self.center) == len(self.scale)
        finite = np.isfinite(center).all() and np.isfinite(scale).all()
        if not fits or not finite or (scale < np.finfo(np.float32).tiny).any():
            raise InputError(
                f"the statistics of {listed(self.names)} are incomplete, not finite, or not positive "
                "in float32"
            )


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The domain with what is around it, for networks that take domains of any size: see ``region.py``.

    Attributes
    ----------
    grid : Grid
        Has the domain as a part
    invariant_fields : np.ndarray | None
        ``[C_inv, H, W]`` float32 on that grid, physical units
    multiple, least : int
        Rows and columns of a domain must be multiples of the first, and not fewer than the second
    """

    grid: Grid
    invariant_fields: Field | None = None
    multiple: int = 1
    least: int = 2

    def __post_init__(self) -> None:
        check_count("patch_size", self.multiple)
        check_count("the smallest domain", self.least)


@dataclass(frozen=True)
class CorrDiffSpec:
    """Metadata of a CorrDiff package.

    Attributes
    ----------
    inputs, outputs, invariants : Statistics
        Variables with their normalisation, in channel order
    input_grid, output_grid : Grid
        Where the coarse input and the fine output live
    invariant_fields : np.ndarray
        ``[C_inv, H, W]`` float32, physical units
    sampling : Sampling
        The package's default
    number_of_samples, seed : int, int | None
        The package's defaults
    grid_bounds_margin : float
        Fraction by which the output grid may stick out of the input grid
    hr_mean_conditioning : bool
        True if the denoiser sees the regression's mean
    regression_grid : bool
        True if the caller appends (sin x, sin y, cos x, cos y) to the regression's input (Taiwan layout)
    patching : PatchGeometry | None
        How the denoiser was trained to see the domain, where not whole
    lead_time_hours : tuple[float, ...]
        The lead times that networks were trained with, in hours, in the order of their labels; where they
        were trained with none, empty
    inference_mode : {"both", "regression", "diffusion"}
        Which of the two stages make the output
    channels : tuple[Channel, ...]
        Conditioning channels in the networks' order; none for the inputs and the invariants in theirs
    vector : tuple[str, ...]
        Scalar conditions: features of ``channels.TIMES``
    input_hours : tuple[float, ...]
        Hours of the coarse fields that a case takes, relative to :meth:`input_time`; of several, the coarse
        tensor of a case is ``[L, C, h, w]``
    daily_hour : float | None
        Where coarse fields are daily means: the hour (UTC) that they are labelled with
    regridding : {"bilinear", "index"}
        Interpolation of the coarse fields: by latitude and longitude, or by index
    padding : tuple[int, int, int, int] | None
        Rows above and below, columns left and right that the networks see around the output grid: rows are
        reflected, columns go all the way round
    flip : bool
        True if networks see rows in the reverse order
    filters : tuple[str, ...]
        Filters of the coarse fields: ``sea_ice``
    missing_inputs : bool
        True if the networks were trained with missing coarse values, which count as the mean of the training
    differences : bool
        True if the regression makes the difference to the interpolated input of the same name
    drawn_seeds : bool
        True if members take their seeds from a generator, as upstream's ``CorrDiffTaiwan``; False in sequence
    hook_channels : int
        Conditioning channels that a subclass's ``preprocess_input`` appends (see ``hooks``)
    name, root, sha256 : str
        Its name, where it was read from, and the checksum of its files
    synthetic : bool
        True if it was trained on synthetic weather
    attribution : str
        Who made the training data, and their licence
    blocks : Blocks | None
        Sizes of the blocks of points whose means the coarse fields are, where it was trained so
    rules : tuple[OutputRule, ...]
        How each output becomes physical once its normalisation is undone; none if nothing more is to be done
    hub_winds : HubWinds | None
        Winds to add to the outputs
    seen_grid : Grid | None
        Grid that networks see, with a halo around the output grid; None without
    halo : tuple[int, int, int, int]
        Its rows above and below the output grid, and its columns left and right
    surroundings : Surroundings | None
        For networks that take domains of any size
    projected : tuple[np.ndarray, np.ndarray] | None
        y ``[H]`` and x ``[W]`` of the output grid, metres, where it is that of a projection
    complete : bool
        True if coarse fields with missing values are refused
    written : tuple[str, ...]
        Output variables that come out, in the package's order; empty for all
    regional : bool
        True if the output is cut out of the domain: patches farther away are left out
    """

    inputs: Statistics
    outputs: Statistics
    input_grid: Grid
    output_grid: Grid
    sampling: Sampling
    invariants: Statistics = Statistics((), (), ())
    invariant_fields: Field | None = None
    number_of_samples: int = 1
    seed: int | None = None
    grid_bounds_margin: float = 0.0
    hr_mean_conditioning: bool = True
    regression_grid: bool = False
    patching: PatchGeometry | None = None
    lead_time_hours: tuple[float, ...] = ()
    inference_mode: str = "both"
    channels: tuple[Channel, ...] = ()
    vector: tuple[str, ...] = ()
    input_hours: tuple[float, ...] = (0.0,)
    daily_hour: float | None = None
    regridding: str = "bilinear"
    padding: tuple[int, int, int, int] | None = None
    flip: bool = False
    filters: tuple[str, ...] = ()
    missing_inputs: bool = False
    differences: bool = False
    drawn_seeds: bool = False
    hook_channels: int = 0
    name: str = ""
    root: str = ""
    sha256: str = ""
    synthetic: bool = False
    attribution: str = ""
    blocks: Blocks | None = None
    rules: tuple[OutputRule, ...] = ()
    hub_winds: HubWinds | None = None
    seen_grid: Grid | None = None
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    surroundings: Surroundings | None = None
    projected: tuple[NDArray[Any], NDArray[Any]] | None = None
    complete: bool = False
    written: tuple[str, ...] = ()
    regional: bool = False

    def __post_init__(self) -> None:
        check_count("number_of_samples", self.number_of_samples)
        check_seed(self.seed)
        if not 0 <= self.grid_bounds_margin <= 1:
            raise InputError(
                "grid_bounds_margin must be a fraction of 0 or more and at most 1, "
                f"got {self.grid_bounds_margin}"
            )
        if self.inference_mode not in INFERENCE_MODES:
            raise InputError(
                f"inference_mode {self.inference_mode!r} is none of {', '.join(INFERENCE_MODES)}"
            )
        if not self.inputs.names or not self.outputs.names:
            raise InputError("the package names no input or no output variables")
        taken = [name for name in (*self.inputs.names, *self.outputs.names) if name in RESERVED]
        if taken:
            raise InputError(f"{taken[0]} is the name of an axis in stores; give the variable another one")
        want = (len(self.invariants.names), *self.run_grid.shape)
        got = (0, *self.run_grid.shape) if self.invariant_fields is None else self.invariant_fields.shape
        if tuple(got) != want:
            raise InputError(f"the invariants have shape {tuple(got)}, but the output grid asks for {want}")
        if self.invariant_fields is not None and not np.isfinite(self.invariant_fields).all():
            raise InputError("the package's invariants are not finite")
        check_vector(self.vector)
        self._check_outputs()
        self._check_channels()
        self._check_frame()

    def _check_channels(self) -> None:
        hours = self.input_hours
        if not hours or len(set(hours)) != len(hours) or not np.isfinite(hours).all():
            raise InputError(f"input_hours must be hours that differ, like -24, 0, 24; got {hours}")
        if self.daily_hour is not None and not 0 <= self.daily_hour < 24:
            raise InputError(f"daily_hour must be an hour of the day, 0 to 24; got {self.daily_hour}")
        known = {"input": self.inputs.names, "invariant": self.invariants.names}
        for channel in self.channels:
            if channel.kind in known and channel.name not in known[channel.kind]:
                raise InputError(f"the channel {channel.name} is no {channel.kind} of the package")
            if channel.kind == "input" and channel.hours not in hours:
                raise InputError(f"the channel {channel.name} is of hour {channel.hours:g}, not in {hours}")
        if len(hours) > 1 and not self.channels:
            raise InputError("a package with several input_hours must name its channels")

    def _check_frame(self) -> None:
        if self.regridding not in REGRIDDINGS:
            raise InputError(f"regridding {self.regridding!r} is none of {', '.join(REGRIDDINGS)}")
        if self.blocks is not None:
            fine = tuple(n * self.blocks.coarse for n in self.input_grid.shape)
            if fine != self.run_grid.shape or self.regridding != "index":
                raise InputError(
                    f"{self.blocks} do not make the input grid of the output grid, or regridding is not index"
                )
        wrong = [name for name in self.filters if name not in FILTERED]
        if wrong or not {need for name in self.filters for need in FILTERED[name]} <= {*self.inputs.names}:
            raise InputError(f"the filters {', '.join(map(repr, self.filters))} do not fit the inputs")
        (H, W), padding = self.run_grid.shape, self.padding or (0,) * 4
        if min(padding) < 0 or max(padding[:2]) >= H or max(padding[2:]) > W:
            raise InputError(f"the output grid of {H} x {W} is too small for a padding of {self.padding}")

    def input_time(self, valid: Times) -> Times:
        """Time that ``input_hours`` count from: the valid time, or the label of its day's mean.

        ``valid`` is a time or an array of them, UTC; so is the result, in nanoseconds.
        """
        if self.daily_hour is None:
            return valid.astype("datetime64[ns]")
        day: Times = valid.astype("datetime64[D]").astype("datetime64[ns]")
        return day + np.timedelta64(round(self.daily_hour * 3600), "s")

    def input_times(self, valid: Times) -> Times:
        """Times of the coarse fields that cases take: ``[...] → [..., L]``, UTC."""
        seconds = np.array([round(hour * 3600) for hour in self.input_hours]).astype("timedelta64[s]")
        times: Times = np.asarray(self.input_time(valid))[..., None] + seconds
        return times

    @property
    def whole_inputs(self) -> tuple[str, ...]:
        """Inputs that may have no gaps: those that no filter fills; none with ``missing_inputs``."""
        if self.missing_inputs:
            return ()
        filled = {name for chosen in self.filters for name in FILTERED[chosen]}
        return tuple(name for name in self.inputs.names if name not in filled)

    @property
    def needs_time(self) -> bool:
        """True if a case needs its valid time."""
        features = any(channel.needs_time for channel in self.channels)
        return features or self.gated or bool(set(self.vector) - {"one"})

    @property
    def beyond_generic(self) -> list[str]:
        """Fields that the generic layout has no entry for, and that are not their defaults."""
        return [f.name for f in fields(self) if f.name in _BEYOND and getattr(self, f.name) != f.default]

    @property
    def gated(self) -> bool:
        """True if an output is gated by the sun's zenith angle."""
        return any(rule.gate is not None for rule in self.rules)

    @property
    def conditioning(self) -> tuple[Channel, ...]:
        """Conditioning channels in the networks' order."""
        inputs = (Channel("input", name, hours=self.input_hours[0]) for name in self.inputs.names)
        invariants = (Channel("invariant", name) for name in self.invariants.names)
        return self.channels or (*inputs, *invariants)

    def normalisation(self, channel: Channel) -> tuple[float, float]:
        """Center and scale of a conditioning channel."""
        if channel.kind == "feature":
            return channel.center, channel.scale
        stats = self.inputs if channel.kind == "input" else self.invariants
        index = stats.names.index(channel.name)
        return stats.center[index], stats.scale[index]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a case's coarse tensor: ``(C, h, w)``, or ``(L, C, h, w)`` of several ``input_hours``."""
        hours = () if len(self.input_hours) == 1 else (len(self.input_hours),)
        return *hours, len(self.inputs.names), *self.input_grid.shape

    @property
    def domain(self) -> tuple[int, int]:
        """(H', W') of what the networks see: the output grid with its halo and its padding."""
        (H, W), (top, bottom, left, right) = self.run_grid.shape, self.padding or (0,) * 4
        return H + top + bottom, W + left + right

    def _check_outputs(self) -> None:
        if self.rules and len(self.rules) != len(self.outputs.names):
            raise InputError(f"{len(self.outputs.names)} outputs need as many rules, got {len(self.rules)}")
        if self.projected is not None and tuple(map(len, self.projected)) != self.output_grid.shape:
            raise InputError("y and x of the projection have not the shape of the output grid")
        if len(set(self.output_variables)) != len(self.output_variables):
            raise InputError(f"the output has a name twice: {listed(self.output_variables)}")
        (H, W), (h, w), (top, bottom, left, right) = self.output_grid.shape, self.run_grid.shape, self.halo
        if min(self.halo) < 0 or (h, w) != (top + H + bottom, left + W + right):
            raise InputError(f"a halo of {self.halo} around {H} x {W} cells does not make {h} x {w}")

    @property
    def output_variables(self) -> tuple[str, ...]:
        """Names of the fields that come out: of the networks' outputs and of what is derived from them."""
        return self.written or self._every_output

    @property
    def _every_output(self) -> tuple[str, ...]:
        return self.outputs.names + (self.hub_winds.names if self.hub_winds else ())

    def only(self, names: Sequence[str]) -> CorrDiffSpec:
        """The same with some of its output variables; InputError where there is no such, with the nearest."""
        for name in names:
            if name not in self.output_variables:
                near = get_close_matches(name, self.output_variables, 1, 0)
                raise InputError(
                    f"{name!r} is not an output of the package, which has {listed(self.output_variables)}; "
                    f"did you mean {near[0]}?"
                )
        chosen = tuple(name for name in self.output_variables if name in names)
        return self if chosen == self.output_variables else replace(self, written=chosen)

    def kept(self, fields: Any) -> Any:
        """Those of all output fields ``[..., Co, H, W]`` that are ``output_variables``."""
        chosen = [self._every_output.index(name) for name in self.written]
        return fields[..., chosen, :, :] if chosen else fields

    @property
    def physical_statistics(self) -> tuple[tuple[float, float], ...]:
        """Mean and deviation of each output in its unit; NaN where those known are of its transform."""
        rules = self.rules or (OutputRule(),) * len(self.outputs.names)
        known = zip(rules, self.outputs.center, self.outputs.scale, strict=True)
        found = [
            (rule.factor * mean, rule.factor * spread) if rule.transform == Transform() else (math.nan,) * 2
            for rule, mean, spread in known
        ]
        every = dict(zip(self._every_output, found, strict=False))
        return tuple(every.get(name, (math.nan, math.nan)) for name in self.output_variables)

    @property
    def run_grid(self) -> Grid:
        """Grid of conditioning and invariants: the output grid with its halo."""
        return self.seen_grid or self.output_grid

    def inner(self, fields: Any) -> Any:
        """Fields ``[..., H, W]`` of the output grid, of those with its halo; an array or a tensor."""
        (H, W), (top, _, left, _) = self.output_grid.shape, self.halo
        return fields[..., top : top + H, left : left + W] if any(self.halo) else fields

    @property
    def output_part(self) -> tuple[slice, slice]:
        """Rows and columns of the output grid in what the networks see."""
        (H, W), (top, bottom, left, _) = self.output_grid.shape, self.halo
        above, _, beside, _ = self.padding or (0,) * 4
        row, column = above + (bottom if self.flip else top), beside + left
        return slice(row, row + H), slice(column, column + W)

    def lead_label(self, hours: float | None) -> int | None:
        """Number of a lead time among those trained with; None for networks that were trained with none.

        Raises
        ------
        InputError
            If there is no lead time, or the networks were not trained for it
        """
        if not self.lead_time_hours:
            return None
        known = ", ".join(f"{known:g}" for known in self.lead_time_hours)
        if hours is None:
            raise InputError(f"the model was trained for forecasts with lead times of {known} h: give --lead")
        if hours not in self.lead_time_hours:
            raise InputError(f"the model was trained for lead times of {known} h, not of {hours:g} h")
        return self.lead_time_hours.index(hours)

    @property
    def condition_channels(self) -> int:
        """Conditioning channels, the mean excluded."""
        return len(self.conditioning) + self.hook_channels
