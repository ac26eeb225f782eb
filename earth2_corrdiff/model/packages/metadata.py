# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Entries of a package's ``metadata.json`` and ``stats.json``, checked and turned into parts of its spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from earth2_corrdiff.base.errors import InputError, MissingEntryError, listed
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP
from earth2_corrdiff.model.spec import DEFAULT_SAMPLING, Sampling, Statistics

# Noise range of the path that a package names, where its metadata give none (upstream's defaults).
_SIGMA_MAX = {"stochastic": 800.0, "deterministic": 80.0, "trigflow": 80.0}
FLOW, TRIGFLOW = "rectified_flow", "trigflow"
_FLOW = {"prediction": "x0", "time_scale": 999.0, "t_max": 0.99, "shift": 1.0, "clip": 0.05}
_MOST = {"number_of_steps": 10_000, "number_of_samples": 100_000}
_MOST_CHANNELS = 10_000


def check_entries(meta: dict[str, Any]) -> None:
    """Refuse entries of another type, and numbers beyond any use."""
    for name in ("hr_mean_conditioning", "synthetic"):
        if not isinstance(meta.get(name, False), bool):
            raise InputError(f"metadata.json: {name} must be true or false, got {repr(meta[name])[:80]}")
    for name, most in _MOST.items():
        if type(meta.get(name)) is int and meta[name] > most:
            raise InputError(f"metadata.json: {name} must be at most {most}")
    for name in ("name", "attribution"):
        text = meta.get(name, "")
        if not isinstance(text, str) or len(text) > 200 or not text.isprintable():
            raise InputError(f"metadata.json: {name} must be a line of text, got {repr(text)[:80]}")
    for name, what in (("input_variables", "input"), ("output_variables", "output")):
        if not isinstance(meta[name], list):
            raise InputError(
                f"stats.json has no {what} statistics of {repr(meta[name])[:80]}: {name} must be a list"
            )
    invariants = meta.get("invariant_variables")
    names = [] if invariants is None else invariants
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"metadata.json: invariant_variables must be a list of names, got {repr(invariants)[:80]}"
        )


def read_channels(entry: Any) -> tuple[Channel, ...]:
    """The entry ``channels`` of a package's metadata; none where there is no entry.

    Earth2Studio's layout has no such entry: its class refuses networks with more channels than it makes.

    Raises
    ------
    InputError
        If it is not a list of conditioning channels
    """
    rows = [] if entry is None else entry
    if not isinstance(rows, list) or len(rows) > _MOST_CHANNELS or not all(map(_is_channel, rows)):
        raise InputError(
            'metadata.json: channels is a list of objects like {"kind": "feature", "name": "sin_hour", '
            f'"center": 0.0, "scale": 1.0}}, got {repr(entry)[:80]}'
        )
    return tuple(Channel(**row) for row in rows)


def _is_channel(row: Any) -> bool:
    if not isinstance(row, dict) or not {"kind", "name"} <= set(row) <= {"kind", "name", "center", "scale"}:
        return False
    numbers = all(type(row.get(name, 0.0)) in (int, float) for name in ("center", "scale"))
    return numbers and isinstance(row["kind"], str) and isinstance(row["name"], str)


def write_channels(channels: Sequence[Channel]) -> list[dict[str, Any]]:
    """The entry ``channels`` that :func:`read_channels` reads."""
    return [
        {"kind": c.kind, "name": c.name}
        | ({"center": c.center, "scale": c.scale} if c.kind == "feature" else {})
        for c in channels
    ]


def lead_times(entry: Any) -> tuple[float, ...]:
    """The entry ``lead_time_hours`` of a package's metadata: a list of hours, one per label.

    Upstream's labels are row numbers of trained maps (``SongUNetPosLtEmbd``), and which hours they stand for
    is known to the training set alone; Earth2Studio's layout has no entry for it.

    Raises
    ------
    InputError
        If it is not a list of rising numbers of 0 or more
    """
    hours = [] if entry is None else entry
    numbers = isinstance(hours, list) and all(type(h) in (int, float) and 0 <= h < 1e6 for h in hours)
    if not numbers or any(b <= a for a, b in pairwise(hours)):
        raise InputError(
            f"metadata.json: lead_time_hours is a list of rising hours, like [0, 6], got {repr(entry)[:80]}"
        )
    return tuple(map(float, hours))


