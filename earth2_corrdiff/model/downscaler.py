# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: coarse fields in, an ensemble of fine fields out. Tensors only; read this file first.

Dimensions
----------
B      cases (times), M members, C coarse variables, Co fine variables, Cc conditioning channels
h, w   coarse grid; H, W fine grid; H', W' what the networks see: the fine grid, in some packages padded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from itertools import groupby
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import check_out_of_memory
from earth2_corrdiff.base.regrid import IndexRegridder, Regridder
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.batching import no_memory
from earth2_corrdiff.model.calibration import Calibration
from earth2_corrdiff.model.conditioning import Conditioning, interpolated, unframed
from earth2_corrdiff.model.diffusion.noise import MemberNoise
from earth2_corrdiff.model.diffusion.solvers import Denoise, sample
from earth2_corrdiff.model.domain_denoiser import DomainDenoiser, Shard
from earth2_corrdiff.model.packages.check import check_stages
from earth2_corrdiff.model.physical import PhysicalFields, fields_of
from earth2_corrdiff.model.prepared import Prepared, joined, masked
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, check_count
from earth2_corrdiff.networks.embeddings import position_features
from earth2_corrdiff.networks.fast.accelerate import accelerate, resolve
from earth2_corrdiff.networks.fast.memory_plan import AUTO
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, set_precision

_Part = TypeVar("_Part")
Progress = Callable[[int], None]
Leads = Sequence[float | None] | None  # hours, one per case
ValidTimes = Sequence[Any] | Times | None  # what NumPy takes for a time in UTC, one per case


def _present(part: _Part | None, stage: str) -> _Part:
    if part is None:
        raise InputError(f"the package has no {stage} network")
    return part


