# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Plausibility checks: values that Earth's atmosphere cannot have are refused before a model gets them.

Earth2Studio warns of a missing variable and returns NaN; a file in degrees Celsius passes everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, time_text

if TYPE_CHECKING:
    import torch
    import xarray as xr

GRAVITY = 9.81
SENTINELS = (-99.0, -999.0, -9999.0, 9999.0)
"""Numbers that files use for missing values, beside their own _FillValue and 1e20 and more."""
LARGEST = 1e20


@dataclass(frozen=True)
class Plausible:
    """Range that a variable can have on Earth, wide enough for every record.

    Attributes
    ----------
    low, high : float
        Smallest and largest value that is accepted
    unit : str
        Earth2Studio's unit
    mistakes : tuple[tuple[float, float, str], ...]
        Ranges that are typical of a mistake: low, high, what it looks like
    least : float
        Lower bound of the largest value of a whole field
    small : str
        What a field looks like whose values are all smaller
    """

    low: float
    high: float
    unit: str
    mistakes: tuple[tuple[float, float, str], ...] = ()
    least: float = -np.inf
    small: str = ""

    def verdict(self, low: float, high: float) -> str | None:
        """The fault of values from ``low`` to ``high``; None where there is none."""
        if self.low <= low and high <= self.high:
            if high > self.least:
                return None
            return f"{low:.4g} to {high:.4g} {self.unit}; it looks like {self.small}"
        looks = [cause for floor, ceiling, cause in self.mistakes if floor <= low and high <= ceiling]
        cause = f"it looks like {looks[0]}" if looks else "its unit or its contents are wrong"
        return (
            f"{low:.4g} to {high:.4g}, expected within {self.low:.4g} to {self.high:.4g} {self.unit}; {cause}"
        )


KELVIN = Plausible(150, 350, "K", ((-100, 70, "degrees Celsius"), (-150, 150, "degrees Fahrenheit")))
WIND = Plausible(-150, 150, "m s-1")
PASCAL = "Pa"
FAMILIES: tuple[tuple[str, Plausible], ...] = (
    (r"t2m|d2m|skt|sst|t\d+m?", KELVIN),
    (r"[uv]\d+m?", WIND),
    (r"(ws|fg)\d+m", Plausible(-1, 150, "m s-1")),
    (r"tcwv|tcw", Plausible(-1, 150, "kg m-2")),
    (r"orography", Plausible(-1000, 9500, "m", ((-1e4, 1e5, "geopotential instead of a height"),))),
    (r"msl", Plausible(85000, 110000, PASCAL, ((850, 1100, "hPa instead of Pa"),))),
    (r"sp", Plausible(30000, 110000, PASCAL, ((300, 1100, "hPa instead of Pa"),))),
    (r"q\d+m?", Plausible(-0.01, 0.06, "kg kg-1", ((-0.01, 60, "g kg-1 instead of kg kg-1"),))),
    (r"r(2m|[7-9]\d\d|1\d\d\d)", Plausible(-10, 180, "%", least=1.2, small="a fraction instead of %")),
    (r"r\d+m?", Plausible(-10, 180, "%")),
    (r"refc|mrr", Plausible(-120, 100, "dBZ")),
    (r"siconc|snc", Plausible(-1, 101, "%")),
    (r"w\d+", Plausible(-100, 100, "Pa s-1")),
)
"""Earth2Studio's names as regular expressions, and their ranges. Others are only checked to be finite."""


def plausible(variable: str) -> Plausible | None:
    """The range of a variable by its Earth2Studio name; None for unknown names."""
    if level := re.fullmatch(r"z(\d+)", variable):
        return _geopotential(int(level[1]))
    return next((known for pattern, known in FAMILIES if re.fullmatch(pattern, variable)), None)


