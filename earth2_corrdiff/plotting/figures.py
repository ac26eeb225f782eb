# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of a member, of the coarse input and of the ensemble: returned, neither shown nor saved.

Without pyplot: a figure belongs to its caller, and no process-wide setting is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import lead_text, time_text
from earth2_corrdiff.plotting import drawing, layout, maps, panels
from earth2_corrdiff.plotting.layout import Heading, Layout
from earth2_corrdiff.plotting.maps import Mesh
from earth2_corrdiff.plotting.panels import Panel, Scales
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.reader import COARSE, Array, Time

SYNTHETIC_WEATHER = "synthetic demo weather: not an observation, not a forecast"
SYNTHETIC_MODEL = "by a demo model trained on synthetic weather: not a forecast"
LONGEST_NAME = 40
FOLDERS = re.compile(r"(^|[:,;=\s])(?://(?=/))?(?:~|[A-Za-z]:)?[\\/](?![\\/])(?:[^,;]*[\\/])?")
"""The folders of an absolute path, before its last part."""


def color_scales(ds: xr.Dataset, time: Time = 0) -> Scales:
    """The scales that all figures of a time share, over all written members and the coarse input.

    They are the default of the functions below; give them to read the members only once.
    """
    index = reader.time_index(ds, time)
    return panels.color_scales(ds, {index: reader.require_members(ds, index)})


def plot_member(ds: xr.Dataset, time: Time = 0, sample: int = 0, scales: Scales | None = None) -> Figure:
    """Figure of one member: reflectivity, 2 m temperature, wind with arrows, then any other variable.

    Parameters
    ----------
    ds : xr.Dataset
        From `open_store`.
    time : int, str, datetime, np.datetime64 or Case
        Position or value (UTC) of the valid time; of forecasts a position in `reader.cases`, one of these
        cases, or a valid time, which stands for the latest forecast of it.
    sample : int
        The member's number in the store; the members of all coarse members are numbered through.
    scales : dict, optional
        From `color_scales`.

    Raises
    ------
    InputError
        Where the store has no such time or member, or the member has not been written.
    """
    index = reader.time_index(ds, time)
    reader.require_members(ds, index, [sample])
    scales = color_scales(ds, index) if scales is None else scales
    shown = panels.member_panels(ds, index, sample, scales)
    notes = [*_provenance(ds), *_member_seed(ds, index, sample)]
    what = f"CorrDiff {reader.member_text(ds, sample)}"
    return _figure(ds, _in_rows(shown), _heading(ds, index, what, [_cells(maps.mesh_of(ds)), *notes]))


def plot_lowres(ds: xr.Dataset, time: Time = 0, scales: Scales | None = None, coarse: int = 0) -> Figure:
    """Figure of the coarse input: the panels of `plot_member`, on the same map and scales.

    Composite reflectivity replaces maximum reflectivity; water vapour, if the input has neither.
    `coarse` is the position of the coarse member, where there are several.

    Raises
    ------
    InputError
        Where the store has no such time, holds no coarse input, or no member has been written.
    """
    index = reader.time_index(ds, time)
    scales = color_scales(ds, index) if scales is None else scales
    shown = panels.coarse_panels(ds, index, scales, coarse)
    _, missing = panels.coarse_quantities(ds)
    notes = [_cells(shown[0].mesh), *_attribute(ds, "source"), *_attribute(ds, "coarse")]
    notes += [f"not in the coarse input: {', '.join(missing)}"] if missing else []
    numbers = reader.coarse_numbers(ds)
    what = "Coarse input" if numbers is None else f"Coarse input, member {numbers[coarse]}"
    return _figure(ds, _in_rows(shown), _heading(ds, index, what, notes, fine=False))


