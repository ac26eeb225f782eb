# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse fields of a package from the fine ones of an agency: the block means that its pairs were made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.block_means import Blocks, block_means
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.sources.fetch import in_order
from earth2_corrdiff.sources.fine import grid_of
from earth2_corrdiff.sources.windows import Window, shared


class BlockMeans:
    """Block means of fine fields, on the cells of a package; or coarse fields on these cells as they are.

    Parameters
    ----------
    coarse, fine : Grid
        Of the package's input and output
    blocks : Blocks
        Sizes of the blocks
    """

    def __init__(self, coarse: Grid, fine: Grid, blocks: Blocks) -> None:
        self.coarse, self.fine, self.blocks = coarse, fine, blocks
        self._found: tuple[Grid, Window, bool] | None = None

    def __call__(self, array: xr.DataArray, names: Sequence[str], source: str) -> NDArray[np.float32]:
        """Fields ``[C, h, w]`` of one time, NaN where less than half of a block has values.

        Parameters
        ----------
        array : xr.DataArray
            ``[time, variable, y, x]`` of one time, with 1-D or 2-D lat and lon
        names : Sequence[str]
            Variables in their order
        source : str
            Its name, for messages

        Raises
        ------
        InputError
            If it lacks a variable, or is on another grid
        """
        grid, dims = grid_of(array, source)
        if self._found is None or not grid.matches(self._found[0]):
            self._found = grid, *self._place(grid, source)
        _, window, fine = self._found
        fields = window.cut(in_order(array, names, dims, source).to_numpy()).astype(np.float32)
        return block_means(block_means(fields, self.blocks.fine), self.blocks.coarse) if fine else fields

    def _place(self, have: Grid, source: str) -> tuple[Window, bool]:
        """The part of a grid to read, and True if its points are the fine ones."""
        fine = shared(have, self.fine, self.blocks.fine)
        if fine is not None:
            return fine, True
        coarse = shared(have, self.coarse)
        if coarse is not None and all(np.abs(np.diff(i)).max() == 1 for i in (coarse.rows, coarse.columns)):
            return coarse, False
        (h, w), (H, W) = have.shape, self.coarse.shape
        raise InputError(
            f"{source} is on {h} x {w} points ({have.extent()}), which hold neither the points whose means "
            f"the package takes nor its {H} x {W} coarse cells ({self.coarse.extent()}); use files of the "
            "grid that it was trained on"
        )