def table(names: Sequence[str], stats: dict[str, Any], what: str) -> Statistics:
    """Statistics of ``names`` from a ``{name: {"mean": …, "std": …}}`` table.

    Raises
    ------
    InputError
        If the table lacks a variable, or a number of it
    """
    missing = [
        name
        for name in names
        if not isinstance(stats, dict) or not isinstance(name, str) or name not in stats
    ]
    if missing:
        raise MissingEntryError(f"stats.json has no {what} statistics of {listed(missing)}")
    try:
        center = tuple(_number(stats[name]["mean"]) for name in names)
        scale = tuple(_number(stats[name]["std"]) for name in names)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"stats.json: the {what} statistics need a mean and a std each ({repr(error)[:100]})"
        ) from error
    return Statistics(tuple(names), center, scale)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{repr(value)[:40]} is not a valid number")
    return float(value)


def read_sampling(meta: dict[str, Any]) -> Sampling:
    """The sampler that upstream would run: with ``stochastic`` it is Heun, whatever ``solver`` is.

    Metadata that name neither get :data:`DEFAULT_SAMPLING`; upstream refuses those of rectified flow.

    Raises
    ------
    InputError
        If there is no such sampler type
    """
    if not {"sampler_type", "solver", "number_of_steps"} & meta.keys():
        return replace(DEFAULT_SAMPLING, **{k: meta[k] for k in ("sigma_min", "sigma_max") if meta.get(k)})
    kind = meta.get("sampler_type", "stochastic")
    if (levels := _few_levels(meta)) or kind == FEW_STEP:
        return Sampling(FEW_STEP, meta.get("number_of_steps", len(levels)), schedule=FEW_STEP, levels=levels)
    if flow := read_flow(meta):
        times = {name: flow[name] for name in ("t_max", "shift", "clip")}
        return Sampling(meta.get("solver", "heun"), meta.get("number_of_steps", 18), schedule=FLOW, **times)
    if kind not in _SIGMA_MAX:
        raise InputError(f"metadata.json: sampler_type {kind!r} is none of {', '.join(_SIGMA_MAX)}")
    solver = "heun" if kind == "stochastic" else meta.get("solver", "euler")
    low, high = meta.get("sigma_min"), meta.get("sigma_max")
    return Sampling(
        solver=solver,
        steps=meta.get("number_of_steps", 18),
        sigma_min=0.002 if low is None else float(low),
        sigma_max=_SIGMA_MAX[kind] if high is None else float(high),
        double=kind != "stochastic",
    )


def _few_levels(meta: Mapping[str, Any]) -> tuple[float, ...]:
    """Noise levels of a network of few calls, of the entry ``sampling``; none for other packages."""
    entry = meta.get("sampling")
    if (entry is None) != (meta.get("sampler_type") != FEW_STEP):
        raise InputError(f"metadata.json: the sampler_type {FEW_STEP} goes with an entry sampling")
    if entry is None:
        return ()
    levels = entry.get("sigmas") if isinstance(entry, dict) and entry.get("solver") == FEW_STEP else None
    if not isinstance(levels, list) or not all(type(level) in (int, float) for level in levels):
        example = {"solver": FEW_STEP, "sigmas": [2.0, 0.8]}
        raise InputError(f"metadata.json: sampling must be an object like {example}, got {repr(entry)[:80]}")
    return tuple(map(float, levels))


def has_angle(meta: Mapping[str, Any]) -> bool:
    """True for a network of TrigFlow, which the entry ``formulation`` marks.

    Raises
    ------
    InputError
        If the entry is another, or does not go with the entry ``sampler_type``
    """
    formulation, kind = meta.get("formulation"), meta.get("sampler_type")
    if formulation not in (None, TRIGFLOW):
        raise InputError(f"metadata.json: formulation can only be {TRIGFLOW}, got {repr(formulation)[:80]}")
    if kind == TRIGFLOW and formulation is None or formulation and kind not in (TRIGFLOW, FEW_STEP):
        raise InputError(f"metadata.json: the sampler_type {TRIGFLOW} goes with a formulation {TRIGFLOW}")
    return formulation is not None


def read_flow(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The entry ``rectified_flow``: what its network makes, and its times; empty for a package of EDM.

    Raises
    ------
    InputError
        If it is not complete, or does not go with the entry ``sampler_type``
    """
    flow, kind = meta.get(FLOW, {}), meta.get("sampler_type")
    if (FLOW in meta and kind not in (FLOW, FEW_STEP)) or (kind == FLOW and FLOW not in meta):
        raise InputError(f"metadata.json: the sampler_type {FLOW} goes with an entry {FLOW}")
    numbers = isinstance(flow, dict) and all(type(flow.get(n, 0)) in (int, float) for n in [*_FLOW][1:])
    if FLOW in meta and (not numbers or flow.keys() != _FLOW.keys()):
        raise InputError(f"metadata.json: {FLOW} must be an object like {_FLOW}, got {repr(flow)[:80]}")
    return dict(flow)
