# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Style of a quantity: its label, displayed unit, colour map, steps and default threshold.

A scale is a function of a quantity's kind and of the range of its values, so that panels with one range
have the same colours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.variables import cf_attributes, level_text, northward

Kind = Literal[
    "radar",
    "temperature",
    "wind",
    "precipitation",
    "cloud",
    "radiation",
    "humidity",
    "snow",
    "pressure",
    "signed",
    "generic",
]

COAST = "#1a1a1a"
MISSING = "#c4c4c4"  # a cell without a number; differs from "no echo" (white)

# The five hue families and 5 dBZ steps of the US National Weather Service's display, so that a
# forecaster reads it at sight (yellow from 35, red from 50 dBZ), but darkening within each family,
# and with bluish greens and dark reds: to a protanope or deuteranope, too, any two steps differ by a
# CIELAB distance of 11 or more (3 in the original colours).
RADAR_STEPS = tuple(float(step) for step in range(5, 80, 5))
RADAR_COLORS = (
    *("#cfe8f7", "#8cc4ec", "#3f8fd9"),
    *("#7fdcaa", "#2bb673", "#0b7a52"),
    *("#fff27a", "#fdcc3a", "#f59a1c"),
    *("#e8432e", "#b8122b", "#7c0a24"),
    *("#e05ce0", "#9a2fb8"),
)

# Pale when calm, so that arrows stand out; dark and warm when dangerous, lightness falling all the way.
WIND_COLORS = (
    *("#f7fbfd", "#d6e9f1", "#a9d5dd", "#74bec3", "#4aa0ab"),
    *("#4a7ba8", "#6253a0", "#8a3386", "#8f1d57"),
)

# Matplotlib's RdYlBu reversed, which survives colour blindness, with one more hue at each end: the
# sea around a mountainous coast has a few degrees only, and needs them.
TEMPERATURE_COLORS = (
    *("#3b1f6b", "#34459f", "#4575b4", "#74add1", "#abd9e9", "#e0f3f8"),
    *("#fff8bf", "#fee090", "#fdae61", "#f46d43", "#d73027", "#a01030", "#5e0b2c"),
)

# Nearly as those of weather services: blue drizzle, green and yellow rain, red and violet floods.
RAIN_STEPS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 80.0)
RAIN_COLORS = (
    *("#d4e9f7", "#9fcdec", "#5aa5dc", "#2f74c0", "#5bbd6b"),
    *("#c3dc4f", "#ffe14d", "#fbab2f", "#ee5a2a", "#b3123d"),
)
SMOOTH: Mapping[Kind, tuple[str, ...] | str] = {
    "wind": WIND_COLORS,
    "temperature": TEMPERATURE_COLORS,
    "cloud": ("#2b67a8", "#6f9fcf", "#b4cbe0", "#dfe4e8", "#ffffff"),
    "radiation": "inferno",
    "humidity": ("#7a5a28", "#c9ab6c", "#f4efdc", "#9fd3c0", "#35978f", "#0b4f6c", "#0b2a5b"),
    "snow": ("#f4f4ee", "#d5e3f0", "#9ebfe2", "#6a8fcb", "#5a55a6", "#43206f"),
    "pressure": ("#49267a", "#4c6cb3", "#8fc0cf", "#f2efdf", "#e8b97a", "#c56a3c", "#7d2418"),
    "signed": ("#1c4f8f", "#5d96c6", "#b9d5e6", "#f7f7f5", "#f3c3a5", "#d67157", "#952337"),
    "generic": "viridis",
}
"""Colours of the kinds without steps: a map of Matplotlib, or colours at equal distances."""
DARK = ("radiation",)
"""Kinds on whose colours coastlines are white."""

