# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Quantities of a verification: variables, the wind speed of two of them, and their events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.variables import cf_attributes, northward

NO_ECHO = 5.0
"""dBZ below which a radar shows no echo."""
REFLECTIVITY = (20.0, 35.0, 45.0)  # dBZ: rain, heavy rain, thunderstorms
RAIN = (0.1, 1.0, 5.0, 10.0, 20.0)  # mm: wet, then up to heavy rain; the share below the first is dry
WIND_SPEED = (10.8, 17.2, 24.5)  # m/s: strong wind, gale and storm, Beaufort 6, 8 and 10
UNITS = {"m s-1": "m/s", "kg m-2": "kg/m²", "m2 s-2": "m²/s²", "kg kg-1": "kg/kg"}
"""Units of CF as they are usually written."""
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Target:
    """A quantity that is verified.

    Attributes
    ----------
    name, label, units : str
        Earth2Studio's name (``ws10m`` for a wind speed), a name for readers, and its units
    components : tuple[str, ...]
        Variables that it is computed from: itself, or u and v
    thresholds : tuple[float, ...]
        Events are values at or above these; empty for quantities without events
    floor : float | None
        Values below it count as equal in ranks
    factor : float
        From the variable's units to these: precipitation in metres is verified in mm
    """

    name: str
    label: str
    units: str
    components: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    floor: float | None = None
    factor: float = 1.0

    @property
    def derived(self) -> bool:
        """True if it is computed from several variables."""
        return len(self.components) > 1

    def field(self, read: Read) -> Tensor:
        """Its field, from a function that reads its components."""
        parts = [read(name) for name in self.components]
        field = torch.hypot(*parts) if self.derived else parts[0]
        return field if self.factor == 1 else field * self.factor


def targets(
    variables: Sequence[str], thresholds: Mapping[str, Sequence[float]] | None = None
) -> list[Target]:
    """Quantities of variables, and of the wind speed of each pair of u and v among them.

    Parameters
    ----------
    variables : Sequence[str]
        Earth2Studio's names
    thresholds : Mapping[str, Sequence[float]], optional
        Events by name of the quantity, in place of the defaults

    Raises
    ------
    InputError
        If thresholds are given for an unknown quantity, or are not finite
    """
    found = [_plain(name) for name in variables]
    found += [_speed(u) for u in variables if northward(u) in variables]
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


def _plain(name: str) -> Target:
    about = cf_attributes(name)
    label, units = about["long_name"], _units(about)
    if units == "dBZ":
        return Target(name, label, units, (name,), REFLECTIVITY, NO_ECHO)
    if units == "m" and "precipitation" in about["standard_name"]:
        return Target(name, label, "mm", (name,), RAIN, RAIN[0], 1e3)
    return Target(name, label, units, (name,))


def _speed(u: str) -> Target:
    about = cf_attributes(u)
    level = about["long_name"].removeprefix("eastward wind ")
    return Target(f"ws{u[1:]}", f"wind speed {level}", _units(about), (u, northward(u)), WIND_SPEED)


def _units(about: Mapping[str, str]) -> str:
    units = about.get("units", "")
    return UNITS.get(units, units)
