# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Units of fields: conversion of an attribute ``units`` to Earth2Studio's unit of the variable.

Pint parses units: pure Python, BSD, active; cf-units is a C library, and cf_xarray's registry replaces the
process's own and imports Matplotlib. It is imported (0.5 s) for a unit that is not Earth2Studio's spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.variables import cf_attributes

STANDARD_GRAVITY = 9.80665
"""Geopotential of one geopotential metre, m2 s-2: its definition. NOAA's lexicons take 9.81 instead."""
WATER = 1000.0
"""Density that converts the mass of water per area to a depth, kg m-3."""

_MORE = (
    (r"tp\d+|cp\d*|lsp\d*", "m"),
    (r"(ws|fg)\d+m?", "m s-1"),
    (r"tcc|lcc|mcc|hcc|lsm|sic", "1"),
)
"""Units of variables that have no other attributes of their own: Earth2Studio's."""
_WET = re.compile(r"(tp|cp|lsp)\d*|tprate|tcwv?|tclw|tciw")
"""Amounts of water, as a depth or as a mass per area."""

_SPELLINGS = {
    **dict.fromkeys(("c", "deg c", "degs c", "degree c", "degrees c", "deg. c", "º c", "ºc"), "degC"),
    **dict.fromkeys(("degree celsius", "degrees celsius", "deg celsius", "centigrade"), "degC"),
    **dict.fromkeys(("f", "deg f", "degree f", "degrees f", "deg. f", "ºf"), "degF"),
    **dict.fromkeys(("deg k", "degree k", "degrees k", "kelvins"), "K"),
    **dict.fromkeys(("mb", "millibar", "millibars"), "mbar"),
    **dict.fromkeys(("ms-1", "ms**-1", "ms^-1", "ms^{-1}", "m s^{-1}", "m/sec"), "m/s"),
    **dict.fromkeys(("m2s-2", "m**2s**-2", "m^2s^-2"), "m2 s-2"),
    **dict.fromkeys(("gpm", "gp m", "geopotential meter", "geopotential metre"), "m"),
    **dict.fromkeys(("geopotential meters", "geopotential metres"), "m"),
    **dict.fromkeys(("gpdam", "gpdm", "gp dam"), "dam"),
    **dict.fromkeys(("mmh2o", "mm h2o", "mm of water"), "mm"),
    **dict.fromkeys(("m of water equivalent", "m of water"), "m"),
    **dict.fromkeys(("(0 - 1)", "(0-1)", "0-1", "0 - 1", "0..1", "[0, 1]", "[0,1]", "fraction"), "1"),
    **dict.fromkeys(("proportion", "numeric", "~", "dimensionless", "ratio", "unitless"), "1"),
    **dict.fromkeys(("pct", "per cent", "(0 - 100)", "0-100"), "%"),
    **dict.fromkeys(("dbz", "db", "dbze"), "dBZ"),
}
"""Spellings in files that Pint lacks or takes for another unit (F is the farad, mb the millibarn)."""
_LONGEST = 60
_UNSAFE = re.compile(r"(\*\*|\^)[\s(+-]*[\d.]+\)*\s*(\*\*|\^)|[A-Za-z*^]\s*[+-]?\d{3,}|\d{7,}")
"""Exponents of exponents and large ones, which would take too long to compute."""


