# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Geometry of the patches of a domain: sizes, strides, and mirrored edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError

MOST_PATCHES = 2**16
"""Most patches of a domain that a package may have."""
Patch = tuple[int, int]  # (iy, ix): its row and column in the grid of patches


@dataclass(frozen=True)
class _Axis:
    """The patches along one direction: ``count`` of ``patch`` pixels, every ``stride``, from ``-before``."""

    size: int
    patch: int
    stride: int
    count: int
    before: int

    def index(self, i: int) -> Tensor:
        """Pixels of the domain that patch ``i`` shows, ``[patch]``; mirrored where it sticks out."""
        at = torch.arange(self.patch) + (i * self.stride - self.before)
        last = self.size - 1
        return last - (last - at.abs()).abs()

    def inside(self, i: int) -> tuple[slice, slice]:
        """The part of the domain that patch ``i`` covers, and the same part within the patch."""
        start = i * self.stride - self.before
        low, high = max(start, 0), min(start + self.patch, self.size)
        return slice(low, high), slice(low - start, high - start)

    def source(self, i: int) -> tuple[slice, tuple[int, int], int]:
        """The slice of the domain, the pixels to mirror on either side, and those to drop in front."""
        core, within = self.inside(i)
        left, right = within.start, self.patch - within.stop
        # the mirror image of more pixels than the patch has itself needs some of its neighbour's
        low = min(core.start, self.size - 1 - right)
        return slice(low, core.stop), (left, right), core.start - low

    def ramp(self) -> Tensor:
        """Raised cosine over the pixels that neighbours share, 1 between, ``[patch]`` float64."""
        shared = self.patch - self.stride
        at = (torch.arange(self.patch, dtype=torch.float64) + 0.5) / max(shared, 1)
        rise = torch.sin(0.5 * math.pi * at.clamp(max=1)) ** 2
        return rise * rise.flip(0)

    def total(self, weights: Tensor, chosen: range) -> Tensor:
        """Sum of the weights of some patches at each pixel of the domain, ``[size]``."""
        total = torch.zeros(self.size, dtype=weights.dtype)
        for i in chosen:
            core, within = self.inside(i)
            total[core] += weights[within]
        return total


@dataclass(frozen=True)
class PatchGeometry:
    """A domain cut into patches.

    Neighbours share ``overlap + boundary`` pixels; the first patch starts ``boundary`` pixels outside the
    domain, the last ends outside it, and there the field is mirrored. A patch longer than the domain is cut
    to it. Where one patch covers all, it is the domain itself, without overlap or boundary.

    Attributes
    ----------
    domain, patch : tuple[int, int]
        (H, W) in pixels
    overlap, boundary : int
        In pixels, for both directions
    multiple : int
        The network takes multiples of this only: ``2 ** (levels - 1)``

    Raises
    ------
    InputError
        If the sizes do not fit each other; the message names sizes that do

    Source: ``physicsnemo.diffusion.multi_diffusion.GridPatching2D``.
    """

    domain: tuple[int, int]
    patch: tuple[int, int]
    overlap: int = 0
    boundary: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        if min(*self.domain, *self.patch, self.multiple) < 1 or min(self.overlap, self.boundary) < 0:
            raise InputError(
                f"patches need positive sizes and an overlap and boundary of 0 or more, got {self._text()}"
            )
        least = self.overlap + 2 * self.boundary + 1
        least += -least % self.multiple
        wrong = [n % self.multiple != 0 or (n < least and not self.single) for n in self.shape]
        if any(wrong):
            raise InputError(f"{self._text()} do not fit: {self._advice(least)}")

    def _text(self) -> str:
        sizes = " x ".join(map(str, self.shape))
        return (
            f"patches of {sizes} with an overlap of {self.overlap} and a boundary of {self.boundary} "
            f"in a domain of {self.domain[0]} x {self.domain[1]}"
        )

    def _advice(self, least: int) -> str:
        steps = f", in steps of {self.multiple}," if self.multiple > 1 else ""
        most = [n - n % self.multiple for n in self.domain]
        if min(most) < least:
            return f"the domain must have at least {least} x {least} pixels for this overlap and boundary"
        best = [min(max(n - n % self.multiple, least), m) for n, m in zip(self.patch, most, strict=True)]
        return (
            f"heights from {least} to {most[0]} and widths from {least} to {most[1]}{steps} do, "
            f"for instance {best[0]} x {best[1]}"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of a patch as the network sees it."""
        return min(self.patch[0], self.domain[0]), min(self.patch[1], self.domain[1])

    @property
    def single(self) -> bool:
        """True if one patch covers the domain."""
        return self.shape == self.domain

    @cached_property
    def axes(self) -> tuple[_Axis, _Axis]:
        """Rows and columns of patches."""
        shared = 0 if self.single else self.overlap + self.boundary
        before = 0 if self.single else self.boundary
        rows, columns = (
            _Axis(size, patch, patch - shared, math.ceil(size / (patch - shared)), before)
            for size, patch in zip(self.domain, self.shape, strict=True)
        )
        return rows, columns

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.axes[0].count, self.axes[1].count

    @property
    def patches(self) -> tuple[Patch, ...]:
        """All patches in PhysicsNeMo's order: column by column."""
        return tuple((iy, ix) for ix, iy in product(range(self.counts[1]), range(self.counts[0])))

    def touching(self, rows: slice, columns: slice) -> tuple[range, range]:
        """Rows and columns of the patches that show any of these rows and columns of the domain."""
        found = [
            [
                i
                for i in range(axis.count)
                if axis.inside(i)[0].start < part.stop and axis.inside(i)[0].stop > part.start
            ]
            for axis, part in zip(self.axes, (rows, columns), strict=True)
        ]
        y, x = (range(each[0], each[-1] + 1) for each in found)
        return y, x

    def index(self, patch: Patch) -> Tensor:
        """Row and column in the domain of each pixel of a patch, ``[2, h, w]``: the global index upstream."""
        at = [axis.index(i) for axis, i in zip(self.axes, patch, strict=True)]
        return torch.stack(torch.meshgrid(*at, indexing="ij"))


def read_patching(entry: Any, domain: tuple[int, int]) -> PatchGeometry | None:
    """The entry ``patching`` of a package's metadata, with the names of PhysicsNeMo's configuration.

    Raises
    ------
    InputError
        If the entry is incomplete, or its sizes do not fit each other
    """
    if entry is None:
        return None
    known = {"patch_shape_y", "patch_shape_x", "overlap_pix", "boundary_pix"}
    sizes = entry if isinstance(entry, dict) and entry.keys() <= known else {}
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes.values())
    if not whole or not {"patch_shape_y", "patch_shape_x"} <= sizes.keys():
        raise InputError(
            "metadata.json: patching needs patch_shape_y and patch_shape_x, and may have overlap_pix and "
            f"boundary_pix, all in whole pixels; got {entry!r}"
        )
    patch = sizes["patch_shape_y"], sizes["patch_shape_x"]
    geometry = PatchGeometry(domain, patch, sizes.get("overlap_pix", 0), sizes.get("boundary_pix", 0))
    if math.prod(geometry.counts) > MOST_PATCHES:
        raise InputError(f"metadata.json: patching makes more than {MOST_PATCHES} patches; use larger ones")
    return geometry


def write_patching(geometry: PatchGeometry) -> dict[str, int]:
    """The entry that :func:`read_patching` reads."""
    return {
        "patch_shape_y": geometry.patch[0],
        "patch_shape_x": geometry.patch[1],
        "overlap_pix": geometry.overlap,
        "boundary_pix": geometry.boundary,
    }
