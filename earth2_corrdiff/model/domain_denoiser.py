# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""How the denoiser sees the domain: whole or in patches, all or its share of them, how many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.free_memory import check_out_of_memory, free_bytes, shared_bytes
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, check_window, patched
from earth2_corrdiff.model.diffusion.solvers import Denoise
from earth2_corrdiff.model.packages.check import check_networks, patching_of
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression

Leads = Sequence[float | None] | None  # hours, one per case
MAX_BATCH = 16  # images that share a network call on a GPU where nothing else is asked for
KEPT = 4  # what is kept of all patches may take this part of the free memory


@dataclass(frozen=True)
class Shard:
    """A process's share of the patches, where several work on the same members in lock-step.

    Attributes
    ----------
    rank, size : int
        Which of how many
    reduce : Callable[[Tensor], Tensor] | None
        Sum over all processes, which may be written into its argument; called once a step
    tell : Callable, optional
        Told by the one that leads, before it starts, what all shall compute: the arguments ``coarse``,
        ``seeds``, ``max_batch`` and ``lead_hours`` of ``Downscaler.members``
    """

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    tell: Callable[[Tensor, Sequence[int], int, Leads], None] | None = None


class DomainDenoiser:
    """How the denoiser sees the domain.

    Parameters
    ----------
    spec : CorrDiffSpec
        What the package says
    regression, denoiser : Regression, Denoiser
        Its networks

    Attributes
    ----------
    whole : bool
        Whether every patch is shown the inputs of the whole domain, too
    shard : Shard | None
        This process's share of the patches; None for all of them

    Raises
    ------
    InputError
        If the networks do not fit what the package says (see ``packages/check.py``)
    """

    def __init__(self, spec: CorrDiffSpec, regression: Regression, denoiser: Denoiser) -> None:
        self._spec, self._denoiser = spec, denoiser
        self.whole = check_networks(spec, regression, denoiser)
        self.patching, self.window = spec.patching, "flat"
        self.shard: Shard | None = None
        self._most, self._last, self._keep, self._said = MAX_BATCH, 1, True, ""
        self._fitting: dict[tuple[torch.device, tuple[int, int]], int] = {}

    @property
    def patching(self) -> PatchGeometry | None:
        """The patches of the domain; None where the denoiser sees it in one piece."""
        return self._patching

    @patching.setter
    def patching(self, value: PatchGeometry | None) -> None:
        if value is None and self.whole:  # it wants the domain's inputs twice
            value = PatchGeometry(self._spec.output_grid.shape, self._spec.output_grid.shape)
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
        return f"{h} x {w}, overlap {p.overlap}, boundary {p.boundary}, {self.window} window"

    def images(self, device: torch.device) -> int:
        """Domains, or patches, that share a network call.

        One on the CPU, where company is no gain; on a GPU what half of its free memory holds, at most
        ``MAX_BATCH``: beyond it the GPU has been busy for long. It is chosen at the first call for a device
        and a shape and stays: another batch would be captured anew, and round otherwise. Fewer go
        together only after memory has run out.
        """
        if device.type != "cuda":
            return 1
        shape = self._spec.output_grid.shape if self.patching is None else self.patching.shape
        if (device, shape) not in self._fitting:
            free = free_bytes(device)
            room = (free + min(free, shared_bytes(device))) // 2  # it is warmed up beside what is shared
            self._fitting[device, shape] = max(1, room // self._denoiser.member_bytes(shape))
        return min(self._most, self._fitting[device, shape])

    def members(self, device: torch.device) -> int:
        """Members that go together: as many as fill a call, with all their patches."""
        images = self.images(device)
        return images if self.patching is None else max(1, images // len(self.patching.patches))

    def given(self, cond: Tensor, mean: Tensor, together: int = 1, label: int | None = None) -> Denoise:
        """The denoiser of the domain for one conditioning ``[1, Cc, H, W]`` and mean ``[1, Co, H, W]``.

        ``together`` members go through a call of the result at most; ``label`` is that of the lead time.
        """
        seen = torch.cat([mean, cond], dim=1) if self._spec.hr_mean_conditioning else cond
        position = self._denoiser.position_at(label, cond.device)
        if self.patching is None:
            return self._denoiser.given(seen, position)
        position = self._denoiser.position() if position is None else position
        inputs = PatchInputs(seen, cond if self.whole else None, position)
        self._last, whose = self.images(cond.device), self.shard or Shard()
        need = _prepared(inputs, self.patching, min(self._last, together)) // whose.size
        keep = self._keep and need < free_bytes(cond.device) // KEPT
        self._say(f"{need / 1e9:.1f} GB of conditioning " + ("kept" if keep else "cut out at each call"))
        shard, reduce = (whose.rank, whose.size), whose.reduce
        return patched(
            self._denoiser.given, self.patching, inputs, self.window, self._last, keep, shard, reduce
        )

    def smaller(self, batch: int, error: RuntimeError | MemoryError) -> int:
        """Members of the next block after one ran out of memory; of patches, fewer go at once first.

        Raises
        ------
        InputError
            If nothing is left to be halved, or other processes count on this one
        RuntimeError | MemoryError
            The same, if it says something else
        """
        check_out_of_memory(error)
        patches = self.patching is not None and (self._keep or self._last > 1)
        if self.shard is not None or (batch == 1 and not patches):
            raise no_room(error) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if patches:
            self._keep, self._most = False, max(1, self._last // 2)
            what = "out of memory with {} at once; going on with {}, cut out at each call"
            logger.warning(what, "1 patch" if self._last == 1 else f"{self._last} patches", self._most)
            return batch
        logger.warning("out of memory with {} members at once; going on with {}", batch, batch // 2)
        self._most = min(self._most, batch // 2)  # for the next cases, too
        return batch // 2

    def _say(self, kept: str) -> None:
        """One line about what was chosen, once."""
        assert self.patching is not None  # noqa: S101 (for the type checker)
        rows, columns = self.patching.counts
        text = f"{rows} x {columns} patches of {self}; {kept}"
        if text != self._said and not self.patching.single:
            logger.info("the denoiser sees the domain in {}", text)
        self._said = text


def _prepared(inputs: PatchInputs, geometry: PatchGeometry, together: int) -> int:
    """Bytes of what all patches are conditioned on, float32."""
    fields = (inputs.cond, inputs.whole, inputs.position)
    channels = sum(field.shape[1] for field in fields if field is not None)
    h, w = geometry.shape
    return 4 * channels * h * w * len(geometry.patches) * together


def no_room(error: RuntimeError | MemoryError) -> InputError:
    """What to raise where one member alone is too large."""
    return InputError(f"one member alone does not fit the memory ({first_line(error)})")
