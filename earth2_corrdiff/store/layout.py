# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Layout of a store: fixed before anything is written, compared before a run is resumed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.errors import InputError, MemberError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import lead_text, time_text
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.store.error_bounds import LOSSLESS, Bound, as_text
from earth2_corrdiff.store.paths import SEED

ERROR = "compression_error"
MAX_ERROR = "compression_max_error"
COMPRESSION = "compression"
VALID = "valid_time"
MEAN, SPREAD = "_mean", "_spread"
"""Ends of the names of ensemble means and standard deviations."""
OUTPUT = "output"
IDENTITY = (
    "model",
    "package_sha256",
    "source",
    "solver",
    "number_of_steps",
    "sigma_min",
    "sigma_max",
    "schedule",
    "churn",
    "noise",
    "patches",
    "seed",
    "precision",
    "kernels",
    "stages",
    "variables",
    "keep",
    "calibration_sha256",
    COMPRESSION,
)
"""Attributes that must not differ between the runs that fill one store."""
UNSET = {
    "model": "earth2_corrdiff",
    COMPRESSION: LOSSLESS,
    "patches": "none",
    "stages": "both",
    "variables": "all",
    "keep": "all",
    "kernels": "the defaults",
    "calibration_sha256": "none",
}
"""Meaning of attributes that a store lacks."""
AXES = {"time": "times", "lead_time": "lead times", "ensemble": "coarse members"}
"""Leading axes of a store, with their names in messages."""
Coordinates = OrderedDict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """Cases, members, variables, grids and attributes of a store.

    Attributes
    ----------
    cases : Cases
        Times of analyses, or times, lead times and coarse members of forecasts: S axes
    seeds : np.ndarray
        ``[*S, M]`` int64, of each member
    outputs, lowres, means : tuple[str, ...]
        Variables of the output, of the coarse input, and those whose mean over the members is kept
    output_grid, input_grid : Grid
        Their grids, fine and coarse
    attributes : dict
        Provenance, with all of ``IDENTITY`` that apply
    static : dict
        Constant fields of the fine grid: the package's invariants
    bounds : dict[str, Bound]
        Bounds of the outputs that are not lossless
    projected : tuple[np.ndarray, np.ndarray] | None
        y ``[H]`` and x ``[W]`` of the fine grid, metres, where it is that of a projection
    missing : Callable[[Tensor], Tensor] | None
        From the coarse input ``[C, h, w]`` of a case the output cells without a value, ``[Co, H, W]``; None
        where all have one
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
    projected: tuple[NDArray[Any], NDArray[Any]] | None = None
    missing: Callable[[Tensor], Tensor] | None = None
    means: tuple[str, ...] = ()

    @property
    def members(self) -> int:
        """Number of members of each case."""
        return int(self.seeds.shape[-1])

    @property
    def forecasts(self) -> bool:
        """True if the cases are forecasts, with lead times."""
        return self.cases.leads is not None

    def text(self, case: int, member: int, variables: str) -> str:
        """Variables of a member of a case, for messages."""
        return f"{variables} of member {member} at {self.cases[case]}"

    def case_seeds(self, case: int) -> NDArray[np.int64]:
        """Seeds of the members of one case, ``[M]``."""
        seeds: NDArray[np.int64] = self.seeds[self.cases.index(case)]
        return seeds

    def output_coords(self, case: int | None = None) -> Coordinates:
        """Coordinates of the output arrays, or of the part of one case."""
        leading = self._leading(case)
        return OrderedDict(**leading, sample=np.arange(self.members), **self.plane)

    @property
    def plane(self) -> Coordinates:
        """Axes of the fine grid: ``lat`` and ``lon``, or ``y`` and ``x`` of a projection."""
        axes = self.projected or (self.output_grid.lat, self.output_grid.lon)
        return OrderedDict(zip(("lat", "lon") if self.projected is None else ("y", "x"), axes, strict=True))

    @property
    def latlon(self) -> Coordinates:
        """Latitudes and longitudes ``[H, W]`` that are no axes."""
        both = OrderedDict(lat=self.output_grid.lat, lon=self.output_grid.lon)
        return both if self.projected is not None else OrderedDict()

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
        """What a store with these attributes and arrays has in place of this layout; empty if they match.

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
        """The same for its attributes alone: package, source, sampling, seed."""
        other = []
        for key in IDENTITY:
            have, want = (given.get(key, UNSET.get(key)) for given in (attributes, self.attributes))
            if have != want:
                other.append(f"{key.replace('_', ' ')} {_short(have)} instead of {_short(want)}")
        return other

    def _other_members(self, arrays: Mapping[str, Any]) -> list[str]:
        texts: dict[str, Callable[[Any], str]] = {"time": time_text, "lead_time": lead_text, "ensemble": str}
        other = []
        for name, axis in self.cases.axes.items():
            have = np.asarray(arrays[name][:])
            if not np.array_equal(have, axis):
                pair = (_listed([texts[name](value) for value in some]) for some in (have, axis))
                other.append(f"the {AXES[name]} {' instead of '.join(pair)}")
        surplus = (name for name in AXES if name in arrays and name not in self.cases.axes)
        other += [f"{AXES[name]}, which this run does not have" for name in surplus]
        samples = len(arrays["sample"][:])
        if samples != self.members:
            other.append(f"{samples} members instead of {self.members}")
        return other

    def _other_grids(self, arrays: Mapping[str, Any]) -> list[str]:
        other = []
        for which, end, grid in (("output", "", self.output_grid), ("input", "_lowres", self.input_grid)):
            axes = {f"lat{end}": grid.lat, f"lon{end}": grid.lon}
            if not all(n in arrays and np.array_equal(arrays[n][:], axis) for n, axis in axes.items()):
                other.append(f"another {which} grid")
        return other