def _geopotential(level: int) -> Plausible:
    """Geopotential on a pressure level in hPa, around the standard atmosphere's height.

    Below it the deepest typhoon (870 hPa) or polar winter, above it summer. Heights in metres are ten
    times smaller, so that they fall out of the range everywhere above 925 hPa.
    """
    if not 100 <= level <= 1100:
        return Plausible(-1.5e4, 8e5, "m2 s-2")
    height = 44331 * (1 - (level / 1013.25) ** 0.1903)
    low, high = height - max(1200.0, 0.25 * height), height + max(700.0, 0.15 * height)
    mistake = (low, high, "geopotential height in m instead of geopotential")
    return Plausible(GRAVITY * low, GRAVITY * high, "m2 s-2", (mistake,))


def sentinels_to_nan(values: NDArray[Any], variable: str | None = None) -> tuple[NDArray[Any], int]:
    """Replace numbers that stand for a missing value by NaN, in fields that may have gaps.

    Parameters
    ----------
    values : np.ndarray
        Of any shape, as a file has them: before any conversion of units
    variable : str, optional
        Earth2Studio's name. Of geopotential and heights, 9999 is a value like any other

    Returns
    -------
    np.ndarray
        Same shape; the same array where there are none
    int
        How many there were, not counting what was NaN before
    """
    if values.dtype.kind not in "fiu":
        return values, 0
    heights = variable is not None and re.fullmatch(r"z\d*|orography|sp|msl", variable) is not None
    numbers = [number for number in SENTINELS if not (heights and number > 0)]
    missing = np.isin(values, numbers)
    if values.dtype.kind == "f":
        missing |= np.abs(values) >= LARGEST * (1 - 1e-6)  # 1e20 in float32 is a little less
    count = int(missing.sum())
    if not count:
        return values, 0
    kind = values.dtype if values.dtype.kind == "f" else np.result_type(values.dtype, np.float32)
    return np.where(missing, np.nan, values).astype(kind), count


def warn_of_missing(name: object, variable: str, time: np.datetime64, count: int, size: int) -> None:
    """Log how many of the values of a field stood for missing ones, where there are any."""
    if count:
        logger.warning(
            "{}: {} at {} has {} of {} values that stand for missing ones (-999, 9999, 1e20, …)",
            *(name, variable, time_text(time), count, size),
        )


def check_input(
    x: torch.Tensor | xr.DataArray | NDArray[Any],
    variables: Sequence[str],
    source: object,
    times: Times | None = None,
) -> None:
    """Refuse NaN, infinity and values out of any plausible range.

    Parameters
    ----------
    x : torch.Tensor, xr.DataArray or np.ndarray
        [..., variable, lat, lon] in Earth2Studio's units
    variables : Sequence[str]
        Names along the variable axis
    source : Source or str
        Source of the fields, for the message
    times : np.ndarray, optional
        Valid times along the first axis, for the message

    Raises
    ------
    InputError
        Names the first variable that is wrong, its values, the range that is expected, and the likely cause
    """
    fields = np.asarray(x.numpy(force=True) if hasattr(x, "numpy") else x)
    name = getattr(source, "name", source)
    if not variables:
        return
    for index, when in _each_time(fields, times):
        fault = _fault(fields[index], [str(variable) for variable in variables])
        if fault:
            raise InputError(f"the input from {name}{when} cannot be used: {fault}")


