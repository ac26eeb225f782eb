# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What is compared with the truth: an ensemble in a store or as it is drawn, and the baselines.

A forecast hands out one field of one member at a time; nothing here holds more than one time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.store import reader

UNWRITTEN = -1  # seed of a member that run-corrdiff has not written
COARSE_TWINS = {"mrr": "refc"}  # variables whose coarse counterpart has another name
Coarse = Callable[[np.datetime64], Tensor]
"""The model's coarse input ``[C, h, w]`` at a time, or ``[E, C, h, w]`` of E coarse members."""
Read = Callable[[np.datetime64, str, int], Tensor]
"""A coarse field ``[h, w]`` by time, name and position of the coarse member."""


class Forecast(Protocol):
    """Fields by time, variable and member."""

    @property
    def name(self) -> str:
        """As the tables call it."""

    @property
    def size(self) -> int:
        """Number of members."""

    @property
    def variables(self) -> Sequence[str]:
        """What it has."""

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field ``[H, W]`` in the variable's units."""


def at_lead(ds: xr.Dataset, number: int) -> xr.Dataset:
    """One lead time of a store of forecasts, by its position: like a store of analyses at its valid times."""
    lead = ds["lead_time"].to_numpy()[number]
    one = ds.isel(lead_time=number, drop=True).drop_vars("valid_time", errors="ignore")
    return one.assign_coords(time=one["time"] + lead)


def grid_of(ds: xr.Dataset, end: str = "") -> Grid:
    """The fine grid of a store, or with ``end="_lowres"`` its coarse one."""
    return Grid(reader.read_axis(ds, "lat" + end), reader.read_axis(ds, "lon" + end))


class StoreEnsemble:
    """The members in a store that ``run-corrdiff`` wrote.

    Parameters
    ----------
    ds : xr.Dataset
        As :func:`earth2_corrdiff.plotting.open_store` opens it
    name : str, optional
        As the tables shall call it, by default "ensemble"
    """

    def __init__(self, ds: xr.Dataset, name: str = "ensemble") -> None:
        self.ds, self.name = ds, name
        self.variables = reader.output_variables(ds)
        self.numbers = reader.sample_numbers(ds)
        self.size = len(self.numbers)
        self.times: Times = ds["time"].to_numpy().astype("datetime64[ns]")

    def missing(self, time: np.datetime64) -> list[int]:
        """Members that are not written at a time, by the store's own record of it."""
        if "member_seed" not in self.ds:
            return []
        found = self.ds["member_seed"].isel(time=reader.time_index(self.ds, time))
        seeds = reader.read_values(found, "member_seed").ravel()
        return [number for number, seed in zip(self.numbers, seeds, strict=True) if seed == UNWRITTEN]

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field; ``member`` is a position."""
        index = reader.time_index(self.ds, time)
        return torch.from_numpy(reader.field(self.ds, variable, index, self.numbers[member]))


class Interpolation:
    """The coarse input, interpolated to the fine grid: what downscaling has to beat.

    Parameters
    ----------
    read : Callable[[np.datetime64, str, int], Tensor]
        A coarse field ``[h, w]`` by time, the variable's coarse name and the position of the coarse member
    twins : Mapping[str, str]
        Coarse names of the fine variables that have one
    regrid : Regridder
        From the coarse to the fine grid
    size : int, optional
        Number of coarse members, by default there is but one coarse input
    """

    name = "interpolation"

    def __init__(self, read: Read, twins: Mapping[str, str], regrid: Regridder, size: int = 1) -> None:
        self.read, self.twins, self.regrid, self.size = read, dict(twins), regrid, size
        self.variables = list(twins)

    @classmethod
    def of_store(cls, ds: xr.Dataset) -> Self | None:
        """That of a store's coarse input; None if it keeps none of its variables."""
        coarse = reader.coarse_variables(ds)
        twins = {name: COARSE_TWINS.get(name, name) for name in reader.output_variables(ds)}
        kept = {name: twin for name, twin in twins.items() if twin in coarse}
        if not kept:
            return None

        def read(time: np.datetime64, name: str, member: int) -> Tensor:
            index = reader.time_index(ds, time)
            return torch.from_numpy(reader.field(ds, name + reader.COARSE, index, coarse=member))

        # a run has checked how far its output sticks out of its input
        regrid = Regridder(grid_of(ds, reader.COARSE), grid_of(ds), margin=1.0)
        return cls(read, kept, regrid, len(reader.coarse_numbers(ds) or [0]))

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """The interpolated field; ``member`` is that of the coarse input."""
        field: Tensor = self.regrid(self.read(time, self.twins[variable], member))
        return field


