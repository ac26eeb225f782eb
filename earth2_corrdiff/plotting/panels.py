# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Panels of a figure: values of each quantity in displayed units, and the scales that panels share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.plotting import maps, style
from earth2_corrdiff.plotting.maps import Mesh
from earth2_corrdiff.plotting.style import Quantity, Scale
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.reader import COARSE, Array

MOST = 9
"""Panels of a figure where none are chosen."""
WASHED_OUT = 0.4  # share of a scale's colours below which the coarse input gets a scale of its own
# Per cent of the cells that a scale covers at least; the colour bar's arrows stand for the others.
# A few mountain tops must not take half of the temperatures' colours; no wind may be hidden.
TAILS: dict[style.Kind, tuple[float, float]] = {"temperature": (0.5, 99.5), "wind": (0.0, 100.0)}
USUAL_TAILS = (0.1, 99.9)

Scales = dict[str, Scale]
"""Scales by key of the quantity; key and ``_lowres`` for the coarse input, if it has its own."""
Range = tuple[float, float, float, float]
"""Lower and upper quantile of some values, and their minimum and maximum."""


@dataclass(frozen=True)
class Panel:
    """One map: values ``[H, W]`` in displayed units on a mesh, with arrows where `wind` is given."""

    title: str
    values: Array
    scale: Scale
    mesh: Mesh
    wind: tuple[Array, Array] | None = None
    wind_units: str = ""


def member_quantities(ds: xr.Dataset) -> list[Quantity]:
    """Quantities of the output, in the order of their panels."""
    return style.quantities({name: ds[name].attrs for name in reader.output_variables(ds)})


def only(ds: xr.Dataset, names: Iterable[str] | None) -> xr.Dataset:
    """A store with the output variables of some quantities alone; by default of the first `MOST`.

    Parameters
    ----------
    names : iterable of str, optional
        Names of quantities (``ws10m`` for the wind), or of their variables

    Raises
    ------
    InputError
        If the store has none of such a name
    """
    every = member_quantities(ds)
    wanted = [q.name for q in every[:MOST]] if names is None else list(names)
    for name in wanted:
        if not any(name in (q.name, *q.variables) for q in every):
            known = ", ".join(q.name for q in every)
            raise InputError(f"there is no quantity {name} to plot: the store has {known}")
    if names is None and len(every) > MOST:
        logger.info("plotting {} of {} quantities; choose them with --variables", MOST, len(every))
    kept = {v for q in every if {q.name, *q.variables} & set(wanted) for v in q.variables}
    return ds.drop_vars([name for name in reader.output_variables(ds) if name not in kept])


def coarse_quantities(ds: xr.Dataset) -> tuple[list[Quantity], list[str]]:
    """The coarse input's quantities that match the output's, and the labels of those that it lacks.

    Composite reflectivity matches maximum reflectivity; if it is missing, water vapour. All of an input that
    shares nothing with the output is shown.
    """
    names = reader.coarse_variables(ds)
    every = style.quantities({name: ds[name + COARSE].attrs for name in names})
    there = {quantity.name: quantity for quantity in every}
    chosen, missing = [], []
    for wanted in member_quantities(ds):
        stand_ins = (wanted.name, "refc", "tcwv") if wanted.kind == "radar" else (wanted.name,)
        found = [there[name] for name in stand_ins if name in there]
        chosen += found[:1]
        missing += [] if found and found[0].kind == wanted.kind else [wanted.label]
    return (chosen, missing) if chosen else (every, [])


def require_coarse(ds: xr.Dataset) -> list[Quantity]:
    """The coarse input's quantities; `InputError` if the store has none."""
    chosen, _ = coarse_quantities(ds)
    if not chosen:
        raise InputError("the store holds no coarse input (nothing like t2m_lowres): plot without it")
    return chosen


def quantity_values(
    ds: xr.Dataset, quantity: Quantity, time: int, sample: int | None, coarse: int = 0
) -> tuple[Array, tuple[Array, Array] | None]:
    """Values ``[H, W]`` in displayed units and, for a wind, its eastward and northward components.

    ``sample=None`` reads the coarse input, of several coarse members that at position `coarse`. `time` is a
    position.
    """
    end = COARSE if sample is None else ""
    return displayed(
        quantity, [reader.field(ds, name + end, time, sample, coarse) for name in quantity.variables]
    )