def member_seeds(cases: Cases, seed: int, members: int) -> NDArray[np.int64]:
    """Seeds of all members, ``[*S, M]``.

    They depend on the run's seed, the valid time and the member's number, and for forecasts on the lead time
    and the number of the coarse member.
    """
    flat = []
    for case in cases:
        more = [] if case.lead is None else [int(case.lead / np.timedelta64(1, "s"))]
        more += [] if case.coarse is None else [case.coarse]
        flat.append([member_seed(seed, case.valid, i, *more) for i in range(members)])
    return np.array(flat, dtype=np.int64).reshape(*cases.shape, members)


def compression(bounds: Mapping[str, Bound]) -> dict[str, str]:
    """The bounds of a store as its attribute; empty if all of it is lossless."""
    return {COMPRESSION: as_text(bounds)} if bounds else {}


def _listed(texts: list[str]) -> str:
    """Up to four values, or the first and the last."""
    if len(texts) <= 4:
        return ", ".join(texts)
    return f"{texts[0]} to {texts[-1]} ({len(texts)})"


def _short(value: object) -> str:
    """A setting for a message; of a checksum the first characters."""
    text = str(value)
    return text if len(text) != 64 else f"{text[:12]}…"


def check_finite(
    layout: Layout, case: int, member: int, fields: Tensor, missing: Tensor | None = None
) -> None:
    """Refuse a member ``[Co, H, W]`` that is not finite everywhere: it must not count as complete.

    Where ``missing [Co, H, W]`` is True it must not be finite.

    Raises
    ------
    InputError
        With the variables, the member and the time
    """
    right = fields.isfinite() if missing is None else fields.isfinite() != missing
    finite = right.flatten(1).double().mean(1).tolist()
    bad = {name: share for name, share in zip(layout.outputs, finite, strict=True) if share < 1}
    if bad:
        raise InputError(
            f"{layout.text(case, member, ', '.join(bad))} is not finite at "
            f"{100 * (1 - min(bad.values())):.3g} % of the points; look at the package's weights and at the "
            "input, the member is not written and --resume computes it again"
        )


def finite_members(
    layout: Layout,
    case: int,
    first: int,
    block: Tensor,
    missing: Tensor | None = None,
    check: Callable[[int, int, Tensor], object] = lambda case, member, fields: None,
) -> Iterator[tuple[int, Tensor]]:
    """Numbers and fields of the members ``[m, Co, H, W]`` of a case that may be kept.

    Raises
    ------
    MemberError
        After the last one, about those that are not finite, or that ``check`` refuses
    """
    refused = {}
    for i, fields in enumerate(block, first):
        try:
            check_finite(layout, case, i, fields, missing)
            check(case, i, fields)
        except InputError as error:
            refused[i] = str(error)
        else:
            yield i, fields
    if refused:
        raise MemberError(refused)
