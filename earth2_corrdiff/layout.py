# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a store shall hold and say: decided before anything is written, compared before a run is resumed."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.spec import CorrDiffSpec
from earth2_corrdiff.times import Times, time_text

SEED = "member_seed"
# What must not change between the runs that fill one store.
IDENTITY = (
    "package_sha256",
    "source",
    "solver",
    "number_of_steps",
    "sigma_min",
    "sigma_max",
    "churn",
    "seed",
    "precision",
)
Coordinates = OrderedDict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """What a store shall hold.

    Attributes
    ----------
    times : np.ndarray
        ``[T]`` datetime64[ns]
    seeds : np.ndarray
        ``[T, M]`` int64: of each member
    outputs, lowres : tuple[str, ...]
        Variables of the output, and of the coarse input that is kept beside it
    output_grid, input_grid : Grid
        Their grids
    attributes : dict
        Provenance, with all of ``IDENTITY`` that apply
    static : dict
        Fields of the output grid that do not change: the package's invariants
    """

    times: Times
    seeds: NDArray[np.int64]
    outputs: tuple[str, ...]
    lowres: tuple[str, ...]
    output_grid: Grid
    input_grid: Grid
    attributes: dict[str, Any]
    static: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def output_coords(self) -> Coordinates:
        """Coordinates of the output arrays."""
        return OrderedDict(
            time=self.times,
            sample=np.arange(self.seeds.shape[1]),
            lat=self.output_grid.lat,
            lon=self.output_grid.lon,
        )

    def lowres_coords(self) -> Coordinates:
        """Coordinates of the coarse input."""
        return OrderedDict(time=self.times, lat_lowres=self.input_grid.lat, lon_lowres=self.input_grid.lon)

    def differences(self, attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str]:
        """What a store with these attributes and arrays has that this layout has not; nothing if they match.

        Parameters
        ----------
        attributes : Mapping[str, Any]
            Of the store
        arrays : Mapping[str, Any]
            Its arrays by name, anything that NumPy indexes
        """
        lacking = [name for name in (*self.outputs, SEED, "time", "sample") if name not in arrays]
        if lacking:
            return [f"no {', '.join(lacking)}"]
        return [*self._other_settings(attributes), *self._other_members(arrays), *self._other_grids(arrays)]

    def _other_settings(self, attributes: Mapping[str, Any]) -> list[str]:
        pairs = {key: (attributes.get(key), self.attributes.get(key)) for key in IDENTITY}
        return [
            f"{key.replace('_', ' ')} {_short(have)} instead of {_short(want)}"
            for key, (have, want) in pairs.items()
            if have != want
        ]

    def _other_members(self, arrays: Mapping[str, Any]) -> list[str]:
        other = []
        times, samples = np.asarray(arrays["time"][:]), len(arrays["sample"][:])
        if not np.array_equal(times, self.times):
            have, want = (", ".join(map(time_text, some)) for some in (times, self.times))
            other.append(f"the times {have} instead of {want}")
        if samples != self.seeds.shape[1]:
            other.append(f"{samples} members instead of {self.seeds.shape[1]}")
        return other

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


def provenance(
    downscaler: Downscaler, source: str, synthetic: bool, seed: int, command: str
) -> dict[str, Any]:
    """What a run is made with, as attributes of its store: all of ``IDENTITY`` that applies, and more.

    ``synthetic`` says it of the source; the package speaks for itself.
    """
    spec, sampling = downscaler.spec, downscaler.sampling
    packages = ("earth2_corrdiff", "earth2studio", "torch", "numpy", "zarr")
    attributes = {
        "title": f"CorrDiff downscaling{made_up(spec, synthetic)}",
        "source": source,
        "package": spec.name or spec.root,
        "package_sha256": spec.sha256,
        "synthetic": int(synthetic or spec.synthetic),
        "synthetic_source": int(synthetic),
        "solver": sampling.solver,
        "number_of_steps": int(sampling.steps),
        "sigma_min": float(sampling.sigma_min),
        "sigma_max": float(sampling.sigma_max),
        "seed": seed,
        "precision": downscaler.precision,
        "device": downscaler.device.type,
        "versions": json.dumps({name: _version(name) for name in packages}),
        "command": command,
    }
    return attributes | ({"churn": str(sampling.churn)} if sampling.solver == "stochastic" else {})


def made_up(spec: CorrDiffSpec, synthetic: bool) -> str:
    """What is synthetic about an output, to go on with "downscaling" or "points"; empty if nothing is."""
    if synthetic:
        return " of synthetic demo weather"
    return " by a demo model trained on synthetic weather" if spec.synthetic else ""


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _short(value: object) -> str:
    """A setting for a message; of a checksum only the beginning."""
    text = str(value)
    return text if len(text) != 64 else f"{text[:12]}…"