KELVIN = 273.15
DEFAULT_UNITS = {"mrr": "dBZ", "refc": "dBZ", "t2m": "K"}
LABELS = {
    "mrr": "Maximum radar reflectivity",
    "refc": "Composite radar reflectivity",
    "t2m": "2 m temperature",
    "tcwv": "Total column water vapour",
}
FIRST = ("mrr", "refc", "t2m", "ws10m", "tp", "msl", "mslp", "tcc", "fg10m", "d2m", "tcwv")
"""Order of the panels, before all others."""
KINDS: tuple[tuple[Kind, str], ...] = (
    ("snow", "snow|sea.ice"),
    ("precipitation", "precipitation|rain"),
    ("cloud", "cloud"),
    ("radiation", "radiation|shortwave|longwave|solar"),
    ("signed", r"heat.flux|vertical.velocity|tendency|upward|^(east|north)ward"),
    ("pressure", "pressure|geopotential"),
    ("humidity", "humidity|water.vapou?r|mass.content.of.water|column.water"),
    ("wind", "wind|gust"),
)
"""Kinds by a regular expression that standard or long names match, the first one first."""
DISPLAYED: Mapping[tuple[str, str], tuple[float, float, str]] = {
    **{("K", "temperature"): (1.0, -KELVIN, "°C"), ("kelvin", "temperature"): (1.0, -KELVIN, "°C")},
    **{("m2 s-2", "pressure"): (1 / 98.0665, 0.0, "dam"), ("Pa", "pressure"): (0.01, 0.0, "hPa")},
    **{("kg kg-1", "humidity"): (1e3, 0.0, "g/kg"), ("m", "snow"): (100.0, 0.0, "cm")},
    **{("1", "cloud"): (100.0, 0.0, "%"), ("1", "snow"): (100.0, 0.0, "%")},
    **{("m", "precipitation"): (1e3, 0.0, "mm"), ("kg m-2", "precipitation"): (1.0, 0.0, "mm")},
    ("kg m-2 s-1", "precipitation"): (3600.0, 0.0, "mm/h"),
    ("mm h-1", "precipitation"): (1.0, 0.0, "mm/h"),
}
"""Factor, offset and name of the displayed unit, by unit and kind."""
THRESHOLDS: Mapping[Kind, float] = {"radar": 35.0, "temperature": 30.0, "wind": 17.2}  # 17.2 m/s: gale, Bft 8
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Quantity:
    """One panel's quantity.

    Attributes
    ----------
    name : str
        Name for thresholds: that of the variable, or ``ws10m`` for the wind of ``u10m, v10m``.
    label, units : str
        Displayed name and units.
    kind : str
        Kind of colours: ``radar``, ``temperature``, ``wind``, ..., or ``generic``.
    variables : tuple of str
        The variable in the store, or the two components of a wind.
    offset, factor : float
        ``factor * values + offset`` of the store's values are displayed.
    """

    name: str
    label: str
    units: str
    kind: Kind
    variables: tuple[str, ...]
    offset: float = 0.0
    factor: float = 1.0

    @property
    def scale_key(self) -> str:
        """Quantities with equal keys share one colour scale: all reflectivities do."""
        return "radar" if self.kind == "radar" else self.name

    @property
    def is_vector(self) -> bool:
        """True for a wind with its two components."""
        return len(self.variables) == 2

    @property
    def threshold(self) -> float | None:
        """Default threshold of the exceedance probability, in displayed units."""
        return THRESHOLDS.get(self.kind)


@dataclass(frozen=True)
class Scale:
    """Colours and their values, for ``pcolormesh`` and ``colorbar``, and the colour of coastlines on them."""

    cmap: Colormap
    norm: Normalize
    extend: Literal["neither", "min", "max", "both"] = "neither"
    coast: str = COAST

    @property
    def ticks(self) -> list[float]:
        """Labels of a scale in steps: multiples of ten where the steps are even, else all; empty without."""
        edges = [float(e) for e in self.norm.boundaries] if isinstance(self.norm, BoundaryNorm) else []
        tens = [edge for edge in edges if edge % 10 == 0]
        return tens if self.even else edges

    @property
    def even(self) -> bool:
        """True if steps are equal, but the first one."""
        return not isinstance(self.norm, BoundaryNorm) or len(set(np.diff(self.norm.boundaries[1:]))) == 1


def quantities(attrs: Mapping[str, Mapping[str, str]]) -> list[Quantity]:
    """Quantities of a set of variables: u and v of one level become one wind; radar, then t2m first.

    Parameters
    ----------
    attrs
        Each variable's CF attributes (``units``, ``long_name``, ``standard_name`` are used).
    """
    known = {name: {**cf_attributes(name), **about} for name, about in attrs.items()}
    winds = {name: northward(name) for name in known if northward(name) in known}
    paired = {*winds, *winds.values()}
    found = [_wind(u, v, known[u]) for u, v in winds.items()]
    found += [_scalar(name, known[name]) for name in known if name not in paired]
    return sorted(found, key=lambda q: FIRST.index(q.name) if q.name in FIRST else len(FIRST))


def _wind(u: str, v: str, attrs: Mapping[str, str]) -> Quantity:
    level = u[1:]
    height = level_text(u).removeprefix("at ")
    label = f"Wind {height}" if height.startswith("on ") else f"{height} wind" if height else "Wind"
    return Quantity(f"ws{level}", label, _units(attrs.get("units", "m s-1")), "wind", (u, v))


def _scalar(name: str, attrs: Mapping[str, str]) -> Quantity:
    units = attrs.get("units", DEFAULT_UNITS.get(name, ""))
    text = attrs.get("long_name", name)
    label = LABELS.get(name, text[:1].upper() + text[1:] if text != name else name)
    kind = _kind(name, units, f"{attrs.get('standard_name', '')} {text}".lower())
    factor, offset, shown = DISPLAYED.get((units, kind), (1.0, 0.0, _units(units)))
    label = label.replace("Geopotential at", "Geopotential height at") if shown == "dam" else label
    return Quantity(name, label, shown, kind, (name,), offset, factor)


def _kind(name: str, units: str, described: str) -> Kind:
    if units.lower() == "dbz":
        return "radar"
    if units in ("K", "kelvin") and ("temperature" in described or re.fullmatch(r"[td]\d+m?", name)):
        return "temperature"
    return next((kind for kind, pattern in KINDS if re.search(pattern, described)), "generic")