@dataclass(frozen=True)
class Conversion:
    """``factor * values + offset``, from one unit to another.

    Attributes
    ----------
    factor, offset : float
        In the unit converted to
    """

    factor: float = 1.0
    offset: float = 0.0

    @property
    def identity(self) -> bool:
        """True if it changes nothing."""
        return self.factor == 1 and self.offset == 0

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Converted values of the same shape, computed in float64; the same array where nothing changes."""
        if self.identity:
            return values
        kind = np.result_type(values.dtype, np.float32)
        result: NDArray[Any] = (values.astype(np.float64) * self.factor + self.offset).astype(kind)
        return result


def canonical(variable: str) -> str | None:
    """Earth2Studio's unit of a variable by its name; None for unknown names.

    Examples
    --------
    >>> canonical("z500")
    'm2 s-2'
    """
    known = cf_attributes(variable).get("units")
    return known or next((unit for pattern, unit in _MORE if re.fullmatch(pattern, variable)), None)


def conversion(units: str | None, variable: str, name: str = "") -> Conversion:
    """Conversion of values in ``units`` to the unit of an Earth2Studio variable.

    Parameters
    ----------
    units : str | None
        Attribute of a file, in any spelling of CF, GRIB or ecCodes; None or empty where there is none
    variable : str
        Earth2Studio's name
    name : str, optional
        The file or source, for the message

    Returns
    -------
    Conversion
        The identity without an attribute, and for variables without a known unit

    Raises
    ------
    InputError
        If the unit is unknown, or is one of another quantity; names both units
    """
    wanted, text = canonical(variable), " ".join(str(units if units is not None else "").split())
    if wanted is None or not text:
        return Conversion()
    found = _conversion(text, wanted, bool(_WET.fullmatch(variable)))
    if found is None:
        where = f" of {name}" if name else ""
        shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
        raise InputError(
            f"{shown!r} is not a valid unit of {variable}{where}; use {wanted}, or a unit that converts to "
            "it, as the attribute units"
        )
    return found


@cache
def _conversion(text: str, wanted: str, water: bool) -> Conversion | None:
    """Between two units; None where there is none."""
    unit = _SPELLINGS.get(text.casefold().replace("_", " "), text)
    if unit == wanted:
        return Conversion()
    if wanted == "dBZ" or len(unit) > _LONGEST or _UNSAFE.search(unit):
        return None
    have, want = _parsed(unit), _parsed(wanted)
    if have is None or want is None:
        return None
    if have.dimensionality == want.dimensionality:
        return _line(have, want) if _angular(have) == _angular(want) else None
    density = _registry().Quantity(WATER, "kg m**-3")
    gravity = _registry().Quantity(STANDARD_GRAVITY, "m s**-2")
    ways = (density, 1 / density) if water else (gravity,) if wanted == "m2 s-2" else ()
    for factor in ways:
        if (factor.units * have.units).dimensionality == want.dimensionality:
            return _line(factor * have, want)
    return None


def _line(have: Any, want: Any) -> Conversion | None:
    """The straight line through two converted values; None for units that Pint does not convert."""
    try:
        offset, one = (
            float(_registry().Quantity(x * have.magnitude, have.units).to(want.units).magnitude)
            for x in (0.0, 1.0)
        )
    except Exception:  # a logarithmic unit, for example
        return None
    return Conversion(one - offset, offset)


def _parsed(text: str) -> Any:
    """A unit as a quantity of Pint, which may have a factor before it; None where it is unknown."""
    lower = re.sub(r"[A-Za-z]{4,}", lambda word: word[0].lower(), text)
    found = (_quantity(spelling) for spelling in dict.fromkeys((text, lower)))
    return next((quantity for quantity in found if quantity is not None), None)


def _quantity(text: str) -> Any:
    try:
        return _registry().Quantity(_registry().parse_expression(text))
    except Exception:  # the parser's own errors, and those of Python's tokenizer
        return None


def _angular(quantity: Any) -> bool:
    """True for angles and decibels, which Pint counts among the numbers without a dimension."""
    return bool(re.search("radian|bel|neper", f"{quantity.units} {quantity.to_root_units().units}"))


@cache
def _registry() -> Any:
    """Pint's units with the exponents and the percent sign of CF; private to this module."""
    import pint

    exponent = re.compile(r"(?<=[A-Za-z])(?<![0-9.][eE])(?=[+-]?\d)")
    return pint.UnitRegistry(
        preprocessors=[lambda text: exponent.sub("**", text), lambda text: text.replace("%", "percent")]
    )
