# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages on disk: one reader per layout, one return type.

The generic layout is Earth2Studio's for ``CorrDiff`` (a folder of files); the Taiwan layout is that of the
published CorrDiff-Taiwan weights (one zip archive, read in place).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import xarray as xr

from earth2_corrdiff.architectures import DENOISERS, REGRESSIONS
from earth2_corrdiff.checkpoint import Checkpoint, read_mdlus
from earth2_corrdiff.errors import InputError, first_line
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.networks import Denoiser, Regression, build, round_to_half
from earth2_corrdiff.patch_geometry import read_patching
from earth2_corrdiff.spec import CorrDiffSpec, Sampling, Statistics, lead_times, read_sampling, table

TAIWAN_ZIP = "corrdiff_inference_package.zip"
_TAIWAN = "corrdiff_inference_package"
_TAIWAN_ZARR = f"{_TAIWAN}/dataset/2023-01-24-cwb-4years_5times.zarr"
# Rows of the 20-entry statistics that the published model uses, and what they are.
_TAIWAN_INPUTS = {
    "tcwv": 0, "z500": 1, "t500": 2, "u500": 3, "v500": 4, "z850": 9, "t850": 10, "u850": 11, "v850": 12,
    "t2m": 17, "u10m": 18, "v10m": 19,
}  # fmt: skip
_TAIWAN_OUTPUTS = {"mrr": 0, "t2m": 17, "u10m": 18, "v10m": 19}


class Files(Protocol):
    """Earth2Studio's ``Package``, as far as it is needed: a file name → a local path."""

    def resolve(self, file_path: str) -> str: ...


@dataclass(frozen=True)
class Folder:
    """A local directory as a package."""

    root: Path

    def resolve(self, file_path: str) -> str:
        """Path of a file; it need not exist."""
        return str(self.root / file_path)


@dataclass(frozen=True)
class Loaded:
    """A package in memory: what it says, and its two networks."""

    spec: CorrDiffSpec
    regression: Regression
    denoiser: Denoiser


