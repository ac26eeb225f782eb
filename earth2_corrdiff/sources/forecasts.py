# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecast sources by reference time, lead time and coarse member."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import TimeLike, distinct, lead_text, to_leads, to_times
from earth2_corrdiff.sources.source import NamedSource, Source

if TYPE_CHECKING:
    import xarray as xr


class ForecastSource(Protocol):
    """What Earth2Studio calls a forecast source."""

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        """Return [time, lead_time, variable, lat, lon]."""


@dataclass(frozen=True, eq=False)
class Forecast(NamedSource):
    """Forecasts by reference time, lead time and coarse member, with their checks.

    ``build`` makes the source of one coarse member, or the one that there is (None).

    Attributes
    ----------
    coarse : tuple[int, ...] | None
        Numbers of the coarse members; None where there is but one forecast
    """

    build: Callable[[int | None], ForecastSource]
    coarse: tuple[int, ...] | None = None
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
            self.calendar.check(reference, self, asked)
        return Cases(reference, asked, self.coarse)

    def at(self, case: Case) -> Source:
        """The fields of one lead time and coarse member as a source."""
        member = "" if case.coarse is None else f" member {case.coarse}"
        lead = np.timedelta64(0, "ns") if case.lead is None else case.lead

        def fields(time: Any, variable: Any) -> xr.DataArray:
            leads = np.array([lead], dtype="timedelta64[ns]")
            array = self._member(case.coarse)(time, leads, variable)
            return array.isel(lead_time=0, drop=True) if "lead_time" in array.dims else array

        name = f"{self.name}{member}, lead time {lead_text(lead)}"
        return Source(name, lambda: fields, self.vocabulary, synthetic=self.synthetic)

    def _member(self, coarse: int | None) -> ForecastSource:
        if coarse not in self._built:
            self._built[coarse] = self.build(coarse)
        return self._built[coarse]


def parse_members(text: str) -> tuple[int, ...]:
    """``0-4,7`` as numbers.

    Raises
    ------
    InputError
        For anything else, or a number that occurs twice
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and len(end) < 6 for end in ends) or int(ends[1]) < int(ends[0]):
            raise InputError(
                f"{text!r} is not a valid list of coarse members; use a format like 0-4 or 0,2,5-7"
            )
        found += range(int(ends[0]), int(ends[1]) + 1)
    if len(set(found)) < len(found):
        raise InputError(f"a coarse member is given twice in {text!r}")
    return tuple(found)
