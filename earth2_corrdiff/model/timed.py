# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Models whose input has valid times as a dimension of its own, before which members stand in the output."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.studio import Package
from earth2_corrdiff.model.coordinates import CoordSystem, folded, match_coords, split_leading
from earth2_corrdiff.model.earth2studio import CorrDiff


def published(address: str, folder: str) -> Package:
    """A package of several models, each in a folder of its own, kept in a folder of Earth2Studio's cache."""
    from fsspec.implementations.cache_mapper import BasenameCacheMapper  # type: ignore[import-untyped]

    options = {
        "cache_storage": Package.default_cache(folder),
        "cache_mapper": BasenameCacheMapper(directory_levels=1),  # files of the models have the same names
    }
    return Package(address, cache_options=options)


class TimedCorrDiff(CorrDiff):
    """CorrDiff with the dimensions of the newer classes of Earth2Studio."""

    def input_coords(self) -> CoordSystem:
        """Coordinates of the input: ``batch, time, variable, lat, lon``; times are valid times, UTC."""
        coords = super().input_coords()
        return OrderedDict(batch=coords.pop("batch"), time=np.empty(0), **coords)

    def output_axes(self) -> CoordSystem:
        """Coordinates of the output's last two dimensions: here ``lat`` and ``lon``."""
        grid = self.spec.output_grid
        return OrderedDict(lat=grid.lat, lon=grid.lon)

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """Coordinates of the output: ``batch, sample, time, variable`` and :meth:`output_axes`.

        Leading dimensions of any name stand in the place of ``batch``.

        Raises
        ------
        InputError
            If the input coordinates are not the model's (latitude may run either way, longitudes may be
            in either convention)
        """
        leading, own = split_leading(input_coords, self.input_coords())
        match_coords(own, self.input_coords())
        return OrderedDict(
            **leading,
            sample=np.arange(self.number_of_samples),
            time=own["time"],
            variable=np.array(self.spec.output_variables),
            **self.output_axes(),
        )

    def check_fields(self, x: Tensor) -> None:
        """Check the fields of a call before anything is computed; here nothing is checked."""

    def check_times(self, x: Tensor, coords: CoordSystem) -> None:
        """Refuse an input without cases, or whose ``time`` does not hold times."""
        if not x.shape[0] * x.shape[1]:
            raise InputError(f"the input must have a time, got the shape {list(x.shape)}")
        self.downscaler.conditioning.times(coords["time"], x.shape[1])

    @folded
    def __call__(self, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Downscale ``x [batch, time, variable, lat, lon]``, or a labelled array: ``model(DataArray)``.

        As in the stock class, all times of a call share their members' noise;
        ``earth2_corrdiff.downscale`` gives each time its own.

        Returns
        -------
        tuple[Tensor, CoordSystem]
            ``[batch, sample, time, variable, H, W]`` float32 on the device of ``x``, and its coordinates
        """
        output_coords = self.output_coords(coords)
        self.check_times(x, coords)
        if match_coords(coords, self.input_coords()):
            x = x.flip(-2)
        self.check_fields(x)
        valid, cases = np.tile(coords["time"], len(x)), x.flatten(0, 1).float()
        y = self.downscaler(cases, self.member_seeds(), self.max_batch, valid_times=valid)
        return y.unflatten(0, x.shape[:2]).transpose(1, 2), output_coords
