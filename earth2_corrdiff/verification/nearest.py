# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Distance of members to the nearest training field: does a model repeat what it was trained on?

With few training fields a diffusion model can learn them by heart. Its residuals then lie much nearer to one
of theirs than the truth's residual, of other weather, does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.model.conditioning import transformed, unframed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.verification.forecasts import Regression, StoreEnsemble, stored_input
from earth2_corrdiff.verification.tables import Table, number
from earth2_corrdiff.verification.truth import Truth

Array = NDArray[np.float64]
MEMORISED = 0.5
"""Ratio to the truth's distance below which a member counts as a repeated training field."""


def nearest(fields: Tensor, training: Tensor) -> tuple[Array, NDArray[np.intp]]:
    """RMS distance of each field to the nearest training field, and which: ``[N, …], [K, …] → [N], [N]``."""
    flat, known = fields.flatten(1).double(), training.flatten(1).double()
    away, which = torch.cdist(flat, known).min(1)
    return (away / flat.shape[1] ** 0.5).numpy(), which.numpy()


@dataclass(frozen=True, eq=False)
class Nearest:
    """Distances of residuals, normalised, to the nearest of a training: RMS over pixels and channels.

    Attributes
    ----------
    times : Times
        ``[T]`` valid times
    truth : np.ndarray
        ``[T]`` of the truth
    members : np.ndarray
        ``[T, M]`` of the members
    found : Times
        ``[T]`` time of the training field that the nearest member is near to
    fields : int
        Number of training fields
    """

    times: Times
    truth: Array
    members: Array
    found: Times
    fields: int

    @property
    def ratio(self) -> float:
        """Smallest distance of a member over that of the truth at the same time; 1 if nothing is repeated."""
        return float((self.members / self.truth[:, None]).min())

    def table(self) -> Table:
        """A row for each time."""
        rows = [
            (
                time_text(time),
                time_text(near),
                *(number(x) for x in (truth, some.mean(), some.min(), some.min() / truth)),
            )
            for time, near, truth, some in zip(self.times, self.found, self.truth, self.members, strict=True)
        ]
        repeated = int((self.members < MEMORISED * self.truth[:, None]).sum())
        return Table(
            "Nearest training field",
            f"RMS distance of the normalised residual to the nearest of {self.fields} training fields. A "
            "ratio of about 1 means that members are no nearer to them than the truth is; "
            f"{repeated} of {self.members.size} members are below {MEMORISED:g}, as repeated ones would be.",
            ("time", "nearest member's", "truth", "members", "nearest", "ratio"),
            rows,
        )


@dataclass(frozen=True, eq=False)
class TrainingFields:
    """Residuals of the fields that a model was trained on.

    Attributes
    ----------
    model : Downscaler
        The model
    residuals : Tensor
        ``[K, Co, H, W]``, normalised
    times : Times
        ``[K]``
    """

    model: Downscaler
    residuals: Tensor
    times: Times

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Downscaler, pairs: PairFile, rows: Sequence[int]) -> Self:
        """Those of some pairs, with the model's inputs and outputs, on its grids."""
        residuals = []
        for row in rows:
            some, time = pairs.read([row]), pairs.times[row]
            case = model.prepare(some.coarse, None, time)
            residuals.append(_residual(model, some.fine, model.mean_of(case), time))
        return cls(model, torch.cat(residuals), pairs.times[list(rows)])

    @torch.inference_mode()
    def nearest(self, ds: xr.Dataset, truth: Truth) -> Nearest:
        """Distances of the members of a store of analyses, and of the truth, to these fields.

        Raises
        ------
        InputError
            If a field has gaps: it has no distance
        """
        ensemble, names = StoreEnsemble(ds), self.model.spec.outputs.names
        regression = Regression(self.model, stored_input(ds, self.model))
        own, others, found = [], [], []
        for time in ensemble.times:
            mean = self.model.mean_of(regression.cases(time)[0])
            fields = [torch.stack([truth.field(time, name) for name in names])]
            fields += [
                torch.stack([ensemble.field(time, name, m) for name in names]) for m in range(ensemble.size)
            ]
            residuals = _residual(self.model, torch.stack(fields).float(), mean, time)
            away, which = nearest(residuals, self.residuals)
            own.append(away[0])
            others.append(away[1:])
            found.append(self.times[which[1 + int(away[1:].argmin())]])
        return Nearest(ensemble.times, np.array(own), np.array(others), np.array(found), len(self.times))


def _residual(model: Downscaler, fine: Tensor, mean: Tensor, time: np.datetime64) -> Tensor:
    """Normalised residual of physical fields ``[N, Co, H, W]`` to the regression."""
    if not fine.isfinite().all():
        raise InputError(f"fields at {time_text(time)} have gaps, and no distance to training fields")
    rules = model.spec.rules
    values = transformed(fine, [rule.transform for rule in rules]) if rules else fine
    left: Tensor = (values - model.center_out) / model.scale_out - unframed(model.spec, mean)
    return left
