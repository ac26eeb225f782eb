# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Named data sources: what each has, and errors that a user can act on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import TimeLike, distinct, to_times
from earth2_corrdiff.sources.calendars import Calendar
from earth2_corrdiff.sources.failures import explained

if TYPE_CHECKING:
    import xarray as xr

WITH_LEADS = "gfs_fx, gefs_fx, ifs_fx, ifs_ens_fx, demo_fx or file:PATH"
LISTED = 30
"""A source with more variables than this is not listed in a message."""


class DataSource(Protocol):
    """What Earth2Studio calls a data source."""

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """Return [time, variable, lat, lon]."""


@dataclass(frozen=True, eq=False)
class NamedSource(ABC):
    """Analyses or forecasts under a name, with what is known of them before any is fetched.

    Attributes
    ----------
    name : str
        As the user gave it, e.g. ``gfs`` or ``file:input.nc``
    build : Callable
        Makes the data source that does the work, when it is first needed
    vocabulary : Callable[[], Container[str]] or None
        Returns the variables that the source has; None where they are not known
    calendar : Calendar or None
        The times and lead times that it has; None where any will do
    synthetic : bool
        True if this weather never happened
    daily : bool or None
        True if its fields are daily means, False if they are of an hour; None where that is not known
    """

    name: str
    build: Callable[..., Any]
    vocabulary: Callable[[], Container[str]] | None = None
    calendar: Calendar | None = None
    synthetic: bool = False
    daily: bool | None = field(default=None, kw_only=True)

    @abstractmethod
    def cases(self, times: TimeLike | Iterable[TimeLike], leads: Any = None) -> Cases:
        """The cases of these times and lead times, each once; fetches nothing."""

    @abstractmethod
    def at(self, case: Case) -> Source:
        """The source of the fields of a case."""

    @cached_property
    def _variables(self) -> Container[str] | None:
        return None if self.vocabulary is None else self.vocabulary()

    def has(self, variable: str) -> bool:
        """True if the source has a variable; False where that is not known.

        A copy of an archive may lack what the archive has: ``fetch`` then gives NaN everywhere.
        """
        return self._variables is not None and variable in self._variables

    def check_variables(self, variables: Iterable[str]) -> None:
        """Check that the source has all these variables.

        Raises
        ------
        InputError
            Names those that it lacks
        """
        known = self._variables
        if known is None:
            return
        missing = [str(name) for name in variables if name not in known]
        if missing:
            raise InputError(f"the source {self.name} has no {', '.join(missing)}; {_alternative(known)}")


def _alternative(known: Container[str]) -> str:
    if isinstance(known, Collection) and 0 < len(known) <= LISTED:
        return f"it has {', '.join(sorted(known))}"
    return "use another source, or a package that does not need it"


@dataclass(frozen=True, eq=False)
class Source(NamedSource):
    """Analyses: an Earth2Studio data source with its checks.

    ``source(time, variable)`` returns ``DataArray(time, variable, lat, lon)``, so that
    ``earth2studio.data.fetch_data`` and the workflows of ``earth2studio.run`` take it. ``build`` makes the
    data source that does the work.
    """

    build: Callable[[], DataSource]

    @cached_property
    def data(self) -> DataSource:
        """The data source that does the work."""
        return self.build()

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """Fetch, in Earth2Studio's protocol.

        Parameters
        ----------
        time : datetime, np.datetime64, or several of them
            Valid times, UTC
        variable : str, or several of them
            Earth2Studio's names

        Returns
        -------
        xr.DataArray
            [time, variable, lat, lon], in Earth2Studio's units; NaN where the source has no values

        Raises
        ------
        InputError
            If it cannot be fetched: no network, nothing there, damaged or interrupted on the way
        """
        if self.synthetic:  # computed here: a failure is a defect, not the user's
            return self.data(time, variable)
        with explained(self.name, time):
            return self.data(time, variable)

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited: the other half of Earth2Studio's protocol."""
        import asyncio

        return await asyncio.to_thread(self, time, variable)

    def cases(self, times: TimeLike | Iterable[TimeLike], leads: Any = None) -> Cases:
        """The analyses of these times, each once; fetches nothing.

        Raises
        ------
        InputError
            For times that the source cannot have, or where lead times are asked for
        """
        if leads is not None:
            raise InputError(
                f"the source {self.name} has no lead times; leave out --lead, or use {WITH_LEADS}"
            )
        valid = distinct(to_times(times))
        self.check_times(valid)
        return Cases(valid)

    def at(self, case: Case) -> Source:
        """The source of a case: this one. Forecasts have one per lead time and coarse member."""
        return self

    def check_times(self, times: TimeLike | Iterable[TimeLike]) -> None:
        """Check that the source can have all these times; fetches nothing.

        Raises
        ------
        InputError
            For a time in the future, before or after the archive, off its cycle, or missing in a file or
            mirror; names the times that there are
        """
        valid = to_times(times)
        if self.calendar is not None:
            self.calendar.check(valid, self)
