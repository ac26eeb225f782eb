# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of coarse and fine weather in one Zarr or NetCDF, read in chunks.

The layout is that of this package's output stores without members: a fine variable is ``t2m(time, y, x)``
with ``lat`` and ``lon``, its coarse counterpart ``t2m_lowres(time, …)`` with ``lat_lowres`` and
``lon_lowres``; a variable without time, like ``orography(y, x)``, is an invariant. Attributes ``units`` are
read; the time is the valid time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import Times, time_text
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.sources.checks import cleaned
from earth2_corrdiff.sources.formats import open_dataset
from earth2_corrdiff.sources.time_axes import by_valid_time

COARSE = "_lowres"
COMPLETE = "complete"  # 1 for a time whose fields are all written
ORDER = "variables"  # attribute: names in channel order


@dataclass(frozen=True)
class Pairs:
    """Coarse states and the fine truth that belongs to them, in physical units.

    Attributes
    ----------
    coarse : Tensor
        ``[N, C, h, w]`` float32
    fine : Tensor
        ``[N, Co, H, W]`` float32
    times : Times | None
        ``[N]``: valid times, UTC; None where they do not matter
    fine_inputs : Tensor | None
        ``[N, C, H, W]`` float32: the fine fields whose block means the coarse state is; None where these do
        not matter
    """

    coarse: Tensor
    fine: Tensor
    times: Times | None = None
    fine_inputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.coarse)


