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
from earth2_corrdiff.sources.registry import KINDS
from earth2_corrdiff.store.paths import replaced
from earth2_corrdiff.training.pairs import COARSE, COMPLETE, ORDER, Channels

EPOCH = np.datetime64("1970-01-01T00:00:00", "s")
SOURCES, AND = ("source", "coarse_source"), " and "
"""Attributes that name sources; several files are joined."""
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
    def fixed(self) -> dict[str, Any]:
        """Coordinates and invariants, which do not depend on time."""
        grids = ((COARSE, self.coarse_grid), ("", self.fine_grid))
        axes = {f"{n}{suffix}": getattr(grid, n) for suffix, grid in grids for n in ("lat", "lon")}
        return {**axes, **{name: field.astype(np.float32) for name, field in self.invariants.items()}}

    @property
    def along_time(self) -> dict[str, NDArray[np.int64]]:
        """The times in seconds since 1970, and where there are any the lead times in seconds."""
        second = np.timedelta64(1, "s")
        leads = {} if self.leads is None else {"lead_time": (self.leads / second).astype(np.int64)}
        return {"time": ((self.times - EPOCH) / second).astype(np.int64), **leads}


class PairWriter:
    """A Zarr of pairs that is being filled.

    Parameters
    ----------
    path : str | Path
        Of the Zarr: created if it does not exist, continued if it is of the same plan
    plan : PairPlan
        Its contents
    append : bool, optional
        True if the plan has further times of a Zarr that exists; those that it has already are kept

    Raises
    ------
    InputError
        If the path holds something else, or cannot be written; with ``append`` if nothing is there, or other
        grids, variables, invariants, options or kinds of sources
    """

    def __init__(self, path: str | Path, plan: PairPlan, append: bool = False) -> None:
        self.path, self.plan = Path(path), plan
        if append and not self.path.exists():
            raise InputError(f"there are no pairs {self.path} to append to; leave out --append")
        with writing(self.path):
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with replaced(self.path) as fresh:
                    _lay_out(zarr.open_group(str(fresh), mode="w"), plan)
            try:
                self.root = zarr.open_group(str(self.path), mode="r+")
            except (FileNotFoundError, ValueError) as error:
                raise InputError(f"{self.path} exists and is not a Zarr; use another path") from error
            self._check(append)
            self._rows = self._append() if append else np.arange(len(plan.times))

    def _check(self, append: bool) -> None:
        """Refuse a Zarr of another plan."""
        plan, there = self.plan, self.root
        arrays = {*plan.names, *plan.fixed, COMPLETE, "time", *plan.along_time} <= set(there.array_keys())
        runs = ("lead_time" in there) == (plan.leads is not None)
        if not (arrays and runs and all(np.array_equal(self._values(n), v) for n, v in plan.fixed.items())):
            raise InputError(f"{self.path} holds other pairs; remove it, or use another path")
        about, same = dict(there.attrs), plan.about
        if append:
            about, same = ({k: _kind_of(k, v) for k, v in some.items()} for some in (about, same))
        if about != same:
            differ = ", ".join(sorted(k for k in {*about, *same} if about.get(k) != same.get(k)))
            more = "" if append else "; times of a further file are added with --append"
            raise InputError(f"{self.path} holds other pairs, with another {differ}; use another path{more}")
        if not append and not all(np.array_equal(self._values(n), v) for n, v in plan.along_time.items()):
            raise InputError(f"{self.path} holds other pairs: its times differ; add times with --append")

    def _append(self) -> NDArray[np.int64]:
        """Make room for the times that the Zarr lacks; the row of each of the plan's.

        The marks of complete times become longer last: before that, a further call does all of it again.
        """
        count = self._array(COMPLETE).shape[0]
        along = {name: self._values(name)[:count] for name in self.plan.along_time}
        rows, wanted = {key: row for row, key in enumerate(_keys(along))}, _keys(self.plan.along_time)
        new = [key for key in wanted if key not in rows]
        self._check_leads(along, new)
        rows |= {key: count + n for n, key in enumerate(new)}
        if new:
            for name in self.plan.names:
                array = self._array(name)
                array.resize((len(rows), *array.shape[1:]))
            for name, values in zip(along, zip(*new, strict=True), strict=True):
                self._array(name).resize((len(rows),))
                self._array(name)[count:] = np.array(values)
            self.root.attrs.update({k: self._joined(k) for k in SOURCES if k in self.plan.attributes})
            self._array(COMPLETE).resize((len(rows),))
        return np.array([rows[key] for key in wanted])

    def _check_leads(self, there: dict[str, NDArray[np.int64]], new: list[tuple[int, ...]]) -> None:
        """Refuse forecasts that are shorter than all that are there."""
        if self.plan.leads is None or not new:
            return
        least, own = int(there["lead_time"].min()), min(lead for _, lead in new)
        if own < least:
            raise InputError(
                f"{self.path} has lead times from {least / 3600:g} h on and cannot have {own / 3600:g} h; "
                "use the same --every-run"
            )

    def _joined(self, key: str) -> str:
        before = str(self.root.attrs[key])
        name = str(self.plan.attributes[key])
        return before if name in before.split(AND) else f"{before}{AND}{name}"

    def missing(self) -> list[int]:
        """Numbers of the plan's times that are not complete."""
        found: list[int] = np.flatnonzero(self._values(COMPLETE)[self._rows] != 1).tolist()
        return found

    @property
    def complete(self) -> int:
        """How many pairs are complete in all."""
        return int((self._values(COMPLETE) == 1).sum())

    def _array(self, name: str) -> zarr.Array[Any]:
        return cast("zarr.Array[Any]", self.root[name])

    def _values(self, name: str) -> NDArray[Any]:
        return np.asarray(self._array(name))

    def write(self, number: int, fields: Fields) -> None:
        """Write one time of the plan; the mark that it is complete comes last."""
        row = int(self._rows[number])
        with writing(self.path):
            for name, values in zip(self.plan.names, (*fields[0], *fields[1]), strict=True):
                self._array(name)[row] = values
            self._array(COMPLETE)[row] = 1


def _keys(along_time: dict[str, NDArray[np.int64]]) -> list[tuple[int, ...]]:
    """Valid time and, where there is one, lead time of each pair."""
    return list(zip(*(values.tolist() for values in along_time.values()), strict=True))


def _kind_of(key: str, value: Any) -> Any:
    """An attribute as far as it must be the same for further times: of sources their kind, not the file."""
    return sorted({_source_kind(name) for name in str(value).split(AND)}) if key in SOURCES else value


def _source_kind(name: str) -> str:
    kind = name.partition(":")[0]
    if kind in KINDS:
        return kind
    return "file" if kind == "file" or set("./") & set(name) else name


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
    time = _array(root, "time", plan.along_time["time"], ("time",))
    time.attrs.update(units="seconds since 1970-01-01", calendar="proleptic_gregorian", standard_name="time")
    if plan.leads is not None:
        lead = _array(root, "lead_time", plan.along_time["lead_time"], ("time",))
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
        _array(root, name, plan.fixed[name], fine).attrs.update(cf_attributes(name))


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
