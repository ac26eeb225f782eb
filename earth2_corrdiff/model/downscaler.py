# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: coarse fields in, an ensemble of fine fields out. Tensors only; read this file first.

Dimensions
----------
B      cases (times), M members, C coarse variables, Co fine variables, Cc conditioning channels
h, w   coarse grid; H, W fine grid
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import check_out_of_memory
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.model.batching import no_memory
from earth2_corrdiff.model.diffusion.noise import MemberNoise
from earth2_corrdiff.model.diffusion.solvers import Denoise, sample
from earth2_corrdiff.model.domain_denoiser import DomainDenoiser, Shard
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics, check_count
from earth2_corrdiff.networks.embeddings import position_features
from earth2_corrdiff.networks.fast.accelerate import accelerate, resolve
from earth2_corrdiff.networks.fast.memory_plan import AUTO
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, set_precision

Progress = Callable[[int], None]
Leads = Sequence[float | None] | None  # hours, one per case


class Prepared(NamedTuple):
    """A case as its members share it, from :meth:`Downscaler.prepare` for :meth:`Downscaler.sample`.

    Attributes
    ----------
    cond : Tensor
        Conditioning ``[1, Cc, H, W]``, normalised
    mean : Tensor
        The regression's ``[1, Co, H, W]``, normalised
    label : int | None
        Of the lead time, for networks that were trained with lead times
    """

    cond: Tensor
    mean: Tensor
    label: int | None = None


