# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Any diagnostic model of Earth2Studio with a ``sample`` dimension, behind the interface of the pipeline.

The class runs as it is, member by member, without acceleration: a run adds input, store, and resuming.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.coordinates import CoordSystem
from earth2_corrdiff.model.downscaler import Leads, Progress, ValidTimes
from earth2_corrdiff.model.packages.files import Files, describe
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics, check_count

LEADING = ("batch", "time", "lead_time")
HOUR = np.timedelta64(1, "h")


class Diagnostic:
    """A diagnostic model as a run takes it: its own ``model``, and that model's ``downscaler``.

    Parameters
    ----------
    model : DiagnosticModel
        On its device
    name : str
        Its class, ``MODULE:CLASS``
    package : Files
        Its package
    device : torch.device
        The device

    Attributes
    ----------
    spec : CorrDiffSpec
        Its grids and variables
    sampling : Sampling
        One evaluation per member, for progress; how it samples is the model's own
    number_of_samples, seed, max_batch : int, int | None, None
        Defaults of a run

    Raises
    ------
    InputError
        If it has no ``sample`` dimension and number of samples, or its coordinates are not those of fields on
        latitudes and longitudes
    """

    patching = max_batch = None

    def __init__(self, model: Any, name: str, package: Files, device: torch.device) -> None:
        self.model, self.name, self.device = model, name, device
        coords = model.input_coords()
        self._leading = [dim for dim in coords if dim in LEADING]
        self._coords = OrderedDict((dim, coords[dim]) for dim in ("variable", "lat", "lon") if dim in coords)
        if list(coords) != [*self._leading, "variable", "lat", "lon"] or len(coords.get("lead_time", ())) > 1:
            raise InputError(f"{name} takes {', '.join(coords)}: not the fields of one time on lat, lon")
        out = model.output_coords(self._case(np.datetime64("2000-01-01", "ns"), 0.0))
        if "sample" not in out or list(out)[-3:] != ["variable", "lat", "lon"]:
            raise InputError(f"{name} gives {', '.join(out)}: a run needs sample, variable, lat, lon")
        if not hasattr(model, "number_of_samples"):
            raise InputError(f"{name} has no number_of_samples: its members cannot be made one by one")
        self.number_of_samples, self.seed = int(model.number_of_samples), getattr(model, "seed", None)
        self.sampling = Sampling("euler", 1)
        self.spec = CorrDiffSpec(
            inputs=_unscaled(coords["variable"]),
            outputs=_unscaled(out["variable"]),
            input_grid=Grid(coords["lat"], coords["lon"]),
            output_grid=Grid(out["lat"], out["lon"]),
            sampling=self.sampling,
            root=describe(package),
            sha256=_checksum(package),
        )

    @property
    def downscaler(self) -> Diagnostic:
        """Itself."""
        return self

    @property
    def input_variables(self) -> list[str]:
        """Names of its inputs, in its order."""
        return list(self.spec.inputs.names)

    @property
    def output_variables(self) -> list[str]:
        """Names of its outputs, in its order."""
        return list(self.spec.outputs.names)

    def batch_size(self, max_batch: int | None = None) -> int:
        """One: member by member."""
        return 1

    def members(
        self,
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
        valid_times: ValidTimes = None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield members one by one as ``Downscaler.members``: each is the model's first for its seed."""
        check_count("the number of samples", len(seeds))
        for b, x in enumerate(coarse):
            valid = np.datetime64("NaT") if valid_times is None else np.datetime64(valid_times[b], "ns")
            coords = self._case(valid, (lead_hours[b] if lead_hours is not None else None) or 0.0)
            for i, seed in enumerate(seeds):
                yield b, i, self._member(x, coords, seed)
                if progress is not None:
                    progress(1)

    def _case(self, valid: Any, lead_hours: float) -> CoordSystem:
        """Coordinates of one case: its time is the valid time, or with a lead time the reference time."""
        lead = np.timedelta64(round(3600 * lead_hours), "s").astype("timedelta64[ns]")
        has_lead = "lead_time" in self._leading
        values = {"batch": np.arange(1), "time": np.array([valid - lead if has_lead else valid])}
        values["lead_time"] = np.array([lead])
        return OrderedDict([*((dim, values[dim]) for dim in self._leading), *self._coords.items()])

    @torch.inference_mode()
    def _member(self, x: Tensor, coords: CoordSystem, seed: int) -> Tensor:
        """The member of a seed, ``[1, Co, H, W]`` float32."""
        if "time" in coords and np.isnat(coords["time"]).any():
            raise InputError(f"{self.name} needs the valid time of every case; give valid_times")
        self.model.number_of_samples = 1
        if hasattr(self.model, "seed"):
            self.model.seed = seed
        x = x.to(self.device, torch.float32).reshape(*(1 for _ in self._leading), *x.shape)
        with _random_state(seed, self.device):
            y, _ = self.model(x, coords)
        if prod(y.shape[:-3]) != 1:
            raise InputError(f"{self.name} gives fields of shape {list(y.shape)} for one member of one case")
        field: Tensor = y.reshape(1, *y.shape[-3:]).float()
        return field


@contextmanager
def _random_state(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's and NumPy's generators started with a seed, for models without one; then as they were."""
    state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def _unscaled(names: Any) -> Statistics:
    return Statistics(tuple(map(str, names)), (0.0,) * len(names), (1.0,) * len(names))


def _checksum(package: Files) -> str:
    """Of the files of a local package; of another one none, its root has a version."""
    folder, digest = Path(describe(package)), hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if folder.is_dir() else ""


def load_diagnostic(kind: type[Any], name: str, package: Files, device: torch.device) -> Diagnostic:
    """The model of a class of Earth2Studio, ``MODULE:CLASS``, and of a package, on a device.

    Raises
    ------
    InputError
        If it cannot be loaded, or is not a model that a run can use
    """
    lacking = [part for part in ("load_model", "input_coords", "output_coords") if not hasattr(kind, part)]
    if lacking:
        raise InputError(f"{name} is not a diagnostic model of Earth2Studio: it has no {', '.join(lacking)}")
    try:
        model = kind.load_model(package).to(device)
    except Exception as error:  # of any library that the class needs
        raise InputError(f"{name} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    return Diagnostic(model, name, package, device)
