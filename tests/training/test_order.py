# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Order, splits and statistics: what is seen when, what is never seen, and by what it is scaled."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_kit import CHANNELS, dataset, hours, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.training.config import Split
from earth2_corrdiff.training.order import Order
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.splits import split_demo, split_times
from earth2_corrdiff.training.statistics import Moments, normalisation


def take(order: Order, count: int, first: int = 0) -> list[list[int]]:
    return list(itertools.islice(order.batches(first), count))


def chunks(size: int, of: int) -> Any:
    return None if of == 1 else np.arange(size) // of


@pytest.mark.parametrize("of", [1, 4])
@pytest.mark.parametrize(("size", "batch"), [(12, 4), (13, 4), (5, 5), (7, 1), (3, 8)])
def test_every_index_once_in_each_epoch(size: int, batch: int, of: int) -> None:
    indices = list(range(100, 100 + size))
    where = None if of == 1 else np.arange(200) // of
    drawn = [index for one in take(Order(indices, batch, 3, where, 2), 3 * size) for index in one]
    epochs = [drawn[i : i + size] for i in range(0, 3 * size, size)]
    assert all(sorted(epoch) == indices for epoch in epochs)
    assert size < 5 or epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("of", [1, 3])
def test_a_batch_depends_on_the_seed_and_its_number_alone(of: int) -> None:
    order = Order(range(13), 4, 3, chunks(13, of), 2)
    whole = take(order, 12)
    assert whole == take(order, 12) != take(Order(range(13), 4, 4, chunks(13, of), 2), 12)
    for first in (1, 3, 4, 7):  # the fourth batch lies in two epochs
        assert take(order, 12 - first, first) == whole[first:]