class Downscaler(nn.Module):
    """CorrDiff: the regression's mean plus a sampled residual. Safe to call from several threads.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of the package
    regression, denoiser : Regression, Denoiser
        Its two networks
    precision : {"auto", "fp32", "bf16", "fp16"}, optional
        Of the networks; "auto", the default, is the fastest that keeps the error rule on the device
        (see ``accelerate.resolve``), and "fp32" the reference, with the sampler's state in float64
    accelerated : bool, optional
        Run the networks fast (see ``accelerate``), by default; otherwise operation by operation as
        upstream does, which gives its bits in fp32

    Attributes
    ----------
    sampling : Sampling
        Solver, steps and noise range of calls that name no other
    domain : DomainDenoiser
        The denoiser of the domain: whole or in patches, and how they are averaged

    Raises
    ------
    InputError
        If the networks do not fit the package's metadata (see ``packages/check.py``)

    Source: Mardani et al., arXiv 2309.15214; ``earth2studio.models.dx.CorrDiff``.
    """

    center_in: Tensor
    scale_in: Tensor
    center_out: Tensor
    scale_out: Tensor
    invariants: Tensor
    position: Tensor

    def __init__(
        self,
        spec: CorrDiffSpec,
        regression: Regression,
        denoiser: Denoiser,
        precision: str = "auto",
        accelerated: bool = True,
    ) -> None:
        super().__init__()
        self.spec, self.sampling, self.accelerated = spec, spec.sampling, accelerated
        self._asked = precision if accelerated or precision != "auto" else "fp32"
        self.regrid = Regridder(spec.input_grid, spec.output_grid, spec.grid_bounds_margin)
        for net in (regression, denoiser):
            if not accelerated:
                set_precision(net, self._asked)
            # upstream's layout: other convolution kernels round differently, and GPUs want it
            net.to(memory_format=torch.channels_last)
        self.regression = accelerate(regression, precision, AUTO) if accelerated else regression
        self.denoiser = accelerate(denoiser, precision) if accelerated else denoiser
        for net in (self.regression, self.denoiser):
            net.exact = self._asked == "fp32"
        self.domain = DomainDenoiser(spec, self.regression, self.denoiser)
        self._register(spec)

    def _register(self, spec: CorrDiffSpec) -> None:
        def column(*stats: Statistics, part: str) -> Tensor:
            values = [v for s in stats for v in getattr(s, part)]
            return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)

        invariants = torch.empty(0, *spec.output_grid.shape)
        if spec.invariant_fields is not None:
            invariants = torch.as_tensor(spec.invariant_fields, dtype=torch.float32)
        position = torch.empty(0, *spec.output_grid.shape)
        if spec.regression_grid:
            position = torch.from_numpy(position_features("sinusoidal", 4, spec.output_grid.shape))
        buffers = {
            "center_in": column(spec.inputs, spec.invariants, part="center"),
            "scale_in": column(spec.inputs, spec.invariants, part="scale"),
            "center_out": column(spec.outputs, part="center"),
            "scale_out": column(spec.outputs, part="scale"),
            "invariants": invariants[None],
            "position": position[None],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def precision(self) -> str:
        """The networks' precision on their device: ``fp32``, ``bf16`` or ``fp16``."""
        return resolve(self._asked, self.denoiser, self.device)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.center_in.device

    def condition(self, coarse: Tensor) -> Tensor:
        """Regrid, append the invariants, normalise: ``[B, C, h, w]`` physical → ``[B, Cc, H, W]``."""
        fine = self.regrid(coarse)
        fine = torch.cat([fine, self.invariants.expand(fine.shape[0], -1, -1, -1)], dim=1)
        cond = ((fine - self.center_in) / self.scale_in).to(torch.float32)
        return cond.contiguous(memory_format=torch.channels_last)

    def normalised_mean(self, cond: Tensor, label: int | None = None) -> Tensor:
        """The regression alone, normalised: ``[B, Cc, H, W] → [B, Co, H, W]``; ``label`` of the lead time."""
        position = self.position.expand(cond.shape[0], -1, -1, -1)
        at = self.regression.position_at(label, cond.device)
        mean: Tensor = self.regression(torch.cat([cond, position], dim=1), at)
        return mean

    def residual(
        self,
        cond: Tensor,
        mean: Tensor,
        seeds: Sequence[int],
        progress: Progress | None = None,
        label: int | None = None,
        noise: MemberNoise | None = None,
        sampling: Sampling | None = None,
    ) -> Tensor:
        """Sample one residual per seed, normalised: ``[m, Co, H, W]``.

        ``cond`` and ``mean`` are those of all members, ``[1, …]``, or of each, ``[m, …]``; ``noise`` is that
        of :meth:`noise`, where its drawing has begun.
        """
        s = sampling or self.sampling
        noise = self.noise(seeds, s) if noise is None else noise
        given = self.domain.given(cond, mean, 1 if self.one_by_one else len(seeds), label)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            clean = self._denoise(given, x, sigma)
            if progress is not None:
                progress(len(seeds))
            return clean

        dtype = torch.float64 if s.double and self._asked == "fp32" else torch.float32
        return sample(
            denoise,
            noise(),
            s.sigmas(self.denoiser.sigma_min, self.denoiser.sigma_max, dtype),
            s.solver,
            sigma_data=self.denoiser.sigma_data,
            churn=s.churn,
            draw=noise,
            clip=s.clip if s.schedule == "rectified_flow" else None,
            dtype=dtype,
        )

    def noise(self, seeds: Sequence[int], sampling: Sampling | None = None) -> MemberNoise:
        """The noise of members ``[m, Co, H, W]``; for a GPU its drawing begins now, beside the regression."""
        shape = (len(self.spec.outputs.names), *self.spec.output_grid.shape)
        return MemberNoise(seeds, shape, self.device, (sampling or self.sampling).noise).begin()

    @property
    def one_by_one(self) -> bool:
        """True on the CPU: a batch is not faster, and a member's bits must not depend on its company."""
        return self.device.type == "cpu"

    def _denoise(self, given: Denoise, x: Tensor, sigma: float) -> Tensor:
        if self.one_by_one:
            return torch.cat([given(member[None], sigma) for member in x])
        return given(x, sigma)

    def physical(self, normalised: Tensor) -> Tensor:
        """Undo the output's normalisation; float32."""
        return (self.scale_out * normalised + self.center_out).to(torch.float32)

    def batch_size(self, max_batch: int | None = None) -> int:
        """Members in a block: ``max_batch``, by default what suits the device; fewer once memory ran out."""
        return self.domain.members(
            self.device, None if max_batch is None else check_count("max_batch", max_batch)
        )

    def sharded(self, shard: Shard) -> Self:
        """The same networks for a process that denoises its share of the patches only."""
        made = copy(self)
        made.domain = self.domain.sharded(shard)
        return made

    @torch.inference_mode()
    def mean(self, coarse: Tensor, lead_hours: Leads = None) -> Tensor:
        """The regression alone in physical units: ``[B, C, h, w] → [B, Co, H, W]``."""
        cases = zip(self._check_input(coarse), self._labels(len(coarse), lead_hours), strict=True)
        return torch.cat([self.physical(self._prepared(*case).mean) for case in cases])

    @torch.inference_mode()
    def members(
        self,
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield members as soon as they are done.

        Parameters
        ----------
        coarse : Tensor
            ``[B, C, h, w]`` in physical units, in the order of ``spec.inputs``
        seeds : Sequence[int]
            One seed per member, the same for every case
        max_batch : int | None, optional
            Most members in one network call; halved when memory runs out. By default 1 on the CPU,
            and on a GPU what its free memory holds
        progress : Callable[[int], None], optional
            Called after each network evaluation with the number of members in it
        lead_hours : Sequence[float | None] | None, optional
            Lead time of each case, for networks that were trained with lead times
        sampling : Sampling | None, optional
            How to sample, by default as the attribute ``sampling``

        Yields
        ------
        tuple[int, int, Tensor]
            Index of the case, index of the block's first member, and the block ``[m, Co, H, W]``

        Raises
        ------
        InputError
            If there are no seeds, the input has another shape, the networks were not trained for a lead time,
            or one member alone does not fit the memory
        """
        check_count("the number of samples", len(seeds))
        sampling = sampling or self.sampling
        labels = self._labels(len(coarse), lead_hours)
        for b, x in enumerate(self._check_input(coarse)):
            noise = None  # of the first block; on a GPU it is drawn while the regression runs
            if self.spec.inference_mode != "regression":
                noise = self.noise(seeds[: self.batch_size(max_batch)], sampling)
            case, first = self._prepared(x, labels[b]), 0
            rows = [(case, seed) for seed in seeds]
            for block in self.blocks(rows, max_batch, progress, sampling, noise):
                yield b, first, block
                first += len(block)

    def _labels(self, cases: int, lead_hours: Leads) -> list[int | None]:
        """The label of each case's lead time; None for networks that were trained without."""
        if lead_hours is not None and len(lead_hours) != cases:
            raise InputError(f"{cases} cases need as many lead times, got {len(lead_hours)}")
        return [self.spec.lead_label(hours) for hours in lead_hours or [None] * cases]

    @torch.inference_mode()
    def prepare(self, x: Tensor, lead_hours: float | None = None) -> Prepared:
        """The conditioning and the regression of one case, which its members share.

        Parameters
        ----------
        x : Tensor
            ``[1, C, h, w]`` in physical units, in the order of ``spec.inputs``
        lead_hours : float | None, optional
            Lead time, for networks that were trained with lead times

        Raises
        ------
        InputError
            If the input has another shape, the networks were not trained for the lead time,
            or the memory is too small
        """
        (case,) = self._check_input(x)
        return self._prepared(case, self.spec.lead_label(lead_hours))

    def _prepared(self, x: Tensor, label: int | None) -> Prepared:
        try:
            cond = self.condition(x)
            return Prepared(cond, self.normalised_mean(cond, label), label)
        except (RuntimeError, MemoryError) as error:
            check_out_of_memory(error)
            raise no_memory(error) from error

    @torch.inference_mode()
    def blocks(
        self,
        rows: Sequence[tuple[Prepared, int]],
        max_batch: int | None = None,
        progress: Progress | None = None,
        sampling: Sampling | None = None,
        noise: MemberNoise | None = None,
    ) -> Iterator[Tensor]:
        """Yield the members of rows in order, block by block; blocks become smaller when memory runs out.

        Parameters
        ----------
        rows : Sequence[tuple[Prepared, int]]
            A case and a seed per member
        max_batch, progress, sampling
            As for :meth:`members`; ``progress`` may raise to give up
        noise : MemberNoise | None, optional
            Of :meth:`noise` for the first block, where its drawing has begun

        Yields
        ------
        Tensor
            The next members ``[m, Co, H, W]`` in physical units

        Raises
        ------
        NoMemoryError
            If one member alone does not fit the memory
        """
        first = 0
        while first < len(rows):
            some = rows[first : first + self.batch_size(max_batch)]
            begun, noise = noise, None
            try:
                block = self.sample(some, sampling, progress, begun)
            except (RuntimeError, MemoryError) as error:
                self.domain.shrink(len(some), self.device, error)
                continue
            yield block
            first += len(some)

    @torch.inference_mode()
    def sample(
        self,
        rows: Sequence[tuple[Prepared, int]],
        sampling: Sampling | None = None,
        progress: Progress | None = None,
        noise: MemberNoise | None = None,
    ) -> Tensor:
        """Members of one or several cases, as far as possible in the same network calls.

        Parameters
        ----------
        rows : Sequence[tuple[Prepared, int]]
            A case of :meth:`prepare` and a seed per member
        sampling : Sampling | None, optional
            How to sample, by default as the attribute ``sampling``
        progress : Callable[[int], None] | None, optional
            Called after each network evaluation with the number of members in it; may raise to give up
        noise : MemberNoise | None, optional
            Of :meth:`noise` for the seeds of one case, where its drawing has begun

        Returns
        -------
        Tensor
            ``[m, Co, H, W]`` in physical units

        Raises
        ------
        RuntimeError, MemoryError
            If memory runs out: :meth:`blocks` goes on with fewer rows then
        """

        def company(row: tuple[Prepared, int]) -> object:
            return id(row[0]) if self.one_by_one else row[0].label

        groups = [list(some) for _, some in groupby(rows, company)]
        parts = [self._together(some, sampling or self.sampling, progress, noise) for some in groups]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _together(
        self,
        rows: list[tuple[Prepared, int]],
        sampling: Sampling,
        progress: Progress | None,
        noise: MemberNoise | None,
    ) -> Tensor:
        """Members of one case, or of several with one label, in the same network calls."""
        cases, seeds = [case for case, _ in rows], [seed for _, seed in rows]
        cond, mean, label = cases[0]
        if any(case is not cases[0] for case in cases):
            cond, mean = torch.cat([case.cond for case in cases]), torch.cat([case.mean for case in cases])
        mode = self.spec.inference_mode
        if mode == "regression":
            return self.physical(mean.expand(len(seeds), -1, -1, -1))
        if noise is not None and len(noise.generators) != len(seeds):  # the batch has changed since
            noise = None
        residual = self.residual(cond, mean, seeds, progress, label, noise, sampling)
        return self.physical(residual if mode == "diffusion" else mean + residual)

    def forward(
        self,
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
    ) -> Tensor:
        """All members at once: ``[B, C, h, w] → [B, M, Co, H, W]`` float32, physical units.

        Parameters and errors are those of :meth:`members`.
        """
        shape = (len(coarse), len(seeds), len(self.spec.outputs.names), *self.spec.output_grid.shape)
        out = torch.empty(shape, dtype=torch.float32, device=coarse.device)
        for b, first, block in self.members(coarse, seeds, max_batch, progress, lead_hours, sampling):
            out[b, first : first + len(block)] = block
        return out

    def _check_input(self, coarse: Tensor) -> tuple[Tensor, ...]:
        want = (len(self.spec.inputs.names), *self.spec.input_grid.shape)
        if coarse.ndim != 4 or tuple(coarse.shape[1:]) != want or not len(coarse):
            raise InputError(
                f"the input must have the shape [B, {', '.join(map(str, want))}], got {list(coarse.shape)}"
            )
        return torch.split(coarse.to(self.device), 1)
