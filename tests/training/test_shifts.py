# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse blocks with a moved origin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import map_coordinates
from tiny import curved

from earth2_corrdiff.base.block_means import Blocks, block_means
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.regrid import IndexRegridder
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile
from earth2_corrdiff.training.shifts import regridded_means, shifted


def test_means_of_a_moved_origin_by_hand() -> None:
    """Inside, they are those of the blocks that begin there, interpolated between the blocks' centres."""
    H, W, size, up, left = 24, 40, 4, 3, 1
    fields = np.random.default_rng(0).normal(size=(2, H, W)).astype(np.float32)
    got = regridded_means(torch.from_numpy(fields), size, up, left).numpy()
    inner = fields[:, size - up : H - up, size - left : W - left]  # whole blocks alone
    means = block_means(np.ascontiguousarray(inner), size)
    rows, columns = np.arange(8, 16), np.arange(10, 30)
    at = [(rows - (size - up) + 0.5) / size - 0.5, (columns - (size - left) + 0.5) / size - 0.5]
    for mean, field in zip(means, got, strict=True):
        wanted = map_coordinates(mean.astype(np.float64), np.meshgrid(*at, indexing="ij"), order=1)
        assert np.allclose(field[np.ix_(rows, columns)], wanted, atol=1e-6)


def test_an_origin_that_does_not_move_changes_nothing() -> None:
    fields = torch.randn(3, 16, 24)
    plain = IndexRegridder((16, 24))(torch.from_numpy(block_means(fields.numpy(), 8))[None])[0]
    assert torch.equal(regridded_means(fields, 8, 0, 0), plain)
    assert torch.equal(IndexRegridder((16, 24))(plain[None])[0], plain)  # the model regrids them once more


def test_shifted_pairs(tmp_path: Path) -> None:
    """All inputs need fine fields; every key has its own origin, and the same one each time."""
    grid = curved(16, 24)
    fields = np.random.default_rng(1).normal(280, 3, (2, 16, 24))
    xr.Dataset(
        {name: (("time", "y", "x"), fields + n, {"units": "K"}) for n, name in enumerate(("t2m", "d2m"))},
        {
            "time": np.array(["2024-01-01", "2024-01-02"], "datetime64[ns]"),
            "lat": (("y", "x"), grid.lat),
            "lon": (("y", "x"), grid.lon),
        },
    ).to_netcdf(tmp_path / "fine.nc")
    for name, outputs in (("few", ("t2m",)), ("all", ("t2m", "d2m"))):
        names = Channels(("d2m", "t2m"), outputs)
        list(make_own_pairs(tmp_path / "fine.nc", "all", names, tmp_path / name, Blocks(4), Area(multiple=4)))
    with pytest.raises(InputError, match="no fine field of d2m"):
        PairFile(tmp_path / "few", fine_inputs=True)
    pairs = PairFile(tmp_path / "all", outputs=["t2m"], fine_inputs=True).read([0, 1])
    assert pairs.fine.shape == (2, 1, 16, 24) and pairs.fine_inputs is not None
    assert torch.equal(pairs.fine_inputs[:, 1:], pairs.fine)
    keys = [(0, 1, 2), (0, 1, 3)]
    first, again = shifted(pairs, 4, keys), shifted(pairs, 4, keys)
    assert first.coarse.shape == (2, 2, 16, 24) and torch.equal(first.coarse, again.coarse)
    choices = {tuple(shifted(pairs, 4, [(n,), (n,)]).coarse[0, 0, 5, 5:7].tolist()) for n in range(12)}
    assert len(choices) > 6
