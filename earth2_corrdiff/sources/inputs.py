# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The coarse input of a run: the model's variables of each case, checked, and those stored beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources.checks import check_input
from earth2_corrdiff.sources.fetch import fetch
from earth2_corrdiff.sources.forecasts import Forecast
from earth2_corrdiff.sources.source import Source

if TYPE_CHECKING:
    from torch import Tensor

    from earth2_corrdiff.base.grid import Grid

EXTRA = "refc"  # kept for comparison where the source has it: the coarse twin of mrr


@dataclass(frozen=True, eq=False)
class Inputs:
    """The coarse fields of a run's cases.

    Attributes
    ----------
    source : Source or Forecast
        Their source
    cases : Cases
        The cases to downscale
    variables : Sequence[str]
        The model's, in its order
    grid : Grid
        The model's input grid
    """

    source: Source | Forecast
    cases: Cases
    variables: Sequence[str]
    grid: Grid

    @property
    def kept(self) -> tuple[str, ...]:
        """Variables to fetch and keep, as far as the source has them; the model's come first."""
        names = tuple(self.variables)
        return (*names, EXTRA) if EXTRA not in names and self.source.has(EXTRA) else names

    def first(
        self, numbers: Sequence[int], names: Sequence[str], failed: dict[int, str] | None = None
    ) -> dict[int, Tensor]:
        """Number and fields of the first of these cases; none of none.

        Parameters
        ----------
        numbers : Sequence[int]
            Cases to try
        names : Sequence[str]
            Variables
        failed : dict[int, str] | None, optional
            Gets the cases that failed, and the reasons; by default the first case must succeed

        Raises
        ------
        InputError
            If the first one (with ``failed``: none of them) can be fetched and used
        """
        for number in numbers:
            try:
                return {number: self.fetch(number, names)}
            except InputError as error:
                if failed is None or number == numbers[-1]:
                    raise
                failed[number] = str(error)
        return {}

    def fetch(self, number: int, names: Sequence[str]) -> Tensor:
        """Fields ``[C (+ 1), h, w]`` of one case; the model's, checked, come first.

        Raises
        ------
        InputError
            If they cannot be fetched, or are implausible
        """
        case = self.cases[number]
        source = self.source.at(case)
        x, coords = fetch(source, case.time, names, self.grid.lat, self.grid.lon)
        check_input(x[:, : len(self.variables)], self.variables, source, coords["time"])
        return x[0]
