# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A case after its conditioning and regression, as its members share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.times import Times


class Prepared(NamedTuple):
    """A case as its members share it, from ``Downscaler.prepare`` for ``Downscaler.sample``.

    Attributes
    ----------
    cond : Tensor
        Conditioning ``[1, Cc, H', W']``, normalised
    mean : Tensor | None
        The regression's ``[1, Co, H', W']``, normalised; None for packages without a regression
    label : int | None
        Of the lead time, for networks that were trained with lead times
    vector : Tensor | None
        Scalar conditions ``[1, K]``, for networks that were trained with them
    valid : np.ndarray | None
        Valid time ``[1]``, UTC; not a time where it is not known
    missing : Tensor | None
        True for output cells without a value ``[1, Co, H, W]``; None for packages that refuse missing inputs
    """

    cond: Tensor
    mean: Tensor | None
    label: int | None = None
    vector: Tensor | None = None
    valid: Times | None = None
    missing: Tensor | None = None


def joined(cases: Sequence[Prepared]) -> Prepared:
    """Several cases of one label as one: every leading 1 becomes the number of cases; of one case, itself."""
    if all(case is cases[0] for case in cases):
        return cases[0]
    cond, mean, _, vector, valid, missing = zip(*cases, strict=True)
    return Prepared(
        torch.cat(cond),
        None if mean[0] is None else torch.cat(mean),
        cases[0].label,
        None if vector[0] is None else torch.cat(vector),
        None if any(time is None for time in valid) else np.concatenate(valid),
        None if missing[0] is None else torch.cat(missing),
    )


def masked(fields: Tensor, case: Prepared | None) -> Tensor:
    """Physical fields ``[m, Co, H, W]``, NaN where the case has no input."""
    if case is None or case.missing is None:
        return fields
    return fields.masked_fill(case.missing, torch.nan)