def test_times_of_a_chunk_stay_together() -> None:
    """However many there are, those of two windows at most lie between the first and last of a chunk."""
    where = np.random.default_rng(0).permutation(np.arange(60) // 4)  # in any order on the disk
    drawn = Order(range(60), 4, 1, where, window=2).epoch(0)
    for chunk in range(15):
        at = [place for place, index in enumerate(drawn) if where[index] == chunk]
        assert at[-1] - at[0] < 2 * 4
    windows = [sorted(where[drawn[i : i + 8]].tolist()) for i in range(0, 60, 8)]
    assert drawn != sorted(drawn) and all(len(set(window)) <= 2 for window in windows)


def test_the_order_of_single_times_is_numpys_permutation() -> None:
    """Fixed, so that trainings of today can be repeated tomorrow."""
    want = np.random.default_rng((5, 1)).permutation(9)
    assert Order(range(10, 19), 2, 5).epoch(1) == (want + 10).tolist()


# splits


def test_the_default_split() -> None:
    split = split_times(hours(20), Split())
    assert split.train == list(range(16)) and split.validation == [16, 17] and split.test == [18, 19]
    assert split_times(hours(1), Split()).train == [0]


def test_splits_by_periods() -> None:
    told = Split(
        train=("2020-01-01/2020-01-02T00", "2020-01-04T06/2020-01-09"), validation=("2020-01-03/2020-01-04",)
    )
    split = split_times(hours(16), told)  # 2020-01-04T18 is the last
    assert split.train == [0, 1, 2, 3, 4, 13, 14, 15] and split.validation == [8, 9, 10, 11, 12]
    assert split.test == []


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"train": ("2020-01-01/2020-01-03",), "test": ("2020-01-03/2020-01-04",)},
            "overlap: 2020-01-03T00:00 is",
        ),
        ({"train": ("1999-01-01/1999-01-03",)}, "no time of the pairs lies in data.split.train"),
        ({"train": ("2020-01-01",)}, "'2020-01-01' is not a valid period"),
        ({"train": ("yesterday/today",)}, "'yesterday' is not a valid time"),
        ({"validation": ("2020-01-01/2020-01-03",)}, "needs periods for train"),
    ],
)
def test_splits_that_are_refused(told: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_times(hours(16), Split(**told))


def test_the_demos_split() -> None:
    times = np.array(["2013-08-01", "2022-07-01", "2014-01-01"], "datetime64[ns]")
    assert split_demo(times).train == [0, 2] and split_demo(times).validation == [1]


# statistics


@pytest.mark.parametrize("offset", [0.0, 3e2, 1e5])
def test_moments_equal_numpys(offset: float) -> None:
    """In parts, and far from zero: float32 fields, compared with float64 in one go."""
    rng = np.random.default_rng(1)
    parts = [
        torch.from_numpy((offset + rng.normal(n, [[1.0], [0.1], [7]], (k, 3, 50))).astype(np.float32))
        for n, k in enumerate((4, 1, 7))
    ]
    moments = Moments()
    for part in parts:
        moments.add(part)
    want = torch.cat(parts).double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(moments.mean, want.mean(1), rtol=1e-12)
    np.testing.assert_allclose(moments.std, want.std(1, ddof=1), rtol=1e-9)


def normalised(file: PairFile, indices: list[int], kept: Path) -> Any:
    return normalisation(file, indices, Regridder(file.coarse_grid, file.fine_grid), 0.5, kept)


@pytest.mark.slow
def test_statistics_of_the_training_times(tmp_path: Path) -> None:
    file, indices = PairFile(write_pairs(tmp_path / "p.zarr")), [0, 2, 3, 7]
    made = normalised(file, indices, tmp_path / "s.json")
    pairs = file.read(indices)
    coarse, fine = pairs.coarse.double().numpy(), pairs.fine.double().numpy()
    up = Regridder(file.coarse_grid, file.fine_grid)(pairs.coarse[:, 0]).double().numpy()
    rest = [fine[:, 0], fine[:, 1] - up]  # mrr has no coarse twin, t2m has
    assert made.inputs.names == CHANNELS.inputs and made.outputs.names == CHANNELS.outputs
    for c in range(3):
        assert made.inputs.center[c] == pytest.approx(coarse[:, c].mean(), rel=1e-9)
        assert made.inputs.scale[c] == pytest.approx(coarse[:, c].std(ddof=1), rel=1e-6)
    for c in range(2):
        assert made.outputs.center[c] == pytest.approx(fine[:, c].mean(), rel=1e-9)
        assert made.outputs.scale[c] == pytest.approx(rest[c].std(ddof=1) / 0.5, rel=1e-5)
    assert made.invariants.scale[0] == pytest.approx(file.invariant_fields.std(ddof=1), rel=1e-5)


@pytest.mark.slow
def test_statistics_are_kept_for_the_same_times(tmp_path: Path) -> None:
    file, kept = PairFile(write_pairs(tmp_path / "p.zarr")), tmp_path / "s.json"
    made = normalised(file, [0, 1, 2], kept)
    bytes_of = kept.read_bytes()

    class Unread(PairFile):
        def read(self, indices: Any) -> Any:
            raise AssertionError("read again")

    assert normalised(Unread(tmp_path / "p.zarr"), [2, 1, 0], kept) == made and kept.read_bytes() == bytes_of
    assert normalised(file, [0, 1, 3], kept) != made
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []
    (tmp_path / "regression.ckpt").touch()  # from now on they belong to a training
    bytes_of = kept.read_bytes()
    with pytest.raises(InputError, match=r"3 times from 2020-01-01T00:00 to .*T18:00, and is now .* 4 times"):
        normalised(file, [0, 1, 2, 3], kept)
    assert kept.read_bytes() == bytes_of
    for text in ("no JSON", '{"inputs": []}', "[1]"):
        kept.write_text(text)
        with pytest.raises(InputError, match="damaged"):
            normalised(file, [0, 1, 2], kept)


@pytest.mark.parametrize(("name", "value"), [("u10m_lowres", 0.0), ("u10m_lowres", 21.15), ("mrr", -4e-3)])
def test_a_channel_that_never_varies_is_named(tmp_path: Path, name: str, value: float) -> None:
    data = dataset(5)
    data[name][:] = value
    data.to_netcdf(tmp_path / "p.nc")
    with pytest.raises(InputError, match=f"{name.removesuffix('_lowres')} never varies"):
        normalised(PairFile(tmp_path / "p.nc"), [0, 1, 2, 3, 4], tmp_path / "s.json")
