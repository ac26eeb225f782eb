# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines that are fitted on training pairs: what a downscaling model must beat.

Of each pixel the residual to the interpolated coarse field, in the space of the model's transforms: its mean
at each hour of the day, and its ridge regression on all coarse fields; of each channel the variance of the
residual to the model's regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.model.conditioning import unframed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.store import reader
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.splits import inside
from earth2_corrdiff.training.stages import normalised
from earth2_corrdiff.training.statistics import Moments
from earth2_corrdiff.verification.forecasts import COARSE_TWINS, Regrid, regrid_of

PENALTY = 10.0
"""Of the ridge regression on standardised predictors: it weighs as much as so many training times."""
Predict = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Training:
    """Pairs that baselines are fitted on, and which of them.

    Attributes
    ----------
    path : str | Path
        The file of pairs
    fit, noise : str | None
        Periods FIRST/LAST of the times for the fits, and for the variance of the noise. By default all times
        before the first one that is verified, and the same
    """

    path: str | Path
    fit: str | None = None
    noise: str | None = None


class Baselines:
    """Baselines fitted on training pairs.

    Parameters
    ----------
    training : Training
        The pairs
    ds : xr.Dataset
        The store that is verified, of ``open_store``
    downscaler : Downscaler | None, optional
        Its model: fits are made in the space of its transforms, and the residual's variance is known
    verified : Times | None, optional
        All times that will be verified, where several stores share the fits; by default the store's

    Attributes
    ----------
    rows : list[int]
        The pairs of the fits
    deviation : Tensor | None
        ``[Co]`` standard deviation of the residual to the model's regression, normalised
    notes : list[str]
        What was fitted on which times

    Raises
    ------
    InputError
        If the pairs are on other grids, have none of the times, or a time for the fits is verified
    """

    def __init__(
        self,
        training: Training,
        ds: xr.Dataset,
        downscaler: Downscaler | None = None,
        verified: Times | None = None,
    ) -> None:
        self.pairs = PairFile(training.path, invariants=(), keep=1, gaps=True)
        every = reader.cases(ds).valid_times.ravel() if verified is None else verified
        fit = self._rows(training.fit, "fit", every)
        self.rows = fit
        noise = fit if training.noise is None else self._rows(training.noise, "noise", every)
        self._check_grids(ds)
        transforms = {} if downscaler is None else transforms_of(downscaler)
        self.fit = PixelFit(self.pairs, fit, transforms, regrid_of(ds), sorted(set(hours(every))))
        self.notes = [f"Residual climatology and ridge regression are fitted on {self._about(fit)}."]
        self.deviation = None if downscaler is None else self._deviation(downscaler, noise)

    def _rows(self, period: str | None, option: str, verified: Times) -> list[int]:
        times = self.pairs.times
        there = times < verified.min() if period is None else inside(times, f"--{option}", (period,))
        if not there.any():
            raise InputError(
                f"the pairs {self.pairs.path} have no time for --{option}; give a period FIRST/LAST of theirs"
            )
        shared = np.intersect1d(times[there], verified)
        if len(shared):
            raise InputError(
                f"{time_text(shared[0])} is verified, and cannot be among the times of --{option}; give a "
                "period FIRST/LAST without it"
            )
        return [int(n) for n in np.flatnonzero(there)]

    def _about(self, rows: Sequence[int]) -> str:
        times = np.unique(self.pairs.times[list(rows)])
        ends = f"{time_text(times[0])} to {time_text(times[-1])}"
        return f"{len(rows)} fields of {len(times)} times ({ends}) of {Path(self.pairs.path).name}"

    def _check_grids(self, ds: xr.Dataset) -> None:
        grids = ((self.pairs.coarse_grid, reader.COARSE), (self.pairs.fine_grid, ""))
        lacking = set(self.pairs.channels.inputs) - set(reader.coarse_variables(ds))
        if any(not mine.matches(reader.grid_of(ds, end)) for mine, end in grids):
            raise InputError(f"the pairs {self.pairs.path} are on other grids than what is verified")
        if lacking:
            raise InputError(f"the store keeps no coarse {', '.join(sorted(lacking))}, which the pairs have")

    def pairs_of(self, model: Downscaler) -> PairFile:
        """The same pairs with a model's variables."""
        spec = model.spec
        return PairFile(self.pairs.path, spec.inputs.names, spec.outputs.names, (), keep=1, gaps=True)

    @torch.inference_mode()
    def _deviation(self, model: Downscaler, rows: Sequence[int]) -> Tensor:
        """The residual's, of the known pixels of these pairs."""
        pairs = self.pairs_of(model)
        moments = Moments()
        for row in rows:
            cond, truth = normalised(model, pairs.read([row]))
            moments.add(truth - unframed(model.spec, model.normalised_mean(cond)))
        self.notes.append(
            "The noise has the variance of each channel's residual, normalised, over "
            f"{self._about(rows)}: a standard deviation of {', '.join(f'{s:.3g}' for s in moments.std)}."
        )
        return moments.std

    def forecasts(self, ds: xr.Dataset) -> Iterator[PixelForecast]:
        """Residual climatology and ridge regression for a store's coarse input."""
        yield PixelForecast("residual climatology", self.fit.climatology, self.fit, ds)
        yield PixelForecast("ridge regression", self.fit.ridge, self.fit, ds)


