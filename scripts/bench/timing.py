# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: one round runs every variant once, so that what slows the machine slows them all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Work = Callable[[], object]
LEAST = 0.1  # seconds that one sample of a short work lasts at least: it is repeated until then


class Clock(Protocol):
    """Something that times a work."""

    def time(self, work: Work, repeats: int = 1) -> float:
        """Seconds per call of ``work``, called ``repeats`` times."""
        ...


class HostClock:
    """Wall time of the host; ``now`` may be replaced."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now

    def time(self, work: Work, repeats: int = 1) -> float:
        """Seconds per call."""
        start = self.now()
        for _ in range(repeats):
            work()
        return (self.now() - start) / repeats


class DeviceClock:
    """Time between two events on a GPU; the host waits at both ends only."""

    def time(self, work: Work, repeats: int = 1) -> float:
        """Seconds per call."""
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats


def clock_of(device: torch.device) -> Clock:
    """The clock that belongs to a device."""
    return DeviceClock() if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one sample per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The fastest sample."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """The slowest sample."""
        return max(self.seconds)

    def ratio(self, base: Timing) -> float:
        """How many times faster than ``base``: the median over the rounds of the ratio in each round.

        Raises
        ------
        ValueError
            If the two have not been timed in the same rounds
        """
        pairs = zip(base.seconds, self.seconds, strict=True)
        return statistics.median(before / after for before, after in pairs)


def repeats_for(seconds: float) -> int:
    """How often a work that lasts ``seconds`` is repeated, so that a sample lasts ``LEAST``; at most 1000."""
    return min(1000, max(1, math.ceil(LEAST / max(seconds, 1e-9))))


def warm_up(work: Work, clock: Clock, settle: float = 2.0) -> tuple[float, int]:
    """Run a work before it is timed.

    Parameters
    ----------
    work : Callable
        What to run
    clock : Clock
        On which
    settle : float, optional
        A work whose first call is shorter than this many seconds runs once more, because first calls
        allocate and compile; by default 2

    Returns
    -------
    tuple[float, int]
        Seconds of the first call, and the calls that make a sample
    """
    first = clock.time(work)
    again = clock.time(work) if first < settle else first
    return first, repeats_for(again)


def interleave(
    works: Mapping[str, Work], rounds: int, clock: Clock, repeats: Mapping[str, int]
) -> dict[str, Timing]:
    """Time variants in turn, A B C A B C …

    Parameters
    ----------
    works : Mapping[str, Callable]
        The variants, warmed up
    rounds : int
        Samples of each
    clock : Clock
        What times them
    repeats : Mapping[str, int]
        Calls per sample of each
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(clock.time(work, repeats[name]))
    return {name: Timing(tuple(samples)) for name, samples in seconds.items()}