def displayed(quantity: Quantity, parts: list[Array]) -> tuple[Array, tuple[Array, Array] | None]:
    """The same of the fields of its variables, in the store's units."""
    if len(parts) == 2:
        return np.hypot(*parts), (parts[0], parts[1])
    return quantity.factor * parts[0] + quantity.offset, None


def coarse_window(fine: Mesh, coarse: Mesh, margin: int = 2) -> tuple[slice, slice]:
    """Rows and columns of the coarse mesh that cover the fine one, and some cells around it."""
    west, south = float(fine.lon.min()), float(fine.lat.min())
    inside = (coarse.lat >= south) & (coarse.lat <= float(fine.lat.max()))
    inside &= (coarse.lon - west) % 360.0 <= float(fine.lon.max()) - west
    spans = []
    for axis in (1, 0):
        hits = np.flatnonzero(inside.any(axis=axis))
        spans.append(
            slice(max(int(hits[0]) - margin, 0), int(hits[-1]) + margin + 1) if hits.size else slice(None)
        )
    return spans[0], spans[1]


def coarse_panels(ds: xr.Dataset, time: int, scales: Scales, coarse: int = 0) -> list[Panel]:
    """Panels of the coarse input at a time (a position), cut to the surroundings of the fine mesh.

    `coarse` is the position of the coarse member, where there are several.
    """
    chosen = require_coarse(ds)
    mesh = maps.mesh_of(ds, COARSE)
    window = coarse_window(maps.mesh_of(ds), mesh)
    cut = Mesh(mesh.lat[window], mesh.lon[window])
    panels = []
    for quantity in chosen:
        values, wind = quantity_values(ds, quantity, time, None, coarse)
        arrows = None if wind is None else (wind[0][window], wind[1][window])
        panel = _panel(quantity, values[window], scales, cut, arrows)
        own = scales.get(quantity.scale_key + COARSE)
        panels.append(panel if own is None else replace(panel, title=f"{panel.title}, own scale", scale=own))
    return panels


def titled(
    quantity: Quantity,
    title: str,
    values: tuple[Array, tuple[Array, Array] | None],
    scales: Scales,
    mesh: Mesh,
) -> Panel:
    """A panel of :func:`displayed` values with a title of its own."""
    return replace(_panel(quantity, values[0], scales, mesh, values[1]), title=title)


def member_panels(ds: xr.Dataset, time: int, sample: int, scales: Scales) -> list[Panel]:
    """Panels of one member at a time (a position)."""
    mesh = maps.mesh_of(ds)
    return [
        _panel(quantity, values, scales, mesh, wind)
        for quantity in member_quantities(ds)
        for values, wind in [quantity_values(ds, quantity, time, sample)]
    ]


def _panel(
    quantity: Quantity, values: Array, scales: Scales, mesh: Mesh, wind: tuple[Array, Array] | None
) -> Panel:
    title = f"{quantity.label} ({quantity.units})" if quantity.units else quantity.label
    return Panel(title, values, scales[quantity.scale_key], mesh, wind, quantity.units)


def color_scales(ds: xr.Dataset, members: Mapping[int, Iterable[int]]) -> Scales:
    """One scale per quantity, over the members of each time (a position) and the coarse input.

    Reflectivity's steps are fixed. The others cover all cells but the outermost few of each member
    (`TAILS`), rounded outwards. Where the coarse input has but a small part of a scale's range
    (`WASHED_OUT`), it gets one of its own.
    """
    kinds: dict[str, style.Kind] = {}
    fine: dict[str, list[Range]] = {}
    coarse: dict[str, list[Range]] = {}
    for time, samples in members.items():
        for found, values in ((fine, _member_values(ds, time, samples)), (coarse, _coarse_values(ds, time))):
            for quantity, field in values:
                kinds[quantity.scale_key] = quantity.kind
                found.setdefault(quantity.scale_key, []).extend(_range(quantity, field))
    scales = {key: _scale(kind, [*fine.get(key, ()), *coarse.get(key, ())]) for key, kind in kinds.items()}
    own = {key: _scale(kinds[key], ranges) for key, ranges in coarse.items() if ranges}
    washed_out = {key for key in own if _span(own[key]) < WASHED_OUT * _span(scales[key])}
    return scales | {key + COARSE: own[key] for key in washed_out}


