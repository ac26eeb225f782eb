# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The truth on the grid of what is verified: fine fields that are cut out, or interpolated bilinearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import as_path
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.sources.fine import (
    DemoFields,
    FileFields,
    FineFields,
    SourceFields,
    analyses_of,
    are_regular,
)
from earth2_corrdiff.sources.formats import open_dataset
from earth2_corrdiff.sources.registry import KINDS
from earth2_corrdiff.sources.windows import Window, around, shared

HINT = "; name others with --variables, or say what it is called there: --truth-name {}=NAME"


class Truth:
    """Fields by time and variable, on the grid of what is verified.

    Parameters
    ----------
    fields : FineFields
        On their own grid. Where it is known its points must include those that are verified: they are cut
        out. Otherwise it is regular, and is interpolated
    grid : Grid
        Of what is verified

    Attributes
    ----------
    name : str
        As the user gave it
    note : str
        Remark for readers of the scores; may be empty

    Raises
    ------
    InputError
        If the points that are verified are not among those of the fields
    """

    def __init__(self, fields: FineFields, grid: Grid) -> None:
        self.fields, self.grid, self.name = fields, grid, fields.name
        self._placed: tuple[Grid, Window, Regridder | None] | None = None
        if fields.grid is not None:
            self._placed = fields.grid, self._cut_out(fields.grid), None
        self.note = self._describe()

    def _describe(self) -> str:
        synthetic = " It is synthetic." if self.fields.synthetic else ""
        if isinstance(self.fields, DemoFields):
            return "The truth is synthetic: made by the demo's weather, neither observed nor forecast."
        if self.fields.grid is None:
            detail = "is interpolated: it has no more detail than its own grid."
            return f"The truth, {self.name}, {detail}{synthetic}"
        (h, w), (H, W) = self.fields.grid.shape, self.grid.shape
        cut = f"The truth is cut out of a larger grid: {H} x {W} of {h} x {w} points."
        return "" if (h, w) == (H, W) else cut

    def _cut_out(self, have: Grid) -> Window:
        found = shared(have, self.grid)
        if found is None:
            (h, w), (H, W) = have.shape, self.grid.shape
            raise InputError(
                f"{self.fields.title} is on {h} x {w} points ({have.extent()}), what is verified on "
                f"{H} x {W} ({self.grid.extent()}), which are not among them; regrid it first, or give "
                "file:PATH to have a regular grid interpolated"
            )
        return found

    @property
    def replaced(self) -> Mapping[str, int]:
        """By variable, how many numbers that stand for missing values were met so far: they are NaN."""
        return self.fields.missing()

    def available(self, times: Times) -> Times:
        """Those of these times that it has."""
        return self.fields.available(times)

    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError if it lacks one of these, or has it in other units or dimensions."""
        self.fields.check_variables(variables)

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]`` float64 in the variable's units, NaN where the truth is not known.

        Raises
        ------
        InputError
            If it cannot be read, or has values that the variable cannot have
        """
        raw, own = self.fields.read(time, [variable])
        window, regrid = self._place(own)
        (known,) = torch.from_numpy(self.fields.cleaned(window.cut(raw), [variable], time))
        return known if regrid is None else regrid(known)  # type: ignore[no-any-return]

    def _place(self, own: Grid) -> tuple[Window, Regridder | None]:
        """The part of a grid to read, and how it is interpolated."""
        placed = self._placed
        if placed is None or (self.fields.grid is None and not own.matches(placed[0])):
            if own.curvilinear:
                placed = self._placed = own, self._cut_out(own), None
            else:
                window = around(self.grid, own)
                placed = self._placed = own, window, Regridder(window.grid, self.grid)
        return placed[1:]


def open_truth(truth: Any, grid: Grid, names: Mapping[str, str] | None = None) -> Truth:
    """The truth of a name, path, or object, on a grid.

    Parameters
    ----------
    truth : str | Path | xr.Dataset | Source | DataSource
        ``demo`` (the demo's fine fields); the path of a Zarr or NetCDF, or an open Dataset, whose points
        hold those of this grid; or a data source or its name (``arco``, ``file:PATH``, …), which is
        interpolated to it, as GRIB files and folders are
    grid : Grid
        Of what is verified
    names : Mapping[str, str], optional
        Names of variables in the truth where they differ, as ``{"mrr": "refc"}``

    Raises
    ------
    InputError
        If there is no such truth, it cannot be read, or is on another grid
    """
    return Truth(_fields(truth, names or {}), grid)


def _fields(truth: Any, names: Mapping[str, str]) -> FineFields:
    if isinstance(truth, xr.Dataset):
        return FileFields(truth, "the dataset", "the truth the dataset", names, HINT)
    if isinstance(truth, Path) or (isinstance(truth, str) and not _names_a_source(truth)):
        path = as_path(truth).expanduser()
        if not are_regular(path):
            data = open_dataset(path, "truth", "demo, a NetCDF or Zarr, or the name of a source")
            return FileFields(data, str(truth), f"the truth {truth}", names, HINT)
        truth = f"file:{truth}"
    if truth == "demo":
        return DemoFields("the truth demo", names)
    source = analyses_of(truth, "which are no truth; give analyses or observations")
    return SourceFields(source, f"the truth {source.name}", names)


def _names_a_source(text: str) -> bool:
    kind = text.partition(":")[0]
    return kind in KINDS or kind == "file"
