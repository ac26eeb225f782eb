# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Area and spacing of grid cells: the weights of averages, and the unit of wavelengths."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.grid import Grid

EARTH_KM = 6371.0
Array = NDArray[np.float64]


def _points(grid: Grid) -> Array:
    """Cell centres as unit vectors, ``[H, W, 3]``."""
    lat, lon = (np.radians(np.asarray(axis, dtype=np.float64)) for axis in grid.mesh())
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def cell_areas(grid: Grid) -> Tensor:
    """Area of each cell over the mean area, ``[H, W]`` float64.

    The parallelogram that the differences to the neighbours span, on the unit sphere: cos(lat) on a
    rectilinear grid, and right on a curvilinear one, where cos(lat) is not.
    """
    down, right = np.gradient(_points(grid), axis=(0, 1))
    area = np.linalg.norm(np.cross(down, right), axis=-1)
    return torch.from_numpy(area / area.mean())


def spacing(grid: Grid) -> tuple[float, float]:
    """Mean distance in km between neighbours along the first and the second axis."""
    points = _points(grid)
    steps = (np.linalg.norm(np.diff(points, axis=axis), axis=-1) for axis in (0, 1))
    down, right = (EARTH_KM * float(2 * np.arcsin(step / 2).mean()) for step in steps)
    return down, right
