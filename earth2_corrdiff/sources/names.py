# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Translation of names in files (of the CDS, cfgrib, CMIP, WRF, ARCO) to Earth2Studio's names.

A variable that has a name of Earth2Studio keeps it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from loguru import logger

from earth2_corrdiff.base.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

AXES = {"latitude": "lat", "nav_lat": "lat", "longitude": "lon", "nav_lon": "lon"}
LEVELS = {
    **{"pressure_level": "hPa", "isobaricInhPa": "hPa", "level": "hPa", "lev": "hPa"},
    **{"plev": "Pa", "isobaricInPa": "Pa", "isobaric": "Pa", "pressure": "hPa"},
}
"""Dimensions of pressure levels, and their unit where there is no attribute."""
NUMBERED = ("level", "lev")
"""Those that, without a unit, may be numbers of model levels."""
USUAL = {
    *(1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550),
    *(600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000),
}
"""Pressure levels of ERA5, hPa."""
PASCALS = {
    **dict.fromkeys(("hpa", "mb", "mbar", "millibar", "millibars", "hectopascal", "hectopascals"), 100.0),
    **dict.fromkeys(("pa", "pascal", "pascals"), 1.0),
}
ON_LEVELS = {
    **{"z": "z", "geopotential": "z", "gh": "z", "zg": "z", "hgt": "z", "geopotential_height": "z"},
    **{"t": "t", "temperature": "t", "ta": "t", "air_temperature": "t"},
    **{"u": "u", "u_component_of_wind": "u", "ua": "u", "v": "v", "v_component_of_wind": "v", "va": "v"},
    **{"q": "q", "specific_humidity": "q", "hus": "q", "r": "r", "relative_humidity": "r", "hur": "r"},
    **{"w": "w", "vertical_velocity": "w", "wap": "w"},
}
HEIGHTS = ("gh", "zg", "hgt", "geopotential_height")
"""Names that, without a unit, are heights in geopotential metres."""
SYNONYMS = {
    **{"u10": "u10m", "10u": "u10m", "uas": "u10m", "10m_u_component_of_wind": "u10m"},
    **{"v10": "v10m", "10v": "v10m", "vas": "v10m", "10m_v_component_of_wind": "v10m"},
    **{"u100": "u100m", "100u": "u100m", "100m_u_component_of_wind": "u100m"},
    **{"v100": "v100m", "100v": "v100m", "100m_v_component_of_wind": "v100m"},
    **{"2t": "t2m", "t2": "t2m", "tas": "t2m", "2m_temperature": "t2m"},
    **{"2d": "d2m", "td2m": "d2m", "2m_dewpoint_temperature": "d2m"},
    **{"2r": "r2m", "r2": "r2m", "rh2m": "r2m", "2sh": "q2m", "sh2": "q2m"},
    **{"prmsl": "msl", "psl": "msl", "mean_sea_level_pressure": "msl"},
    **{"ps": "sp", "surface_pressure": "sp", "skin_temperature": "skt"},
    **{"pwat": "tcwv", "prw": "tcwv", "total_column_water_vapour": "tcwv"},
    **{"total_column_water_vapor": "tcwv", "total_precipitation": "tp", "tp6h": "tp06", "qpe1h": "tp"},
}
"""Fields on one level."""
WIND = re.compile(r"[uv]100?")
HIGH = re.compile(r"10{1,2}\s*hpa|pressure|isobaric", re.IGNORECASE)
NEAR = re.compile(r"\b10{1,2}\s*-?\s*(m|meter|metre)s?\b|\b10{1,2}[uv]\b|heightAboveGround", re.IGNORECASE)
"""Attributes of a wind called u10 or u100 that lies at 10 hPa, or at 10 m."""


def named(data: xr.Dataset, rename: Mapping[str, str] | None = None) -> xr.Dataset:
    """A dataset with Earth2Studio's names: lat and lon, and one variable per quantity and level.

    Parameters
    ----------
    data : xr.Dataset
        As opened; one array with a dimension ``variable`` is several variables
    rename : Mapping[str, str], optional
        Earth2Studio's names of the file's own, which come first; names that it lacks are ignored

    Raises
    ------
    InputError
        If a quantity occurs twice on a level
    """
    return _levels(_renamed(with_axes(data), rename or {}))


def with_axes(data: xr.Dataset) -> xr.Dataset:
    """A dataset with the coordinates lat and lon in degrees, and one variable per name.

    Parameters
    ----------
    data : xr.Dataset
        As opened; one array with a dimension ``variable`` is several variables
    """
    new = {old: new for old, new in AXES.items() if old in data.variables and new not in data.variables}
    data = data.rename(new)
    data = data.set_coords([axis for axis in ("lat", "lon") if axis in data.variables])
    for axis in ("lat", "lon"):
        if axis in data.variables and data[axis].ndim == 1 and data[axis].dims != (axis,):
            data = data.swap_dims({data[axis].dims[0]: axis})
        if axis in data.variables and str(data[axis].attrs.get("units", "")).startswith("rad"):
            data = data.assign_coords({axis: data[axis] * 180 / math.pi})
    stacked = [key for key in data.data_vars if "variable" in data[key].dims]
    return data[stacked[0]].to_dataset("variable") if len(stacked) == 1 else data