@dataclass(frozen=True)
class Channels:
    """Names of variables in channel order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    invariants: tuple[str, ...] = ()


class PairFile:
    """A file of pairs, opened lazily.

    Parameters
    ----------
    path : str | Path
        Zarr or NetCDF
    inputs, outputs : Sequence[str], optional
        Variables in channel order; by default all that it has
    invariants : Sequence[str] | None, optional
        Likewise; () for none
    keep : int, optional
        Chunks of times that stay in memory
    gaps : bool, optional
        True if values may be missing (NaN), by default False
    fine_inputs : bool, optional
        True if the fine fields of the inputs are read, too, by default False

    Attributes
    ----------
    times : Times
        ``[N]`` of complete pairs, ascending
    coarse_grid, fine_grid : Grid
        float32
    invariant_fields : np.ndarray | None
        ``[Ci, H, W]``
    chunks : np.ndarray
        ``[N]``: number of the chunk on disk that each of these times lies in

    Raises
    ------
    InputError
        If it cannot be opened, has no complete pairs, has a time twice, lacks a variable, or has one in
        units that it cannot have
    """

    def __init__(
        self,
        path: str | Path,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        invariants: Sequence[str] | None = None,
        keep: int = 16,
        gaps: bool = False,
        fine_inputs: bool = False,
    ) -> None:
        self.path, self._keep, self._gaps = Path(path), keep, gaps
        data = open_dataset(self.path, "file of pairs", "a NetCDF or Zarr")
        every_run = "lead_time" in data.variables and data["lead_time"].dims == ("time",)
        self._data = data if every_run else by_valid_time(data, f"the pairs {path}")
        self.coarse_grid, self._coarse_dims = self._grid(COARSE)
        self.fine_grid, self._fine_dims = self._grid("")
        self.channels = self._choose(inputs, outputs, invariants)
        self._fine_inputs = self._finer() if fine_inputs else ()
        self._convert = {
            name: conversion(
                self._data[name].attrs.get("units"), name.removesuffix(COARSE), f"the pairs {path}"
            )
            for name in (*self.variables, *self.channels.invariants)
        }
        self.times, self._rows = self._complete()
        first = self._data[self.channels.outputs[0]]
        self._chunk = int(first.encoding.get("preferred_chunks", {}).get("time", 1))
        self.chunks = self._rows // self._chunk
        self._kept: OrderedDict[int, tuple[NDArray[np.float32], ...]] = OrderedDict()
        self._lock = Lock()  # a training reads ahead in the background, and validates meanwhile
        self.invariant_fields = self._invariants()

    def _choose(
        self, inputs: Sequence[str], outputs: Sequence[str], invariants: Sequence[str] | None
    ) -> Channels:
        names = {name: set(map(str, self._data[name].dims)) for name in self._ordered()}
        timed = {"time", *self._coarse_dims}, {"time", *self._fine_dims}
        lowres = [name for name, dims in names.items() if name.endswith(COARSE) and dims == timed[0]]
        coarse = [name.removesuffix(COARSE) for name in lowres]
        fine = [name for name, dims in names.items() if not name.endswith(COARSE) and dims == timed[1]]
        still = [name for name, dims in names.items() if dims == set(self._fine_dims)]
        chosen = Channels(
            tuple(inputs) or tuple(coarse),
            tuple(outputs) or tuple(fine),
            tuple(still) if invariants is None else tuple(invariants),
        )
        parts = ((chosen.inputs, coarse, "coarse"), (chosen.outputs, fine, "fine"))
        for wanted, there, what in (*parts, (chosen.invariants, still, "invariant")):
            lacking = [name for name in wanted if name not in there]
            if lacking or (not wanted and what != "invariant"):
                raise InputError(
                    f"the pairs {self.path} have no {what} variable {', '.join(lacking)}; "
                    f"they have {', '.join(there) or 'none'} (coarse ones are named like t2m{COARSE}, "
                    "all but invariants have the dimension time)"
                )
        return chosen

    def _finer(self) -> tuple[str, ...]:
        """The inputs, whose fine fields this file has."""
        names, dims = self.channels.inputs, {"time", *self._fine_dims}
        lacking = [n for n in names if n not in self._data or set(map(str, self._data[n].dims)) != dims]
        if not self.coarse_from_fine or lacking:
            raise InputError(
                f"blocks cannot be shifted: the pairs {self.path} "
                + (f"have no fine field of {', '.join(lacking)}" if lacking else "are no block means")
                + "; make them with make-pairs --coarse-from-fine, all inputs among its --outputs"
            )
        return names

    def _ordered(self) -> list[str]:
        """All variables, in the order that the file's attributes give, else alphabetically."""
        axes = {
            "time",
            "lead_time",
            COMPLETE,
            *(f"{axis}{suffix}" for axis in ("lat", "lon") for suffix in ("", COARSE)),
        }
        order = [str(name) for name in np.atleast_1d(self._data.attrs.get(ORDER, []))]
        names = sorted(str(name) for name in self._data.variables if name not in axes)
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def _grid(self, suffix: str) -> tuple[Grid, tuple[str, ...]]:
        """A grid, and the dimensions of the fields on it."""
        names = [f"{name}{suffix}" for name in ("lat", "lon")]
        if not set(names) <= set(self._data.variables):
            raise InputError(f"the pairs {self.path} have no {' and '.join(names)}")
        lat, lon = (self._data[name] for name in names)
        grid = Grid(*(axis.to_numpy().astype(np.float32) for axis in (lat, lon)))
        dims = lat.dims if grid.curvilinear else (*lat.dims, *lon.dims)
        return grid, tuple(str(dim) for dim in dims)

    def _complete(self) -> tuple[Times, NDArray[np.int64]]:
        stamps = self._data["time"].to_numpy().astype("datetime64[ns]")
        there = np.ones(stamps.size, bool)
        if COMPLETE in self._data:
            there = self._data[COMPLETE].to_numpy() == 1
        rows = np.flatnonzero(there)
        rows = rows[np.argsort(stamps[rows], kind="stable")]
        if not rows.size:
            raise InputError(f"the pairs {self.path} have no complete time")
        return stamps[rows], rows

    def _invariants(self) -> NDArray[np.float32] | None:
        if not self.channels.invariants:
            return None
        arrays = [
            self._convert[name](self._data[name].transpose(*self._fine_dims).to_numpy())
            for name in self.channels.invariants
        ]
        fields: NDArray[np.float32] = np.stack(arrays).astype(np.float32)
        for name, field in zip(self.channels.invariants, fields, strict=True):
            if not np.isfinite(field).all():
                raise InputError(f"the invariant {name} in {self.path} is not finite")
        return fields

    @property
    def synthetic(self) -> bool:
        """True if the file marks its weather as synthetic."""
        return bool(self._data.attrs.get("synthetic", False))

    @property
    def coarse_from_fine(self) -> int:
        """Fine points along each side of a coarse cell, where coarse fields are block means; else 0."""
        return int(self._data.attrs.get("coarse_from_fine", 0))

    @property
    def blocks(self) -> Blocks | None:
        """Sizes of the blocks whose means the coarse fields are, where they are block means."""
        size = self.coarse_from_fine
        return Blocks(size, int(self._data.attrs.get("fine_means", 1))) if size else None

    @property
    def variables(self) -> tuple[str, ...]:
        """Names in the file: the coarse ones, then the fine ones."""
        fine = dict.fromkeys((*self.channels.outputs, *self._fine_inputs))
        return (*(f"{name}{COARSE}" for name in self.channels.inputs), *fine)

    def read(self, indices: Sequence[int]) -> Pairs:
        """The pairs of these numbers into ``times``, in this order.

        Raises
        ------
        InputError
            If a field cannot be read or is not finite; the message names it
        """
        with self._lock:
            at = self._located(self._rows[np.asarray(indices, dtype=np.int64)])
        fields = [
            torch.from_numpy(np.stack([block[v][i] for block, i in at])) for v in range(len(self.variables))
        ]
        self._check(fields, indices)
        named = dict(zip(self.variables, fields, strict=True))
        coarse, fine, finer = (
            torch.stack([named[name] for name in names], 1) if names else None
            for names in (
                self.variables[: len(self.channels.inputs)],
                self.channels.outputs,
                self._fine_inputs,
            )
        )
        return Pairs(cast(Tensor, coarse), cast(Tensor, fine), self.times[list(indices)], finer)

    def _located(self, rows: NDArray[np.int64]) -> list[tuple[tuple[NDArray[np.float32], ...], int]]:
        """For each row of the file its chunk, in memory from now on, and the position in it."""
        numbers = (rows // self._chunk).tolist()
        self._load(sorted(set(numbers) - self._kept.keys()))
        for number in sorted(set(numbers)):
            self._kept.move_to_end(number)
        at = [(self._kept[number], int(row % self._chunk)) for number, row in zip(numbers, rows, strict=True)]
        while len(self._kept) > max(self._keep, len(set(numbers))):
            self._kept.popitem(last=False)
        return at

    def _load(self, numbers: Sequence[int]) -> None:
        """Take these chunks into memory: one read per variable."""
        if not numbers:
            return
        size = self._data.sizes["time"]
        spans = [range(n * self._chunk, min((n + 1) * self._chunk, size)) for n in numbers]
        rows = [row for span in spans for row in span]
        read = [self._read(name, rows) for name in self.variables]
        start = 0
        for number, span in zip(numbers, spans, strict=True):
            self._kept[number] = tuple(field[start : start + len(span)] for field in read)
            start += len(span)

    def _read(self, name: str, rows: list[int]) -> NDArray[np.float32]:
        try:
            dims = self._coarse_dims if name.endswith(COARSE) else self._fine_dims
            values = self._data[name].isel(time=rows).transpose("time", *dims).to_numpy()
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{name} cannot be read from {self.path} ({first_line(error)})") from error
        # of this chunk the times that are not complete are NaN, too: `_check` looks at those that are used
        fields, _ = cleaned(values, name.removesuffix(COARSE), self._convert[name], self._what(name, rows))
        return np.asarray(fields, dtype=np.float32)

    def _what(self, name: str, rows: list[int]) -> str:
        """Some fields of a variable, for messages."""
        stamps = self._data["time"].to_numpy()[rows]
        when = time_text(stamps[0]) + (f" to {time_text(stamps[-1])}" if len(rows) > 1 else "")
        return f"{name} of {when} in {self.path}"

    def _check(self, fields: Sequence[Tensor], indices: Sequence[int]) -> None:
        for name, field in zip(self.variables, fields, strict=True):
            finite = torch.isfinite(field).flatten(1)
            good = finite.any(1) if self._gaps else finite.all(1)
            if not good.all():
                time = self.times[indices[int((~good).nonzero()[0])]]
                gaps = int((~torch.isfinite(field[~good][0])).sum())
                raise InputError(
                    f"{name} of {time_text(time)} in {self.path} is not finite: {gaps} of {field[0].numel()} "
                    "are missing values (NaN, or numbers like -999 or 9999); fill them, leave the time out, "
                    "or set data.missing to mask"
                )
