# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecasts for a verification: the ensemble of a store, and its baselines.

A forecast gives one field of one member; at most one time is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from earth2_corrdiff.base.block_means import mean_grid
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.regrid import IndexRegridder, Regridder
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.model.calibration import Calibration, check_uncalibrated
from earth2_corrdiff.model.diffusion.noise import MemberNoise, member_seed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.prepared import Prepared
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.paths import UNWRITTEN

COARSE_TWINS = {"mrr": "refc"}  # variables whose coarse counterpart has another name
Coarse = Callable[[np.datetime64], Tensor]
"""The model's coarse input ``[C, h, w]`` at a time, or ``[E, C, h, w]`` of E coarse members."""
Regrid = Callable[[Tensor], Tensor]
Read = Callable[[np.datetime64, str, int], Tensor]
"""A coarse field ``[h, w]`` by time, name and position of the coarse member."""


class Forecast(Protocol):
    """Fields by time, variable and member."""

    @property
    def name(self) -> str:
        """Name in the tables."""

    @property
    def size(self) -> int:
        """Number of members."""

    @property
    def variables(self) -> Sequence[str]:
        """Its variables."""

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field ``[H, W]`` in the variable's units."""


class StoreEnsemble:
    """The members in a store that ``run-corrdiff`` wrote.

    Parameters
    ----------
    ds : xr.Dataset
        From :func:`earth2_corrdiff.store.reader.open_store`
    name : str, optional
        Name in the tables, by default "ensemble"
    """

    def __init__(self, ds: xr.Dataset, name: str = "ensemble") -> None:
        self.ds, self.name = ds, name
        self.variables = reader.output_variables(ds)
        self.numbers = reader.sample_numbers(ds)
        self.size = len(self.numbers)
        self.times: Times = ds["time"].to_numpy().astype("datetime64[ns]")

    def missing(self, time: np.datetime64) -> list[int]:
        """Members that are not complete at a time, by their seeds."""
        index = reader.time_index(self.ds, time)
        return [n for n in self.numbers if reader.member_seed(self.ds, index, n) == UNWRITTEN]

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field; ``member`` is a position."""
        index = reader.time_index(self.ds, time)
        return torch.from_numpy(reader.field(self.ds, variable, index, self.numbers[member]))


class CalibratedEnsemble(StoreEnsemble):
    """The members in a store, corrected about the model's regression.

    Parameters
    ----------
    ds : xr.Dataset
        As of :class:`StoreEnsemble`
    regression : Regression
        The model's, of the store's input
    calibration : Calibration
        The correction

    Raises
    ------
    InputError
        If the calibration does not fit the store
    """

    def __init__(self, ds: xr.Dataset, regression: Regression, calibration: Calibration) -> None:
        super().__init__(ds)
        self.regression, self.calibration, self.grid = regression, calibration, reader.grid_of(ds)
        check_uncalibrated(ds.attrs, "the store")
        calibration.check(ds.attrs, self.variables, self.grid.shape)

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field, corrected; ``member`` is a position."""
        field = super().field(time, variable, member)
        mean = self.regression.field(time, variable, member * self.regression.size // self.size)
        one = (field[None, None], mean[None, None].to(field), [variable])
        return self.calibration(*one, self.calibration.place(self.grid, time))[0, 0]


class Interpolation:
    """The coarse input, interpolated to the fine grid: the baseline of all downscaling.

    Parameters
    ----------
    read : Callable[[np.datetime64, str, int], Tensor]
        A coarse field ``[h, w]`` by time, the variable's coarse name and the position of the coarse member
    twins : Mapping[str, str]
        Coarse names of the fine variables that have one
    regrid : Regridder
        From the coarse to the fine grid
    size : int, optional
        Number of coarse members, by default 1
    """

    name = "interpolation"

    def __init__(self, read: Read, twins: Mapping[str, str], regrid: Regrid, size: int = 1) -> None:
        self.read, self.twins, self.regrid, self.size = read, dict(twins), regrid, size
        self.variables = list(twins)

    @classmethod
    def of_store(cls, ds: xr.Dataset) -> Self | None:
        """The interpolation of a store's coarse input; None if the store has none."""
        coarse = reader.coarse_variables(ds)
        twins = {name: COARSE_TWINS.get(name, name) for name in reader.output_variables(ds)}
        kept = {name: twin for name, twin in twins.items() if twin in coarse}
        if not kept:
            return None

        def read(time: np.datetime64, name: str, member: int) -> Tensor:
            index = reader.time_index(ds, time)
            return torch.from_numpy(reader.field(ds, name + reader.COARSE, index, coarse=member))

        return cls(read, kept, regrid_of(ds), reader.coarse_count(ds))

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """The interpolated field; ``member`` is the position of a coarse member."""
        field: Tensor = self.regrid(self.read(time, self.twins[variable], member))
        return field


def regrid_of(ds: xr.Dataset) -> Regrid:
    """Bilinear interpolation ``[..., h, w] → [..., H, W]`` of coarse input; of block means by index."""
    coarse, fine = reader.grid_of(ds, reader.COARSE), reader.grid_of(ds)
    (h, w), (H, W) = coarse.shape, fine.shape
    if H % h == 0 and H // h == W // w and W % w == 0 and coarse.matches(mean_grid(fine, H // h)):
        regrid = IndexRegridder(fine.shape)
        return lambda values: regrid(values.reshape(1, -1, h, w)).reshape(*values.shape[:-2], H, W)
    # a run has checked how far its output sticks out of its input
    return Regridder(coarse, fine, margin=1.0)


class EnsembleMean:
    """The mean of an ensemble's members as one field."""

    name, size = "ensemble mean", 1

    def __init__(self, ensemble: Forecast) -> None:
        self.ensemble, self.variables = ensemble, ensemble.variables

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """The mean, ``[H, W]``."""
        members = (self.ensemble.field(time, variable, i) for i in range(self.ensemble.size))
        return sum(members, torch.zeros(())) / self.ensemble.size


class Regression:
    """The regression alone: the model's mean, without the residual of the diffusion.

    Parameters
    ----------
    downscaler : Downscaler
        The model
    coarse : Callable
        Its input at a time, of ``size`` coarse members
    size : int, optional
        Number of coarse members, by default 1
    hours : float | None, optional
        Lead time, for models that take one
    """

    name = "regression"

    def __init__(
        self, downscaler: Downscaler, coarse: Coarse, size: int = 1, hours: float | None = None
    ) -> None:
        self.downscaler, self.coarse, self.size, self.hours = downscaler, coarse, size, hours
        self.variables = list(downscaler.spec.output_variables)
        self._time: np.datetime64 | None = None
        self._fields = torch.empty(0)
        self._prepared: tuple[np.datetime64, list[Prepared]] | None = None

    def cases(self, time: np.datetime64, coarse: Tensor | None = None) -> list[Prepared]:
        """The cases of a time, one per coarse member; held until another time is asked for."""
        if self._prepared is None or self._prepared[0] != time:
            coarse = self.coarse(time) if coarse is None else coarse
            inputs = coarse if coarse.ndim == 4 else coarse[None]
            made = [self.downscaler.prepare(x[None], self.hours, time) for x in inputs]
            self._prepared = time, made
        return self._prepared[1]

    @torch.inference_mode()
    def compute(self, time: np.datetime64, coarse: Tensor) -> Tensor:
        """All members and variables of a time: ``[C, h, w]`` or ``[M, C, h, w]`` → ``[M, Co, H, W]``."""
        model = self.downscaler
        means = [model.physical(model.mean_of(case), case) for case in self.cases(time, coarse)]
        fields: Tensor = model.spec.kept(torch.cat(means))
        return fields

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field; all of its time are computed at once and held until another time is read."""
        if self._time != time:
            self._fields = self.compute(time, self.coarse(time)).cpu()
            self._time = time
        return self._fields[member, self.variables.index(variable)]


class NoisyRegression:
    """The regression plus white Gaussian noise, added before transforms and bounds are undone.

    What a diffusion model must beat: it has the residual's variance, and nothing of its structure.

    Parameters
    ----------
    regression : Regression
        The model's
    deviation : Tensor
        ``[Co]`` standard deviation of the residual, normalised
    size : int
        Number of members
    seed : int, optional
        Of the noise
    """

    name = "regression + noise"

    def __init__(self, regression: Regression, deviation: Tensor, size: int, seed: int = 0) -> None:
        self.regression, self.size, self.seed = regression, size, seed
        self.deviation, self.variables = deviation.float().view(1, -1, 1, 1), regression.variables
        self._held: tuple[np.datetime64, int, Tensor] | None = None

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field; all variables of its member are held until another one is read."""
        if self._held is None or self._held[:2] != (time, member):
            self._held = time, member, self._drawn(time, member)
        return self._held[2][self.variables.index(variable)]

    @torch.inference_mode()
    def _drawn(self, time: np.datetime64, member: int) -> Tensor:
        cases, model = self.regression.cases(time), self.regression.downscaler
        case = cases[member * len(cases) // self.size]
        shape = (len(self.deviation[0]), *model.spec.domain)
        noise = MemberNoise([member_seed(self.seed, time, member)], shape, model.device)()
        sampled = model.physical(model.mean_of(case) + noise * self.deviation.to(noise), case)
        fields: Tensor = model.spec.kept(sampled)[0].cpu()
        return fields


class Climatology:
    """The mean over the training set, everywhere and at all times: no skill."""

    name, size = "climatology", 1

    def __init__(self, downscaler: Downscaler) -> None:
        spec = downscaler.spec
        self.shape = spec.output_grid.shape
        means = (mean for mean, _ in spec.physical_statistics)
        known = zip(spec.output_variables, means, strict=True)
        self.centers = {name: mean for name, mean in known if not np.isnan(mean)}
        self.variables = list(self.centers)

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """The mean, ``[H, W]``."""
        return torch.full(self.shape, self.centers[variable], dtype=torch.float64)


def stored_input(ds: xr.Dataset, downscaler: Downscaler) -> Coarse:
    """The coarse input of a store, ``[E, C, h, w]`` by time, as input of a model.

    Raises
    ------
    InputError
        If the store lacks variables that the model takes, or is on other grids
    """
    spec = downscaler.spec
    downscaler.regression  # noqa: B018 - raises where there is none
    if len(spec.input_hours) > 1:
        raise InputError(
            "the package's regression takes fields of several days, and stores keep one; leave out --package"
        )
    lacking = [name for name in spec.inputs.names if name not in reader.coarse_variables(ds)]
    if lacking:
        raise InputError(
            f"the store keeps no coarse {', '.join(lacking)}, which the package's regression takes; "
            "give the package that made the store"
        )
    pairs = ((spec.input_grid, reader.grid_of(ds, reader.COARSE)), (spec.output_grid, reader.grid_of(ds)))
    if any(not mine.matches(theirs) for mine, theirs in pairs):
        raise InputError("the package has other grids than the store; give the package that made the store")

    def coarse(time: np.datetime64) -> Tensor:
        index = reader.time_index(ds, time)
        layers = [
            [reader.field(ds, name + reader.COARSE, index, coarse=member) for name in spec.inputs.names]
            for member in range(reader.coarse_count(ds))
        ]
        x = torch.from_numpy(np.array(layers)).float()
        known = torch.isfinite(x).flatten(2)
        if not (known.any(-1) if spec.missing_inputs else known).all():
            raise InputError(f"the store's coarse input at {time_text(time)} is incomplete; resume its run")
        return x

    return coarse


def regression_of(ds: xr.Dataset, downscaler: Downscaler, lead: np.timedelta64 | None = None) -> Regression:
    """The regression of a store's coarse input: of analyses, or of one lead time."""
    hours = None if lead is None else float(lead / np.timedelta64(1, "h"))
    return Regression(downscaler, stored_input(ds, downscaler), reader.coarse_count(ds), hours)
