# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What is verified: variables, the wind speed of two of them, and the events that matter in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.variables import cf_attributes

NO_ECHO = 5.0
"""dBZ below which a radar shows nothing: noise there is not weather."""
REFLECTIVITY = (20.0, 35.0, 45.0)  # dBZ: rain, heavy rain, thunderstorms
WIND_SPEED = (10.8, 17.2, 24.5)  # m/s: strong wind, gale and storm, Beaufort 6, 8 and 10
UNITS = {"m s-1": "m/s", "kg m-2": "kg/m²", "m2 s-2": "m²/s²", "kg kg-1": "kg/kg"}
"""CF's units as a reader expects them."""
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Target:
    """A quantity that is verified.

    Attributes
    ----------
    name, label, units : str
        Earth2Studio's name (``ws10m`` for a wind speed), what it is, and its units
    components : tuple[str, ...]
        The variables that it is made of: itself, or u and v
    thresholds : tuple[float, ...]
        Events are values at or above these; none for quantities without such events
    floor : float | None
        Ranks are those of values at or above it; below, all are equal and there is nothing to rank
    """

    name: str
    label: str
    units: str
    components: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    floor: float | None = None

    @property
    def derived(self) -> bool:
        """Whether it is computed from several variables."""
        return len(self.components) > 1

    def field(self, read: Read) -> Tensor:
        """Its field from those of its components."""
        parts = [read(name) for name in self.components]
        return torch.hypot(*parts) if self.derived else parts[0]


def targets(
    variables: Sequence[str], thresholds: Mapping[str, Sequence[float]] | None = None
) -> list[Target]:
    """The variables, and after them the wind speed of each pair of u and v among them.

    Parameters
    ----------
    variables : Sequence[str]
        Earth2Studio's names
    thresholds : Mapping[str, Sequence[float]], optional
        Events by name of the variable, in place of the usual ones

    Raises
    ------
    InputError
        If thresholds are given for something that is not there, or are not finite
    """
    found = [_plain(name) for name in variables]
    found += [_speed(u) for u in variables if _twin(u) in variables]
    given = dict(thresholds or {})
    for name in given:
        if name not in [target.name for target in found]:
            raise InputError(f"there is no {name} to set a threshold for; there is {_names(found)}")
    return [replace(t, thresholds=_checked(t.name, given[t.name])) if t.name in given else t for t in found]


def _names(found: Sequence[Target]) -> str:
    return ", ".join(target.name for target in found)


def _checked(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if not all(-1e30 < value < 1e30 for value in values):
        raise InputError(f"the thresholds of {name} must be finite numbers, got {list(values)}")
    return tuple(sorted(set(values)))


def _twin(u: str) -> str | None:
    return f"v{u[1:]}" if re.fullmatch(r"u\d+m?", u) else None


def _plain(name: str) -> Target:
    about = cf_attributes(name)
    label, units = about["long_name"], _units(about)
    if units == "dBZ":
        return Target(name, label, units, (name,), REFLECTIVITY, NO_ECHO)
    return Target(name, label, units, (name,))


def _speed(u: str) -> Target:
    about = cf_attributes(u)
    level = about["long_name"].removeprefix("eastward wind ")
    return Target(f"ws{u[1:]}", f"wind speed {level}", _units(about), (u, f"v{u[1:]}"), WIND_SPEED)


def _units(about: Mapping[str, str]) -> str:
    units = about.get("units", "")
    return UNITS.get(units, units)
