# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting a domain into patches and blending them, bit for bit against PhysicsNeMo's ``GridPatching2D``."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from patch_layouts import LAYOUTS, Layout, randn, theirs_of
from properties import quick

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import WINDOWS, merge, split

pytestmark = pytest.mark.filterwarnings("ignore:gridtype", "ignore::DeprecationWarning", "ignore:Patch shape")


# geometry


def test_the_published_case() -> None:
    geometry = PatchGeometry((1056, 1792), (448, 448), 4, 2)
    assert geometry.counts == (3, 5) and len(geometry.patches) == 15
    assert [axis.stride for axis in geometry.axes] == [442, 442]
    assert geometry.patches[:4] == ((0, 0), (1, 0), (2, 0), (0, 1))
    assert len(PatchGeometry((1056, 1792), (448, 448)).patches) == 12


@st.composite
def drawn_layouts(draw: st.DrawFn) -> Layout:
    """Domains and patches that fit, more than one of them, H and W by themselves."""
    overlap, boundary = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    size = st.integers(overlap + 2 * boundary + 1, 26).filter(lambda n: n > boundary + 1)
    layout = (draw(size), draw(size)), (draw(size), draw(size)), overlap, boundary
    assume(any(patch < domain for domain, patch in zip(*layout[:2], strict=True)))
    return layout