def plot_ensemble(
    ds: xr.Dataset,
    time: Time = 0,
    thresholds: Mapping[str, float] | None = None,
    samples: Sequence[int] | None = None,
    scales: Scales | None = None,
) -> Figure:
    """Figure of the ensemble: mean, spread and exceedance probability, a row per quantity.

    Parameters
    ----------
    thresholds : mapping, optional
        By quantity (``mrr``, ``t2m``, ``ws10m``, a variable's name), in displayed units; over the
        defaults 35 dBZ, 30 °C and 17.2 m/s (gale). A quantity without one has no probability.
    samples : sequence of int, optional
        Members to use; all written ones by default.
    ds, time, scales
        As in `plot_member`.

    Raises
    ------
    InputError
        Where fewer than two members have been written, or a threshold's quantity is not in the store.
    """
    index = reader.time_index(ds, time)
    thresholds = checked_thresholds(ds, thresholds or {})
    members = reader.require_members(ds, index, None if samples is None else list(samples))
    if len(members) < 2:
        raise InputError("an ensemble's spread needs two written members, and there is one: run more samples")
    scales = color_scales(ds, index) if scales is None else scales
    rows = panels.ensemble_panels(ds, index, members, scales, thresholds)
    notes = [_cells(maps.mesh_of(ds)), *_provenance(ds)]
    notes += ["reflectivity averaged in dBZ"] if "radar" in scales else []
    heading = _heading(ds, index, f"CorrDiff ensemble of {len(members)} members", notes)
    return _figure(ds, rows, heading)


def plot_comparison(
    ds: xr.Dataset,
    time: Time,
    truth: Mapping[str, Array],
    name: str,
    threshold: float,
    samples: int = 3,
) -> Figure:
    """Figure of one quantity beside the truth: truth, coarse input, members, mean, spread, probability.

    Parameters
    ----------
    ds, time
        As in `plot_member`; the store may be a part of one, cut with ``isel``.
    truth : mapping
        Fields ``[H, W]`` of the quantity's variables, in the store's units; NaN where it is not known.
    name : str
        The quantity: ``t2m``, ``ws10m``, a variable's name.
    threshold : float
        Of the probability, in displayed units.
    samples : int, optional
        Members to show; mean, spread and probability are those of all written ones.

    Raises
    ------
    InputError
        Where fewer than two members have been written, or the store has no such quantity.
    """
    index = reader.time_index(ds, time)
    checked_thresholds(ds, {name: threshold})
    members = reader.require_members(ds, index)
    ds = panels.only(ds, [name])
    (quantity,) = panels.member_quantities(ds)
    scales = {key: scale for key, scale in color_scales(ds, index).items() if not key.endswith(COARSE)}
    known = panels.displayed(quantity, [truth[variable] for variable in quantity.variables])
    first = panels.titled(quantity, "Truth", known, scales, maps.mesh_of(ds))
    low = [replace(panel, title="Coarse input") for panel in panels.coarse_panels(ds, index, scales)]
    some = [
        panels.titled(
            quantity, f"Member {n}", panels.quantity_values(ds, quantity, index, n), scales, first.mesh
        )
        for n in members[:samples]
    ]
    ((mean, *rest),) = panels.ensemble_panels(ds, index, members, scales, {name: threshold})
    shown = [first, *low, *some, replace(mean, title=f"Mean of {len(members)}"), *rest]
    what = f"{quantity.label} ({quantity.name}, {quantity.units})"
    return _figure(
        ds, [shown[:4], shown[4:]], _heading(ds, index, what, [_cells(first.mesh), *_provenance(ds)])
    )


def checked_thresholds(ds: xr.Dataset, thresholds: Mapping[str, float]) -> Mapping[str, float]:
    """`thresholds`, if each is of a quantity of the store; else `InputError`."""
    known = [quantity.name for quantity in panels.member_quantities(ds)]
    for name in thresholds:
        if name not in known:
            raise InputError(
                f"there is no quantity {name} to set a threshold for: the store has {', '.join(known)}"
            )
    return thresholds


def _heading(ds: xr.Dataset, index: int, what: str, notes: list[str], fine: bool = True) -> Heading:
    synthetic = ds.attrs.get("synthetic", 0)
    note = ""
    if int(ds.attrs.get("synthetic_source", synthetic)):
        note = SYNTHETIC_WEATHER
    elif int(synthetic) and fine:
        note = SYNTHETIC_MODEL
    credit = str(ds.attrs.get("attribution", ""))
    return Heading(what, _when(reader.cases(ds)[index]), " · ".join(notes), note, credit)