def _units(units: str) -> str:
    """Units of CF as they are usually written: ``m s-1`` as m/s, ``kg m-2`` as kg m⁻²."""
    if units in ("m s-1", "m s^-1", "m s**-1", "m/s"):
        return "m/s"
    return re.sub(r"(?<=[A-Za-z])-?\d+", lambda power: power.group().translate(SUPERSCRIPT), units)


def scale(kind: Kind, low: float, high: float) -> Scale:
    """The scale of a kind for values that run from `low` to `high` (displayed units).

    Those of radar and precipitation are always the same, and of clouds; wind starts at 0; signed quantities
    lie about 0. Limits are rounded outwards to readable numbers.
    """
    if kind == "radar":
        cmap = _extremes(ListedColormap(RADAR_COLORS, "radar"), under="white", over="#f7d4fb")
        return Scale(cmap, BoundaryNorm(RADAR_STEPS, cmap.N), "max")
    if kind == "precipitation":
        cmap = _extremes(ListedColormap(RAIN_COLORS, kind), under="white", over="#6d1478")
        return Scale(cmap, BoundaryNorm(RAIN_STEPS, cmap.N), "max")
    steps = _round_limits(*_limits(kind, low, high))
    colors = SMOOTH[kind]
    if isinstance(colors, str):
        cmap = mpl.colormaps[colors].resampled(512)
    else:
        cmap = LinearSegmentedColormap.from_list(kind, colors, 512)
    return Scale(_extremes(cmap), Normalize(steps[0], steps[-1]), coast="white" if kind in DARK else COAST)


def _limits(kind: Kind, low: float, high: float) -> tuple[float, float]:
    """Ends of a scale before they are rounded."""
    if kind == "wind":
        return 0.0, max(high, 8.0)
    if kind == "cloud":
        return 0.0, 100.0
    if kind == "signed":
        most = max(abs(low), abs(high), 1e-6)
        return -most, most
    if kind in ("snow", "radiation") and low < 0.3 * high:
        return 0.0, high
    return low, high


def colormap(name: str) -> Colormap:
    """Matplotlib's colour map of a name.

    Raises
    ------
    InputError
        If there is none; the message has names that are like it
    """
    if name not in mpl.colormaps:
        near = get_close_matches(name, list(mpl.colormaps), n=3) or ["magma", "viridis", "turbo"]
        raise InputError(f"{name!r} is not a colour map of Matplotlib; use one like {', '.join(near)}")
    return mpl.colormaps[name]


def recolored(scales: Mapping[str, Scale], cmap: Colormap) -> dict[str, Scale]:
    """The scales with the colours of another map; their limits and steps stay."""
    coast = "white" if _is_dark(cmap) else COAST
    return {key: replace(scale, cmap=_colors(cmap, scale.norm), coast=coast) for key, scale in scales.items()}


def _is_dark(cmap: Colormap) -> bool:
    """True if the lower half of a map, where most of a field lies, is darker than middle grey."""
    red, green, blue = cmap(np.linspace(0.0, 0.5, 64))[:, :3].mean(axis=0)
    return bool(0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5)


def _colors(cmap: Colormap, norm: Normalize) -> Colormap:
    """As many colours of a map as a norm has steps, or all of them."""
    if isinstance(norm, BoundaryNorm):
        cmap = cmap.resampled(norm.Ncmap)
        cmap.name += " in steps"
    return _extremes(cmap)


def spread_scale(high: float) -> Scale:
    """Scale of a standard deviation from 0 to `high`."""
    cmap = mpl.colormaps["BuPu"].resampled(512)
    return Scale(_extremes(cmap), Normalize(0.0, _round_limits(0.0, max(high, 1e-6))[-1]))


def probability_scale() -> Scale:
    """Scale of a probability in per cent: steps of 10, below 5 white."""
    steps = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
    cmap = ListedColormap(mpl.colormaps["YlOrRd"](np.linspace(0.06, 0.88, len(steps) - 1)), "probability")
    return Scale(_extremes(cmap, under="white"), BoundaryNorm(steps, cmap.N))


def with_extend(chosen: Scale, low: float, high: float) -> Scale:
    """`chosen` with arrows on the colour bar where values lie beyond its limits."""
    below, above = low < float(chosen.norm.vmin or 0.0), high > float(chosen.norm.vmax or 0.0)
    arrows: Literal["neither", "min", "max", "both"]
    arrows = "both" if below and above else "min" if below else "max" if above else "neither"
    return replace(chosen, extend=arrows)


def _extremes(cmap: Colormap, under: str | None = None, over: str | None = None) -> Colormap:
    return cmap.with_extremes(bad=MISSING, under=under, over=over)


def _round_limits(low: float, high: float) -> Sequence[float]:
    """Readable steps that cover ``[low, high]``."""
    locator = MaxNLocator(nbins=12, steps=[1, 2, 5, 10])
    return [float(step) for step in locator.tick_values(low, high)]
