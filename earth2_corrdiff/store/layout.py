# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a store shall hold and say: decided before anything is written, compared before a run is resumed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import Times, lead_text, time_text
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.store.error_bounds import LOSSLESS, Bound, as_text

SEED = "member_seed"
ERROR = "compression_error"
MAX_ERROR = "compression_max_error"
COMPRESSION = "compression"
VALID = "valid_time"
OUTPUT = "output"
UNWRITTEN = -1
"""Seed of a member that is not complete."""
# What must not change between the runs that fill one store.
IDENTITY = (
    "package_sha256",
    "source",
    "solver",
    "number_of_steps",
    "sigma_min",
    "sigma_max",
    "churn",
    "noise",
    "patches",
    "seed",
    "precision",
    "kernels",
    "stages",
    COMPRESSION,
)
AXES = {"time": "times", "lead_time": "lead times", "ensemble": "coarse members"}
"""Names of the leading axes in a store, and in words."""
Coordinates = OrderedDict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """What a store shall hold.

    Attributes
    ----------
    cases : Cases
        Times of analyses, or times, lead times and coarse members of forecasts: S axes
    seeds : np.ndarray
        ``[*S, M]`` int64: of each member
    outputs, lowres : tuple[str, ...]
        Variables of the output, and of the coarse input that is kept beside it
    output_grid, input_grid : Grid
        Their grids
    attributes : dict
        Provenance, with all of ``IDENTITY`` that apply
    static : dict
        Fields of the output grid that do not change: the package's invariants
    bounds : dict[str, Bound]
        Of the outputs that are not kept without loss
    """

    cases: Cases
    seeds: NDArray[np.int64]
    outputs: tuple[str, ...]
    lowres: tuple[str, ...]
    output_grid: Grid
    input_grid: Grid
    attributes: dict[str, Any]
    static: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)

    @property
    def times(self) -> Times:
        """``[T]``: of the analyses, or reference times of the forecasts."""
        return self.cases.times

    @property
    def members(self) -> int:
        """Members of each case."""
        return int(self.seeds.shape[-1])

    def case_seeds(self, case: int) -> NDArray[np.int64]:
        """``[M]``: seeds of the members of one case."""
        seeds: NDArray[np.int64] = self.seeds[self.cases.index(case)]
        return seeds

    def output_coords(self, case: int | None = None) -> Coordinates:
        """Coordinates of the output arrays, or of the part of one case."""
        leading = self._leading(case)
        grid = self.output_grid
        return OrderedDict(**leading, sample=np.arange(self.members), lat=grid.lat, lon=grid.lon)

    def lowres_coords(self, case: int | None = None) -> Coordinates:
        """Coordinates of the coarse input, or of the part of one case."""
        leading = self._leading(case)
        return OrderedDict(**leading, lat_lowres=self.input_grid.lat, lon_lowres=self.input_grid.lon)

    def _leading(self, case: int | None) -> Coordinates:
        axes = self.cases.axes
        if case is None:
            return axes
        where = self.cases.index(case)
        return OrderedDict(
            (name, axis[i : i + 1]) for (name, axis), i in zip(axes.items(), where, strict=True)
        )

    def differences(self, attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str]:
        """What a store with these attributes and arrays has that this layout has not; nothing if they match.

        Parameters
        ----------
        attributes : Mapping[str, Any]
            Of the store
        arrays : Mapping[str, Any]
            Its arrays by name, anything that NumPy indexes
        """
        lacking = [name for name in (*self.outputs, SEED, *self.cases.axes, "sample") if name not in arrays]
        if lacking:
            return [f"no {', '.join(lacking)}"]
        return [*self.other_settings(attributes), *self._other_members(arrays), *self._other_grids(arrays)]

    def other_settings(self, attributes: Mapping[str, Any]) -> list[str]:
        """The same for what its attributes say alone: package, source, sampling, seed."""
        said = {
            COMPRESSION: LOSSLESS,
            "patches": "none",
            "stages": "both",
            "kernels": "the defaults",
        }  # where nothing is said
        pairs = {
            key: tuple(about.get(key, said.get(key)) for about in (attributes, self.attributes))
            for key in IDENTITY
        }
        return [
            f"{key.replace('_', ' ')} {_short(have)} instead of {_short(want)}"
            for key, (have, want) in pairs.items()
            if have != want
        ]

    def _other_members(self, arrays: Mapping[str, Any]) -> list[str]:
        texts: dict[str, Callable[[Any], str]] = {"time": time_text, "lead_time": lead_text, "ensemble": str}
        other = []
        for name, axis in self.cases.axes.items():
            have = np.asarray(arrays[name][:])
            if not np.array_equal(have, axis):
                pair = (_listed([texts[name](value) for value in some]) for some in (have, axis))
                other.append(f"the {AXES[name]} {' instead of '.join(pair)}")
        other += [f"{AXES[name]}, which this run has not" for name in self._surplus(arrays)]
        samples = len(arrays["sample"][:])
        if samples != self.members:
            other.append(f"{samples} members instead of {self.members}")
        return other

    def _surplus(self, arrays: Mapping[str, Any]) -> list[str]:
        """Axes that the store has and the layout has not: a forecast's."""
        return [name for name in AXES if name in arrays and name not in self.cases.axes]

    def _other_grids(self, arrays: Mapping[str, Any]) -> list[str]:
        axes = {
            "output": {"lat": self.output_grid.lat, "lon": self.output_grid.lon},
            "input": {"lat_lowres": self.input_grid.lat, "lon_lowres": self.input_grid.lon},
        }
        return [
            f"another {which} grid"
            for which, pair in axes.items()
            if not all(
                name in arrays and np.array_equal(arrays[name][:], axis) for name, axis in pair.items()
            )
        ]


def member_seeds(cases: Cases, seed: int, members: int) -> NDArray[np.int64]:
    """Seeds of all members, ``[*S, M]``.

    They depend on the run's seed, the valid time and the member's number, and for forecasts on what else
    tells apart two cases of one valid time: the lead time, and the number of the coarse member.
    """
    flat = []
    for case in cases:
        more = [] if case.lead is None else [int(case.lead / np.timedelta64(1, "s"))]
        more += [] if case.coarse is None else [case.coarse]
        flat.append([member_seed(seed, case.valid, i, *more) for i in range(members)])
    return np.array(flat, dtype=np.int64).reshape(*cases.shape, members)


def compression(bounds: Mapping[str, Bound]) -> dict[str, str]:
    """The bounds of a store as its attribute; none where all is kept without loss."""
    return {COMPRESSION: as_text(bounds)} if bounds else {}


def _listed(texts: list[str]) -> str:
    """A few values in full, of more the ends."""
    if len(texts) <= 4:
        return ", ".join(texts)
    return f"{texts[0]} to {texts[-1]} ({len(texts)})"


def _short(value: object) -> str:
    """A setting for a message; of a checksum only the beginning."""
    text = str(value)
    return text if len(text) != 64 else f"{text[:12]}…"
