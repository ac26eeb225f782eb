# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``--compress`` at the border of the store: what is refused, and what is found wrong."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from earth2studio.io import XarrayBackend, ZarrBackend
from run_kit import OUTPUTS, SHAPE, TIMES, Weather, contents, load, make_package, refused

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.sources import make_forecast
from earth2_corrdiff.store.bounded_error import BoundedFields
from earth2_corrdiff.store.error_bounds import Bound, Compression
from earth2_corrdiff.store.writer import Store

H, W = SHAPE
STORE = "run.zarr"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


def asked(text: str) -> Compression:
    compress = Compression.parse(text)
    assert compress is not None
    return compress


@pytest.mark.slow
def test_some_outputs_alone(package: Path, tmp_path: Path) -> None:
    """Named ones; a run without them is another run."""
    options = Options(seed=3, compress=asked("t2m=0.5"))
    run = Downscaling(TIMES[0], load(package), Weather(), tmp_path / STORE, options)
    assert len(list(run)) == 2
    (name, (what,)) = "t2m", run.kept.values()
    assert list(run.kept) == [name] and 0.25 < what.error <= what.bound == 0.5
    assert what.raw == 2 * 4 * H * W
    chunks = contents(tmp_path / STORE / "t2m")
    assert what.stored == sum(map(len, chunks.values()))
    root = zarr.open_group(tmp_path / STORE, mode="r")
    assert root["compression_error"].shape == (1, 2, 1) and "compression_abs_bound" not in root["mrr"].attrs


@pytest.mark.slow
def test_forecasts(package: Path, tmp_path: Path) -> None:
    """With lead times there is a chunk for each, and its valid time."""
    options = Options(seed=3, compress=asked("bounded"))
    forecast = make_forecast("demo_fx", "0-1")
    downscale(
        TIMES[0],
        load(package),
        forecast,
        tmp_path / STORE,
        number_of_samples=1,
        options=options,
        lead_time="0/6/6h",
    )
    root = zarr.open_group(tmp_path / STORE, mode="r")
    assert root["t2m"].chunks == (1, 1, 1, 1, H, W) and root["compression_error"].shape == (1, 2, 2, 1, 4)
    ds = xr.open_zarr(tmp_path / STORE)
    assert "valid_time" in ds.compression_error.coords
    sizes = {"time": 1, "lead_time": 2, "ensemble": 2, "sample": 1, "output": 4}
    assert dict(ds.compression_error.sizes) == sizes
    assert root["t2m"].attrs["compression_max_error"] == root["compression_error"][..., 1].max()


# what is refused, and what is found wrong


def layout_of(package: Path, text: str, folder: Path) -> Any:
    """A layout, with a store that an ordinary run would make."""
    run = Downscaling(
        TIMES, load(package), Weather(), folder / "never", Options(seed=3, compress=asked(text))
    )
    return run.product.layout(run.seed, ())


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_member_that_cannot_be_kept_is_not_written(package: Path, tmp_path: Path, value: float) -> None:
    layout = layout_of(package, "bounded", tmp_path)
    store = Store.create(tmp_path / STORE, layout)
    center = torch.tensor(OUTPUTS.center).reshape(1, 4, 1, 1)
    block = center.expand(2, 4, H, W).clone()
    block[1, 2, 5, 7] = value
    with pytest.raises(InputError, match="u10m of member 1 at 2024-07-25T00:00"):
        store.write_members(1, 0, block)
    assert store.all_missing() == [[0, 1], [1]]
    root = zarr.open_group(tmp_path / STORE, mode="r", use_consolidated=False)
    assert np.isnan(root["t2m"][1, 1]).all() and np.isnan(root["t2m"][0]).all()
    np.testing.assert_allclose(root["t2m"][1, 0], 297, atol=0.02)
    assert np.isnan(root["compression_error"][1, 1]).all()
    assert store.finish()["t2m"].raw == 4 * H * W
    assert "compression_max_error" not in root["t2m"].attrs  # the store is not complete


@pytest.mark.slow
def test_an_error_beyond_the_bound_is_found(package: Path, tmp_path: Path) -> None:
    """A store whose codec is coarser than the bound, as one that somebody has changed."""
    layout = layout_of(package, "bounded", tmp_path)
    store = Store.create(tmp_path / STORE, replace(layout, bounds={"t2m": Bound(5.0, 0.1)}))
    store._bounded = BoundedFields(store.io.root, layout, "there")
    with pytest.raises(InputError, match="mrr of member 0 .* was read from there with an error of"):
        store._bounded.verify(0, 0, torch.rand(4, H, W))
    fine = replace(layout, bounds={"t2m": layout.bounds["t2m"]})
    store._bounded = BoundedFields(store.io.root, fine, "there")
    with pytest.raises(InputError, match="beyond its bound of 0.02; check the disk, then --resume"):
        store.write_members(0, 0, torch.rand(1, 4, H, W) + 290)
    assert store.missing(0) == [0, 1]


def test_the_command_refuses(package: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / STORE
    words = (TIMES[0], "--package", package, "--source", "demo", "--output", output, "--compress")
    for text, says in (
        ("t2m", "--compress takes lossless, bounded, or bounds like"),
        (
            "bounded,t2=1",
            "--compress gives t2 a bound, but the outputs are mrr, t2m, u10m, v10m; did you mean t2m?",
        ),
        ("t2m=1e-6", "float32 numbers of t2m around 357 are 3.1e-05 apart, so no bound of 1e-06 can be kept"),
    ):
        assert says in refused(capfd, *words, text)
    assert not output.exists()


@pytest.mark.slow
def test_other_backends(package: Path, tmp_path: Path) -> None:
    """Zarr in memory is compressed; codecs of one's own stay; what is no Zarr store is refused."""
    options = Options(seed=3, compress=asked("t2m=0.5"))
    memory = ZarrBackend()
    run = Downscaling(TIMES[0], load(package), Weather(), memory, options)
    assert len(list(run)) == 2
    assert memory.root["t2m"].attrs["compression_max_error"] == run.kept["t2m"].error
    with pytest.raises(InputError, match="only a Zarr store can be compressed"):
        downscale(TIMES[0], load(package), Weather(), XarrayBackend(OrderedDict()), options=options)
    own = zarr.codecs.GzipCodec(level=1)
    with pytest.raises(InputError, match="has zarr_codecs of its own"):
        downscale(TIMES[0], load(package), Weather(), ZarrBackend(zarr_codecs=own), options=options)
    io = downscale(TIMES[0], load(package), Weather(), ZarrBackend(zarr_codecs=own), options=Options(seed=3))
    assert io["t2m"].compressors == io["t2m_lowres"].compressors == (own,)
