# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of Earth2Studio's ``CorrDiffCMIP6``: daily means of a climate model to hourly fields of the globe.

They have the files of the generic layout, and statistics of the sun's zenith angle and the hour of the day.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.packages.metadata import read_sampling, table
from earth2_corrdiff.model.spec import FILTERED, CorrDiffSpec

_FEATURES = ("sza", "hod")
_DAYS = (-24.0, 0.0, 24.0)
_NOON = 12.0  # the hour that daily means are labelled with
_PADDING = (23, 24, 48, 48)
_SAMPLER = {"sampler_type": "stochastic", "solver": "euler", "number_of_steps": 18}
_NOISE = {"sigma_min": 1, "sigma_max": 400}
_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
_POSITIVE = (
    *("t2m", "sp", "msl", "tcwv", "sst", "d2m"),
    *(f"{name}{level}" for name in "ztq" for level in _LEVELS),
)
"""Variables that are not negative; the network's are raised to zero."""


def is_cmip6(meta: dict[str, Any], stats: dict[str, Any]) -> bool:
    """True for the metadata and statistics of such a package."""
    inputs = stats.get("input")
    return isinstance(inputs, dict) and all(
        name in inputs and name not in meta["input_variables"] for name in _FEATURES
    )


def as_cmip6(spec: CorrDiffSpec, meta: dict[str, Any], stats: dict[str, Any]) -> CorrDiffSpec:
    """What the files of the generic layout hold, as these networks were trained with it.

    In training the hour of the day took the place of the last invariant, with that one's normalisation;
    invariants were shown to the networks with rows the other way round than the rest.

    Raises
    ------
    InputError
        If a grid is curvilinear, there are no invariants, or the inference mode is ``diffusion``

    Source: ``earth2studio.models.dx.CorrDiffCMIP6``.
    """
    if spec.input_grid.curvilinear or spec.output_grid.curvilinear:
        raise InputError("a package of CorrDiffCMIP6 has grids with 1-D latitudes and longitudes")
    if spec.invariant_fields is None:
        raise InputError("a package of CorrDiffCMIP6 needs invariants: the hour takes the last one's place")
    check_mode(spec.inference_mode)
    named = set(spec.inputs.names)
    return replace(
        spec,
        sampling=read_sampling({**_SAMPLER, **_NOISE, **meta}),
        seed=None,
        grid_bounds_margin=0.0,
        invariant_fields=spec.invariant_fields[:, ::-1].copy(),
        channels=_channels(spec, table(_FEATURES, stats["input"], "input")),
        input_hours=_DAYS,
        daily_hour=_NOON,
        regridding="index",
        padding=_PADDING,
        flip=True,
        filters=("sea_ice",) if named.issuperset(FILTERED["sea_ice"]) else (),
        rules=tuple(
            OutputRule(bounds=(0.0, math.inf)) if name in _POSITIVE else OutputRule()
            for name in spec.outputs.names
        ),
    )


def _channels(spec: CorrDiffSpec, features: Any) -> tuple[Channel, ...]:
    (zenith, hour), still = zip(features.center, features.scale, strict=True), spec.invariants
    return (
        *(Channel("input", name, hours=hours) for name in spec.inputs.names for hours in _DAYS),
        Channel("feature", "cos_zenith", *zenith),
        *(Channel("invariant", name) for name in still.names[:-1]),
        Channel("feature", "hour", still.center[-1], still.scale[-1]),
        Channel("feature", "hour", *hour),
    )


def check_mode(mode: str) -> None:
    """Refuse the inference mode ``diffusion``, as the stock class does."""
    if mode == "diffusion":
        raise InputError("CorrDiffCMIP6 has the inference modes both and regression, not diffusion")