def _range(quantity: Quantity, values: Array) -> list[Range]:
    """The range of the finite values, if there are any."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return []
    low, high = np.percentile(finite, TAILS.get(quantity.kind, USUAL_TAILS))
    return [(float(low), float(high), float(finite.min()), float(finite.max()))]


def _scale(kind: style.Kind, ranges: list[Range]) -> Scale:
    low, high, least, most = np.array(ranges or [(0.0, 1.0, 0.0, 1.0)]).T
    chosen = style.scale(kind, float(low.min()), float(high.max()))
    return chosen if chosen.ticks else style.with_extend(chosen, float(least.min()), float(most.max()))


def _span(scale: Scale) -> float:
    return float(scale.norm.vmax or 0.0) - float(scale.norm.vmin or 0.0)


def _member_values(ds: xr.Dataset, time: int, members: Iterable[int]) -> Iterator[tuple[Quantity, Array]]:
    """Values of every panel of a time, one after the other, so that a large ensemble is never held."""
    for sample in members:
        for quantity in member_quantities(ds):
            yield quantity, quantity_values(ds, quantity, time, sample)[0]


def _coarse_values(ds: xr.Dataset, time: int) -> Iterator[tuple[Quantity, Array]]:
    """The same for the coarse input, inside the fine mesh."""
    chosen, _ = coarse_quantities(ds)
    if chosen:
        window = coarse_window(maps.mesh_of(ds), maps.mesh_of(ds, COARSE), margin=0)
        for coarse in range(reader.coarse_count(ds)):
            for quantity in chosen:
                yield quantity, quantity_values(ds, quantity, time, None, coarse)[0][window]


def ensemble_panels(
    ds: xr.Dataset, time: int, members: list[int], scales: Scales, thresholds: Mapping[str, float]
) -> list[list[Panel]]:
    """For each quantity its mean, its spread (ddof 1) and, with a threshold, its exceedance probability.

    Reflectivity is averaged in dBZ, as the model makes it; wind speed is averaged as a speed, under the
    arrows of the mean vector.
    """
    mesh = maps.mesh_of(ds)
    rows = []
    for quantity in member_quantities(ds):
        read = [quantity_values(ds, quantity, time, sample) for sample in members]
        stack = np.stack([values for values, _ in read])
        winds = [wind for _, wind in read if wind is not None]
        mean = _panel(quantity, stack.mean(axis=0), scales, mesh, _mean_vector(winds) if winds else None)
        rows.append(
            [
                replace(mean, title=f"Mean: {mean.title[:1].lower()}{mean.title[1:]}"),
                _spread(quantity, stack, mesh),
            ]
        )
        threshold = thresholds.get(quantity.name, quantity.threshold)
        if threshold is not None:
            rows[-1].append(_exceedance(quantity, stack, mesh, threshold))
    return rows


def _mean_vector(winds: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.mean([u for u, _ in winds], axis=0), np.mean([v for _, v in winds], axis=0)


def _spread(quantity: Quantity, stack: Array, mesh: Mesh) -> Panel:
    spread = stack.std(axis=0, ddof=1)
    finite = spread[np.isfinite(spread)]
    high = float(np.percentile(finite, USUAL_TAILS[1])) if finite.size else 1.0
    scale = style.with_extend(style.spread_scale(high), 0.0, float(finite.max(initial=0.0)))
    return Panel(f"Spread: standard deviation ({quantity.units or '1'})", spread, scale, mesh)


def _exceedance(quantity: Quantity, stack: Array, mesh: Mesh, threshold: float) -> Panel:
    """Share of the members above a threshold in per cent, NaN where any member is NaN."""
    share = 100.0 * (stack > threshold).mean(axis=0)
    share[np.isnan(stack).any(axis=0)] = np.nan
    title = f"Probability: above {threshold:g} {quantity.units} (%)".replace("  ", " ")
    return Panel(title, share, style.probability_scale(), mesh)