def transforms_of(model: Downscaler) -> dict[str, Transform]:
    """Transforms of a model's outputs by name."""
    rules = model.spec.rules
    return {name: rule.transform for name, rule in zip(model.spec.outputs.names, rules, strict=bool(rules))}


def hours(times: Times) -> NDArray[np.int64]:
    """Hours of the day, 0 to 23."""
    return times.astype("datetime64[h]").astype(np.int64) % 24


class PixelFit:
    """Residual climatology and ridge regression of each pixel, from sums over training pairs.

    Parameters
    ----------
    pairs : PairFile
        Training pairs
    rows : Sequence[int]
        Which of them
    transforms : Mapping[str, Transform]
        By variable, of outputs and of their coarse fields
    regrid : Regrid
        From the coarse to the fine grid
    needed : Sequence[int]
        Hours of the day that the climatology is asked for

    Raises
    ------
    InputError
        If the pairs have no time of one of these hours
    """

    def __init__(
        self,
        pairs: PairFile,
        rows: Sequence[int],
        transforms: Mapping[str, Transform],
        regrid: Regrid,
        needed: Sequence[int],
    ) -> None:
        self.inputs, self.outputs = pairs.channels.inputs, pairs.channels.outputs
        self.transforms, self.regrid = dict(transforms), regrid
        twins = (COARSE_TWINS.get(name, name) for name in self.outputs)
        self._twins = [self.inputs.index(twin) if twin in self.inputs else None for twin in twins]
        shape, P, Co = pairs.fine_grid.shape, len(self.inputs), len(self.outputs)
        hour = hours(pairs.times[list(rows)])
        if lacking := sorted(set(needed) - set(hour.tolist())):
            raise InputError(f"the pairs {pairs.path} have no time at {lacking[0]:02d} UTC to fit on")
        self._hourly = {h: [torch.zeros(shape), torch.zeros(Co, *shape)] for h in needed}
        self._offset = torch.zeros(P, 1, 1, dtype=torch.float64)
        self._sums = [
            torch.zeros(*some, *shape, dtype=torch.float64) for some in ((), (P,), (Co,), (P, P), (P, Co))
        ]
        for row, h in zip(rows, hour.tolist(), strict=True):
            some = pairs.read([row])
            self._add(some.coarse[0].double(), some.fine[0].double(), h)
        self._solve()

    def _add(self, coarse: Tensor, fine: Tensor, hour: int) -> None:
        x, base = self._predictors(coarse)
        if not self._offset.any():  # sums of squares of 290 K would lose digits
            self._offset = x.nan_to_num().mean((1, 2), keepdim=True)
        residual = (
            torch.stack([self._transform(n).forward(y) for n, y in zip(self.outputs, fine, strict=True)])
            - base
        )
        known = torch.isfinite(x).all(0) & torch.isfinite(residual).all(0)
        x, r = (torch.where(known, part, 0.0) for part in (x - self._offset, residual))
        n, sx, sr, sxx, sxr = self._sums
        n += known
        sx += x
        sr += r
        sxx += x[:, None] * x
        sxr += x[:, None] * r
        if hour in self._hourly:
            count, total = self._hourly[hour]
            count += known
            total += r

    def _transform(self, name: str) -> Transform:
        return self.transforms.get(name, Transform())

    def _predictors(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolated coarse fields ``[P, H, W]``, transformed, and those of the outputs ``[Co, H, W]``."""
        x: Tensor = self.regrid(coarse)
        x = torch.stack([self._transform(name).forward(f) for name, f in zip(self.inputs, x, strict=True)])
        return x, torch.stack([torch.zeros_like(x[0]) if i is None else x[i] for i in self._twins])

    def _solve(self) -> None:
        """Weights ``[P, Co, H, W]`` of the predictors, and the residual's mean; NaN below two times."""
        n, sx, sr, sxx, sxr = self._sums
        n = torch.where(n > 1, n, torch.nan)
        x, self._mean = sx / n, sr / n
        scatter, right = sxx - n * x[:, None] * x, sxr - n * x[:, None] * self._mean
        std = (torch.diagonal(scatter).permute(2, 0, 1) / n).clamp(min=0).sqrt()
        std = torch.where(std > 1e-12, std, 1.0)
        left = (scatter / (std[:, None] * std)).permute(2, 3, 0, 1)
        left = left.nan_to_num() + PENALTY * torch.eye(len(x), dtype=torch.float64)
        weights = torch.linalg.solve(left, (right / std[:, None]).permute(2, 3, 0, 1))
        self._weights, self._center = weights.permute(2, 3, 0, 1) / std[:, None], x + self._offset
        self._sums.clear()

    def climatology(self, coarse: Tensor, hour: int) -> Tensor:
        """Coarse input ``[P, h, w]`` plus the mean residual of the hour: ``[Co, H, W]``."""
        count, total = self._hourly[hour]
        return self._physical(self._predictors(coarse)[1] + total / torch.where(count > 0, count, torch.nan))

    def ridge(self, coarse: Tensor, hour: int) -> Tensor:
        """Coarse input ``[P, h, w]`` plus the residual that is regressed on it: ``[Co, H, W]``."""
        x, base = self._predictors(coarse)
        return self._physical(base + self._mean + (self._weights * (x - self._center)[:, None]).sum(0))

    def _physical(self, values: Tensor) -> Tensor:
        parts = [(self._transform(name), y) for name, y in zip(self.outputs, values, strict=True)]
        return torch.stack([how.inverse(y).clamp(*how.bounds) for how, y in parts])


class PixelForecast:
    """A baseline of :class:`PixelFit` for the coarse input of a store, one field per coarse member.

    Parameters
    ----------
    name : str
        In the tables
    predict : Callable[[Tensor, int], Tensor]
        The fields from coarse fields and the hour of the day
    fit : PixelFit
        Whose variables it has
    ds : xr.Dataset
        The store
    """

    def __init__(self, name: str, predict: Predict, fit: PixelFit, ds: xr.Dataset) -> None:
        self.name, self.predict, self.inputs, self.ds = name, predict, fit.inputs, ds
        there = reader.output_variables(ds)
        self.variables = [name for name in fit.outputs if name in there]
        self._order, self.size = fit.outputs, reader.coarse_count(ds)
        self._held: tuple[np.datetime64, int, Tensor] | None = None

    def field(self, time: np.datetime64, variable: str, member: int) -> Tensor:
        """One field; all variables of its time and coarse member are held until another one is read."""
        if self._held is None or self._held[:2] != (time, member):
            index = reader.time_index(self.ds, time)
            names = [name + reader.COARSE for name in self.inputs]
            coarse = np.stack([reader.field(self.ds, name, index, coarse=member) for name in names])
            made = self.predict(torch.from_numpy(coarse), int(hours(np.array([time]))[0]))
            self._held = time, member, made
        return self._held[2][self._order.index(variable)]
