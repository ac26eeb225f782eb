# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Earth2Studio's sources on fine grids by name: pairs and truth of HRRR and MRMS, without the network."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import gfs_files
import numpy as np
import pytest
import torch
import xarray as xr
from obstore.store import LocalStore
from tiny import curved

from earth2_corrdiff.base.block_means import Blocks, block_means
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import as_source, make_source, remote
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.convert import Area
from earth2_corrdiff.training.pairs import Channels, PairFile
from earth2_corrdiff.verification.truth import open_truth

RADAR = gfs_files.SHARED / "data/reflectivity/MRMS_MergedReflectivityQCComposite_00.50_20220704-110040.grib2"


class HRRR:
    """Stands for Earth2Studio's class: the name, and the layout of what it returns."""

    grid = curved(18, 26)

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        times, names = np.atleast_1d(time), list(np.atleast_1d(variable))
        rng = np.random.default_rng(int(times[0].astype("datetime64[h]").astype(int)))
        values = 285 + rng.normal(0, 1, (1, len(names), *self.grid.shape))
        plane = ("hrrr_y", "hrrr_x")
        coords = {
            "time": times,
            "variable": names,
            "lat": (plane, self.grid.lat),
            "lon": (plane, self.grid.lon),
        }
        return xr.DataArray(values, coords, ("time", "variable", *plane))


def test_pairs_and_truth_on_a_curvilinear_grid(tmp_path: Path) -> None:
    source, time = as_source(HRRR()), "2024-07-24T12"
    assert source.name == "hrrr"
    with pytest.raises(InputError, match="analyses at every full hour since 2018-07-12"):
        source.check_times("2018-07-12T12")
    channels, path = Channels(("t2m", "d2m"), ("t2m",)), tmp_path / "p.zarr"
    list(make_own_pairs(source, [time], channels, path, Blocks(4), Area(multiple=8)))
    pairs = PairFile(path, ("t2m", "d2m"), ("t2m",))
    field = HRRR()(np.datetime64(time), ["t2m", "d2m"]).values[0, :, 1:17, 1:25].astype(np.float32)
    made = pairs.read([0])
    assert np.array_equal(made.fine[0], field[:1]) and np.array_equal(made.coarse[0], block_means(field, 4))
    truth = open_truth(source, pairs.fine_grid).field(np.datetime64(time), "t2m")
    assert np.allclose(truth, field[0], rtol=1e-7)
    with pytest.raises(InputError, match="which are not among them"):
        open_truth(source, curved(16, 20)).field(np.datetime64(time), "t2m")


@pytest.mark.slow
@pytest.mark.skipif(not RADAR.exists(), reason="the shared data folder is not there")
def test_pairs_of_the_radar_mosaic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock class over a folder laid out like the bucket; its marks are no values of an average."""
    folder = tmp_path / "bucket/CONUS/MergedReflectivityQCComposite_00.50/20220704"
    folder.mkdir(parents=True)
    (folder / f"{RADAR.name}.gz").write_bytes(gzip.compress(RADAR.read_bytes(), 1))
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_bucket", lambda name: LocalStore(tmp_path / "bucket"))
    area = Area((40.0, 41.0, -90.0, -88.5), multiple=8)
    run = make_own_pairs(
        "mrms", ["2022-07-04T11"], Channels(("refc",), ("refc",)), tmp_path / "p.zarr", Blocks(4, 3), area
    )
    assert list(run) == [0] and not run.failed
    low, fine = PairFile(tmp_path / "p.zarr", gaps=True).read([0]).coarse, run.fine
    raw, grid = fine.read(np.datetime64("2022-07-04T11"), ["refc"])
    assert raw.shape == (1, 3500, 7000) and np.nanmin(raw) >= -50 and np.isnan(raw).any()
    part = run.window.cut(raw).astype(np.float32)
    assert torch.equal(low[0], torch.from_numpy(block_means(block_means(part, 3), 4)))
    assert make_source("mrms").has("refc_base")
