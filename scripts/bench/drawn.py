# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Ensembles that are drawn for a verification without a store, and their coarse input."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.sources import Source, fetch
from earth2_corrdiff.sources.inputs import Inputs
from earth2_corrdiff.verification.forecasts import COARSE_TWINS, Coarse, Interpolation, Regression


class FetchedInput:
    """The model's coarse input at a time, fetched once: coarse fields of all times are small.

    Parameters
    ----------
    source : Source
        Where it is from
    spec : CorrDiffSpec
        Of the model that takes it
    times : np.ndarray
        That will be asked for

    Raises
    ------
    InputError
        If the source lacks times or variables; when called, if the fields cannot be what they should be
    """

    def __init__(self, source: Source, spec: CorrDiffSpec, times: Times) -> None:
        self.spec = spec
        self._inputs = Inputs.of(source, Cases(times), spec)
        self._held: dict[np.datetime64, Tensor] = {}

    def __call__(self, time: np.datetime64) -> Tensor:
        """``[C, h, w]`` in physical units."""
        if time not in self._held:
            number = int(np.flatnonzero(self._inputs.cases.times == time)[0])
            self._held[time] = self._inputs.fetch(number, self.spec.inputs.names)
        return self._held[time]


class Drawn(Regression):
    """An ensemble that is drawn when it is read, with the seeds of the members of ``run-corrdiff``.

    Parameters
    ----------
    downscaler : Downscaler
        The model
    coarse : Callable
        Its input at a time
    members, seed : int
        Number of members, and the run's seed
    sampling : Sampling | None, optional
        By default the model's
    """

    name = "ensemble"

    def __init__(
        self,
        downscaler: Downscaler,
        coarse: Coarse,
        members: int,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(downscaler, coarse, members)
        self.seed, self.sampling = seed, sampling

    def compute(self, time: np.datetime64, coarse: Tensor) -> Tensor:
        """All members."""
        seeds = [member_seed(self.seed, time, i) for i in range(self.size)]
        members: Tensor = self.downscaler(coarse[None], seeds, sampling=self.sampling)
        return members[0]


def interpolated(source: Source, model: Downscaler) -> Interpolation:
    """The source's coarse fields of what the model makes, as a baseline; InputError if it lacks one."""
    grid = model.spec.input_grid
    twins = {name: COARSE_TWINS.get(name, name) for name in model.spec.outputs.names}
    source.check_variables(list(twins.values()))

    def read(time: np.datetime64, name: str, member: int) -> Tensor:
        x, _ = fetch(source, time, [name], grid.lat, grid.lon)
        return x[0, 0]

    return Interpolation(read, twins, model.regrid)
