# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the page must know of a finished job before it shows fields: axes, quantities, colours, lines, words.

Colours and the wording of what is made up are those of ``plotting``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, Normalize, to_hex
from matplotlib.ticker import MaxNLocator

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.plotting import figures, maps, panels, style
from earth2_corrdiff.plotting.style import Quantity, Scale
from earth2_corrdiff.service import chart, job_fields
from earth2_corrdiff.store import reader

SHADES = 128
SAID = ("package", "source", "solver", "number_of_steps", "seed", "precision", "device")


@lru_cache(maxsize=8)
def overview(store: Path) -> dict[str, Any]:
    """All that the page needs before it asks for fields: axes, quantities with colours, lines, provenance."""
    ds = job_fields.opened(store)
    mesh = maps.mesh_of(ds)
    width, height = chart.cell(mesh)
    return {
        "shape": list(mesh.lat.shape),
        "cell_km": [round(width, 3), round(height, 3)],
        "north_up": bool(np.median(np.diff(mesh.lat, axis=0)) > 0),
        "east_right": bool(np.median(np.diff(mesh.lon, axis=1)) > 0),
        **_states(job_fields.in_order(reader.cases(ds))),
        "members": reader.sample_numbers(ds),
        "quantities": _quantities(ds),
        "overlay": chart.overlay(ds),
        "missing": style.MISSING,
        "probability": table(style.probability_scale()),
        "synthetic": _made_up(ds),
        "synthetic_coarse": bool(ds.attrs.get("synthetic_source", ds.attrs.get("synthetic", 0))),
        "provenance": {name: ds.attrs[name] for name in SAID if name in ds.attrs},
    }


def _states(states: Sequence[Case]) -> dict[str, Any]:
    """Valid times, names as in the figures' file names, and of forecasts the starts: one for each state."""
    return {
        "times": [time_text(state.valid) for state in states],
        "labels": [reader.case_label(state) for state in states],
        "starts": None if states[0].lead is None else [time_text(state.time) for state in states],
    }


def _made_up(ds: xr.Dataset) -> str | None:
    """What about it is made up, in the figures' words."""
    synthetic = int(ds.attrs.get("synthetic", 0))
    if int(ds.attrs.get("synthetic_source", synthetic)):
        return figures.SYNTHETIC_WEATHER
    return figures.SYNTHETIC_MODEL if synthetic else None


def _quantities(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Each quantity with its scales, which hold for all times."""
    times, members = job_fields.positions(ds), reader.sample_numbers(ds)
    every = [panels.color_scales(ds, {time: members}) for time in times]
    found = []
    for quantity in panels.member_quantities(ds):
        twin = job_fields.twin_of(ds, quantity)
        about = _about(quantity, _merged([scales[quantity.scale_key] for scales in every]))
        about |= {"name": quantity.name, "wind": quantity.kind == "wind", "spread": None, "coarse": None}
        about["threshold"] = quantity.threshold if len(members) > 1 else None
        if len(members) > 1:
            about["spread"] = table(_spread_scale(ds, quantity, members))
        if twin is not None:
            about["coarse"] = _about(twin, _merged([scales[twin.scale_key] for scales in every]))
        found.append(about)
    return found


def _about(quantity: Quantity, scale: Scale) -> dict[str, Any]:
    return {"label": quantity.label, "units": quantity.units, "scale": table(scale)}


def _merged(scales: Sequence[Scale]) -> Scale:
    """One scale for all times."""
    first = scales[0]
    if isinstance(first.norm, BoundaryNorm):
        return first
    low = min(float(scale.norm.vmin or 0.0) for scale in scales)
    high = max(float(scale.norm.vmax or 0.0) for scale in scales)
    return Scale(first.cmap, Normalize(low, high))


def _spread_scale(ds: xr.Dataset, quantity: Quantity, members: Sequence[int]) -> Scale:
    spreads = (job_fields.moments(ds, quantity, time, members)[1] for time in job_fields.positions(ds))
    highs = [float(np.nanpercentile(spread, 99.9)) for spread in spreads if np.isfinite(spread).any()]
    return style.spread_scale(max(highs, default=1.0))


def table(scale: Scale) -> dict[str, Any]:
    """A scale as colours and numbers: of stepped ones the edges, of smooth ones the ends."""
    cmap, norm = scale.cmap, scale.norm
    if isinstance(norm, BoundaryNorm):
        edges = [float(edge) for edge in norm.boundaries]
        colors = [to_hex(cmap(index)) for index in range(len(edges) - 1)]
        ends = {"under": to_hex(cmap(-1)), "over": to_hex(cmap(cmap.N))}
        return {"edges": edges, "colors": colors, **ends, "ticks": [e for e in edges if e % 10 == 0]}
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(low, high)
    return {
        "min": low,
        "max": high,
        "colors": [to_hex(cmap(shade)) for shade in np.linspace(0.0, 1.0, SHADES).tolist()],
        "ticks": [float(tick) for tick in ticks if low <= tick <= high],
    }
