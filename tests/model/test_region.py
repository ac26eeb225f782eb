# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Regions of a domain: against cells that are counted one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger
from matplotlib.path import Path as Polygon

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model import region
from earth2_corrdiff.model.conditioning import framed, unframed
from earth2_corrdiff.model.region import Box, cropped, cut, inside
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics, Surroundings

NATIVE = (slice(4, 18), slice(6, 24))


def rotated(shape: tuple[int, int]) -> Grid:
    y, x = np.meshgrid(np.arange(shape[0]) * 0.2 + 47, np.arange(shape[1]) * 0.2 + 8, indexing="ij")
    return Grid((y + 0.05 * (x - 10)).astype("f4"), (x - 0.07 * (y - 50)).astype("f4"))


@pytest.fixture(scope="module")
def spec() -> CorrDiffSpec:
    """A domain of 14 x 18 in surroundings of 26 x 29."""
    grid = rotated((26, 29))
    fields = np.arange(2 * 26 * 29, dtype="f4").reshape(2, 26, 29)
    one = Statistics(("a",), (0.0,), (1.0,))
    return CorrDiffSpec(
        inputs=one,
        outputs=one,
        input_grid=Grid(np.arange(45, 55, 0.25, dtype="f4"), np.arange(6, 16, 0.25, dtype="f4")),
        output_grid=grid.part(*NATIVE),
        sampling=Sampling("heun", 2),
        invariants=Statistics(("b", "c"), (0.0, 0.0), (1.0, 1.0)),
        invariant_fields=fields[:, *NATIVE],
        surroundings=Surroundings(grid, fields, 2, 6),
    )


BOXES = [
    (Box(48.4, 50.1, 9.7, 12.2), 0),
    (Box(48.4, 50.1, 9.7, 12.2), 2),
    (Box(48.4, 50.1, 369.7, -347.8), 3),  # the same in other conventions of longitude
    (Box(47.6, 51.3, 8.6, 13.1), 1),  # beyond the domain, near the surroundings' edge
]


@pytest.mark.parametrize(("box", "halo"), BOXES)
def test_a_region_is_the_block_around_the_cells_of_a_box(spec: CorrDiffSpec, box: Box, halo: int) -> None:
    made = cut(spec, box, 1.0, halo)
    around = spec.surroundings
    assert around is not None
    lat, lon = around.grid.lat, around.grid.lon
    east, west = (box.lon_min + 180) % 360 - 180, (box.lon_max + 180) % 360 - 180
    cells = [
        (i, j)
        for i, j in np.ndindex(lat.shape)
        if np.float32(box.lat_min) <= lat[i, j] <= np.float32(box.lat_max)
        and np.float32(east) <= lon[i, j] <= np.float32(west)
    ]
    rows, columns = (slice(min(axis), max(axis) + 1) for axis in zip(*cells, strict=True))
    assert made.output_grid.matches(around.grid.part(rows, columns))
    top, bottom, left, right = made.halo
    seen = (slice(rows.start - top, rows.stop + bottom), slice(columns.start - left, columns.stop + right))
    assert min(made.halo) >= min(halo, 1)
    assert made.run_grid.matches(around.grid.part(*seen))
    assert all(n % 2 == 0 for n in made.run_grid.shape)
    assert np.array_equal(made.invariant_fields, around.invariant_fields[:, *seen])
    assert np.array_equal(made.inner(made.invariant_fields), around.invariant_fields[:, rows, columns])
    seen_lat, coarse_lat = made.run_grid.lat, made.input_grid.lat
    assert coarse_lat[0] == np.floor(seen_lat.min()) - 1
    assert np.ceil(seen_lat.max()) + 1 <= coarse_lat[-1] < np.ceil(seen_lat.max()) + 1.5
    again = cut(made, Box(48.8, 50.0, 10.0, 12.0))  # inside the region, which is its own surroundings
    assert made.run_grid.lat.min() <= again.output_grid.lat.min()


FRAMES: list[dict[str, Any]] = [
    {},
    {"flip": True, "padding": (3, 1, 2, 4)},
    {"projected": (np.arange(14), np.arange(18)), "padding": (1, 2, 3, 4)},
]


