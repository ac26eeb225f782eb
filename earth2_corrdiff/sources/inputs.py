# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The coarse input of a run: the model's variables of each case, checked, and those stored beside them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.errors import InputError, renamed
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.sources.checks import check_gappy, check_input
from earth2_corrdiff.sources.fetch import fetch
from earth2_corrdiff.sources.forecasts import Forecast
from earth2_corrdiff.sources.source import Source

if TYPE_CHECKING:
    from torch import Tensor

    from earth2_corrdiff.base.grid import Grid
    from earth2_corrdiff.model.spec import CorrDiffSpec
    from earth2_corrdiff.sources.coarse import BlockMeans

RECENT = 4
"""Days that are kept: those of a valid time, and the next one's."""
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
    spec : CorrDiffSpec | None
        The model's hours of input, and the variables that may have gaps; None for the case's own time
    """

    source: Source | Forecast
    cases: Cases
    variables: Sequence[str]
    grid: Grid
    spec: CorrDiffSpec | None = None
    _recent: OrderedDict[tuple[Any, ...], Tensor] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def of(cls, source: Source | Forecast, cases: Cases, spec: CorrDiffSpec) -> Inputs:
        """The inputs of a model, from a source that has them as far as is known; fetches nothing.

        Raises
        ------
        InputError
            If the source lacks variables or times of them, or has other means than the model takes
        """
        source.check_variables(spec.inputs.names)
        if spec.daily_hour is not None and source.daily is False:
            raise InputError(
                f"the package takes daily means, and the source {source.name} has fields of an hour; use "
                "cmip6:MODEL,SCENARIO,MEMBER, or file:PATH with daily means"
            )
        if spec.daily_hour is None and source.daily:
            raise InputError(
                f"the package takes fields of an hour, and the source {source.name} has daily means"
            )
        if isinstance(source, Source):
            source.check_times(np.unique(spec.input_times(cases.valid_times)))
        elif spec.daily_hour is not None or spec.input_hours != (0.0,):
            raise InputError("the package takes fields around a time, not forecasts; leave out --lead")
        return cls(source, cases, spec.inputs.names, spec.input_grid, spec)

    @property
    def kept(self) -> tuple[str, ...]:
        """Variables to fetch and keep, as far as the source has them; the model's come first."""
        names = tuple(self.variables)
        several = self.spec is not None and len(self.spec.input_hours) > 1
        wanted = EXTRA not in names and not several and self.source.has(EXTRA)
        return (*names, EXTRA) if wanted else names

    @property
    def whole(self) -> list[str]:
        """Those of the model's variables that may have no gaps."""
        return list(self.variables if self.spec is None else self.spec.whole_inputs)

    def times(self, number: int) -> Times:
        """Times ``[L]`` of the fields that a case takes: valid times, of forecasts the reference time."""
        case = self.cases[number]
        times = np.array([case.time])
        return times if case.lead is not None or self.spec is None else self.spec.input_times(times)[0]

    def first(
        self, numbers: Sequence[int], names: Sequence[str], failed: dict[int, InputError] | None = None
    ) -> dict[int, Tensor]:
        """Number and fields of the first of these cases; none of none.

        Parameters
        ----------
        numbers : Sequence[int]
            Cases to try
        names : Sequence[str]
            Variables
        failed : dict[int, InputError] | None, optional
            Gets the cases that failed, and why; by default the first case must succeed

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
                failed[number] = renamed(error)
        return {}

    def fetch(self, number: int, names: Sequence[str]) -> Tensor:
        """Fields ``[C (+ 1), h, w]`` of one case, or of L times ``[L, C, h, w]``; the model's come first.

        Raises
        ------
        InputError
            If they cannot be fetched, or are implausible
        """
        import torch

        source = self.source.at(self.cases[number])
        daily = self.spec is not None and self.spec.daily_hour is not None
        read = self._kept_day if daily else self.read
        fields = [read(source, time, tuple(names)) for time in self.times(number)]
        return torch.stack(fields) if len(fields) > 1 else fields[0]

    def read(self, source: Source, time: np.datetime64, names: tuple[str, ...]) -> Tensor:
        """Fields ``[C (+ 1), h, w]`` of one time, checked."""
        import torch

        if self._means is None:
            x = fetch(source, time, names, self.grid.lat, self.grid.lon)[0][0]
        else:
            x = torch.from_numpy(self._means(source(np.array([time]), names), names, source.name))
        whole = [i for i, name in enumerate(self.variables) if name in self.whole]
        check_input(x[None, whole], self.whole, source, np.array([time]))
        for i, name in enumerate(self.variables):
            if i not in whole:
                check_gappy(x[i].numpy(), name, source.name, time)
                self._report_gaps(float(x[i].isnan().float().mean()), name, source.name, time)
        return x

    @cached_property
    def _means(self) -> BlockMeans | None:
        """Block means of the source's fields, where the package was trained with them."""
        if self.spec is None or self.spec.blocks is None:
            return None
        from earth2_corrdiff.sources.coarse import BlockMeans

        return BlockMeans(self.grid, self.spec.run_grid, self.spec.blocks)

    def _report_gaps(self, share: float, name: str, source: str, time: np.datetime64) -> None:
        """Log the part of a field that is missing, and therefore missing in the output."""
        if share and self.spec is not None and self.spec.missing_inputs:
            logger.info(
                "{}: {:.3g} % of {} at {} is missing: there the output has no value",
                *(source, 100 * share, name, time_text(time)),
            )

    def _kept_day(self, source: Source, time: np.datetime64, names: tuple[str, ...]) -> Tensor:
        """The same of a day, whose valid times share it: the last few are kept."""
        if (time, names) not in self._recent:
            self._recent[time, names] = self.read(source, time, names)
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return self._recent[time, names]
