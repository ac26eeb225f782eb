# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Reader of packages in the layout of Earth2Studio's ``CorrDiffCosmoEra5``: ERA5 to COSMO-REA6 or COSMO-REA2.

One folder per resolution, ``rea6/`` and ``rea2/``, with a network for the mean and one for samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from earth2_corrdiff.base.errors import InputError, MissingEntryError, first_line, listed
from earth2_corrdiff.base.grid import Grid, lon_difference
from earth2_corrdiff.model.channels import PLACES, Channel
from earth2_corrdiff.model.outputs import HubWinds, OutputRule, SolarGate, WindLevel
from earth2_corrdiff.model.packages.files import Files, checksum, describe, need, read_grid, read_json
from earth2_corrdiff.model.packages.loaded import Loaded
from earth2_corrdiff.model.packages.metadata import table
from earth2_corrdiff.model.packages.names import RESOLUTIONS
from earth2_corrdiff.model.packages.netcdf import open_netcdf
from earth2_corrdiff.model.spec import CorrDiffSpec, Field, Sampling, Statistics, Surroundings
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, build

MODES = {"mean": "regression", "diffusion": "diffusion"}
"""Mode → name of its network, and of its architecture in the metadata."""
ZENITH = "cos_zenith_hour"
MOST_SAMPLES = 100_000
NEAR = 0.005
"""Degrees; cells have 0.02 or 0.055."""
SHORT_WAVE = ("ASWDIR_S", "ASWDIFD_S")
# COSMO's name → Earth2Studio's, and the factor to its unit; others are COSMO's in lower case
_NAMES = {
    "U_10M": ("u10m", 1.0), "10U": ("u10m", 1.0), "V_10M": ("v10m", 1.0), "10V": ("v10m", 1.0),
    "T_2M": ("t2m", 1.0), "2MT": ("t2m", 1.0), "TD_2M": ("d2m", 1.0), "QV_2M": ("q2m", 1.0),
    "PS": ("sp", 1.0), "VMAX_10M": ("fg10m", 1.0), "H_PBL": ("blh", 1.0),
    "CLCT": ("tcc", 0.01), "TOT_PRECIP": ("tp", 1e-3),
}  # fmt: skip


def public_name(variable: str) -> tuple[str, float]:
    """Earth2Studio's name of a variable of COSMO, and the factor from COSMO's unit to its own.

    Source: ``earth2studio.lexicon.CosmoLexicon``.
    """
    return _NAMES.get(variable, (variable.lower(), 1.0))


@dataclass(frozen=True)
class Variant:
    """Which of the networks of a package, and which winds are added to its output.

    Attributes
    ----------
    resolution : {"rea6", "rea2"}
        COSMO-REA6 with cells of about 6 km, or COSMO-REA2 with 2.2 km
    mode : {"mean", "diffusion"}
        The conditional mean, or samples
    hub_heights : tuple[float, ...]
        Heights above ground in metres for winds between model levels
    hub_interp : {"linear", "log"}
        Their interpolation

    Raises
    ------
    InputError
        If the resolution or the mode is not known
    """

    resolution: str = "rea6"
    mode: str = "mean"
    hub_heights: tuple[float, ...] = ()
    hub_interp: str = "linear"

    def __post_init__(self) -> None:
        for what, value, known in (("resolution", self.resolution, RESOLUTIONS), ("mode", self.mode, MODES)):
            if value not in known:
                raise InputError(f"{value!r:.60} is not a valid {what}; use {' or '.join(known)}")


@dataclass
class _Folder:
    """A resolution's folder of a package; ``used`` are the files that were read."""

    files: Files
    name: str
    used: list[Path] = field(default_factory=list)

    def need(self, name: Any) -> Path:
        """Path of a file that metadata may name."""
        parts = name.split("/") if isinstance(name, str) else []
        if not parts or "\\" in name or any(part in ("", ".", "..") or ":" in part for part in parts):
            raise InputError(f"{self.name}/metadata.json: {name!r:.80} is not a valid name of a file")
        path = need(self.files, f"{self.name}/{name}")
        self.used.append(path)
        return path

    def json(self, name: Any) -> dict[str, Any]:
        return read_json(self.need(name))


