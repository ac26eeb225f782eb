# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rate of each step, and memory of the averaged weights; also where steps were added at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.training.config import StageConfig


def rate(how: StageConfig, step: int, ends: Sequence[int] = ()) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then a cosine to zero.

    Steps that are added to a finished training have a warm-up and a cosine of their own, up to the same peak
    (a warm restart: Loshchilov and Hutter, arXiv 1608.03983): without them the rate would jump from zero.

    Parameters
    ----------
    how : StageConfig
        Peak, warm-up, steps
    step : int
        Steps before this one
    ends : Sequence[int], optional
        Steps at which the training had ended before more were added
    """
    start = max((end for end in ends if end <= step), default=0)
    last = min((end for end in ends if end > step), default=how.steps)
    if step - start < how.warmup:
        return how.lr * (step - start + 1) / how.warmup
    done = (step - start - how.warmup) / max(last - start - how.warmup, 1)
    return how.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def decay(how: StageConfig, step: int) -> float:
    """Weight of the old average at a step; shorter memory at the start."""
    return float(0.5 ** (1 / min(how.ema_halflife, 1 + step / 10)))


def steps_text(steps: int, ends: Sequence[int] = ()) -> str:
    """``1500 steps``, or with ``ends`` of 1000 ``1000 + 500 steps``."""
    marks = [0, *ends, steps]
    return " + ".join(str(b - a) for a, b in zip(marks, marks[1:], strict=False)) + " steps"


def earlier_ends(text: str, done: int, steps: int) -> tuple[int, ...]:
    """Where a training ended before it was to have ``steps``; from the text of its checkpoint, and its step.

    Raises
    ------
    InputError
        If steps are added to a training that has not done those that it had
    """
    try:
        ends = tuple(accumulate(map(int, text.partition(" steps")[0].split(" + "))))
    except ValueError:  # of something else, which is refused as such
        return ()
    if ends[-1] < steps and done < ends[-1]:
        raise InputError(
            f"a training at step {done} of {ends[-1]} cannot have {steps} steps; set steps to {ends[-1]}, "
            "and add more when it is finished"
        )
    return tuple(end for end in ends if end < steps)
