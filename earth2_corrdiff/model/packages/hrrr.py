# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The layout of the published CorrDiff-ERA5-HRRR weights: a folder per variant, of JSON and NumPy files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.packages.files import Files, checksum, describe, need, read_json
from earth2_corrdiff.model.packages.loaded import Loaded
from earth2_corrdiff.model.packages.metadata import table
from earth2_corrdiff.model.packages.npy import read_npy
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, DiTDenoiser, DiTFlow, build

VARIANTS = ("x_pred",)
KINDS = ("rectified_flow", "edm")
# The whole grid of HRRR: metres in its Lambert projection, as Earth2Studio's data source has them
HRRR_Y = np.linspace(-1587306.1525566636, 1586693.8474433364, 1059)
HRRR_X = np.linspace(-2697520.1425219304, 2696479.8574780696, 1799)
_MOST_NAMES, _MOST_MEMBERS = 1000, 100_000
_ARRAYS = {"era5_lat": 1, "era5_lon": 1, "hrrr_lat": 2, "hrrr_lon": 2, "invariants": 3}


def read_hrrr(files: Files, variant: str = "x_pred") -> Loaded:
    """Read one variant of a package.

    Raises
    ------
    InputError
        If there is no such variant, or files are missing or damaged, or do not agree with each other
    """
    if variant not in VARIANTS:
        raise InputError(f"{variant!r:.60} is not a valid variant; use {' or '.join(VARIANTS)}")
    paths = {name: need(files, f"{variant}/{name}.json") for name in ("metadata", "stats")}
    meta, stats = _Entries(read_json(paths["metadata"])), read_json(paths["stats"])
    paths |= {name: need(files, f"{variant}/{name}.npy") for name in _ARRAYS}
    paths["checkpoint"] = need(files, f"{variant}/{_checkpoint(meta)}")
    arrays = {name: read_npy(paths[name], dims) for name, dims in _ARRAYS.items()}
    spec = _spec(meta, stats, arrays, describe(files), checksum(paths.values()))
    network = _network(meta.part("network"), paths["checkpoint"])
    spec = replace(spec, vector=_vector(network, spec.vector))
    allowed = meta.part("sampler").get("amp", True, bool)
    return Loaded(spec, None, network, "auto" if allowed else "fp32")


class _Entries:
    """Entries of the metadata by name, each checked; messages name where it stands."""

    def __init__(self, entries: dict[str, Any], where: str = "") -> None:
        self._entries, self._where = entries, where

    def part(self, name: str) -> _Entries:
        """The entries of a block; none where it is not there."""
        return _Entries(self.get(name, {}, dict), f"{self._where}{name}.")

    def get(self, name: str, default: Any, *kinds: type) -> Any:
        """An entry of one of these types; the default where it is not there."""
        value = self._entries.get(name, default)
        if type(value) not in kinds:
            raise self.fault(name, f"must be of the type {kinds[-1].__name__}", value)
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self.get(name, default, int, float)
        if not abs(value) < 1e300:
            raise self.fault(name, "must be a finite number", value)
        return float(value)

    def names(self, name: str) -> list[str]:
        """A list of names."""
        value = self.get(name, [], list)
        if not all(isinstance(one, str) for one in value) or len(value) > _MOST_NAMES:
            raise self.fault(name, "must be a list of names", value)
        return list(value)

    def fault(self, name: str, rule: str, value: Any) -> InputError:
        return InputError(f"metadata.json: {self._where}{name} {rule}, got {repr(value)[:80]}")


def _checkpoint(meta: _Entries) -> str:
    name: str = meta.get("checkpoint", None, str)
    if not name.isprintable() or {"/", "\\"} & set(name) or name.startswith(".") or not name:
        raise meta.fault("checkpoint", "must be the name of a file", name)
    return name


