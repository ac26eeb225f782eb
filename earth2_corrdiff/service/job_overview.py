# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Overview of a finished job for the page: axes, quantities, colours, lines, provenance.

Colours and the note about synthetic weather are those of ``plotting``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, to_hex
from matplotlib.ticker import MaxNLocator

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.plotting import figures, maps, panels, style
from earth2_corrdiff.plotting.style import Quantity, Scale
from earth2_corrdiff.service import job_fields, mesh_geometry
from earth2_corrdiff.store import reader

SHADES = 128
PROVENANCE = (
    *("package", "attribution", "source", "solver", "number_of_steps", "seed", "precision", "device"),
)


@lru_cache(maxsize=8)
def overview(store: AnyPath) -> dict[str, Any]:
    """Everything that the page needs before it asks for fields."""
    ds = job_fields.opened(store)
    mesh = maps.mesh_of(ds)
    width, height = mesh_geometry.cell(mesh)
    return {
        "shape": list(mesh.lat.shape),
        "cell_km": [round(width, 3), round(height, 3)],
        "north_up": bool(np.median(np.diff(mesh.lat, axis=0)) > 0),
        "east_right": bool(np.median(np.diff(mesh.lon, axis=1)) > 0),
        **_cases(job_fields.in_order(reader.cases(ds))),
        "members": reader.sample_numbers(ds),
        "quantities": _quantities(ds),
        "overlay": mesh_geometry.overlay(ds),
        "missing": style.MISSING,
        "probability": table(style.probability_scale()),
        "synthetic": _synthetic_note(ds),
        "synthetic_coarse": bool(ds.attrs.get("synthetic_source", ds.attrs.get("synthetic", 0))),
        "provenance": {name: ds.attrs[name] for name in PROVENANCE if name in ds.attrs},
    }


def _cases(cases: Sequence[Case]) -> dict[str, Any]:
    """Valid times, labels as in the figures' file names, and starts of forecasts: one for each case."""
    return {
        "times": [time_text(case.valid) for case in cases],
        "labels": [reader.case_label(case) for case in cases],
        "starts": None if cases[0].lead is None else [time_text(case.time) for case in cases],
    }


def _synthetic_note(ds: xr.Dataset) -> str | None:
    """The figures' note about synthetic weather; None where there is none."""
    synthetic = int(ds.attrs.get("synthetic", 0))
    if int(ds.attrs.get("synthetic_source", synthetic)):
        return figures.SYNTHETIC_WEATHER
    return figures.SYNTHETIC_MODEL if synthetic else None


def _quantities(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Each quantity with its scales, which hold for all times."""
    times, members = job_fields.positions(ds), reader.sample_numbers(ds)
    scales = panels.color_scales(ds, dict.fromkeys(times, members))
    found = []
    for quantity in panels.member_quantities(ds):
        twin = job_fields.twin_of(ds, quantity)
        about = _about(quantity, scales[quantity.scale_key])
        about |= {"name": quantity.name, "wind": quantity.is_vector, "spread": None, "coarse": None}
        about["threshold"] = quantity.threshold if len(members) > 1 else None
        if len(members) > 1:
            about["spread"] = table(_spread_scale(ds, quantity, members))
        if twin is not None:
            about["coarse"] = _about(twin, scales[twin.scale_key])
        found.append(about)
    return found


def _about(quantity: Quantity, scale: Scale) -> dict[str, Any]:
    return {"label": quantity.label, "units": quantity.units, "scale": table(scale)}


def _spread_scale(ds: xr.Dataset, quantity: Quantity, members: Sequence[int]) -> Scale:
    spreads = (job_fields.moments(ds, quantity, time, members)[1] for time in job_fields.positions(ds))
    highs = [float(np.nanpercentile(spread, 99.9)) for spread in spreads if np.isfinite(spread).any()]
    return style.spread_scale(max(highs, default=1.0))


def table(scale: Scale) -> dict[str, Any]:
    """A scale as colours and numbers: the edges of a stepped one, the ends of a smooth one."""
    cmap, norm = scale.cmap, scale.norm
    if isinstance(norm, BoundaryNorm):
        edges = [float(edge) for edge in norm.boundaries]
        colors = [to_hex(cmap(index)) for index in range(len(edges) - 1)]
        ends = {"under": to_hex(cmap(-1)), "over": to_hex(cmap(cmap.N))}
        return {"edges": edges, "colors": colors, **ends, "ticks": scale.ticks}
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(low, high)
    return {
        "min": low,
        "max": high,
        "colors": [to_hex(cmap(shade)) for shade in np.linspace(0.0, 1.0, SHADES).tolist()],
        "ticks": [float(tick) for tick in ticks if low <= tick <= high],
    }