def check_gappy(field: NDArray[Any], variable: str, source: str, time: np.datetime64 | None = None) -> None:
    """Refuse a field that may have gaps, like sea ice, where it has no values, or implausible ones.

    Of a percentage that is nowhere above 1, which may be right, a warning is logged.

    Raises
    ------
    InputError
        Names the variable, its values, and the range that is expected
    """
    finite, known = field[np.isfinite(field)], plausible(variable)
    when = "" if time is None else f" at {time_text(time)}"
    fault = (
        None if finite.size else f"it has no {variable} (NaN everywhere); the source lacks it at this time"
    )
    if finite.size and known is not None:
        verdict = known.verdict(float(finite.min()), float(finite.max()))
        fault = verdict and f"{variable} is {verdict}"
        if known.unit == "%" and 0 < finite.max() <= 1:
            text = "{}: {}{} is at most {:.3g} %; it looks like a fraction"
            logger.warning(text, source, variable, when, float(finite.max()))
    if np.isinf(field).any():
        fault = f"{variable} is infinite at {int(np.isinf(field).sum())} of {field.size} points"
    elif fault is None and (sentinel := _sentinel(variable, field)):
        fault = f"{variable} {sentinel}"
    if fault:
        raise InputError(f"the input from {source}{when} cannot be used: {fault}")


def cleaned(
    values: NDArray[Any], variable: str, convert: Callable[[NDArray[Any]], NDArray[Any]], what: str
) -> tuple[NDArray[Any], int]:
    """Values of a file that may have gaps, like truth and fine fields: in Earth2Studio's units, or NaN.

    Parameters
    ----------
    values : np.ndarray
        Of any shape, as the file has them
    variable : str
        Earth2Studio's name
    convert : Callable
        To Earth2Studio's units, see ``units.conversion``
    what : str
        File and time, for the message

    Returns
    -------
    np.ndarray
        Same shape
    int
        How many numbers stood for missing values: they are NaN now

    Raises
    ------
    InputError
        If a value is out of any plausible range: names it, the range, and the likely cause
    """
    raw, count = sentinels_to_nan(values, variable)
    fields, known = convert(raw), plausible(variable)
    finite = fields[np.isfinite(fields)]
    verdict = known.verdict(float(finite.min()), float(finite.max())) if known and finite.size else None
    if verdict:
        raise InputError(f"{what} cannot be used: {variable} is {verdict}")
    return fields, count


def _each_time(fields: NDArray[Any], times: Times | None) -> list[tuple[Any, str]]:
    if times is None or len(times) != len(fields):
        return [(..., "")]
    return [(i, f" at {time_text(time)}") for i, time in enumerate(times)]


def _fault(fields: NDArray[Any], variables: list[str]) -> str | None:
    """The first fault of [..., variable, lat, lon]; None where there is none."""
    layers = np.moveaxis(fields, -3, 0).reshape(fields.shape[-3], -1)
    holes = 1 - np.isfinite(layers).mean(axis=1)
    if (holes == 1).all():
        return "it has no values at all; the source does not cover the model's domain, or is damaged"
    empty = [variable for variable, hole in zip(variables, holes, strict=True) if hole == 1]
    if empty:
        return f"it has no {', '.join(empty)} (NaN everywhere); the source lacks it at this time"
    for variable, layer in zip(variables, layers, strict=True):
        if fault := _hole(layer) or _sentinel(variable, layer):
            return f"{variable} {fault}"
        known = plausible(variable)
        verdict = known.verdict(float(layer.min()), float(layer.max())) if known else None
        if verdict:
            return f"{variable} is {verdict}"
    return None


def _hole(layer: NDArray[Any]) -> str | None:
    """Message about values that are not finite."""
    holes = int(layer.size - np.isfinite(layer).sum())
    if not holes:
        return None
    share = f"{100 * holes / layer.size:.3g} % of the points ({holes} of {layer.size})"
    cause = "one cell is missing" if holes == 1 else "missing values, or the domain sticks out"
    return f"is NaN or infinite at {share}: {cause}; fill the gap, or use another source"


def _sentinel(variable: str, layer: NDArray[Any]) -> str | None:
    """Message about numbers that stand for missing values."""
    found, count = sentinels_to_nan(layer, variable)
    if not count:
        return None
    number = float(layer[np.isnan(found) & ~np.isnan(layer)][0])
    return (
        f"has {number:g} at {count} of {layer.size} points; {number:g} stands for a missing value: fill it, "
        "or use another source"
    )
