# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of one forecast of one quantity at one time, which may be averaged over times.

The memory does not grow with the number of members: fields are read one by one, and for scores that need all
members at a point (CRPS, ranks) in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.fractions import Fractions, odd_windows
from earth2_corrdiff.verification.geometry import cell_areas, spacing
from earth2_corrdiff.verification.pointwise import crps, rank_weights
from earth2_corrdiff.verification.spectrum import Rings, radial_power
from earth2_corrdiff.verification.targets import Target

Array = NDArray[np.float64]
BLOCK_BYTES = 64 * 2**20
"""Largest block of all members, in bytes."""
SCALES_KM = (0.0, 25.0, 50.0, 100.0, 200.0)
POINTWISE = ("error", "absolute_error", "squared_error", "variance", "crps", "crps_biased")


class NotFiniteError(InputError):
    """A member with a seed is not finite everywhere."""


@dataclass(frozen=True, eq=False)
class Domain:
    """A grid with its areas, spacing, rings and windows, computed once.

    Attributes
    ----------
    grid : Grid
        ``[H, W]``
    area : Tensor
        ``[H, W]`` area of its cells, mean 1
    spacing : tuple[float, float]
        Distance of neighbours along each axis in km
    rings : Rings
        Rings of the spectra
    windows : tuple[int, ...]
        S sizes of the fractions skill score in cells
    tile : int
        Side in cells of the squares that spectra are taken of, those without gaps; 0 for the whole domain
    """

    grid: Grid
    area: Tensor
    spacing: tuple[float, float]
    rings: Rings
    windows: tuple[int, ...]
    tile: int = 0

    @classmethod
    def of(cls, grid: Grid, scales: Sequence[float] = SCALES_KM, tile: int = 0) -> Domain:
        """The domain of a grid; scales of the fractions skill score in km, 0 for single cells."""
        if tile and not 8 <= tile <= min(grid.shape):
            raise InputError(f"the tiles of the spectra must have 8 to {min(grid.shape)} cells, got {tile}")
        if not all(0 <= scale < 1e5 for scale in scales):
            raise InputError(f"the scales must be lengths in km, got {list(scales)}")
        apart = spacing(grid)
        cell = (apart[0] * apart[1]) ** 0.5
        windows = odd_windows(scales, cell, grid.shape)
        rings = Rings.of((tile, tile) if tile else grid.shape, apart)
        return cls(grid, cell_areas(grid), apart, rings, tuple(windows), tile)

    @property
    def scales(self) -> Array:
        """Sides of the windows in km."""
        cell = (self.spacing[0] * self.spacing[1]) ** 0.5
        return np.array([n * cell for n in self.windows])

    def tiles(self, field: Tensor) -> Tensor:
        """The squares of a field, side by side from its first corner: ``[H, W] → [N, n, n]``."""
        n = self.tile
        return field.unfold(0, n, n).unfold(1, n, n).flatten(0, 1) if n else field[None]