class Downscaler(nn.Module):
    """CorrDiff: the regression's mean plus a sampled residual. Safe to call from several threads.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of the package
    regression, denoiser : Regression | None, Denoiser | None
        Its networks; one of them may be absent, where ``spec.inference_mode`` does not need it
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
    context : Callable[[], AbstractContextManager]
        Makes the context of the networks' calls, by default none
    calibration : Calibration | None
        Corrects members about the regression, by default none

    Raises
    ------
    InputError
        If the networks do not fit the package's metadata (see ``packages/check.py``)

    Source: Mardani et al., arXiv 2309.15214; ``earth2studio.models.dx.CorrDiff``.
    """

    conditioning: Conditioning
    fields: PhysicalFields
    position: Tensor

    def __init__(
        self,
        spec: CorrDiffSpec,
        regression: Regression | None,
        denoiser: Denoiser | None,
        precision: str = "auto",
        accelerated: bool = True,
    ) -> None:
        super().__init__()
        self.context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.sampling, self.accelerated = spec.sampling, accelerated
        self.calibration: Calibration | None = None
        self._asked = precision if accelerated or precision != "auto" else "fp32"
        conditioning = Conditioning(spec)  # before any work on the networks: it checks the grids
        for net in (regression, denoiser):
            if net is None:
                continue
            if not accelerated:
                set_precision(net, self._asked)
            # upstream's layout: other convolution kernels round differently, and GPUs want it
            net.to(memory_format=torch.channels_last)
        if accelerated:
            regression = None if regression is None else accelerate(regression, precision, AUTO)
            denoiser = None if denoiser is None else accelerate(denoiser, precision)
        self._regression, self._denoiser = regression, denoiser
        for net in self.networks:
            net.exact = self._asked == "fp32"
        self._settle(spec, conditioning)

    def _settle(self, spec: CorrDiffSpec, conditioning: Conditioning) -> None:
        """Everything that belongs to the domain."""
        self.spec, self.conditioning, self.fields = spec, conditioning, fields_of(spec)
        self.domain = DomainDenoiser(spec, self._regression, self._denoiser)
        position = torch.empty(0, *spec.domain)
        if spec.regression_grid:
            position = torch.from_numpy(position_features("sinusoidal", 4, spec.domain))
        self.register_buffer("position", position[None], persistent=False)

    def on(self, spec: CorrDiffSpec) -> Self:
        """The same networks for another domain, without the hooks: for a specification from ``region.cut``.

        Raises
        ------
        InputError
            If the networks do not fit it
        """
        made, device = copy(self), self.device
        made._modules, made._buffers = dict(self._modules), dict(self._buffers)
        for hook in ("condition", "physical", "normalised_mean", "residual"):
            made.__dict__.pop(hook, None)
        made._settle(spec, Conditioning(spec))
        made.fields.clamp = self.fields.clamp
        return made.to(device)

    @property
    def center_out(self) -> Tensor:
        """Center of the output's normalisation, ``[1, Co, 1, 1]``."""
        return self.fields.center

    @property
    def scale_out(self) -> Tensor:
        """Scale of the output's normalisation, ``[1, Co, 1, 1]``."""
        return self.fields.scale

    @property
    def networks(self) -> tuple[Regression | Denoiser, ...]:
        """The regression and the denoiser, as far as the package has them."""
        return tuple(net for net in (self._regression, self._denoiser) if net is not None)

    @property
    def regression(self) -> Regression:
        """The network of the mean; InputError where the package has none."""
        return _present(self._regression, "regression")

    @property
    def denoiser(self) -> Denoiser:
        """The diffusion network; InputError where the package has none."""
        return _present(self._denoiser, "diffusion")

    @property
    def inference_mode(self) -> str:
        """Which of the two stages make the output: ``both``, ``regression`` or ``diffusion``."""
        return self.spec.inference_mode

    @inference_mode.setter
    def inference_mode(self, value: str) -> None:
        spec = replace(self.spec, inference_mode=value)
        check_stages(spec, self._regression, self._denoiser)
        self.spec = spec

    @property
    def regrid(self) -> Regridder | IndexRegridder:
        """Regridding of coarse fields: that of the conditioning."""
        return self.conditioning.regrid

    @property
    def precision(self) -> str:
        """The networks' precision on their device: ``fp32``, ``bf16`` or ``fp16``."""
        return resolve(self._asked, self.networks[-1], self.device)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.center_out.device

    def condition(self, coarse: Tensor, valid: Times | None = None) -> Tensor:
        """Conditioning ``[B, Cc, H', W']`` of coarse fields and valid times: see :class:`Conditioning`."""
        cond: Tensor = self.conditioning(coarse, valid)
        return cond

    def normalised_mean(self, cond: Tensor, label: int | None = None, vector: Tensor | None = None) -> Tensor:
        """The regression alone, normalised: ``[B, Cc, H', W'] → [B, Co, H', W']``.

        ``label`` is that of the lead time, ``vector`` the scalar conditions ``[B, K]``.
        """
        position = self.position.expand(cond.shape[0], -1, -1, -1)
        at = self.regression.position_at(label, cond.device)
        scalars = () if vector is None else (vector,)
        mean: Tensor = self.regression(torch.cat([cond, position], dim=1), at, *scalars)
        return mean + interpolated(self.spec, cond) if self.spec.differences else mean

    def residual(
        self,
        cond: Tensor,
        mean: Tensor | None,
        seeds: Sequence[int],
        progress: Progress | None = None,
        label: int | None = None,
        noise: MemberNoise | None = None,
        sampling: Sampling | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Sample one residual per seed, normalised: ``[m, Co, H', W']``.

        ``cond``, ``mean`` and ``vector`` are those of all members, ``[1, …]``, or of each, ``[m, …]``;
        ``noise`` is that of :meth:`noise`, where its drawing has begun.
        """
        s = sampling or self.sampling
        s.check_network(self.spec.sampling)
        noise = self.noise(seeds, s) if noise is None else noise
        given = self.domain.given(cond, mean, 1 if self.one_by_one else len(seeds), label, vector)

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
        """Noise of members ``[m, Co, H', W']``; for a GPU its drawing begins now, beside the regression."""
        shape = (len(self.spec.outputs.names), *self.spec.domain)
        return MemberNoise(seeds, shape, self.device, (sampling or self.sampling).noise).begin()

    @property
    def one_by_one(self) -> bool:
        """True on the CPU: a batch is not faster, and a member's bits must not depend on its company."""
        return self.device.type == "cpu"

    def _denoise(self, given: Denoise, x: Tensor, sigma: float) -> Tensor:
        if self.one_by_one:
            return torch.cat([given(member[None], sigma) for member in x])
        return given(x, sigma)

    def physical(self, normalised: Tensor, case: Prepared | None = None) -> Tensor:
        """Physical fields ``[m, Co, H, W]`` float32 of ``[m, Co, H', W']`` and the case, or one per member.

        Winds at hub heights follow, where they are asked for. NaN where the case has no input.
        """
        sun = None
        if self.fields.gated and case is not None and case.valid is not None:
            sun = self.spec.inner(self.conditioning.sun(case.valid))
        return masked(self.fields(unframed(self.spec, normalised), sun), case)

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
    def mean(self, coarse: Tensor, lead_hours: Leads = None, valid_times: ValidTimes = None) -> Tensor:
        """The regression alone in physical units: ``[B, C, h, w] → [B, Co, H, W]``."""
        cases = [self._prepared(*case) for case in self._cases(coarse, lead_hours, valid_times)]
        return torch.cat([self.spec.kept(self.physical(self.mean_of(case), case)) for case in cases])

    @torch.inference_mode()
    def members(
        self,
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
        valid_times: ValidTimes = None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield members as soon as they are done.

        Parameters
        ----------
        coarse : Tensor
            ``[B, C, h, w]`` in physical units, in the order of ``spec.inputs``; ``[B, L, C, h, w]`` for
            packages with several ``input_hours``
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
        valid_times : Sequence[np.datetime64] | None, optional
            Valid time of each case, UTC, for packages that make use of it

        Yields
        ------
        tuple[int, int, Tensor]
            Index of the case, index of the block's first member, and the block ``[m, Co, H, W]``, NaN where
            the input is missing (see :meth:`Conditioning.missing`)

        Raises
        ------
        InputError
            If there are no seeds, the input has another shape, the networks were not trained for a lead time,
            or one member alone does not fit the memory
        """
        check_count("the number of samples", len(seeds))
        sampling = sampling or self.sampling
        for b, given in enumerate(self._cases(coarse, lead_hours, valid_times)):
            noise = None  # of the first block; on a GPU it is drawn while the regression runs
            if self.spec.inference_mode != "regression":
                noise = self.noise(seeds[: self.batch_size(max_batch)], sampling)
            case, first = self._prepared(*given), 0
            rows = [(case, seed) for seed in seeds]
            for block in self.blocks(rows, max_batch, progress, sampling, noise):
                yield b, first, block
                first += len(block)

    def _cases(
        self, coarse: Tensor, lead_hours: Leads, valid_times: ValidTimes
    ) -> list[tuple[Tensor, int | None, Times]]:
        """Each case's input ``[1, …]``, label of its lead time (None for networks without) and valid time."""
        cases = len(coarse)
        if lead_hours is not None and len(lead_hours) != cases:
            raise InputError(f"{cases} cases need as many lead times, got {len(lead_hours)}")
        labels = [self.spec.lead_label(hours) for hours in lead_hours or [None] * cases]
        times = self.conditioning.times(None if valid_times is None else np.asarray(valid_times), cases)
        return list(zip(self._check_input(coarse), labels, times[:, None], strict=True))

    @torch.inference_mode()
    def prepare(self, x: Tensor, lead_hours: float | None = None, valid: Any = None) -> Prepared:
        """The conditioning and the regression of one case, which its members share.

        Parameters
        ----------
        x : Tensor
            ``[1, C, h, w]``, or ``[1, L, C, h, w]``, as for :meth:`members`
        lead_hours : float | None, optional
            Lead time, for networks that were trained with lead times
        valid : np.datetime64 | None, optional
            Valid time, UTC, for packages that make use of it

        Raises
        ------
        InputError
            If the input has another shape, the networks were not trained for the lead time,
            or the memory is too small
        """
        (case,) = self._cases(x, [lead_hours], None if valid is None else [valid])
        return self._prepared(*case)

    def _prepared(self, x: Tensor, label: int | None, valid: Times) -> Prepared:
        try:
            cond, vector = self.condition(x, valid), self.conditioning.vector(valid)
            with self.context():
                mean = None if self._regression is None else self.normalised_mean(cond, label, vector)
            return Prepared(cond, mean, label, vector, valid, self.conditioning.missing(x))
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
        case, seeds = joined([case for case, _ in rows]), [seed for _, seed in rows]
        mode = self.spec.inference_mode
        if mode == "regression":
            fields = self.mean_of(case).expand(len(seeds), -1, -1, -1)
            return self.spec.kept(self.physical(fields, case))  # type: ignore[no-any-return]
        if noise is not None and len(noise.generators) != len(seeds):  # the batch has changed since
            noise = None
        cond, mean, label, vector, *_ = case
        with self.context():
            residual = self.residual(cond, mean, seeds, progress, label, noise, sampling, vector)
        sampled = residual if mode == "diffusion" else self.mean_of(case) + residual
        members: Tensor = self.spec.kept(self.physical(sampled, case))
        if self.calibration is None:
            return members
        mean = self.spec.kept(self.physical(self.mean_of(case), case))
        place = self.calibration.place(self.spec.output_grid, case.valid)
        return self.calibration(members, mean, self.spec.output_variables, place)

    def mean_of(self, case: Prepared) -> Tensor:
        """The regression of a case, normalised ``[1, Co, H', W']``; InputError where there is none."""
        return _present(case.mean, "regression")

    def forward(
        self,
        coarse: Tensor,
        seeds: Sequence[int],
        max_batch: int | None = None,
        progress: Progress | None = None,
        lead_hours: Leads = None,
        sampling: Sampling | None = None,
        valid_times: ValidTimes = None,
    ) -> Tensor:
        """All members at once: ``[B, C, h, w] → [B, M, Co, H, W]`` float32, physical units.

        Parameters and errors are those of :meth:`members`.
        """
        shape = (len(coarse), len(seeds), len(self.spec.output_variables), *self.spec.output_grid.shape)
        out = torch.empty(shape, dtype=torch.float32, device=coarse.device)
        blocks = self.members(coarse, seeds, max_batch, progress, lead_hours, sampling, valid_times)
        for b, first, block in blocks:
            out[b, first : first + len(block)] = block
        return out

    def _check_input(self, coarse: Tensor) -> tuple[Tensor, ...]:
        want = self.spec.input_shape
        if tuple(coarse.shape[1:]) != want or not len(coarse):
            raise InputError(
                f"the input must have the shape [B, {', '.join(map(str, want))}], got {list(coarse.shape)}"
            )
        return torch.split(coarse.to(self.device), 1)
