# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Patch-based multi-diffusion: a denoiser of patches becomes a denoiser of the whole domain.

At every noise level the domain is cut into overlapping patches, each patch is denoised, and the patches are
averaged where they overlap; the solvers see one ``denoise(x, sigma)`` (MultiDiffusion, Bar-Tal et al., arXiv
2302.08113). Geometry and flat average are those of PhysicsNeMo's ``GridPatching2D``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import Patch, PatchGeometry
from earth2_corrdiff.model.diffusion.solvers import Denoise

WINDOWS = ("flat", "cosine")
# cond [n, Cc, h, w] and position [n, Cp, h, w] or None, n = 1 for all → a denoiser, as Denoiser.given
Given = Callable[[Tensor, Tensor | None], Denoise]


def split(field: Tensor, geometry: PatchGeometry, patches: Sequence[Patch] | None = None) -> Tensor:
    """Cut patches out of a field: state, conditioning, position or lead-time embedding alike.

    Parameters
    ----------
    field : Tensor
        ``[B, C, H, W]`` of the whole domain
    geometry : PatchGeometry
        Of the patches
    patches : Sequence[tuple[int, int]] | None, optional
        Which ones, by default all

    Returns
    -------
    Tensor
        ``[n · B, C, h, w]``, patch by patch; of one patch inside the domain a view
    """
    if tuple(field.shape[2:]) != geometry.domain:
        raise InputError(f"a field of {list(field.shape)} does not belong to a domain of {geometry.domain}")
    chosen = geometry.patches if patches is None else patches
    pieces = [_piece(field, geometry, patch) for patch in chosen]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _piece(field: Tensor, geometry: PatchGeometry, patch: Patch) -> Tensor:
    (rows, above, top), (columns, beside, left) = (
        axis.source(i) for axis, i in zip(geometry.axes, patch, strict=True)
    )
    piece = field[:, :, rows, columns]
    if any((*above, *beside)):
        piece = F.pad(piece, (*beside, *above), mode="reflect")
    return piece[:, :, top:, left:]


class Blend:
    """Weighted average of overlapping patches.

    ``flat`` counts, as PhysicsNeMo does; ``cosine`` fades each patch out over the pixels that it shares, so
    that there is no seam. Add patches in descending (iy, ix): PhysicsNeMo's order on the CPU.

    Parameters
    ----------
    geometry : PatchGeometry
        Of the patches
    window : {"flat", "cosine"}
        Weights within a patch
    like : Tensor
        Of the type and on the device of what is blended
    chosen : tuple[range, range] | None, optional
        Rows and columns of the patches that are added, by default all; elsewhere the average is 0

    Raises
    ------
    InputError
        If the window is unknown
    """

    def __init__(
        self, geometry: PatchGeometry, window: str, like: Tensor, chosen: tuple[range, range] | None = None
    ) -> None:
        check_window(window)
        self.geometry = geometry
        flat = window == "flat"
        rows, columns = geometry.axes
        wy, wx = (torch.ones(a.patch, dtype=torch.float64) if flat else a.ramp() for a in (rows, columns))
        self.window = None if flat else torch.outer(wy, wx).to(like)
        iy, ix = chosen or map(range, geometry.counts)
        total = torch.outer(rows.total(wy, iy), columns.total(wx, ix))
        self.total = torch.where(total > 0, total, 1.0).to(like)

    def add(self, total: Tensor, pieces: Tensor, patches: Sequence[Patch]) -> None:
        """Add ``pieces [n · B, C, h, w]`` of ``patches`` to ``total [B, C, H, W]`` in place."""
        rows, columns = self.geometry.axes
        for piece, (iy, ix) in zip(pieces.chunk(len(patches)), patches, strict=True):
            (to_y, y), (to_x, x) = rows.inside(iy), columns.inside(ix)
            target, part = total[:, :, to_y, to_x], piece[:, :, y, x].to(total.dtype)
            if self.window is None:
                target.add_(part)
            else:
                target.addcmul_(part, self.window[y, x])

    def normalise(self, total: Tensor) -> Tensor:
        """Divide by the sum of the weights, in place."""
        return total.div_(self.total)


def check_window(window: str) -> None:
    """Raise InputError if the window is unknown."""
    if window not in WINDOWS:
        raise InputError(f"unknown window {window!r}; use one of {', '.join(WINDOWS)}")


def merge(pieces: Tensor, geometry: PatchGeometry, window: str = "flat") -> Tensor:
    """Blend all patches, ordered as :func:`split` does: ``[n · B, C, h, w] → [B, C, H, W]``."""
    at = dict(zip(geometry.patches, pieces.chunk(len(geometry.patches)), strict=True))
    total = pieces.new_zeros(*at[0, 0].shape[:2], *geometry.domain)
    blend = Blend(geometry, window, total)
    for patch in sorted(at, reverse=True):
        blend.add(total, at[patch], [patch])
    return blend.normalise(total)


@dataclass(frozen=True)
class PatchInputs:
    """Conditioning of patches, given for the whole domain; the batch is that of the state, or 1.

    Attributes
    ----------
    cond : Tensor
        ``[B, Cc, H, W]``
    whole : Tensor | None
        ``[B, Cg, H, W]``, resized to a patch and appended to the conditioning of every patch: the "global"
        channels of patch-trained networks
    position : Tensor | None
        ``[B, Cp, H, W]``: embeddings of position, then of lead time
    """

    cond: Tensor
    whole: Tensor | None = None
    position: Tensor | None = None


