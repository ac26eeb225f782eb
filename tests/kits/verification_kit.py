# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of verification: small stores, with a truth that is drawn as their members are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from plotting_store import curved_mesh, write

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.verification import Bootstrap, Result, Settings

QUICK = Settings(bootstrap=Bootstrap(200, method="percentile"))
TIMES = np.arange("2024-07-24T00", "2024-07-26T00", 6, dtype="datetime64[h]").astype("datetime64[ns]")
NAMES = ("mrr", "t2m", "u10m", "v10m")
SCALE = {"mrr": 12.0, "t2m": 2.0, "u10m": 6.0, "v10m": 6.0}
CENTER = {"mrr": 0.0, "t2m": 295.0, "u10m": 4.0, "v10m": -3.0}


def bent() -> Grid:
    """A curvilinear grid of 20 x 28 points over Taiwan."""
    return Grid(*curved_mesh())


def flat() -> Grid:
    """A rectilinear grid of 17 x 26 points, latitudes falling."""
    return Grid(np.linspace(26, 22, 17), np.linspace(118.0, 124.0, 26))


def rain(values: np.ndarray) -> np.ndarray:
    """Reflectivity of a Gaussian field: none over most of the area."""
    return np.maximum(values, 0.0)


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise that neighbours share, variance about 1."""
    noise = rng.standard_normal((*shape[:-2], shape[-2] + 2, shape[-1] + 2))
    parts = [noise[..., i : i + shape[-2], j : j + shape[-1]] for i in range(3) for j in range(3)]
    return np.sum(parts, axis=0) / 3


def weather(
    grid: Grid, members: int, times: np.ndarray = TIMES, spread: float = 1.0, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Members ``[T, M, H, W]`` and a truth ``[T, H, W]``, of one distribution where ``spread`` is 1."""
    rng = np.random.default_rng(seed)
    drawn, truth = {}, {}
    for name in NAMES:
        common = smooth(rng, (len(times), 1, *grid.shape))
        own = smooth(rng, (len(times), members + 1, *grid.shape))
        own[:, 1:] *= spread
        values = CENTER[name] + SCALE[name] * (common + own) / 2**0.5
        values = rain(values) if name == "mrr" else values
        truth[name], drawn[name] = values[:, 0], values[:, 1:]
    return drawn, truth


def coordinates(grid: Grid) -> tuple[tuple[str, str], dict[str, object]]:
    """Dimensions and coordinates as a store has them."""
    if grid.curvilinear:
        dims = ("ilat", "ilon")
        return dims, {"lat": (dims, grid.lat), "lon": (dims, grid.lon)}
    return ("lat", "lon"), {"lat": grid.lat, "lon": grid.lon}


def build(
    path: Path,
    grid: Grid | None = None,
    members: int = 4,
    times: np.ndarray = TIMES,
    spread: float = 1.0,
    unwritten: tuple[tuple[int, int], ...] = (),
    seed: int = 0,
) -> tuple[Path, xr.Dataset]:
    """Write a store; return its path and its truth as a Dataset. ``unwritten`` lists (time, member)."""
    grid = grid or bent()
    dims, coords = coordinates(grid)
    drawn, truth = weather(grid, members, times, spread, seed)
    seeds = 100 + np.arange(len(times) * members).reshape(len(times), members)
    data = {}
    for name, values in drawn.items():
        for cell in unwritten:
            values[cell] = np.nan
            seeds[cell] = -1
        data[name] = (("time", "sample", *dims), values.astype(np.float32))
    coarse_lat, coarse_lon = np.arange(18.0, 30.1, 0.5), np.arange(113.0, 129.1, 0.5)
    rng = np.random.default_rng(seed + 1)
    for name in ("refc", *NAMES[1:]):
        fields = smooth(rng, (len(times), len(coarse_lat), len(coarse_lon))).astype(np.float32)
        data[f"{name}_lowres"] = (("time", "lat_lowres", "lon_lowres"), fields)
    data["member_seed"] = (("time", "sample"), seeds)
    axes = {"time": times, "sample": np.arange(members), "lat_lowres": coarse_lat, "lon_lowres": coarse_lon}
    known = {"title": "CorrDiff <test>", "package": "tiny", "package_sha256": "0" * 64, "solver": "euler"}
    write(xr.Dataset(data, {**axes, **coords}, known), path)
    fields = {name: (("time", *dims), values) for name, values in truth.items()}
    return path, xr.Dataset(fields, {"time": times, **coords})


def cells(grid: Grid) -> torch.Tensor:
    """Areas by cos(lat), which a rectilinear grid has."""
    weights = np.cos(np.deg2rad(grid.mesh()[0]))
    return torch.from_numpy(weights / weights.mean())


def value(result: Result, score: str, name: str, forecast: str = "ensemble") -> float:
    """A score of one number by the name of its quantity."""
    target = next(target for target in result.targets if target.name == name)
    return float(result.score(score, forecast, target).value)
