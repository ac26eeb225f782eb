# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One panel of a figure: its cells, its arrows, its colour bar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from earth2_corrdiff.plotting import maps
from earth2_corrdiff.plotting.maps import Mesh
from earth2_corrdiff.plotting.panels import Panel
from earth2_corrdiff.plotting.style import Scale
from earth2_corrdiff.store.reader import Array

ARROW_SPACING = 0.23  # inches
ARROW_LENGTH = 0.42  # inches, of the strongest wind of the scale
KEY_HEIGHT = 0.145  # inches above the map, in line with the panel's title


def draw_panel(ax: GeoAxes, panel: Panel) -> QuadMesh:
    """Draw the cells of a panel, with its title and arrows; return them for the colour bar."""
    panel = _from_the_left(ax, panel)
    x, y = maps.project(ax.projection, panel.mesh)
    image: QuadMesh = ax.pcolormesh(
        x,
        y,
        np.ma.masked_invalid(panel.values),
        cmap=panel.scale.cmap,
        norm=panel.scale.norm,
        rasterized=True,
    )
    ax.set_title(panel.title, loc="left", fontsize=11, parse_math=False)
    if panel.wind is not None:
        _draw_arrows(ax, panel, x, y, *panel.wind)
    return image


def _from_the_left(ax: GeoAxes, panel: Panel) -> Panel:
    """A panel that goes round the globe with its columns from the map's left edge on."""
    if not maps.is_global(panel.mesh):
        return panel
    mesh = panel.mesh
    order = np.argsort((mesh.lon[0] - 180.0) % 360.0)
    turned = Mesh(mesh.lat[:, order], (mesh.lon[:, order] - 180.0) % 360.0 - 180.0)
    wind = None if panel.wind is None else (panel.wind[0][:, order], panel.wind[1][:, order])
    return replace(panel, mesh=turned, values=panel.values[:, order], wind=wind)


def _draw_arrows(ax: GeoAxes, panel: Panel, x: Array, y: Array, east: Array, north: Array) -> None:
    """Draw arrows a quarter of an inch apart, and their key beside the title."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    inside = (x > left) & (x < right) & (y > bottom) & (y < top)
    width, height = ax.get_position().size * ax.figure.get_size_inches()
    thin = (_every(inside.sum(axis=0).max(), height), _every(inside.sum(axis=1).max(), width))
    some = Mesh(panel.mesh.lat[thin], panel.mesh.lon[thin])
    u, v = maps.wind_on_map(ax.projection, some, east[thin], north[thin])
    keep = inside[thin] & np.isfinite(u) & np.isfinite(v) & _uncrowded(x[thin], y[thin])
    strongest = float(panel.scale.norm.vmax or 1.0)
    arrows = ax.quiver(
        x[thin][keep],
        y[thin][keep],
        u[keep],
        v[keep],
        units="inches",
        scale_units="inches",
        scale=strongest / ARROW_LENGTH,
        width=0.0095,
        headwidth=4,
        headlength=4.5,
        headaxislength=4,
        pivot="middle",
        color="black",
        path_effects=[withStroke(linewidth=1.2, foreground=(1, 1, 1, 0.5))],
    )
    usual = max(float(f"{strongest / 2:.1g}"), 1e-9)
    ax.quiverkey(
        arrows,
        0.9,
        1.0 + KEY_HEIGHT / height,
        usual,
        f"{usual:g} {panel.wind_units}",
        labelpos="W",
        coordinates="axes",
        fontproperties={"size": 9},
    )


def _every(cells: int, inches: float) -> slice:
    """Slice of the cells, of a number of them within a length, that carry an arrow."""
    step = max(round(cells * ARROW_SPACING / inches), 1)
    return slice(step // 2, None, step)


def _uncrowded(x: Array, y: Array) -> NDArray[np.bool_]:
    """Mask ``[H, W]`` that thins points in rows shorter than most, such as circles around a pole."""
    if min(x.shape) < 2:
        return np.ones(x.shape, dtype=bool)
    apart = np.hypot(np.diff(x, axis=1), np.diff(y, axis=1)).mean(axis=1)
    every = np.clip(np.ceil(0.5 * np.median(apart) / np.maximum(apart, 1e-9)), 1, x.shape[1])
    return np.asarray(np.arange(x.shape[1]) % every[:, None] == 0)


def draw_color_bar(ax: Axes, image: QuadMesh, scale: Scale) -> None:
    """Fill `ax` with the horizontal colour bar of drawn cells."""
    spacing = "proportional" if scale.even else "uniform"
    bar = ax.figure.colorbar(image, cax=ax, orientation="horizontal", extend=scale.extend, spacing=spacing)
    if scale.ticks:
        bar.set_ticks(scale.ticks, labels=[f"{tick:g}" for tick in scale.ticks])
    else:
        bar.locator = MaxNLocator(nbins=10, steps=[1, 2, 5, 10])
        bar.update_ticks()
    bar.ax.tick_params(labelsize=9, length=3)
    bar.outline.set_linewidth(0.6)