def read_cosmo(files: Files, variant: Variant | None = None) -> Loaded:
    """Read one network of a package, by default the mean of COSMO-REA6.

    Parameters
    ----------
    files : Files
        Earth2Studio's ``Package`` or anything with its ``resolve``
    variant : Variant | None, optional
        Which one

    Raises
    ------
    InputError
        If files are missing or damaged, or do not agree with each other
    """
    variant = variant or Variant()
    folder = _Folder(files, variant.resolution)
    try:
        return _read(folder, variant)
    except InputError:
        raise
    except Exception as error:  # of any library that reads the files
        raise InputError(
            f"the package {describe(files)} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _read(folder: _Folder, variant: Variant) -> Loaded:
    meta, key = folder.json("metadata.json"), f"{variant.resolution}_{variant.mode}"
    checkpoint = folder.need(_entry(_entry(meta, "checkpoints", dict), key, str))
    spec = _spec(folder, meta, variant)
    spec, network = replace(spec, sha256=checksum(folder.used)), build(read_mdlus(checkpoint))
    if isinstance(network, Denoiser) != (variant.mode == "diffusion"):
        raise InputError(f"{checkpoint} holds no network of the mode {variant.mode}")
    return Loaded(spec, *((None, network) if isinstance(network, Denoiser) else (network, None)))


def _spec(folder: _Folder, meta: dict[str, Any], variant: Variant) -> CorrDiffSpec:
    inputs, outputs = _names(meta, "era5_variables"), _names(meta, "output_variables")
    before, after = _names(meta, "pre_invariant_variables"), _names(meta, "post_invariant_variables", [])
    coarse, fine = _grids(folder.need("grids.nc"))
    static = _static(folder, meta, [name for name in (*before, *after) if name not in PLACES], fine)
    stats, mode = folder.json("stats.json"), _mode(meta, variant.mode)
    rules = _rules(meta, outputs, bool(mode.get("channel_transforms", True)))
    channels = (
        *(Channel("input", name) for name in inputs),
        *(static.channel(name) for name in before),
        Channel("feature", ZENITH),
        *(static.channel(name) for name in after),
    )
    out = table(outputs, stats.get(_entry(mode, "stats", str, "output"), {}), "output")
    return CorrDiffSpec(
        inputs=table(inputs, stats.get("era5", {}), "era5"),
        outputs=replace(out, names=tuple(public_name(name)[0] for name in outputs)),
        input_grid=coarse,
        output_grid=fine,
        sampling=_sampling(_entry(meta, "sampler", dict, {})),
        invariants=static.statistics,
        invariant_fields=static.fields,
        number_of_samples=_samples(meta),
        hr_mean_conditioning=False,
        inference_mode=MODES[variant.mode],
        channels=channels,
        rules=rules,
        hub_winds=_hub_winds(meta, variant, outputs, static),
        surroundings=_surroundings(meta, variant, static),
        name=f"COSMO-{variant.resolution.upper()} {variant.mode}",
        root=f"{describe(folder.files)}/{folder.name}",
    )


# entries of the metadata

_KINDS: dict[Any, str] = {dict: "JSON object", list: "list", str: "text", int: "whole number"}


def _entry(entries: dict[str, Any], name: str, kind: Any, default: Any = None) -> Any:
    """An entry of a type; ``default`` where it is missing or null."""
    value = default if entries.get(name) is None else entries[name]
    if value is None:
        raise MissingEntryError(f"metadata.json has no entry {name}")
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = _KINDS.get(kind, "number")
        raise InputError(f"metadata.json: {name} must be a {wanted}, got {repr(value)[:80]}")
    return value


def _names(meta: dict[str, Any], key: str, default: Any = None) -> list[str]:
    names = _entry(meta, key, list, default)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"metadata.json: {key} must be a list of names, got {repr(names)[:80]}")
    return list(names)


def _number(entries: dict[str, Any], name: str, default: float) -> float:
    return float(_entry(entries, name, int | float, default))


def _samples(meta: dict[str, Any]) -> int:
    samples: int = _entry(meta, "number_of_samples", int, 1)
    if samples > MOST_SAMPLES:
        raise InputError(f"metadata.json: number_of_samples must be at most {MOST_SAMPLES}")
    return samples


def _mode(meta: dict[str, Any], mode: str) -> dict[str, Any]:
    """A mode's statistics and whether it has transforms; both have their defaults where there is no entry."""
    modes = _entry(meta, "modes", dict, {})
    if modes and mode not in modes:
        raise InputError(f"metadata.json: modes has no entry {mode}, only {listed(list(modes))}")
    return _entry(modes, mode, dict, {}) if modes else {}


