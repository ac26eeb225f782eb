# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The cases that a run downscales: times of analyses, or forecasts by time, lead time and coarse member.

A case is addressed by its number, counted over the axes in their order with the last one fastest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.times import Leads, Times, lead_text, time_text


@dataclass(frozen=True)
class Case:
    """One case of the coarse weather.

    Attributes
    ----------
    time : np.datetime64
        Of the analysis, or the forecast's reference time, UTC
    lead : np.timedelta64 | None
        Lead time; None for an analysis
    coarse : int | None
        Number of the coarse member; None where there is but one forecast
    """

    time: np.datetime64
    lead: np.timedelta64 | None = None
    coarse: int | None = None

    @property
    def valid(self) -> np.datetime64:
        """Valid time, UTC: the clock that everything but the address of the data goes by."""
        return self.time if self.lead is None else self.time + self.lead

    def __str__(self) -> str:
        lead = "" if self.lead is None else f" + {lead_text(self.lead)}"
        return time_text(self.time) + lead + ("" if self.coarse is None else f", coarse member {self.coarse}")


@dataclass(frozen=True, eq=False)
class Cases:
    """All cases of a run.

    Attributes
    ----------
    times : np.ndarray
        ``[T]`` datetime64[ns]: valid times of analyses, or reference times of forecasts
    leads : np.ndarray | None
        ``[L]`` timedelta64[ns]: lead times; None for analyses
    coarse : tuple[int, ...] | None
        Numbers of the coarse members of a forecast; None where there is but one forecast
    """

    times: Times
    leads: Leads | None = None
    coarse: tuple[int, ...] | None = None

    @property
    def axes(self) -> OrderedDict[str, NDArray[Any]]:
        """Coordinates by Earth2Studio's names: ``time``, and for forecasts ``lead_time`` and ``ensemble``."""
        axes: OrderedDict[str, NDArray[Any]] = OrderedDict(time=self.times)
        if self.leads is not None:
            axes["lead_time"] = self.leads
        if self.coarse is not None:
            axes["ensemble"] = np.array(self.coarse)
        return axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(len, self.axes.values()))

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def index(self, number: int) -> tuple[int, ...]:
        """Position of a case along the axes."""
        return tuple(map(int, np.unravel_index(number, self.shape)))

    def __getitem__(self, number: int) -> Case:
        found = [axis[i] for axis, i in zip(self.axes.values(), self.index(number), strict=True)]
        coarse = None if self.coarse is None else int(found[-1])
        return Case(found[0], None if self.leads is None else found[1], coarse)

    def __iter__(self) -> Iterator[Case]:
        return (self[number] for number in range(len(self)))

    @property
    def valid_times(self) -> Times:
        """``[T]`` of analyses, ``[T, L]`` of forecasts."""
        return self.times if self.leads is None else self.times[:, None] + self.leads
