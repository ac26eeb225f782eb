# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the times of a training suffice: independent ones, values per weight, gaps between the splits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import lead_text
from earth2_corrdiff.model.conditioning import transformed
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.training.config import Config
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.splits import Splits
from earth2_corrdiff.training.trainer import evenly

NEIGHBOURS, PIXELS = 16, 2**16
"""Most pairs of successive times, and about how many pixels of each, that persistence is estimated from."""
LEAST = {"training": 30, "validation": 4, "test": 10}
"""Independent times below which a split is small."""
LEAST_VALUES = 10
"""Values for each weight below which a network may learn its training times by heart."""
NEAR = math.exp(-1)
"""Correlation over a gap above which splits are near to each other: the usual e-folding time."""


@dataclass(frozen=True)
class Persistence:
    """How fast the fine weather changes.

    Attributes
    ----------
    correlation : float
        Of the fine fields at successive times, of anomalies from their mean
    step : np.timedelta64
        Between these times
    """

    correlation: float
    step: np.timedelta64

    def independent(self, times: int) -> float:
        """How many independent times so many successive ones are worth.

        That of a first-order autoregression (Leith 1973; Wilks, Statistical Methods in the Atmospheric
        Sciences, chapter 5): ``n (1 - r) / (1 + r)``.
        """
        return max(times * (1 - self.correlation) / (1 + self.correlation), min(times, 1))

    def over(self, gap: np.timedelta64) -> float:
        """Correlation of fields that are so far apart."""
        return float(self.correlation ** (gap / self.step))


def persistence(
    pairs: PairFile, indices: Sequence[int], transforms: dict[str, Transform] | None = None
) -> Persistence:
    """Persistence of the fine fields of some times, where these are as near as they mostly are."""
    times, first = np.unique(pairs.times[list(indices)], return_index=True)
    numbers, steps = np.asarray(indices)[first], np.diff(times)
    if not steps.size:
        return Persistence(0.0, np.timedelta64(1, "h"))
    step = np.sort(steps)[steps.size // 2]
    H, W = pairs.fine_grid.shape
    every = max(1, math.isqrt(H * W // PIXELS))
    own = [(transforms or {}).get(name, Transform()) for name in pairs.channels.outputs]
    fields = torch.stack(
        [
            transformed(pairs.read(numbers[[i, i + 1]].tolist()).fine[..., ::every, ::every], own)
            for i in evenly(np.flatnonzero(steps <= step).tolist(), NEIGHBOURS)
        ]
    ).double()  # [K, 2, Co, h, w]
    apart = torch.nan_to_num(fields - fields.nanmean((0, 1)), nan=0.0, posinf=0.0, neginf=0.0)
    product = (apart[:, 0] * apart[:, 1]).sum((0, 2, 3))
    power = apart.square().sum((0, 1, 3, 4)) / 2
    return Persistence(float((product / power.clamp(min=1e-30)).mean().clamp(0, 0.99)), step)


def warnings_of(
    config: Config, pairs: PairFile, splits: Splits, weights: dict[str, int], lasting: Persistence
) -> Iterator[str]:
    """What there is too little of, a sentence each.

    Notes
    -----
    - A split of few independent times (see :meth:`Persistence.independent`): a mean over n of them is known
      to ``1 / sqrt(n)`` of their spread, 18 % for the 30 of a training, 32 % for the 10 of a test, 50 % for
      the 4 of a validation.
    - Values of the fine fields for each weight, of independent times; images that are flipped and turned
      count as further ones, shifted blocks and overlapping patches do not, as they show the same weather.
      A U-Net of 7.6 million weights copied its 1 000 training images of 80 x 80 (0.8 values for each
      weight), still leant on them with 10 000 (8), and made images of its own with 100 000 (84): Kadkhodaie
      et al., arXiv 2310.02557, figures 1 and 2.
    - Validation or tests nearer to the training than fields remember (a correlation of 1 / e): their scores
      are those of weather that was partly seen. Splits that share a time are refused elsewhere.
    - A warm-up that is as long as the training.
    """
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        yield from _few(name, len(np.unique(pairs.times[part])), lasting)
    count = lasting.independent(len(np.unique(pairs.times[splits.train])))
    images = count * _turns(config, pairs)
    values = images * math.prod(pairs.fine_grid.shape) * len(pairs.channels.outputs)
    large = [f"{name} of {size:,} weights" for name, size in weights.items() if values < LEAST_VALUES * size]
    if large:
        yield (
            f"about {values:,.0f} independent values are few for the {' and the '.join(large)}: below "
            f"{LEAST_VALUES} for each a network may learn its training times by heart; use a smaller one, "
            "watch the validation loss, and compare members with their nearest training fields"
        )
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        yield from _near(name, pairs, splits.train, part, lasting)
    for name in ("regression", "diffusion"):
        how = getattr(config, name)
        if 0 < how.steps <= how.warmup:
            yield f"{name}.warmup of {how.warmup} steps is as long as its training of {how.steps}"


def _few(name: str, times: int, lasting: Persistence) -> Iterator[str]:
    if not times:
        use = {"validation": "curves cannot show when to stop", "test": "scores have nothing to be made of"}
        yield f"there are no {name} times: {use[name]}"
        return
    count = lasting.independent(times)
    if count < LEAST[name]:
        same = f" (fields {lead_text(lasting.step)} apart correlate {lasting.correlation:.2f})"
        worth = f", worth about {count:.0f} independent ones{same}" if count < 0.9 * times else ""
        yield f"there are few {name} times: {times}{worth}; {LEAST[name]} independent ones are a small set"


def _turns(config: Config, pairs: PairFile) -> int:
    """Images that flips and turns make of one."""
    if not config.data.flips:
        return 1
    patches = config.diffusion.patches
    h, w = patches.shape if patches is not None else pairs.fine_grid.shape
    return 8 if h == w else 4


def _near(
    name: str, pairs: PairFile, train: Sequence[int], part: Sequence[int], lasting: Persistence
) -> Iterator[str]:
    if not part:
        return
    known, times = pairs.times[list(train)], pairs.times[list(part)]  # both ascending
    after = np.searchsorted(known, times)
    sides = known[[np.minimum(after, len(known) - 1), np.maximum(after - 1, 0)]]
    gap = np.abs(sides - times).min()
    if lasting.over(gap) > NEAR:
        yield (
            f"the {name} times come within {lead_text(gap)} of the training, where fields still correlate "
            f"{lasting.over(gap):.2f}: scores will be too good; leave a gap in data.split"
        )


def check_memory(stage: str, needed: float, free: float, least: int | None) -> None:
    """Refuse a stage that needs more bytes than are free.

    Raises
    ------
    InputError
        With the ``micro_batch`` that fits, or None where not even one image does
    """
    if needed <= free:
        return
    use = f"set {stage}.micro_batch to {least}" if least else "use smaller patches, or a smaller network"
    raise InputError(
        f"a step of the {stage} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; {use}"
    )
