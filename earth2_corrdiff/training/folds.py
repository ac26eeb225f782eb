# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of the training times, each left out by a regression of its own: residuals of unseen times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.networks.preconditioned import Regression


@dataclass(frozen=True)
class Fold:
    """A block of training times, and the regression that was not trained on it.

    Attributes
    ----------
    times : tuple[int, ...]
        Numbers of the times
    regression : Regression
        Trained on the others
    """

    times: tuple[int, ...]
    regression: Regression


def blocks_of(times: Times, train: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """``count`` blocks of successive training times; a valid time lies in one of them with all its runs.

    Raises
    ------
    InputError
        If there are fewer valid times than blocks
    """
    numbers = np.asarray(train)
    different = np.unique(times[numbers])
    if len(different) < count:
        raise InputError(
            f"diffusion.cross_fit of {count} needs as many training times; there are {len(different)}"
        )
    parts = np.array_split(different, count)
    return [tuple(numbers[np.isin(times[numbers], part)].tolist()) for part in parts]
