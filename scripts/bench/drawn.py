# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse weather for a model that is verified without a store: fetched from a source, checked, held."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.sources import Source, check_input, fetch
from earth2_corrdiff.verification.forecasts import COARSE_TWINS, Interpolation


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
        self.source, self.spec = source, spec
        source.check_times(times)
        source.check_variables(list(spec.inputs.names))
        self._held: dict[np.datetime64, Tensor] = {}

    def __call__(self, time: np.datetime64) -> Tensor:
        """``[C, h, w]`` in physical units."""
        if time not in self._held:
            names, grid = list(self.spec.inputs.names), self.spec.input_grid
            x, _ = fetch(self.source, time, names, grid.lat, grid.lon)
            check_input(x, names, self.source)
            self._held[time] = x[0]
        return self._held[time]


def interpolated(source: Source, model: Downscaler) -> Interpolation:
    """The source's coarse fields of what the model makes, as a baseline; InputError if it lacks one."""
    grid = model.spec.input_grid
    twins = {name: COARSE_TWINS.get(name, name) for name in model.spec.outputs.names}
    source.check_variables(list(twins.values()))

    def read(time: np.datetime64, name: str, member: int) -> Tensor:
        x, _ = fetch(source, time, [name], grid.lat, grid.lon)
        return x[0, 0]

    return Interpolation(read, twins, model.regrid)