def _renamed(data: xr.Dataset, rename: Mapping[str, str]) -> xr.Dataset:
    rename = {old: new for old, new in rename.items() if old in data.data_vars}
    taken = [new for new in rename.values() if new in data.variables and new not in rename]
    return data.drop_vars(taken).rename(dict(rename))


def _levels(data: xr.Dataset) -> xr.Dataset:
    """``t`` over pressure levels as t850, t500, …; the same of a single level."""
    for axis in [axis for axis in LEVELS if axis in data.variables]:
        if data[axis].dims not in ((axis,), ()):
            continue
        factor = _pascals(data[axis], axis)
        on_it = {str(key): ON_LEVELS[str(key).lower()] for key in data.data_vars if _is_on(data, key, axis)}
        if factor is None or not on_it:
            continue
        found: dict[str, Any] = {}
        for number, pressure in enumerate(data[axis].to_numpy().reshape(-1).astype(float)):
            hectopascals = pressure * factor / 100
            if abs(hectopascals - round(hectopascals)) > 1e-3 or hectopascals < 1:
                continue
            for own, letter in on_it.items():
                layer = data[own].isel({axis: number}) if axis in data[own].dims else data[own]
                layer = layer.drop_vars(axis, errors="ignore")
                if own.lower() in HEIGHTS and not layer.attrs.get("units"):
                    layer = layer.assign_attrs(units="gpm")
                key = f"{letter}{round(hectopascals)}"
                if key in found or key in data.data_vars:
                    raise InputError(
                        f"{key} occurs twice: {own} on {hectopascals:g} hPa of {axis}, and another one; "
                        "keep one of them, or give one another name with --rename"
                    )
                found[key] = layer
        data = data.drop_vars(on_it).assign(found)
        if not any(axis in data[key].dims for key in data.data_vars):
            data = data.drop_vars(axis)
    return data


def _pascals(levels: xr.DataArray, axis: str) -> float | None:
    """Pascals in a unit of pressure levels; None where they may be other levels."""
    unit = str(levels.attrs.get("units", "")).strip().casefold()
    if unit or axis not in NUMBERED:
        return PASCALS.get(unit or LEVELS[axis].casefold())
    usual = {float(level) in USUAL for level in levels.to_numpy().reshape(-1)}
    return 100.0 if usual == {True} and float(levels.max()) >= 100 else None  # numbers of model levels, else


def _is_on(data: xr.Dataset, key: Any, axis: str) -> bool:
    """True if a variable lies on pressure levels of this axis."""
    return str(key).lower() in ON_LEVELS and (axis in data[key].dims or data[axis].ndim == 0)


def parse_rename(words: Iterable[str]) -> dict[str, str]:
    """``["own=u10m,other=v10m"]`` as ``{"own": "u10m", "other": "v10m"}``.

    Raises
    ------
    InputError
        For anything else, or for one name that is given twice
    """
    pairs = [part.strip().partition("=") for word in words for part in word.split(",")]
    for old, equals, new in pairs:
        if not (old.strip() and equals and new.strip()):
            raise InputError(
                f"{old + equals + new!r} is not a valid renaming; use OWN=NAME, like wind_u=u10m"
            )
    for names in zip(*((old.strip(), new.strip()) for old, _, new in pairs), strict=True):
        if len(set(names)) < len(names):
            raise InputError(f"a name occurs twice in {', '.join(names)}; rename each variable once")
    return {old.strip(): new.strip() for old, _, new in pairs}


def renamed(rename: Mapping[str, str]) -> str:
    """Renamings as a part of a source's name, for messages and the store: `` with own as u10m``."""
    pairs = ", ".join(f"{old} as {new}" for old, new in rename.items())
    return f" with {pairs}" if pairs else ""


def offered(data: xr.Dataset, name: str) -> dict[str, str]:
    """Earth2Studio's names of a dataset's variables, and the file's own: each with the variable it means.

    Parameters
    ----------
    data : xr.Dataset
        From ``named``
    name : str
        Of the file, for the log

    Raises
    ------
    InputError
        If two variables mean the same
    """
    own = [str(key) for key in data.data_vars]
    near = {key: SYNONYMS[key.lower()] for key in own if key.lower() in SYNONYMS and _is_near(data[key], key)}
    # beside u10m, a wind u10 is that at 10 hPa
    near = {
        k: known
        for k, known in near.items()
        if known not in own or not WIND.fullmatch(k) or _mentions(data[k], NEAR)
    }
    for known in near.values():
        same = [key for key in own if key == known or near.get(key) == known]
        if len(same) > 1:
            raise InputError(
                f"{name}: {' and '.join(same)} both mean {known}; keep one of them, or give one another name "
                "with --rename"
            )
    new = {known: key for key, known in near.items()}
    if new:
        logger.info("{}: {}", name, ", ".join(f"{key} is read as {known}" for known, key in new.items()))
    high = [key for key in new.values() if WIND.fullmatch(key) and _mentions(data[key], NEAR)]
    return {key: key for key in own if key not in high} | new  # no wind at 10 m for one at 10 hPa


def _is_near(field: xr.DataArray, key: str) -> bool:
    """True if a wind called u10 or u100 is that at 10 m or 100 m, not on a pressure level."""
    if not WIND.fullmatch(key.lower()) or _mentions(field, NEAR):
        return True
    return "100" not in key and not _mentions(field, HIGH)


def _mentions(field: xr.DataArray, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.search(" ".join(str(value) for value in field.attrs.values())))
