# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Bounds of the error of stored variables, and the rounding that keeps them.

A field is rounded to whole steps, ``round(x * scale)`` in an integer, of a little less than twice the bound,
which leaves room for the rounding of float32. Steps are counted from zero, so that zero stays zero where it
is dry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.variables import cf_attributes

LOSSLESS, BOUNDED = "lossless", "bounded"
SYNTAX = "lossless, bounded, or bounds like t2m=0.05,mrr=0.5"
BOUNDS = {
    "K": 0.02,
    "m s-1": 0.02,
    "dBZ": 0.15,
    "Pa": 2.0,
    "kg m-2": 0.02,
    "m2 s-2": 1.0,
    "kg kg-1": 1e-5,
    "%": 0.2,
    "m": 0.5,
    "W m-2": 0.5,
    "1": 0.002,
    "Pa s-1": 0.002,
    "kg m-2 s-1": 5e-6,
    "mm h-1": 0.02,
}
"""Default bounds by the unit of the variable; see scripts/bench-compression.py."""
FINER = {
    "lwe_thickness_of_precipitation_amount": 2e-5,
    "specific_turbulent_kinetic_energy_of_air": 0.01,
}
"""Those of variables that are small in their unit, by standard name."""
MARGIN = 0.99
"""Half a step, as a fraction of the bound."""
LEAST = 2
"""Smallest bound, in spacings of float32."""
ROUNDING = 1
"""Largest rounding error of float32, in spacings: half by the product with the scale, half at the end."""
REACH = 10
"""Standard deviations from the mean within which the bound holds by construction; beyond, it is checked."""


@dataclass(frozen=True)
class Compression:
    """Compression that a user asks for.

    Attributes
    ----------
    bounds : tuple[tuple[str, float], ...]
        Variables with their largest absolute error, in their units
    defaults : bool
        True if all other outputs have a default bound; otherwise they are lossless
    """

    bounds: tuple[tuple[str, float], ...] = ()
    defaults: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """``lossless`` (None), ``bounded``, ``t2m=0.05,mrr=0.5``, or ``bounded,mrr=0.5``.

        Raises
        ------
        InputError
            If it is none of these, or a bound is not a positive number
        """
        words = [word.strip() for word in text.split(",")]
        if words == [LOSSLESS]:
            return None
        defaults = words[0] == BOUNDED
        pairs = [_pair(word, text) for word in words[defaults:]]
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise InputError(f"--compress gives {_twice(names)} two bounds; give one")
        return cls(tuple(pairs), defaults)

    def of(self, names: Sequence[str], center: Sequence[float], spread: Sequence[float]) -> dict[str, Bound]:
        """Bounds of the outputs that are not lossless.

        Parameters
        ----------
        names, center, spread : Sequence
            Outputs with their means and standard deviations

        Raises
        ------
        InputError
            If a variable is not an output, lacks a default bound, or has a bound that float32 cannot keep
        """
        asked = dict(self.bounds)
        for name in asked:
            if name not in names:
                near = get_close_matches(name, names, 1, 0)
                raise InputError(
                    f"--compress gives {name} a bound, but the outputs are {', '.join(names)}; "
                    f"did you mean {near[0]}?"
                )
        if self.defaults:
            asked = {name: asked[name] if name in asked else _default(name) for name in names}
        known = {name: (c, s) for name, c, s in zip(names, center, spread, strict=True)}
        return {name: Bound.around(name, asked[name], *known[name]) for name in names if name in asked}


@dataclass(frozen=True)
class Bound:
    """Rounding to whole steps that keeps a bound.

    Attributes
    ----------
    absolute : float
        The bound, in the variable's units
    scale : float
        Steps per unit: a float32 number, since Zarr's codec multiplies in float32 and divides in float64
    """

    absolute: float
    scale: float

    @classmethod
    def around(cls, name: str, absolute: float, center: float, spread: float) -> Self:
        """The rounding for a variable with this mean and standard deviation.

        Raises
        ------
        InputError
            If float32 is too coarse for the bound
        """
        reach = abs(center) + REACH * spread
        rounding = _spacing(reach)
        if absolute < LEAST * rounding:
            raise InputError(_too_coarse(f"{name} around {reach:g}", absolute, rounding))
        half = min(MARGIN * absolute, absolute - ROUNDING * rounding)
        scale = np.nextafter(np.float32(0.5 / half), np.float32(np.inf))
        return cls(absolute, float(scale))

    def check(self, what: str, field: NDArray[np.float32]) -> None:
        """Refuse a field that cannot be kept within the bound, before it is written.

        A number of 24 bits has at most 2^24 spacings to zero. As the bound is two spacings or more, a step is
        one or more, so that the integers fit into 32 bits.

        Raises
        ------
        InputError
            If it is not finite everywhere, which integers cannot represent, or too large for the bound
        """
        if not np.isfinite(field).all():
            raise InputError(
                f"{what} is not finite everywhere, which a bounded error cannot keep; "
                "look at the model and its input, or give it no bound with --compress"
            )
        most = float(np.abs(field).max())
        if self.absolute < LEAST * _spacing(most):
            raise InputError(_too_coarse(f"{what} at {most:g}", self.absolute, _spacing(most)))


@dataclass(frozen=True)
class Kept:
    """Bound, error and sizes of a stored variable.

    Attributes
    ----------
    bound, error : float
        The bound, and the largest absolute error measured
    raw, stored : int
        Bytes of its fields as float32, and as stored
    """

    bound: float
    error: float
    raw: int
    stored: int


def as_text(bounds: Mapping[str, Bound]) -> str:
    """The bounds as the option takes them: ``mrr=0.5,t2m=0.05``; ``lossless`` without bounds."""
    return ",".join(f"{name}={bound.absolute}" for name, bound in bounds.items()) or LOSSLESS


def largest_error(field: NDArray[Any], kept: NDArray[Any]) -> float:
    """Largest absolute difference, computed in float64."""
    return float(np.abs(np.asarray(field, np.float64) - np.asarray(kept, np.float64)).max())


def _pair(word: str, text: str) -> tuple[str, float]:
    name, equals, value = (part.strip() for part in word.partition("="))
    try:
        bound = float(value)
    except ValueError:
        bound = 0.0
    if not name or not equals:
        raise InputError(f"--compress takes {SYNTAX}, got {text!r}")
    if not isfinite(bound) or bound <= 0:
        raise InputError(f"the bound of {name} must be a positive number in its units, got {value!r}")
    return name, bound


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _default(name: str) -> float:
    about = cf_attributes(name)
    units = about.get("units", "")
    if units not in BOUNDS:
        raise InputError(
            f"there is no default bound for {name}; give one in its units: --compress {BOUNDED},{name}=NUMBER"
        )
    return FINER.get(about["standard_name"], BOUNDS[units])


def _spacing(value: float) -> float:
    """Distance to the next float32 number."""
    return float(np.spacing(np.float32(value)))


def _too_coarse(what: str, bound: float, spacing: float) -> str:
    return (
        f"float32 numbers of {what} are {spacing:.2g} apart, so no bound of {bound:g} can be kept; "
        f"give one of {LEAST * spacing:.2g} or more, or none"
    )
