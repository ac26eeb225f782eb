# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Histogram of a stream of values of unknown range, in bounded memory and one pass."""

from __future__ import annotations

import math
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
BINS = 4096
FINEST = -20  # exponent of the narrowest bins


class Histogram:
    """Weights in equal bins, whose width is a power of two and doubles when the values need more bins.

    Edges are whole multiples of the width, so that two bins become one exactly: the result depends neither
    on the order of the values nor on their portions.

    Attributes
    ----------
    counts : np.ndarray
        Weight in each bin, at most ``BINS`` of them
    first : int
        Number of the first bin: it begins at ``first * width``
    """

    def __init__(self) -> None:
        self.exponent, self.first, self.counts = FINEST, 0, np.zeros(0)

    @property
    def width(self) -> float:
        """Width of a bin, in the values' units."""
        return 2.0**self.exponent

    @property
    def edges(self) -> Array:
        """Edges of the bins, one more than bins."""
        return self.width * np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64)

    def add(self, values: Tensor, weights: Tensor) -> None:
        """Count finite values of any shape with weights of the same shape."""
        counted = weights > 0
        flat, weight = values[counted].to(torch.float64), weights[counted].to(torch.float64)
        if not flat.numel():
            return
        self._make_room(float(flat.min()), float(flat.max()))
        bins = torch.floor(flat / self.width).long() - self.first
        self.counts += torch.bincount(bins, weight, minlength=len(self.counts)).numpy()

    def merge(self, other: Histogram) -> None:
        """Add another histogram."""
        if not len(other.counts):
            return
        self._make_room(other.edges[0], other.edges[-1] - 0.5 * other.width, other.exponent)
        self._place(other)

    def _place(self, other: Histogram) -> None:
        """Add the counts of a histogram whose bins fit into these."""
        numbers = np.arange(other.first, other.first + len(other.counts))
        np.add.at(self.counts, (numbers >> (self.exponent - other.exponent)) - self.first, other.counts)

    def _make_room(self, low: float, high: float, at_least: int = FINEST) -> None:
        """Widen and shift the bins until they cover these values."""
        old = copy(self)
        if len(old.counts):
            low, high = min(low, old.edges[0]), max(high, old.edges[-1] - 0.5 * old.width)
        self.exponent = max(old.exponent, at_least)
        while math.floor(high / self.width) - math.floor(low / self.width) >= BINS:
            self.exponent += 1
        self.first = math.floor(low / self.width)
        self.counts = np.zeros(math.floor(high / self.width) - self.first + 1)
        self._place(old)

    def quantile(self, level: float) -> float:
        """Value below which this share of the weight lies; linear within a bin, NaN if empty."""
        total = np.cumsum(self.counts)
        if not len(total) or total[-1] <= 0:
            return math.nan
        return float(np.interp(level * total[-1], np.concatenate([[0.0], total]), self.edges))

    def exceedance(self, values: Array) -> Array:
        """Share of the weight above each value; linear within a bin, NaN if empty."""
        total = np.cumsum(self.counts)
        if not len(total) or total[-1] <= 0:
            return np.full(np.shape(values), math.nan)
        below = np.interp(values, self.edges, np.concatenate([[0.0], total]))
        return np.asarray(1 - below / total[-1])

    def density(self, bins: int) -> tuple[Array, Array]:
        """Edges and weight per unit in about this number of bins, each of several of the histogram's."""
        if not len(self.counts):
            return np.zeros(1), np.zeros(0)
        step = max(math.ceil(len(self.counts) / bins), 1)
        edges = np.append(self.edges[:-1:step], self.edges[-1])
        counts = np.add.reduceat(self.counts, np.arange(0, len(self.counts), step))
        return edges, counts / np.diff(edges) / self.counts.sum()
