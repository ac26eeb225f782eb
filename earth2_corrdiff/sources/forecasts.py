# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecasts: data sources that are called with a lead time, too, and may have several coarse members."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, TimeLike, Times, distinct, lead_text, to_leads, to_times
from earth2_corrdiff.sources.source import Source

if TYPE_CHECKING:
    import xarray as xr


class ForecastSource(Protocol):
    """What Earth2Studio calls a forecast source."""

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        """Return [time, lead_time, variable, lat, lon]."""


class ForecastCalendar(Protocol):
    """Knows which forecasts a source has."""

    def check(self, times: Times, leads: Leads, name: str) -> None:
        """Raise InputError for the first of the forecasts that the source of this name cannot have."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """A forecast source that knows what it can serve, without being built or asked.

    Attributes
    ----------
    name : str
        As the user gave it, e.g. ``gfs_fx``
    build : Callable[[int | None], ForecastSource]
        Makes the source of one coarse member, or the one that there is (None), when it is first needed
    coarse : tuple[int, ...] | None
        Numbers of the coarse members; None where there is but one forecast
    vocabulary : Callable[[], Container[str]] or None
        Returns the variables that it has; None where they are not known
    calendar : ForecastCalendar or None
        Which times and lead times it has; None where any will do
    synthetic : bool
        Whether this weather never happened
    """

    name: str
    build: Callable[[int | None], ForecastSource]
    coarse: tuple[int, ...] | None = None
    vocabulary: Callable[[], Container[str]] | None = None
    calendar: ForecastCalendar | None = None
    synthetic: bool = False
    _built: dict[int | None, ForecastSource] = field(default_factory=dict, repr=False)

    def cases(self, times: TimeLike | Iterable[TimeLike], leads: Any = None) -> Cases:
        """The forecasts of these reference times and lead times, of all coarse members; fetches nothing.

        Raises
        ------
        InputError
            For times or lead times that the source cannot have, or where no lead time is given
        """
        if leads is None:
            raise InputError(f"the source {self.name} has forecasts; say which, as --lead 0/48/6h")
        reference, asked = distinct(to_times(times)), to_leads(leads)
        if self.calendar is not None:
            self.calendar.check(reference, asked, self.name)
        return Cases(reference, asked, self.coarse)

    def at(self, case: Case) -> Source:
        """The fields of one lead time and coarse member as a source of their own."""
        member = "" if case.coarse is None else f" member {case.coarse}"
        lead = np.timedelta64(0, "ns") if case.lead is None else case.lead
        build = partial(_AtLead, partial(self._member, case.coarse), lead)
        name = f"{self.name}{member}, lead time {lead_text(lead)}"
        return Source(name, build, self.vocabulary, synthetic=self.synthetic)

    def check_variables(self, variables: Iterable[str]) -> None:
        """Check that the source has all these variables; InputError names those that it lacks."""
        self._any.check_variables(variables)

    def has(self, variable: str) -> bool:
        """Whether the source has a variable; False where that is not known."""
        return self._any.has(variable)

    @cached_property
    def _any(self) -> Source:
        return Source(self.name, partial(_AtLead, self._member, np.timedelta64(0)), self.vocabulary)

    def _member(self, coarse: int | None = None) -> ForecastSource:
        if coarse not in self._built:
            self._built[coarse] = self.build(coarse)
        return self._built[coarse]


class _AtLead:
    """One lead time of a forecast as an Earth2Studio data source."""

    def __init__(self, member: Callable[[], ForecastSource], lead: np.timedelta64) -> None:
        self._member, self._lead = member, lead

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        array = self._member()(time, np.array([self._lead], dtype="timedelta64[ns]"), variable)
        return array.isel(lead_time=0, drop=True) if "lead_time" in array.dims else array


def parse_members(text: str) -> tuple[int, ...]:
    """``0-4,7`` as numbers.

    Raises
    ------
    InputError
        For anything else, or a number that is there twice
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and len(end) < 6 for end in ends) or int(ends[1]) < int(ends[0]):
            raise InputError(f"coarse members are given like 0-4 or 0,2,5-7; got {text!r}")
        found += range(int(ends[0]), int(ends[1]) + 1)
    if len(set(found)) < len(found):
        raise InputError(f"a coarse member is given twice in {text!r}")
    return tuple(found)
