# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The denoiser of the domain: it sees the domain whole or in patches, all of them or a process's share."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import check_out_of_memory
from earth2_corrdiff.model.batching import Batching, no_memory
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, check_window, patched
from earth2_corrdiff.model.diffusion.solvers import Denoise
from earth2_corrdiff.model.packages.check import check_networks, patching_of
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression


@dataclass(frozen=True)
class Shard:
    """A process's share of the patches, where several processes denoise the same members in lock-step.

    Attributes
    ----------
    rank, size : int
        Number of the process, and how many there are
    reduce : Callable[[Tensor], Tensor] | None
        Sum over all processes, which may be written into its argument; called once a step
    """

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None


class DomainDenoiser:
    """The denoiser of the whole domain, made of a network that may see patches of it.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of the package
    regression, denoiser : Regression | None, Denoiser | None
        Its networks, one of which may be absent

    Attributes
    ----------
    whole : bool
        True if every patch is shown the inputs of the whole domain, too
    batching : Batching
        How many patches or members share a network call
    shard : Shard | None
        This process's share of the patches; None for all of them

    Raises
    ------
    InputError
        If the networks do not fit the package's metadata (see ``packages/check.py``)
    """

    def __init__(self, spec: CorrDiffSpec, regression: Regression | None, denoiser: Denoiser | None) -> None:
        self._spec, self._denoiser = spec, denoiser
        self.whole = check_networks(spec, regression, denoiser)
        self.patching, self.window = spec.patching, "flat"
        self.batching, self._logged = Batching(cast(Regression | Denoiser, denoiser or regression)), ""
        self.shard: Shard | None = None

    @property
    def patching(self) -> PatchGeometry | None:
        """The patches of the domain; None where the denoiser sees it in one piece."""
        return self._patching

    @patching.setter
    def patching(self, value: PatchGeometry | None) -> None:
        if value is None and self.whole:  # it wants the domain's inputs twice
            value = PatchGeometry(self._spec.domain, self._spec.domain)
        self._patching = patching_of(self._spec, self._denoiser, value)

    @property
    def window(self) -> str:
        """How overlapping patches are averaged: ``flat`` or ``cosine``."""
        return self._window

    @window.setter
    def window(self, value: str) -> None:
        check_window(value)
        self._window = value

    def __str__(self) -> str:
        if self.patching is None:
            return "whole"
        (h, w), p = self.patching.shape, self.patching
        which = ", those around the region" if self._spec.regional and not p.single else ""
        return f"{h} x {w}, overlap {p.overlap}, boundary {p.boundary}, {self.window} window{which}"

    @property
    def chosen(self) -> tuple[range, range]:
        """Rows and columns of the patches that are denoised: all, or those around a region.

        These touch the region, or come nearer to it than neighbours overlap: a pixel depends on what lies
        around it, and at the edge of the last patch the neighbour's share of the average is missing.
        """
        if self.patching is None:
            return range(1), range(1)
        if self._spec.regional:
            near = self.patching.overlap + self.patching.boundary
            return self.patching.touching(
                *(slice(part.start - near, part.stop + near) for part in self._spec.output_part)
            )
        rows, columns = map(range, self.patching.counts)
        return rows, columns

    @property
    def patches(self) -> int:
        """Number of patches that are denoised; 1 where the denoiser sees the domain in one piece."""
        rows, columns = self.chosen
        return len(rows) * len(columns)

    def sharded(self, shard: Shard) -> Self:
        """The same for a process that denoises its share of the patches only."""
        made = copy(self)
        made.shard = shard
        return made

    @property
    def _shape(self) -> tuple[int, int]:
        """(H, W) of the images that the network sees."""
        return self._spec.domain if self.patching is None else self.patching.shape

    def members(self, device: torch.device, most: int | None = None) -> int:
        """Members in a block: ``most``, by default as many as fill a network call with all their patches."""
        return self.batching.members(device, self._shape, self.patches, most)

    def shrink(self, members: int, device: torch.device, error: RuntimeError | MemoryError) -> None:
        """Make blocks smaller after one with so many members ran out of memory (:meth:`Batching.shrink`).

        Raises
        ------
        NoMemoryError
            If one member was too large, or other processes work in step with this one
        RuntimeError | MemoryError
            The error itself, if its cause is another
        """
        check_out_of_memory(error)
        if self.shard is not None:
            raise no_memory(error) from error
        patches = None if self.patching is None else self.batching.images(device, self._shape)
        self.batching.shrink(members, patches, error)

    def given(
        self,
        cond: Tensor,
        mean: Tensor | None,
        together: int = 1,
        label: int | None = None,
        vector: Tensor | None = None,
    ) -> Denoise:
        """The denoiser of the domain for one conditioning, or one per member.

        Parameters
        ----------
        cond, mean : Tensor, Tensor | None
            ``[1 or m, Cc, H', W']`` and ``[1 or m, Co, H', W']``, normalised
        together : int, optional
            Most members in a call of the result
        label : int | None, optional
            Of the lead time
        vector : Tensor | None, optional
            Scalar conditions ``[1 or m, K]``

        Raises
        ------
        InputError
            If the package has no diffusion network
        """
        net = self._denoiser
        if net is None:
            raise InputError("the package has no diffusion network")
        seen = cond if mean is None or not self._spec.hr_mean_conditioning else torch.cat([mean, cond], dim=1)
        position = net.position_at(label, cond.device)
        if self.patching is None:
            given: Any = net.given
            denoise: Denoise = given(seen, position, *(() if vector is None else (vector,)))
            return denoise
        position = net.position() if position is None else position
        inputs = PatchInputs(seen, cond if self.whole else None, position)
        batch = self.batching.images(cond.device, self._shape)
        shard = self.shard or Shard()
        need = self._conditioning_bytes(inputs, min(batch, together)) // shard.size
        keep = self.batching.keeps(need, cond.device)
        self._log(self.patching, need, keep)
        share, chosen = (shard.rank, shard.size), self.chosen
        network: Any = net.given
        return patched(network, self.patching, inputs, self.window, batch, keep, share, shard.reduce, chosen)

    def _log(self, patching: PatchGeometry, need: int, keep: bool) -> None:
        """One line about the patches, once."""
        rows, columns = map(len, self.chosen)
        text = f"{rows} x {columns} patches of {self}; {need / 1e9:.1f} GB of conditioning "
        text += "kept" if keep else "cut out at each call"
        if text != self._logged and not patching.single:
            logger.info("the denoiser sees the domain in {}", text)
        self._logged = text

    def _conditioning_bytes(self, inputs: PatchInputs, together: int) -> int:
        """Bytes of what the patches are conditioned on, float32."""
        fields = (inputs.cond, inputs.whole, inputs.position)
        channels = sum(field.shape[1] for field in fields if field is not None)
        h, w = self._shape
        return 4 * channels * h * w * self.patches * together