class OneTime:
    """Base of forecasts that a model computes: all members and variables of a time at once, one time held."""

    def __init__(self, name: str, size: int, downscaler: Downscaler, coarse: Coarse) -> None:
        self.name, self.size, self.downscaler, self.coarse = name, size, downscaler, coarse
        self.variables = list(downscaler.spec.outputs.names)
        self._time: np.datetime64 | None = None
        self._fields = torch.empty(0)

    def compute(self, time: np.datetime64, coarse: Tensor) -> Tensor:
        """``[C, h, w] → [M, Co, H, W]``."""
        raise NotImplementedError

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field of the time that is held, or of a new one, which then is."""
        if self._time != time:
            self._fields = self.compute(time, self.coarse(time)).cpu()
            self._time = time
        return self._fields[member, self.variables.index(variable)]


class Regression(OneTime):
    """The regression alone: the model's mean, without what the diffusion adds.

    Parameters
    ----------
    downscaler : Downscaler
        The model
    coarse : Callable
        Its input at a time, of ``size`` coarse members
    size : int, optional
        Number of coarse members, by default there is but one coarse input
    hours : float | None, optional
        Lead time, for models that take one
    """

    def __init__(
        self, downscaler: Downscaler, coarse: Coarse, size: int = 1, hours: float | None = None
    ) -> None:
        super().__init__("regression", size, downscaler, coarse)
        self.hours = hours

    def compute(self, time: np.datetime64, coarse: Tensor) -> Tensor:
        """The regression's output."""
        cases = coarse if coarse.ndim == 4 else coarse[None]
        return self.downscaler.mean(cases, [self.hours] * len(cases))


class Drawn(OneTime):
    """An ensemble drawn when it is asked for, with the seeds that ``run-corrdiff`` gives its members.

    Parameters
    ----------
    downscaler : Downscaler
        The model, with the solver it is set to
    coarse : Callable
        Its input at a time
    members, seed : int
        How many, and the run's seed
    """

    def __init__(self, downscaler: Downscaler, coarse: Coarse, members: int, seed: int = 0) -> None:
        super().__init__("ensemble", members, downscaler, coarse)
        self.seed = seed

    def compute(self, time: np.datetime64, coarse: Tensor) -> Tensor:
        """All members."""
        seeds = [member_seed(self.seed, time, i) for i in range(self.size)]
        members: Tensor = self.downscaler(coarse[None], seeds)
        return members[0]


class Climatology:
    """No skill: the mean over the training set everywhere and at all times."""

    name, size = "climatology", 1

    def __init__(self, downscaler: Downscaler) -> None:
        outputs = downscaler.spec.outputs
        self.shape = downscaler.spec.output_grid.shape
        self.variables = list(outputs.names)
        self.centers = dict(zip(outputs.names, outputs.center, strict=True))

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """The mean."""
        return torch.full(self.shape, self.centers[variable], dtype=torch.float64)


def stored_input(ds: xr.Dataset, downscaler: Downscaler) -> Coarse:
    """The coarse input that a store keeps, ``[E, C, h, w]``, for the model that shall see it.

    Raises
    ------
    InputError
        If the store does not have what the model takes, or is on other grids
    """
    spec = downscaler.spec
    lacking = [name for name in spec.inputs.names if name not in reader.coarse_variables(ds)]
    if lacking:
        raise InputError(
            f"the store keeps no coarse {', '.join(lacking)}, which the package's regression takes; "
            "give the package that made the store"
        )
    pairs = ((spec.input_grid, grid_of(ds, reader.COARSE)), (spec.output_grid, grid_of(ds)))
    if any(not mine.matches(theirs) for mine, theirs in pairs):
        raise InputError("the package has other grids than the store; give the package that made the store")

    def coarse(time: np.datetime64) -> Tensor:
        index = reader.time_index(ds, time)
        layers = [
            [reader.field(ds, name + reader.COARSE, index, coarse=member) for name in spec.inputs.names]
            for member in range(len(reader.coarse_numbers(ds) or [0]))
        ]
        x = torch.from_numpy(np.array(layers)).float()
        if not torch.isfinite(x).all():
            raise InputError(f"the store's coarse input at {time_text(time)} is incomplete; resume its run")
        return x

    return coarse
