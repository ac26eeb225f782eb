# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Times and memory of works, in as many samples as the time that is left allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..timing import Clock, HostClock, Timing, Work, clock_of, interleave

SAMPLE = 0.05  # seconds that one sample of a short work lasts
MOST_CALLS = 200  # in one sample


class Meter:
    """Measures on a device.

    Parameters
    ----------
    device : torch.device
        Where the works run
    quick : bool
        True for samples of one call and at most two of them: a dry run, whose times mean nothing
    left : Callable[[], float]
        Seconds that may still be spent
    """

    def __init__(self, device: torch.device, quick: bool, left: Callable[[], float]) -> None:
        self.device, self.quick, self.left = device, quick, left
        self.clock: Clock = clock_of(device)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def once(self, work: Work) -> float:
        """Seconds of one call by the host's clock, waited for."""
        self.wait()

        def waited() -> None:
            work()
            self.wait()

        return HostClock(time.perf_counter).time(waited)

    def calls(self, seconds: float, sample: float = SAMPLE) -> int:
        """Calls that make a sample of a work of ``seconds``."""
        return 1 if self.quick else max(1, min(MOST_CALLS, round(sample / max(seconds, 1e-7))))

    def best(self, work: Work, tries: int = 5, sample: float = SAMPLE) -> float:
        """Shortest seconds per call, after one to warm up."""
        work()
        calls = self.calls(self.clock.time(work), sample)
        return min(self.clock.time(work, calls) for _ in range(1 if self.quick else tries))

    def interleave(
        self,
        works: Mapping[str, Work],
        rounds: int,
        share: float = 0.5,
        seconds: Mapping[str, float] | None = None,
    ) -> dict[str, Timing]:
        """Time warmed-up works in turn, A B C A B C …

        Parameters
        ----------
        works : Mapping[str, Callable]
            What to time
        rounds : int
            Samples of each; fewer where they would take more than ``share`` of the time that is left
        share : float, optional
            By default 0.5
        seconds : Mapping[str, float] | None, optional
            Of one call of each, where they are known: then a sample is one call
        """
        if seconds is None:
            once = {name: self.clock.time(work) for name, work in works.items()}
            calls = {name: self.calls(once[name]) for name in works}
        else:
            once, calls = dict(seconds), dict.fromkeys(works, 1)
        one = sum(once[name] * calls[name] for name in works)
        most = 2 if self.quick else max(1, int(share * max(self.left(), 0.0) / max(one, 1e-7)))
        return interleave(works, min(rounds, most), self.clock, calls)

    def peak(self, work: Work) -> float | None:
        """GB that a call allocates at its peak beyond what is allocated before it; None on a CPU."""
        if self.device.type != "cuda":
            work()
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        self.wait()
        return round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)


def figures(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Milliseconds of works that were timed in turn, and how many times each is faster than the first."""
    if not timings:
        return {}
    first = next(iter(timings.values()))
    return {
        name: {
            "ms": 1e3 * timing.median,
            "least ms": 1e3 * timing.low,
            "most ms": 1e3 * timing.high,
            "rounds": len(timing.seconds),
            "times faster than first": timing.ratio(first),
        }
        for name, timing in timings.items()
    }


def relative_l2(found: torch.Tensor, reference: torch.Tensor) -> float:
    """L2 norm of the difference over that of the reference; nan where a value is not finite."""
    a, b = found.detach().double(), reference.detach().to(found.device).double()
    return float((a - b).norm() / b.norm())