def _find(files: Files, name: str) -> Path | None:
    """Local path of a package's file; None where there is no such file, InputError where nobody can tell."""
    try:
        path = Path(files.resolve(name))
    except FileNotFoundError:
        return None
    except Exception as error:  # every remote file system has its own
        if isinstance(error, HTTPException) and "not found" in str(error):  # Earth2Studio's, of the registry
            return None
        raise InputError(
            f"the package {describe(files)} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error
    return path if path.is_file() else None


def _need(files: Files, name: str) -> Path:
    path = _find(files, name)
    if path is None:
        raise InputError(f"the package {describe(files)} has no {name}")
    return path


def describe(files: Files) -> str:
    """Name of a package for messages and provenance."""
    return str(getattr(files, "root", files))


def read_package(files: Files) -> Loaded:
    """Read a package of either layout.

    Parameters
    ----------
    files : Files
        Earth2Studio's ``Package`` or anything with its ``resolve``

    Raises
    ------
    InputError
        If files are missing or damaged, or do not agree with each other
    """
    try:
        return _read_taiwan(files) if _is_taiwan(files) else _read_generic(files)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"the package {describe(files)} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _is_taiwan(files: Files) -> bool:
    """Which layout it is. One file decides, so that a cached package loads without its registry."""
    failure = None
    for name, taiwan in (("metadata.json", False), (TAIWAN_ZIP, True)):
        try:
            if _find(files, name) is not None:
                return taiwan
        except InputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return False


def _networks(regression: Checkpoint, diffusion: Checkpoint) -> tuple[Regression, Denoiser]:
    for checkpoint, known in ((regression, REGRESSIONS), (diffusion, DENOISERS)):
        other = DENOISERS if known is REGRESSIONS else REGRESSIONS
        if checkpoint.name in other:
            raise InputError(f"{checkpoint.source} holds a {checkpoint.name}; are the checkpoints exchanged?")
    return cast(Regression, build(regression)), cast(Denoiser, build(diffusion))


# generic layout


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def _netcdf(path: Path) -> Iterator[xr.Dataset]:
    try:
        ds = xr.open_dataset(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no complete NetCDF file ({first_line(error)})") from error
    with ds:
        yield ds


def _grid(path: Path) -> Grid:
    with _netcdf(path) as ds:
        missing = [name for name in ("lat", "lon") if name not in ds]
        if missing:
            raise InputError(f"{path} has no {' and no '.join(missing)}")
        return Grid(np.asarray(ds["lat"]), np.asarray(ds["lon"]))


def _inferred_grid(fine: Grid, step: float) -> Grid:
    """The regular grid of spacing ``step`` that surrounds ``fine`` by at least one cell.

    Source: ``earth2studio.models.dx.CorrDiff._infer_input_latlon_grid``.
    """

    def axis(values: Any) -> Any:
        first = (np.floor(values.min() / step) - 1) * step
        last = (np.ceil(values.max() / step) + 1) * step
        return first + step * np.arange(round((last - first) / step) + 1)

    return Grid(axis(fine.lat), axis(fine.lon))


def _invariants(files: Files, names: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray | None]:
    path = _find(files, "invariants.nc")
    if path is None and not names:
        return (), None
    path = path or _need(files, "invariants.nc")
    with _netcdf(path) as ds:
        names = list(map(str, ds.data_vars)) if names is None else list(names)
        missing = [name for name in names if name not in ds]
        if missing:
            raise InputError(f"{path} has no {', '.join(missing)}, which metadata.json names")
        fields = [np.asarray(ds[name], dtype=np.float32) for name in names]
    return tuple(names), np.stack(fields) if fields else None


def _read_generic(files: Files) -> Loaded:
    paths = [_need(files, name) for name in ("metadata.json", "stats.json", "output_latlon_grid.nc")]
    meta, stats, fine = _json(paths[0]), _json(paths[1]), _grid(paths[2])
    lacking = [key for key in ("input_variables", "output_variables") if not meta.get(key)]
    if lacking:
        raise InputError(f"{paths[0]} names no {' and no '.join(lacking)}")
    coarse_path = _find(files, "input_latlon_grid.nc")
    if coarse_path is None and "latlon_res" not in meta:
        raise InputError(f"the package {describe(files)} has neither input_latlon_grid.nc nor a latlon_res")
    coarse = _grid(coarse_path) if coarse_path else _inferred_grid(fine, float(meta["latlon_res"]))
    names, fields = _invariants(files, meta.get("invariant_variables"))
    checkpoints = [_need(files, name) for name in ("regression.mdlus", "diffusion.mdlus")]
    used = [*paths, *checkpoints, *(p for p in (coarse_path, _find(files, "invariants.nc")) if p)]
    spec = CorrDiffSpec(
        inputs=table(meta["input_variables"], stats.get("input", {}), "input"),
        outputs=table(meta["output_variables"], stats.get("output", {}), "output"),
        input_grid=coarse,
        output_grid=fine,
        sampling=read_sampling(meta),
        invariants=table(names, stats.get("invariants", {}), "invariant"),
        invariant_fields=fields,
        number_of_samples=meta.get("number_of_samples", 1),
        seed=meta.get("seed"),
        grid_bounds_margin=float(meta.get("grid_bounds_margin", 0.0)),
        hr_mean_conditioning=bool(meta.get("hr_mean_conditioning", True)),
        patching=read_patching(meta.get("patching"), fine.shape),
        lead_time_hours=lead_times(meta.get("lead_time_hours")),
        inference_mode=meta.get("inference_mode", "both"),
        name=str(meta.get("name", "")),
        root=describe(files),
        sha256=_checksum(path.read_bytes() for path in used),
        synthetic=bool(meta.get("synthetic", False)),
    )
    return Loaded(spec, *_networks(*(read_mdlus(path) for path in checkpoints)))


def _checksum(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# Taiwan layout


def _read_taiwan(files: Files) -> Loaded:
    path = _need(files, TAIWAN_ZIP)
    try:
        with zipfile.ZipFile(path) as archive:
            regression, diffusion = (
                read_mdlus(archive.read(f"{_TAIWAN}/checkpoints/{name}.mdlus"), f"{path}:{name}.mdlus")
                for name in ("regression", "diffusion")
            )
        arrays = _taiwan_arrays(path)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise InputError(
            f"{path} is damaged or no CorrDiff-Taiwan package ({error}); download it again"
        ) from error

    def statistics(rows: dict[str, int], source: str) -> Statistics:
        center, scale = (arrays[f"{source}_{part}"][list(rows.values())] for part in ("center", "scale"))
        return Statistics(tuple(rows), tuple(map(float, center)), tuple(map(float, scale)))

    inner = (slice(1, -1), slice(1, -1))  # the published model leaves out the outermost ring
    spec = CorrDiffSpec(
        inputs=statistics(_TAIWAN_INPUTS, "era5"),
        outputs=statistics(_TAIWAN_OUTPUTS, "cwb"),
        input_grid=Grid(
            np.linspace(19.25, 28, 36, dtype=np.float32),
            np.linspace(116, 126, 40, endpoint=False, dtype=np.float32),
        ),
        output_grid=Grid(arrays["XLAT"][inner], arrays["XLONG"][inner]),
        sampling=Sampling("euler", 8),
        regression_grid=True,
        drawn_seeds=True,
        name="CorrDiff-Taiwan",
        root=describe(files),
        sha256=_checksum([path.read_bytes()]),
    )
    networks = _networks(regression, diffusion)
    for net in networks:
        round_to_half(net)  # the stock class runs this package with use_fp16
    return Loaded(spec, *networks)


def _taiwan_arrays(path: Path) -> dict[str, Any]:
    import zarr

    store = zarr.storage.ZipStore(path, mode="r")
    try:
        root = zarr.open_group(store, path=_TAIWAN_ZARR, mode="r")
        names = ("XLAT", "XLONG", "era5_center", "era5_scale", "cwb_center", "cwb_scale")
        arrays = {name: np.asarray(cast(Any, root[name])[:], dtype=np.float32) for name in names}
    finally:
        store.close()
    for name, array in arrays.items():
        if array.ndim != (2 if name.startswith("X") else 1) or (array.ndim == 1 and array.size < 20):
            raise InputError(f"{path}: {name} has the unexpected shape {array.shape}")
    return arrays