@quick
@given(drawn_layouts())
def test_where_patches_lie(layout: Layout) -> None:
    geometry, theirs = PatchGeometry(*layout), theirs_of(layout)
    want = theirs.global_index()
    assert geometry.shape == theirs.patch_shape and len(geometry.patches) == len(want)
    for patch, index in zip(geometry.patches, want, strict=True):
        assert torch.equal(geometry.index(patch), index)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (((32, 48), (16, 16), 12, 2), "heights from 17 to 32 and widths from 17 to 48 do.*17 x 17"),
        (((32, 48), (16, 16), 12, 2, 8), "from 24 to 32.*in steps of 8.*24 x 24"),
        (((300, 1000), (448, 448), 4, 2, 16), "patches of 300 x 448 .*288 x 448"),
        (((300, 1000), (100, 160), 4, 2, 16), "in a domain of 300 x 1000 .*96 x 160"),
        (((100, 90), (448, 448), 0, 0, 16), "patches of 100 x 90 .*96 x 80"),
        (((12, 48), (16, 16), 0, 0, 16), "the domain must have at least 16 x 16"),
        (((32, 48), (0, 16)), "positive sizes"),
        (((32, 48), (16, 16), -1, 0), "overlap of -1"),
        (((32, 48), (16, 16), 0, -2), "boundary of -2"),
    ],
)
def test_sizes_that_do_not_fit(layout: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PatchGeometry(*layout)


def test_the_sizes_that_an_error_names_do_fit() -> None:
    for layout in (((300, 1000), (288, 448), 4, 2, 16), ((32, 48), (24, 24), 12, 2, 8)):
        assert len(PatchGeometry(*layout).patches) > 1


# split and merge


@quick
@given(drawn_layouts(), st.booleans())
def test_split_equals_upstream_bit_for_bit(layout: Layout, channels_last: bool) -> None:
    field = randn(2, 3, *layout[0])
    if channels_last:
        field = field.to(memory_format=torch.channels_last)
    got, want = split(field, PatchGeometry(*layout)), theirs_of(layout).apply(field)
    assert got.shape == want.shape and torch.equal(got, want)


@quick
@given(drawn_layouts(), st.sampled_from((torch.float32, torch.float64)))
def test_merge_equals_upstream_bit_for_bit(layout: Layout, dtype: torch.dtype) -> None:
    geometry, theirs = PatchGeometry(*layout), theirs_of(layout)
    pieces = randn(len(geometry.patches) * 2, 3, *geometry.shape, dtype=dtype)
    assert torch.equal(merge(pieces, geometry), theirs.fuse(pieces, batch_size=2))


@quick
@given(drawn_layouts(), st.sampled_from(sorted(WINDOWS)))
def test_merge_undoes_split(layout: Layout, window: str) -> None:
    geometry, field = PatchGeometry(*layout), randn(2, 3, *layout[0], dtype=torch.float64)
    assert (merge(split(field, geometry), geometry, window) - field).abs().max() < 1e-14


def test_the_cosine_window_by_hand() -> None:
    """Four shared pixels: sin² of 1/16, 3/16, 5/16 and 7/16 of π; at the edge of the domain nobody shares."""
    geometry = PatchGeometry((8, 16), (8, 8), 4)
    pieces = torch.empty(len(geometry.patches), 1, 8, 8, dtype=torch.float64)
    for piece, (_, ix) in zip(pieces, geometry.patches, strict=True):
        piece[:] = float(ix)
    rise = [math.sin(math.pi * k / 16) ** 2 for k in (1, 3, 5, 7)]
    want = [0.0] * 4 + [step + r for step in range(3) for r in rise]
    assert merge(pieces, geometry, "cosine")[0, 0, 3].tolist() == pytest.approx(want, abs=1e-15)
    assert merge(pieces, geometry)[0, 0, 3].tolist() == [0.0] * 4 + [0.5] * 4 + [1.5] * 4 + [2.5] * 4


def test_the_cosine_window_leaves_no_seam() -> None:
    """Patches that disagree by one: the largest step between pixels, with 8 of them to share."""
    geometry = PatchGeometry((48, 64), (24, 24), 8)
    pieces = randn(len(geometry.patches), 1, 1, 1).expand(-1, -1, 24, 24)
    steps = {w: float(merge(pieces, geometry, w).diff(dim=-1).abs().max()) for w in WINDOWS}
    assert steps["cosine"] < 0.45 * steps["flat"]


def test_a_patch_inside_is_a_view() -> None:
    geometry, field = PatchGeometry((64, 64), (16, 16), 4, 2), randn(1, 3, 64, 64)
    piece = split(field, geometry, [(1, 2)])
    assert piece.untyped_storage().data_ptr() == field.untyped_storage().data_ptr()


def test_bad_fields_and_windows() -> None:
    geometry = PatchGeometry((32, 48), (16, 16))
    with pytest.raises(InputError, match=r"\[1, 3, 32, 40\].*\(32, 48\)"):
        split(randn(1, 3, 32, 40), geometry)
    with pytest.raises(InputError, match="'square'.*flat, cosine"):
        merge(randn(6, 1, 16, 16), geometry, "square")


# embeddings of position and lead time


@pytest.mark.parametrize("gridtype", ["sinusoidal", "learnable"])
def test_position_is_selected_as_upstream_does(upstream: Any, gridtype: str) -> None:
    layout = LAYOUTS["both"]
    geometry, theirs = PatchGeometry(*layout), theirs_of(layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = upstream.SongUNetPosEmbd(
            list(layout[0]), 12, 2, model_channels=8, num_blocks=1, gridtype=gridtype, N_grid_channels=8
        )
    x = randn(len(geometry.patches), 4, *geometry.shape)
    got = split(net.pos_embd[None], geometry)
    by_selector = net.positional_embedding_selector(x, lambda emb: theirs.apply(emb.expand(1, -1, -1, -1)))
    assert torch.equal(got, by_selector)
    assert torch.equal(got, net.positional_embedding_indexing(x, theirs.global_index()))


def test_lead_time_is_selected_as_upstream_does(upstream: Any) -> None:
    layout, labels = LAYOUTS["both"], torch.tensor([3, 0])
    geometry, theirs = PatchGeometry(*layout), theirs_of(layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = upstream.SongUNetPosLtEmbd(
            list(layout[0]), 11, 2, model_channels=8, num_blocks=1, lead_time_channels=5, lead_time_steps=4
        )
    x = randn(2 * len(geometry.patches), 2, *geometry.shape)
    want = net.positional_embedding_selector(
        x, lambda emb: theirs.apply(emb.expand(2, -1, -1, -1)), lead_time_label=labels
    )
    whole = torch.cat([net.pos_embd.expand(2, -1, -1, -1), net.lt_embd[labels]], dim=1)
    assert torch.equal(split(whole, geometry), want)