@pytest.mark.parametrize("frame", FRAMES, ids=["plain", "flipped", "projected"])
def test_a_region_of_a_fixed_domain_is_cut_out_of_its_output(spec: CorrDiffSpec, frame: Any) -> None:
    """Twice, the second time out of the first region, against cells that are counted one by one."""
    full = replace(spec, surroundings=None, **frame)
    H, W = full.output_grid.shape
    number = np.arange(H * W, dtype="f4").reshape(H, W)
    lat, lon = full.output_grid.mesh()
    made = full
    for box in (Box(48.2, 50.0, 9.7, 12.2), Box(48.6, 49.7, 370.2, 371.8)):
        made = cropped(made, box)
        east = (box.lon_min % 360, box.lon_max % 360)
        inner = (lat >= box.lat_min) & (lat <= box.lat_max) & (lon >= east[0]) & (lon <= east[1])
        rows, columns = (np.flatnonzero(inner.any(axis)) for axis in (1, 0))
        part = np.ix_(rows, columns)
        seen = framed(full, torch.from_numpy(number)[None, None])
        assert np.array_equal(unframed(made, seen)[0, 0], number[part])
        shown = seen[0, 0][made.output_part].numpy()
        assert np.array_equal(shown[::-1] if full.flip else shown, number[part])
        assert np.array_equal(made.output_grid.lat, lat[part]) and made.run_grid is full.output_grid
        assert made.domain == full.domain and made.regional
        if made.projected is not None:
            assert [axis.tolist() for axis in made.projected] == [rows.tolist(), columns.tolist()]


def test_some_outputs(spec: CorrDiffSpec) -> None:
    outputs = Statistics(("mrr", "t2m", "u10m"), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    every = replace(spec, outputs=outputs)
    some = every.only(["u10m", "mrr"])
    assert some.output_variables == ("mrr", "u10m") and some.physical_statistics == ((1, 4), (3, 6))
    fields = np.arange(12).reshape(2, 3, 1, 2)
    assert np.array_equal(some.kept(fields), fields[:, [0, 2]]) and every.kept(fields) is fields
    assert every.only(["u10m", "t2m", "mrr"]) is every
    with pytest.raises(InputError, match="'t2' is not an output.*did you mean t2m"):
        every.only(["mrr", "t2"])


def test_the_halo_is_narrower_at_the_edge_and_outside_the_domain_is_logged(spec: CorrDiffSpec) -> None:
    lines: list[str] = []
    logger.add(lines.append, format="{message}")
    made = cut(spec, BOXES[3][0], halo=5)
    assert min(made.halo) < 5
    assert len(lines) == 2
    assert "not known" in lines[0]
    assert "narrower" in lines[1]


def test_inside_is_that_of_another_implementation() -> None:
    grid = rotated((9, 14))
    lat, lon = np.random.default_rng(0).uniform([46, 7], [50, 11.5], (400, 2)).T
    y, x = grid.lat, grid.lon
    ring = [np.concatenate([c[0], c[:, -1], c[-1, ::-1], c[::-1, 0]]) for c in (x, y)]
    want = Polygon(np.stack(ring, axis=1)).contains_points(np.stack([lon, lat], axis=1))
    assert 50 < want.sum() < 350
    assert np.array_equal(inside(lat, lon, grid), want)


@pytest.mark.parametrize(
    ("box", "change", "word"),
    [
        (Box(48.4, 50.1, 9.7, 30.0), {}, "corners"),
        (Box(50.1, 48.4, 9.7, 12.2), {}, "rising"),
        (Box(48.4, float("nan"), 9.7, 12.2), {}, "rising"),
        (Box(49.11, 49.12, 10.01, 10.02), {}, "no cell"),
        (Box(49.0, 49.5, 10.0, 12.2), {}, "widen"),
        (Box(48.4, 50.1, 9.7, 12.2), {"surroundings": None}, "whole domain"),
    ],
)
def test_what_is_not_valid_is_refused(spec: CorrDiffSpec, box: Box, change: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        cut(replace(spec, **change), box)


def test_spans_grow_upwards_first_and_not_beyond_the_grid() -> None:
    assert region._span(3, 8, 1, 20, 4) == (3, 4, 7, 11)
    assert region._span(3, 8, 0, 9, 4) == (1, 3, 8, 9)
    assert region._span(-2, 6, 3, 9, 4) == (0, 1, 3, 8)  # without the part of the halo beyond the edge
    with pytest.raises(InputError, match="multiple"):
        region._span(0, 11, 0, 11, 4)