class _Supply:
    """Denoisers for groups of patches; with ``keep``, each is prepared once."""

    def __init__(self, given: Given, inputs: PatchInputs, geometry: PatchGeometry, keep: bool) -> None:
        self.given, self.inputs, self.geometry = given, inputs, geometry
        self.kept: dict[tuple[tuple[Patch, ...], range], Denoise] | None = {} if keep else None
        self.whole = None
        if inputs.whole is not None:
            self.whole = F.interpolate(inputs.whole, size=geometry.shape, mode="bilinear")

    def __call__(self, patches: tuple[Patch, ...], members: range) -> Denoise:
        """The denoiser of ``n · m`` patches, ordered as :func:`split` does."""
        fields = (self.inputs.cond, self.whole, self.inputs.position)
        if all(field is None or len(field) == 1 for field in fields):
            # the same for all members; of one patch, the denoiser spreads it itself
            members = range(1 if len(patches) == 1 else len(members))
        if self.kept is None:
            return self._prepare(patches, members)
        if (patches, members) not in self.kept:
            self.kept[patches, members] = self._prepare(patches, members)
        return self.kept[patches, members]

    def _prepare(self, patches: tuple[Patch, ...], members: range) -> Denoise:
        cond = self._field(self.inputs.cond, patches, members)
        if self.whole is not None:
            whole = _of(self.whole, members).expand(len(members), -1, -1, -1)
            cond = torch.cat([cond, whole.repeat(len(patches), 1, 1, 1)], dim=1)
        position = self.inputs.position
        return self.given(cond, None if position is None else self._field(position, patches, members))

    def _field(self, field: Tensor, patches: tuple[Patch, ...], members: range) -> Tensor:
        pieces = split(_of(field, members), self.geometry, patches)
        repeats = len(patches) * len(members) // len(pieces)
        return pieces if repeats == 1 else pieces.repeat_interleave(repeats, dim=0)


def _of(field: Tensor, members: range) -> Tensor:
    return field if len(field) == 1 else field[members.start : members.stop]


def _groups(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def patched(
    given: Given,
    geometry: PatchGeometry,
    inputs: PatchInputs,
    window: str = "flat",
    batch: int = 1,
    keep: bool = False,
    shard: tuple[int, int] = (0, 1),
    reduce: Callable[[Tensor], Tensor] | None = None,
    chosen: tuple[range, range] | None = None,
) -> Denoise:
    """Make a denoiser of patches a denoiser of the domain, for every solver of ``solvers``.

    Parameters
    ----------
    given : Given
        ``given(cond, position)`` is the denoiser of ``n`` patches that are conditioned so; with one
        conditioning for several, of as many as come
    geometry : PatchGeometry
        Of the patches
    inputs : PatchInputs
        What they are conditioned on
    window : {"flat", "cosine"}, optional
        How overlapping patches are averaged, by default "flat", which is PhysicsNeMo's
    batch : int, optional
        Most patches in one call, members counted apart; the order of sums does not depend on it
    keep : bool, optional
        Cut and prepare the conditioning once and keep all its patches in memory; by default, at each call
    shard : tuple[int, int], optional
        (rank, size): denoise only every size-th patch; the sum over ranks is up to ``reduce``
    reduce : Callable[[Tensor], Tensor] | None, optional
        Sum ``[B, C, H, W]`` over all ranks, which is written to; called once for each call of the result
    chosen : tuple[range, range] | None, optional
        Rows and columns of the patches that are denoised, by default all

    Returns
    -------
    Denoise
        ``denoise(x [B, C, H, W], sigma) → [B, C, H, W]`` of the type of ``x``; 0 where there is no patch

    Raises
    ------
    InputError
        If the window is unknown, the batch is not positive, or a shard has no ``reduce``
    """
    check_window(window)
    rank, size = shard
    if batch < 1 or not 0 <= rank < size or (size > 1 and reduce is None):
        raise InputError(
            f"patches need a batch of 1 or more, a rank below the number of shards and, for more than one "
            f"shard, a sum over them; got a batch of {batch} and shard {rank} of {size}"
        )
    rows, columns = chosen or map(range, geometry.counts)
    mine = tuple(sorted(product(rows, columns), reverse=True))[rank::size]
    supply = _Supply(given, inputs, geometry, keep)
    blends: dict[tuple[torch.dtype, torch.device], Blend] = {}

    def whole(x: Tensor, sigma: float) -> Tensor:
        if (x.dtype, x.device) not in blends:
            blends[x.dtype, x.device] = Blend(geometry, window, x, (rows, columns))
        blend, total = blends[x.dtype, x.device], torch.zeros_like(x)
        for members in _groups(len(x), batch):
            some, sums = (t[members.start : members.stop] for t in (x, total))
            for chosen in _groups(len(mine), max(1, batch // len(members))):
                patches = mine[chosen.start : chosen.stop]
                clean = supply(patches, members)(split(some, geometry, patches), sigma)
                blend.add(sums, clean, patches)
        return blend.normalise(total if reduce is None else reduce(total))

    return whole
