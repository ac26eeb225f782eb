# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages on disk: one reader per layout, one return type.

The generic layout is Earth2Studio's for ``CorrDiff`` (a folder of files); the Taiwan layout is that of the
published CorrDiff-Taiwan weights (one zip archive, read in place).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.archives import Archive
from earth2_corrdiff.base.errors import InputError, MissingEntryError, MissingFileError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.zarr_members import read_array
from earth2_corrdiff.model.diffusion.patch_geometry import read_patching
from earth2_corrdiff.model.packages.cmip6 import as_cmip6, is_cmip6
from earth2_corrdiff.model.packages.extensions import read_extensions, read_statistics
from earth2_corrdiff.model.packages.files import (
    Files,
    checksum,
    describe,
    find,
    need,
    read_grid,
    read_invariants,
    read_json,
)
from earth2_corrdiff.model.packages.loaded import Loaded, read_networks
from earth2_corrdiff.model.packages.metadata import (
    check_entries,
    has_angle,
    lead_times,
    read_flow,
    read_sampling,
    table,
)
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import check_finite, read_mdlus
from earth2_corrdiff.networks.preconditioned import DiTFlow, round_to_half

TAIWAN_ZIP = "corrdiff_inference_package.zip"
_TAIWAN = "corrdiff_inference_package"
_TAIWAN_ZARR = f"{_TAIWAN}/dataset/2023-01-24-cwb-4years_5times.zarr"
# Rows of the 20-entry statistics that the published model uses, and what they are.
_TAIWAN_INPUTS = {
    "tcwv": 0, "z500": 1, "t500": 2, "u500": 3, "v500": 4, "z850": 9, "t850": 10, "u850": 11, "v850": 12,
    "t2m": 17, "u10m": 18, "v10m": 19,
}  # fmt: skip
_TAIWAN_OUTPUTS = {"mrr": 0, "t2m": 17, "u10m": 18, "v10m": 19}
_TAIWAN_ARRAYS = ("XLAT", "XLONG", "era5_center", "era5_scale", "cwb_center", "cwb_scale")
# Bounds of metadata: beyond any use, and still small enough for any machine.
_MOST_CELLS = 2**14  # of an input grid that a resolution describes, along each axis


