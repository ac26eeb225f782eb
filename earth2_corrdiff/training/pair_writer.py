# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Writer of a Zarr of pairs, one time after the other; an interrupted one is continued."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import writing
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import Leads, Times
from earth2_corrdiff.base.variables import LAT, LON, cf_attributes
from earth2_corrdiff.store.paths import replaced
from earth2_corrdiff.training.pairs import COARSE, COMPLETE, ORDER, Channels

EPOCH = np.datetime64("1970-01-01T00:00:00", "s")
Fields = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Coarse ``[C, h, w]`` and fine ``[Co, H, W]``, in physical units."""


@dataclass(frozen=True)
class PairPlan:
    """Contents of a Zarr of pairs.

    Attributes
    ----------
    times : Times
        Valid times
    channels : Channels
        Variables in channel order
    coarse_grid, fine_grid : Grid
        Their grids
    invariants : dict[str, np.ndarray]
        ``[H, W]`` each
    attributes : dict[str, Any]
        Attributes of the Zarr, like its sources
    leads : Leads | None
        Lead time of each time, where several runs have the same valid time
    """

    times: Times
    channels: Channels
    coarse_grid: Grid
    fine_grid: Grid
    invariants: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    leads: Leads | None = None

    @property
    def cases(self) -> list[Case]:
        """What each pair is of."""
        if self.leads is None:
            return [Case(time) for time in self.times]
        return [Case(valid - lead, lead) for valid, lead in zip(self.times, self.leads, strict=True)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields in the Zarr: coarse, then fine."""
        return (*(f"{name}{COARSE}" for name in self.channels.inputs), *self.channels.outputs)

    @property
    def about(self) -> dict[str, Any]:
        """Attributes of the Zarr."""
        return {**self.attributes, ORDER: [*self.names, *self.invariants]}

    @property
    def constant(self) -> dict[str, Any]:
        """Coordinates and invariants, which do not depend on time."""
        grids = ((COARSE, self.coarse_grid), ("", self.fine_grid))
        axes = {f"{n}{suffix}": getattr(grid, n) for suffix, grid in grids for n in ("lat", "lon")}
        if self.leads is not None:
            axes["lead_time"] = (self.leads / np.timedelta64(1, "s")).astype(np.int64)
        return {**axes, **{name: field.astype(np.float32) for name, field in self.invariants.items()}}

    @property
    def seconds(self) -> NDArray[np.int64]:
        """The times in seconds since 1970."""
        return ((self.times - EPOCH) / np.timedelta64(1, "s")).astype(np.int64)


class PairWriter:
    """A Zarr of pairs that is being filled.

    Parameters
    ----------
    path : str | Path
        Of the Zarr: created if it does not exist, continued if it is of the same plan
    plan : PairPlan
        Its contents

    Raises
    ------
    InputError
        If the path holds something else, or cannot be written
    """

    def __init__(self, path: str | Path, plan: PairPlan) -> None:
        self.path, self.plan = Path(path), plan
        with writing(self.path):
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with replaced(self.path) as fresh:
                    _lay_out(zarr.open_group(str(fresh), mode="w"), plan)
            try:
                self.root = zarr.open_group(str(self.path), mode="r+")
            except (FileNotFoundError, ValueError) as error:
                raise InputError(f"{self.path} exists and is not a Zarr; use another path") from error
        self._check()

    def _check(self) -> None:
        """Refuse a Zarr of another plan."""
        plan, there = self.plan, self.root
        same = (
            {*plan.names, COMPLETE} <= set(there.array_keys())
            and dict(there.attrs) == plan.about
            and np.array_equal(np.asarray(self._array("time")), plan.seconds)
            and all(np.array_equal(np.asarray(self._array(n)), v) for n, v in plan.constant.items())
        )
        if not same:
            raise InputError(f"{self.path} holds other pairs; remove it, or use another path")

    def missing(self) -> list[int]:
        """Numbers of the times that are not complete."""
        found: list[int] = np.flatnonzero(np.asarray(self._array(COMPLETE)) != 1).tolist()
        return found

    def _array(self, name: str) -> zarr.Array[Any]:
        return cast("zarr.Array[Any]", self.root[name])

    def write(self, number: int, fields: Fields) -> None:
        """Write one time; the mark that it is complete comes last."""
        with writing(self.path):
            for name, values in zip(self.plan.names, (*fields[0], *fields[1]), strict=True):
                self._array(name)[number] = values
            self._array(COMPLETE)[number] = 1


def fill(writer: PairWriter, make: Callable[[Iterable[Case]], Iterable[Fields | None]]) -> Iterator[int]:
    """Write what is missing; yield the number of times left after each.

    Parameters
    ----------
    writer : PairWriter
        The Zarr
    make : Callable
        Makes the fields of many cases, lazily and in their order; None for one that stays missing
    """
    missing, cases = writer.missing(), writer.plan.cases
    made = make(cases[number] for number in missing)
    for left, (number, fields) in enumerate(zip(missing, made, strict=True), 1):
        if fields is not None:
            writer.write(number, fields)
        yield len(missing) - left


def _lay_out(root: zarr.Group, plan: PairPlan) -> None:
    root.attrs.update(plan.about)
    time = _array(root, "time", plan.seconds, ("time",))
    time.attrs.update(units="seconds since 1970-01-01", calendar="proleptic_gregorian", standard_name="time")
    if plan.leads is not None:
        lead = _array(root, "lead_time", plan.constant["lead_time"], ("time",))
        lead.attrs.update(units="seconds", standard_name="forecast_period")
    _array(root, COMPLETE, np.zeros(len(plan.times), np.int8), ("time",), chunks=(1,))
    coarse = _lay_out_grid(root, plan.coarse_grid, COARSE)
    fine = _lay_out_grid(root, plan.fine_grid, "")
    for names, suffix, grid, dims in (
        (plan.channels.inputs, COARSE, plan.coarse_grid, coarse),
        (plan.channels.outputs, "", plan.fine_grid, fine),
    ):
        for name in names:
            array = root.create_array(
                f"{name}{suffix}",
                shape=(len(plan.times), *grid.shape),
                chunks=(1, *grid.shape),
                dtype="float32",
                fill_value=np.nan,
                dimension_names=("time", *dims),
            )
            array.attrs.update(cf_attributes(name))
    for name in plan.invariants:
        _array(root, name, plan.constant[name], fine).attrs.update(cf_attributes(name))


def _lay_out_grid(root: zarr.Group, grid: Grid, suffix: str) -> tuple[str, str]:
    """Write the coordinates; the dimensions of fields on them."""
    dims = (f"y{suffix}", f"x{suffix}") if grid.curvilinear else (f"lat{suffix}", f"lon{suffix}")
    for name, values, own, about in (("lat", grid.lat, dims[:1], LAT), ("lon", grid.lon, dims[1:], LON)):
        _array(root, f"{name}{suffix}", values, dims if grid.curvilinear else own).attrs.update(about)
    return dims


def _array(
    root: zarr.Group, name: str, values: Any, dims: tuple[str, ...], chunks: Any = "auto"
) -> zarr.Array[Any]:
    array = root.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=dims
    )
    array[:] = values
    return array
