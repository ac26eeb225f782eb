# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One result of the benchmark; needs no PyTorch, so that tables can be made anywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One variant in one case.

    Attributes
    ----------
    seconds : tuple[float, ...]
        One sample per round; ``median``, ``low`` and ``high`` are theirs
    first_call : float
        Seconds of the first call, compilation included
    ratio, ratio_same_type : float, float | None
        Times faster than stock fp32, and than stock operators in the same type: median over the rounds
    error : float
        Relative L2 to the reference; with several noise levels the largest. Of normalised fields
    equal : bool
        Whether every bit is that of the reference
    accepted : bool | None
        Whether the error is at most 1e-5 in fp32, and at most that of stock operators in the same half type
    flop_rate, byte_rate : float | None
        FLOP/s, and B/s with the traffic of the eager operators for stock and of fused ones for the others
    roofline, roofline_ideal : float | None
        Least time of fused operators, and of the best known fusion, over the median
    peak_memory : int | None
        Bytes that a GPU needed at most beyond what was there before
    """

    what: str
    members: int
    steps: int
    variant: str
    precision: str
    seconds: tuple[float, ...]
    median: float
    low: float
    high: float
    first_call: float
    ratio: float
    ratio_same_type: float | None
    error: float
    equal: bool
    accepted: bool | None
    flop_rate: float | None
    byte_rate: float | None
    roofline: float | None
    roofline_ideal: float | None
    peak_memory: int | None