def _spec(
    meta: _Entries, stats: dict[str, Any], arrays: dict[str, NDArray[Any]], root: str, sha256: str
) -> CorrDiffSpec:
    inputs, outputs = (
        table(meta.names(f"{key}_variables"), stats.get(of, {}), of)
        for key, of in (("era5", "era5"), ("output", "hrrr"))
    )
    fields = arrays["invariants"].astype(np.float32)
    invariants = tuple(f"invariant_{i}" for i in range(len(fields)))
    fine = Grid(arrays["hrrr_lat"].astype(np.float32), arrays["hrrr_lon"].astype(np.float32))
    return CorrDiffSpec(
        inputs=inputs,
        outputs=outputs,
        input_grid=Grid(arrays["era5_lat"].astype(np.float32), arrays["era5_lon"].astype(np.float32)),
        output_grid=fine,
        projected=_window(meta.part("hrrr_window"), fine.shape),
        sampling=_sampling(meta),
        invariants=Statistics(invariants, (0.0,) * len(fields), (1.0,) * len(fields)),
        invariant_fields=fields,  # normalised already
        channels=(
            *(Channel("input", name) for name in inputs.names),
            Channel("feature", "cos_zenith"),
            *(Channel("invariant", name) for name in invariants),
        ),
        vector=_scalars(meta.part("scalar_conditions")),
        number_of_samples=_members(meta),
        hr_mean_conditioning=False,
        inference_mode="diffusion",
        complete=True,
        name="CorrDiff-ERA5-HRRR",
        root=root,
        sha256=sha256,
    )


def _members(meta: _Entries) -> int:
    number: int = meta.get("number_of_samples", 1, int)
    if number > _MOST_MEMBERS:
        raise meta.fault("number_of_samples", f"must be at most {_MOST_MEMBERS}", number)
    return number


def _window(window: _Entries, shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Metres along y and x of rows and columns of HRRR's grid."""
    axes = []
    for name, axis, points in (("rows", HRRR_Y, shape[0]), ("cols", HRRR_X, shape[1])):
        bounds = window.get(name, None, list)
        whole = len(bounds) == 2 and all(type(i) is int for i in bounds)
        if not whole or not 0 <= bounds[0] < bounds[1] <= len(axis) or bounds[1] - bounds[0] != points:
            raise window.fault(name, f"must be the first and last of {points} out of {len(axis)}", bounds)
        axes.append(axis[slice(*bounds)])
    return axes[0], axes[1]


def _scalars(scalars: _Entries) -> tuple[str, ...]:
    """Scalar conditions: phase of the year, and flags that inputs are present, which they are."""
    phase = ("sin_year", "cos_year") if scalars.get("day_of_year", True, bool) else ()
    return *phase, *(["one"] * len(scalars.names("presence_flags")))


def _kind(network: _Entries) -> tuple[str, str]:
    """Formulation of a network, and what it predicts."""
    kind, prediction = network.get("kind", None, str), network.get("prediction_type", "x0", str)
    if kind not in KINDS:
        raise network.fault("kind", f"must be {' or '.join(KINDS)}", kind)
    if prediction not in ("x0", "flow"):
        raise network.fault("prediction_type", "must be x0 or flow", prediction)
    return kind, prediction


def _network(network: _Entries, path: Path) -> Denoiser:
    """The denoiser of a checkpoint that holds a DiT by itself."""
    kind, prediction = _kind(network)
    scale, spread = network.number("time_scale", 999.0), network.number("sigma_data", 0.5)
    checkpoint = read_mdlus(path)
    if checkpoint.name != "DiT":
        raise InputError(f"{path} holds a {checkpoint.name:.60}, and the package must have a DiT")
    flow = kind == "rectified_flow"
    net = build(
        checkpoint, None, lambda dit: DiTFlow(dit, prediction, scale) if flow else DiTDenoiser(dit, spread)
    )
    return cast(Denoiser, net)


def _vector(network: Denoiser, scalars: tuple[str, ...]) -> tuple[str, ...]:
    """The scalar conditions that a network takes: all, or none, as upstream's without a condition."""
    own = cast(DiTDenoiser, network).model.condition_dim
    if own not in (0, len(scalars)):
        raise InputError(
            f"metadata.json: scalar_conditions makes {len(scalars)} numbers, and the network takes {own}"
        )
    return scalars if own else ()


def _sampling(meta: _Entries) -> Sampling:
    """The sampler that the stock class would run, whose state is float32."""
    how, (kind, prediction) = meta.part("sampler"), _kind(meta.part("network"))
    solver = how.get("solver", "heun", str)
    if solver not in ("heun", "euler"):
        raise how.fault("solver", "must be heun or euler", solver)
    schedule: dict[str, Any] = {"rho": how.number("rho", 7.0)}
    schedule |= {name: how.number(name, value) for name, value in (("sigma_min", 0.01), ("sigma_max", 200.0))}
    if kind == "rectified_flow":
        clip = how.number("x0v_clip", 0.05) if prediction == "x0" else 0.0  # only x0 is divided by it
        schedule = {"t_max": how.number("t_max", 0.99), "shift": how.number("shift", 1.0), "clip": clip}
        schedule["schedule"] = kind
    return Sampling(solver, how.get("num_steps", 50, int), double=False, **schedule)