def _sampling(entries: dict[str, Any]) -> Sampling:
    return Sampling(
        solver=_entry(entries, "solver", str, "heun"),
        steps=_entry(entries, "num_steps", int, 18),
        sigma_min=_number(entries, "sigma_min", 0.002),
        sigma_max=_number(entries, "sigma_max", 800.0),
        rho=_number(entries, "rho", 7.0),
    )


def _rules(meta: dict[str, Any], outputs: list[str], transformed: bool) -> tuple[OutputRule, ...]:
    transforms = _entry(meta, "channel_transforms", dict, {}) if transformed else {}
    constraints = _entry(meta, "constraints", dict, {})
    bounds, gates = _entry(constraints, "bounds", dict, {}), _gates(_entry(constraints, "sza_gate", dict, {}))
    lacking = [name for name in outputs if name in SHORT_WAVE and name not in gates]
    if lacking and set(gates) & set(outputs):
        raise InputError(f"metadata.json: sza_gate has no entry for {listed(lacking)}")
    return tuple(
        OutputRule(
            _transform(name, transforms.get(name)),
            _bounds(name, bounds.get(name)),
            gates.get(name),
            public_name(name)[1],
            name,
        )
        for name in outputs
    )


def _transform(name: str, entry: Any) -> Transform:
    if not entry:
        return Transform()
    if not isinstance(entry, dict):
        raise InputError(f"metadata.json: channel_transforms.{name} must be a dict, got {entry!r:.60}")
    kind = str(entry.get("transform", "")).lower()
    if not kind:
        return Transform()
    known = next((known for known in ("log_eps", "asinh", "logit_eps") if known in kind), kind)
    if known == "logit_eps" and "percent" in kind:
        known = "logit_eps_percent"
    return Transform(known, _number(entry, "eps", 1e-5), _number(entry, "scale", 1.0))


def _bounds(name: str, entry: Any) -> tuple[float, float]:
    if not isinstance(entry, dict):
        return -math.inf, math.inf
    if str(entry.get("mode", "")).lower() == "sigmoid":
        raise InputError(f"metadata.json: bounds.{name} has the mode sigmoid; use clamp")
    return _number(entry, "min", -math.inf), _number(entry, "max", math.inf)


def _gates(entry: dict[str, Any]) -> dict[str, SolarGate]:
    common = _number(entry, "half_width", 0.05)

    def gate(value: Any) -> SolarGate:
        own = value if isinstance(value, dict) else {"threshold": value}
        return SolarGate(_number(own, "threshold", 0.01), _number(own, "half_width", common))

    return {name: gate(value) for name, value in _entry(entry, "channels", dict, {}).items()}


# grids and invariants