class CaseTruth:
    """The truth of one quantity at one time.

    Parameters
    ----------
    truth : Tensor
        ``[H, W]``; NaN where it is unknown, or is not to be compared
    domain : Domain
        Its grid
    target : Target
        Its quantity
    """

    def __init__(self, truth: Tensor, domain: Domain, target: Target) -> None:
        if truth.shape != domain.area.shape:
            raise InputError(f"a truth of shape {list(truth.shape)} is not on the grid {domain.grid.shape}")
        known = torch.isfinite(truth)
        self.domain, self.target = domain, target
        self.truth = torch.where(known, truth, 0.0).to(torch.float64)
        self.weights = domain.area * known
        self.known = float(self.weights.sum() / domain.area.sum())
        self.whole = domain.tiles(known).all(-1).all(-1)
        self.power = self.spectrum(self.truth)

    def area_mean(self, fields: Tensor) -> Array:
        """Mean over the area where the truth is known: ``[N, H, W] → [N]``."""
        return np.asarray(((fields * self.weights).sum((-2, -1)) / self.weights.sum()).numpy())

    def spectrum(self, field: Tensor) -> Tensor:
        """Power of a field ``[H, W] → [K]``, the mean of all tiles without gaps; NaN where there is none."""
        tiles = self.domain.tiles(field)[self.whole]
        if not len(tiles):
            return torch.full((len(self.domain.rings.count),), torch.nan, dtype=torch.float64)
        return radial_power(tiles, self.domain.rings)

    def moments(self, members: Members) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of the members, one after the other (Welford): ``[H, W]`` each."""
        mean = squares = torch.zeros_like(self.truth)
        for number, member in enumerate(members, 1):
            change = member - mean
            mean = mean + change / number
            squares = squares + change * (member - mean)
        return mean, squares / (members.size - 1) if members.size > 1 else torch.full_like(mean, torch.nan)


class Members:
    """The members of one quantity at one time; held where they fit into ``BLOCK_BYTES``, else read again.

    Where the first one is NaN the forecast has no value; members are 0 there, and must have the same gaps.

    Parameters
    ----------
    read : Callable[[int], Tensor]
        Function from the number of a member to its field ``[H, W]``
    size : int
        Number of members
    what : str
        Forecast, quantity and time, for messages

    Raises
    ------
    NotFiniteError
        When a member is read that is infinite somewhere, has other gaps than the first, or no value at all
    """

    def __init__(self, read: Callable[[int], Tensor], size: int, what: str = "the forecast") -> None:
        self.read, self.size, self.what = read, size, what
        self._held: dict[int, Tensor] = {}
        self._there = torch.empty(0)

    @property
    def there(self) -> Tensor:
        """Where the forecast has values, ``[H, W]``."""
        if not self._there.numel():
            self[0]
        return self._there

    def __getitem__(self, i: int) -> Tensor:
        if i in self._held:
            return self._held[i]
        field = self.read(i).to(torch.float64)
        there = torch.isfinite(field)
        if not self._there.numel():
            self._there = there | field.isinf()
        wrong = float((there != self._there).double().mean()) if self._there.any() else 1.0
        if wrong:
            raise NotFiniteError(
                f"member {i} of {self.what} is NaN or infinite at {100 * wrong:.3g} % of the points, or "
                "others are and it is not: not written, or broken; finish or repeat the run, or leave such "
                "times out (--skip-incomplete)"
            )
        field = field if there.all() else torch.where(there, field, 0.0)
        if self.size * field.numel() * 8 <= BLOCK_BYTES:
            self._held[i] = field
        return field

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.size))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All members in blocks of rows: the rows, and ``[M, rows, W]``."""
        H, W = self[0].shape
        rows = min(max(BLOCK_BYTES // (self.size * W * 8), 1), H)
        for start in range(0, H, rows):
            part = slice(start, min(start + rows, H))
            yield part, torch.stack([member[part] for member in self])


def score(members: Members, case: CaseTruth) -> tuple[dict[str, Array], Histogram]:
    """Statistics of one forecast of one quantity at one time.

    Parameters
    ----------
    members : Members
        The forecast; one member is a single field without spread
    case : CaseTruth
        The truth, known somewhere

    Returns
    -------
    dict[str, np.ndarray]
        To be averaged over times with ``weight``: ``POINTWISE`` (errors are those of the ensemble mean),
        ``rank`` [M + 1] in shares of the area, ``power`` and ``power_truth`` [K], and the statistics of
        :class:`Fractions`
    Histogram
        Values of the members

    Raises
    ------
    NotFiniteError
        If a member is not finite everywhere
    """
    mean, variance = case.moments(members)
    fair, biased = torch.empty_like(mean), torch.empty_like(mean)
    rank = torch.zeros(members.size + 1, dtype=torch.float64)
    for rows, block in members.blocks():
        truth = case.truth[rows]
        fair[rows], biased[rows] = crps(block, truth)
        rank += _ranks(block, truth, case.weights[rows], case.target.floor)
    error = mean - case.truth
    points = case.area_mean(torch.stack([error, error.abs(), error.square(), variance, fair, biased]))
    found = dict(zip(POINTWISE, points, strict=True))
    found |= {"weight": np.array(case.known), "rank": (rank / case.weights.sum()).numpy()}
    rest, histogram = _whole_fields(members, case)
    return found | rest, histogram


def _ranks(block: Tensor, truth: Tensor, weights: Tensor, floor: float | None) -> Tensor:
    """Weight of each rank; with a floor, over the points at which the truth or any member reaches it.

    Dry points, where all are equal, would hide the rest. The choice treats the truth like a member, so that
    a reliable ensemble stays flat.
    """
    if floor is None:
        return rank_weights(block, truth, weights)
    there = (block.amax(0) >= floor) | (truth >= floor)
    return rank_weights(block.clamp(min=floor), truth.clamp(min=floor), weights * there)


def _whole_fields(members: Members, case: CaseTruth) -> tuple[dict[str, Array], Histogram]:
    """Statistics of whole fields, one member after the other."""
    domain, histogram = case.domain, Histogram()
    thresholds = case.target.thresholds
    fractions = Fractions(case.truth, case.weights, thresholds, domain.windows) if thresholds else None
    power = torch.zeros_like(case.power)
    for member in members:
        histogram.add(member, case.weights)
        if not case.power.isnan().any():
            power += case.spectrum(member) / members.size
        if fractions is not None:
            fractions.add(member)
    found = {"power": power if not case.power.isnan().any() else case.power, "power_truth": case.power}
    found |= {} if fractions is None else fractions.statistics()
    return {name: value.numpy() for name, value in found.items()}, histogram