def read_package(files: Files) -> Loaded:
    """Read a package of any layout.

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
    except Exception as error:  # of any library that reads the files
        raise InputError(
            f"the package {describe(files)} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _is_taiwan(files: Files) -> bool:
    """True for the Taiwan layout. One file decides, so that a cached package loads without its registry."""
    failure = None
    for name, taiwan in (("metadata.json", False), (TAIWAN_ZIP, True)):
        try:
            if find(files, name) is not None:
                return taiwan
        except InputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return False


# generic layout


def _inferred_grid(fine: Grid, step: float) -> Grid:
    """The regular grid of spacing ``step`` that surrounds ``fine`` by at least one cell.

    Source: ``earth2studio.models.dx.CorrDiff._infer_input_latlon_grid``.
    """

    if not 0 < step < np.inf:
        raise InputError(f"metadata.json: latlon_res must be a positive number of degrees, got {step}")

    def axis(values: Any) -> Any:
        if np.ptp(values) / step > _MOST_CELLS:
            raise InputError(f"metadata.json: latlon_res of {step:g} degrees is too small for the domain")
        first = (np.floor(values.min() / step) - 1) * step
        last = (np.ceil(values.max() / step) + 1) * step
        return first + step * np.arange(round((last - first) / step) + 1)

    return Grid(axis(fine.lat), axis(fine.lon))


def _read_generic(files: Files) -> Loaded:
    paths = [need(files, name) for name in ("metadata.json", "stats.json", "output_latlon_grid.nc")]
    meta, stats, fine = read_json(paths[0]), read_json(paths[1]), read_grid(paths[2])
    lacking = [key for key in ("input_variables", "output_variables") if not meta.get(key)]
    if lacking:
        raise MissingEntryError(f"{paths[0]} names no {' and no '.join(lacking)}")
    check_entries(meta)
    more = read_extensions(meta)
    coarse_path = find(files, "input_latlon_grid.nc")
    if coarse_path is None and "latlon_res" not in meta:
        raise MissingFileError(
            f"the package {describe(files)} has neither input_latlon_grid.nc nor a latlon_res"
        )
    coarse = read_grid(coarse_path) if coarse_path else _inferred_grid(fine, float(meta["latlon_res"]))
    names, fields = read_invariants(files, meta.get("invariant_variables"), fine.shape)
    checkpoints = [need(files, name) for name in ("regression.mdlus", "diffusion.mdlus")]
    used = [*paths, *checkpoints, *(p for p in (coarse_path, find(files, "invariants.nc")) if p)]
    spec = CorrDiffSpec(
        inputs=read_statistics(meta, stats, "input"),
        outputs=read_statistics(meta, stats, "output"),
        input_grid=coarse,
        output_grid=fine,
        sampling=read_sampling(meta),
        invariants=table(names, stats.get("invariants", {}), "invariant"),
        invariant_fields=fields,
        number_of_samples=meta.get("number_of_samples", 1),
        seed=meta.get("seed"),
        grid_bounds_margin=float(meta.get("grid_bounds_margin", 0.0)),
        hr_mean_conditioning=meta.get("hr_mean_conditioning", True),
        patching=read_patching(meta.get("patching"), fine.shape),
        lead_time_hours=lead_times(meta.get("lead_time_hours")),
        inference_mode=meta.get("inference_mode", "both"),
        name=meta.get("name", ""),
        root=describe(files),
        sha256=checksum(used),
        synthetic=meta.get("synthetic", False),
        attribution=meta.get("attribution", ""),
        **more,
    )
    if is_cmip6(meta, stats):
        spec = as_cmip6(spec, meta, stats)
    regression, diffusion = map(read_mdlus, checkpoints)
    flow, angle = read_flow(meta), has_angle(meta)
    wrap = partial(DiTFlow, **{name: flow[name] for name in ("prediction", "time_scale")}) if flow else None
    mean, denoiser = read_networks(regression, diffusion, spec.domain, wrap)
    denoiser.angle = angle
    return Loaded(spec, mean, denoiser)


# Taiwan layout


def _read_taiwan(files: Files) -> Loaded:
    path = need(files, TAIWAN_ZIP)
    try:
        with path.open("rb") as stream:
            archive = Archive(stream)
            arrays = _taiwan_arrays(archive, path)
            regression, diffusion = (
                read_mdlus(archive.read(f"{_TAIWAN}/checkpoints/{name}.mdlus"), f"{path}:{name}.mdlus")
                for name in ("regression", "diffusion")
            )
    except InputError:
        raise
    except Exception as error:  # of zip, zlib and the codecs of Zarr
        raise InputError(
            f"{path} is damaged or no CorrDiff-Taiwan package ({first_line(error)}); download it again"
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
        sha256=checksum([path]),
    )
    networks = read_networks(regression, diffusion, spec.output_grid.shape)
    for net in networks:
        round_to_half(net)  # the stock class runs this package with use_fp16
        check_finite(net, f"{path}, rounded to float16,")
    return Loaded(spec, *networks)


def _taiwan_arrays(archive: Archive, path: Path) -> dict[str, NDArray[np.float32]]:
    arrays = {
        name: np.asarray(read_array(archive, f"{_TAIWAN_ZARR}/{name}"), dtype=np.float32)
        for name in _TAIWAN_ARRAYS
    }
    for name, array in arrays.items():
        if array.ndim != (2 if name.startswith("X") else 1) or (array.ndim == 1 and array.size < 20):
            raise InputError(f"{path}: {name} has the unexpected shape {array.shape}")
    return arrays