def _when(case: Case) -> str:
    """``valid 2024-07-24 06:00 UTC``, and where a forecast is valid then also its start and lead time."""
    valid, start = (time_text(time).replace("T", " ") for time in (case.valid, case.time))
    lead = "" if case.lead is None else f", start {start} UTC + {lead_text(case.lead)}"
    return f"valid {valid} UTC{lead}"


def _provenance(ds: xr.Dataset) -> list[str]:
    """Package, source, solver and steps, as far as the store has them and they were used."""
    sampled = ds.attrs.get("stages") != "regression"
    solver = _attribute(ds, "solver") if sampled else ["regression alone"]
    if sampled and solver and "number_of_steps" in ds.attrs:
        solver = [f"{solver[0]}, {ds.attrs['number_of_steps']} steps"]
    return [*_attribute(ds, "package"), *_attribute(ds, "source"), *solver]


def _attribute(ds: xr.Dataset, name: str) -> list[str]:
    """``["source gfs"]``, of paths the last part; empty if the store lacks it."""
    value = str(ds.attrs.get(name, ""))
    return [f"{name} {_without_folders(value)}"] if value else []


def _without_folders(value: str) -> str:
    """``file:/data/in.nc`` as ``file:in.nc``: pictures are passed on, and folders are private.

    Of a long address only the last part is kept.
    """
    kept = FOLDERS.sub(r"\1", value.rstrip("/\\"))
    return kept if len(kept) <= LONGEST_NAME else f"…/{PurePath(kept).name}"


def _member_seed(ds: xr.Dataset, index: int, sample: int) -> list[str]:
    seed = reader.member_seed(ds, index, sample)
    return [] if seed is None else [f"member seed {seed}"]


def _cells(mesh: Mesh) -> str:
    return f"{float(f'{maps.spacing(mesh):.2g}'):g} km cells"


def _in_rows(shown: list[Panel]) -> list[list[Panel]]:
    """Up to three panels in one row, four in two rows, more in rows of three."""
    columns = 2 if len(shown) == 4 else 3
    return [shown[start : start + columns] for start in range(0, len(shown), columns)]


def _figure(ds: xr.Dataset, rows: list[list[Panel]], heading: Heading) -> Figure:
    mesh = maps.mesh_of(ds)
    crs = maps.projection(mesh)
    view = maps.extent(*maps.project(crs, mesh))
    plan = layout.arrange(len(rows), max(map(len, rows)), (view[1] - view[0]) / (view[3] - view[2]), heading)
    figure = Figure(figsize=plan.size, dpi=_dpi(mesh, plan), facecolor="white")
    FigureCanvasAgg(figure)
    layout.draw_heading(figure, heading)
    land = _land_fraction(ds)
    for row, shown in enumerate(rows):
        for column, panel in enumerate(shown):
            ax = figure.add_axes(plan.map_box(row, column), projection=crs, facecolor=maps.OUTSIDE)
            ax.set_xlim(view[0], view[1])
            ax.set_ylim(view[2], view[3])
            image = drawing.draw_panel(ax, panel)
            maps.draw_coastlines(ax, mesh, land, panel.scale.coast)
            maps.draw_grid_lines(ax, mesh, left=column == 0)
            drawing.draw_color_bar(figure.add_axes(plan.bar_box(row, column)), image, panel.scale)
    return figure


def _dpi(mesh: Mesh, plan: Layout) -> float:
    """Dots per inch that give each cell two pixels across, within reason."""
    cells = max(mesh.lat.shape[1] / plan.width, mesh.lat.shape[0] / plan.height)
    return float(min(max(150, round(2.0 * cells)), 300))


def _land_fraction(ds: xr.Dataset) -> Array | None:
    """The store's own land fraction ``[H, W]``, where it has one on the fine mesh."""
    dims = reader.horizontal_dims(ds)
    if "land_fraction" not in ds or set(ds["land_fraction"].dims) != set(dims):
        return None
    return np.asarray(ds["land_fraction"].transpose(*dims).values, dtype=np.float64)
