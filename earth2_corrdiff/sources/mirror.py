# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A mirror of a run's coarse input on the model's grid: a NetCDF of each time, for ``file:FOLDER``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import make_folder, whole, writing
from earth2_corrdiff.base.times import lead_text, time_text
from earth2_corrdiff.base.variables import cf_attributes
from earth2_corrdiff.sources.formats import open_dataset
from earth2_corrdiff.sources.inputs import Inputs

Field = tuple[Case, np.datetime64]
"""A case, and the time of one of its inputs."""


class Mirror:
    """The coarse input of cases as files: iterate over it to fetch what is missing.

    Parameters
    ----------
    inputs : Inputs
        Of the run
    folder : Path
        Of the mirror
    keep_going : bool, optional
        Go on after what cannot be fetched: see ``failed``

    Attributes
    ----------
    found : int
        Files that were there already
    failed : dict[str, str]
        What could not be fetched, and why

    Raises
    ------
    InputError
        If the source is computed and not fetched, or the folder has files of another source or package
    """

    def __init__(self, inputs: Inputs, folder: Path, keep_going: bool = False) -> None:
        self.inputs, self.folder, self.keep_going = inputs, folder, keep_going
        if inputs.source.synthetic:
            raise InputError(f"the source {inputs.source.name} is computed; there is nothing to fetch")
        self.failed = dict[str, str]()
        fields = {
            _label(case, time): (case, time)
            for number, case in enumerate(inputs.cases)
            for time in inputs.times(number)
        }
        self._all = len(fields)
        self._missing = {label: field for label, field in fields.items() if not self._is_there(label)}
        self.found = self._all - len(self._missing)

    def __len__(self) -> int:
        """Number of files to fetch."""
        return len(self._missing)

    def __iter__(self) -> Iterator[str]:
        """Fetch one field after the other; yield the label of each.

        Raises
        ------
        InputError
            If one cannot be fetched or written; with ``keep_going`` if the folder cannot be
        """
        make_folder(self.folder)
        for label, (case, time) in self._missing.items():
            try:
                fields = self.inputs.read(self.inputs.source.at(case), time, self.inputs.kept).numpy()
            except InputError as error:
                if not self.keep_going:
                    raise
                self.failed[label] = str(error)
            else:
                self._write(label, case, time, fields)
            yield label

    def _path(self, label: str) -> Path:
        return self.folder / f"{label}.nc"

    @property
    def _identity(self) -> dict[str, str]:
        return {"source": self.inputs.source.name, "variables": ",".join(self.inputs.kept)}

    def _is_there(self, label: str) -> bool:
        """True if a file is there; InputError if it is another source's or of another grid or variables."""
        path, grid = self._path(label), self.inputs.grid
        if not path.exists():
            return False
        with open_dataset(path) as data:
            same = {name: str(data.attrs.get(name)) for name in self._identity} == self._identity
            if not same or any(
                not np.array_equal(data[axis], getattr(grid, axis)) for axis in ("lat", "lon")
            ):
                raise InputError(f"{path} is of another source, or for another package; use another --output")
        return True

    def _write(self, label: str, case: Case, time: np.datetime64, fields: Any) -> None:
        """Write fields ``[C, h, w]``."""
        import xarray as xr

        axes: dict[str, Any] = {"time": [time]}
        axes |= {} if case.lead is None else {"lead_time": [case.lead]}
        axes |= {} if case.coarse is None else {"ensemble": [case.coarse]}
        grid = self.inputs.grid
        plane = ("y", "x") if grid.curvilinear else ("lat", "lon")
        lat, lon = (plane, plane) if grid.curvilinear else (plane[:1], plane[1:])
        shape, dims = (1,) * len(axes), (*axes, *plane)
        data = xr.Dataset(
            {
                name: (dims, field.reshape(*shape, *field.shape), cf_attributes(name))
                for name, field in zip(self.inputs.kept, fields, strict=True)
            },
            {**axes, "lat": (lat, grid.lat), "lon": (lon, grid.lon)},
            self._identity,
        )
        path = self._path(label)
        with writing(path), whole(path) as part:
            data.to_netcdf(part, engine="h5netcdf")


def _label(case: Case, time: np.datetime64) -> str:
    """Like ``2024-07-24T1200``, or ``2024-07-24T0000+6h-member3`` of a forecast."""
    label = time_text(time).replace(":", "")
    label += "" if case.lead is None else f"+{lead_text(case.lead).replace(' ', '')}"
    return label + ("" if case.coarse is None else f"-member{case.coarse}")