def _grids(path: Path) -> tuple[Grid, Grid]:
    """The coarse grid, 1-D and rising evenly, and the fine one, 2-D."""
    names = ("lat_input", "lon_input", "lat_output", "lon_output")
    with open_netcdf(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(f"{path} has no {listed(missing)}")
        axes = [file.read(name).astype(np.float32) for name in names]
    coarse, fine = Grid(*axes[:2]), Grid(*axes[2:])
    if coarse.curvilinear or not fine.curvilinear:
        raise InputError(f"{path}: the input grid must be 1-D and the output grid 2-D")
    for axis in axes[:2]:
        steps = np.diff(axis)
        if not (steps > 0).all() or not np.allclose(steps, steps[0], rtol=1e-3, atol=0):
            raise InputError(f"{path}: lat_input and lon_input must rise in even steps")
    return coarse, fine


class _Static(NamedTuple):
    """Invariants of the domain and of its surroundings.

    Attributes
    ----------
    names : dict[str, str]
        Names of the metadata, where ``_norm`` marks a normalised field → of the fields
    statistics : Statistics
        Of the fields
    fields : np.ndarray
        ``[n, H, W]`` of the domain
    grid : Grid
        Of the surroundings
    extended : np.ndarray
        ``[n, H', W']`` of the surroundings
    """

    names: dict[str, str]
    statistics: Statistics
    fields: Field
    grid: Grid
    extended: Field

    def channel(self, name: str) -> Channel:
        """The channel of a name of the metadata."""
        return Channel("feature", name) if name in PLACES else Channel("invariant", self.names[name])


def _static(folder: _Folder, meta: dict[str, Any], names: list[str], fine: Grid) -> _Static:
    entry = _entry(meta, "invariants", dict, {})
    if not entry.get("file"):  # normalised already, of the domain alone
        fields = _fields(folder.need("invariants.nc"), names, fine.shape)
        plain = Statistics(tuple(names), (0.0,) * len(names), (1.0,) * len(names))
        return _Static({name: name for name in names}, plain, fields, fine, fields)
    physical = [name.removesuffix("_norm") for name in names]
    norm = _entry(folder.json(entry.get("norm_stats_file")), "channels", dict)
    path = folder.need(entry["file"])
    grid = read_grid(path).astype(np.float32)
    extended = _fields(path, physical, grid.shape)
    rows, columns = _native(entry, grid.shape)
    if not _near(grid.part(rows, columns), fine):
        raise InputError(f"{path}: the grid at native_offset is not that of grids.nc")
    pairs = [_normalisation(name, norm) for name in physical]
    statistics = Statistics(tuple(physical), tuple(c for c, _ in pairs), tuple(s for _, s in pairs))
    fields = extended[:, rows, columns]
    return _Static(dict(zip(names, physical, strict=True)), statistics, fields, grid, extended)


def _near(grid: Grid, other: Grid) -> bool:
    """True if two grids are the same up to a small part of a cell: their files may differ in precision."""
    if grid.shape != other.shape:
        return False
    north, east = np.abs(grid.lat - other.lat), np.abs(lon_difference(grid.lon, other.lon))
    return bool(max(north.max(), east.max()) < NEAR)


def _fields(path: Path, names: list[str], shape: tuple[int, int]) -> Field:
    with open_netcdf(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(f"{path} has no {listed(missing)}, which metadata.json names")
        wrong = next((name for name in names if file.shape(name) != shape), None)
        if wrong is not None:
            raise InputError(f"{path}: {wrong} has the shape {file.shape(wrong)}, and the grid {shape}")
        fields = [file.read(name).astype(np.float32) for name in names]
    return np.stack(fields) if fields else np.empty((0, *shape), np.float32)


def _native(entry: dict[str, Any], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the domain in its surroundings."""
    offset, size = (_entry(entry, key, list) for key in ("native_offset", "native_shape"))
    if any(len(pair) != 2 or not all(type(n) is int for n in pair) for pair in (offset, size)):
        raise InputError("metadata.json: native_offset and native_shape need two whole numbers each")
    if any(i < 0 or n < 1 or i + n > most for i, n, most in zip(offset, size, shape, strict=True)):
        raise InputError(
            f"metadata.json: native_offset {offset} and native_shape {size} exceed {list(shape)}"
        )
    rows, columns = (slice(i, i + n) for i, n in zip(offset, size, strict=True))
    return rows, columns


def _normalisation(name: str, norm: dict[str, Any]) -> tuple[float, float]:
    """Center and scale of an invariant; the identity where the file has no entry."""
    entry = _entry(norm, name, dict, {})
    if entry.get("method") != "zscore":
        return 0.0, 1.0
    return _number(entry, "mean", math.nan), _number(entry, "std", math.nan)


def _surroundings(meta: dict[str, Any], variant: Variant, static: _Static) -> Surroundings:
    architecture = _entry(meta, MODES[variant.mode], dict)
    patch, kernel = (_entry(architecture, key, int) for key in ("patch_size", "attn_kernel_size"))
    return Surroundings(static.grid, static.extended, patch, kernel * patch)


def _hub_winds(
    meta: dict[str, Any], variant: Variant, outputs: list[str], static: _Static
) -> HubWinds | None:
    if not variant.hub_heights:
        return None
    entry = _entry(meta, "wind_levels", dict, {})
    if not entry:
        raise InputError("hub_heights need wind_levels in metadata.json, which this package does not have")
    elevation = _entry(entry, "elevation_invariant", str, "elevation_norm")
    if elevation not in static.names:
        raise InputError(
            f"metadata.json: elevation_invariant {elevation!r:.80} is no invariant of the package"
        )
    levels = tuple(_wind_level(level, outputs) for level in _entry(entry, "levels", list, []))
    row = list(static.names).index(elevation)
    return HubWinds(variant.hub_heights, levels, row, variant.hub_interp)


def _wind_level(entry: Any, outputs: list[str]) -> WindLevel:
    names = [_entry(entry, component, str) for component in "uv"] if isinstance(entry, dict) else []
    missing = [name for name in names if name not in outputs]
    if missing or not names:
        raise InputError(f"metadata.json: wind_levels names {listed(missing) or repr(entry)[:60]}, no output")
    u, v = map(outputs.index, names)
    return WindLevel(u, v, _number(entry, "a", math.nan), _number(entry, "b", math.nan))
