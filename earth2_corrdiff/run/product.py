# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The product of a run: members and outputs of its cases, their size, and the layout of the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.spec import check_count
from earth2_corrdiff.run.options import Options
from earth2_corrdiff.run.provenance import provenance, synthetic_note
from earth2_corrdiff.sources import Forecast, Inputs, Source
from earth2_corrdiff.store.error_bounds import Bound
from earth2_corrdiff.store.layout import Layout, compression, member_seeds
from earth2_corrdiff.store.sizes import Size


class Product:
    """What a run makes.

    Parameters
    ----------
    model : CorrDiff
        The model
    source, cases : Source or Forecast, Cases
        The coarse weather, and the cases of it that are downscaled
    options : Options
        Of the run

    Attributes
    ----------
    samples, sampling : int, Sampling
        Members of each case, and how they are sampled

    Raises
    ------
    InputError
        If there is no such number of members, or the networks were not trained for a lead time
    """

    def __init__(self, model: CorrDiff, source: Source | Forecast, cases: Cases, options: Options) -> None:
        self.model, self.source, self.cases, self.options = model, source, cases, options
        given = options.number_of_samples
        self.samples = model.number_of_samples if given is None else check_count("number_of_samples", given)
        self.sampling = options.sampling or model.downscaler.sampling
        for lead in [None] if cases.leads is None else cases.leads / np.timedelta64(1, "h"):
            model.spec.lead_label(lead)  # raises where the networks were not trained for it
        self._seeds: dict[int, NDArray[np.int64]] = {}

    def check(self) -> None:
        """Refuse bounds, a source or a truth that do not fit the model; InputError."""
        spec = self.model.spec
        _ = self.bounds, self.inputs
        if self.options.scorer is not None:
            self.options.scorer.check(spec.output_grid, spec.output_variables)

    @cached_property
    def inputs(self) -> Inputs:
        """The coarse fields of the cases."""
        return Inputs.of(self.source, self.cases, self.model.spec)

    @cached_property
    def bounds(self) -> dict[str, Bound]:
        """Error bounds of the outputs that are not kept without loss."""
        spec, asked = self.model.spec, self.options.compress
        if asked is None:
            return {}
        if spec.missing_inputs:
            raise InputError(
                "the package's output has no values where its input has none, which a bounded error cannot "
                "keep; leave out --compress"
            )
        means, spreads = np.nan_to_num(spec.physical_statistics).T.tolist()
        return asked.of(spec.output_variables, means, spreads)

    @property
    def calls(self) -> int:
        """Denoising steps of a member."""
        return 0 if self.model.spec.inference_mode == "regression" else self.sampling.calls

    @property
    def text(self) -> str:
        """Outputs and grid, in words."""
        spec = self.model.spec
        (H, W), outputs = spec.output_grid.shape, listed(spec.output_variables)
        return f"{outputs} on {H} x {W} points{synthetic_note(spec, self.source.synthetic)}"

    def size(self, members: int) -> Size:
        """The size of so many members."""
        spec = self.model.spec
        return Size(
            cases=len(self.cases),
            members=members,
            evaluations=members * self.calls,
            outputs=len(spec.output_variables) if self.options.keep == "all" else 0,
            coarse=len(self.inputs.kept),
            points=math.prod(spec.output_grid.shape),
            coarse_points=math.prod(spec.input_grid.shape),
            channels=spec.condition_channels,
            bounded=bool(self.bounds),
        )

    def seeds(self, seed: int) -> NDArray[np.int64]:
        """Seeds of all members of a run's seed, computed once: it takes some 10 μs for each."""
        if seed not in self._seeds:
            self._seeds = {seed: member_seeds(self.cases, seed, self.samples)}
        return self._seeds[seed]

    def provenance(self, seed: int) -> dict[str, Any]:
        """Attributes that describe how the members of a run's seed are made."""
        made = (self.model.downscaler, self.sampling, self.source.name, self.source.synthetic)
        return provenance(*made, seed, self.options.command) | _class(self.model)

    def layout(self, seed: int, lowres: tuple[str, ...], ready: Mapping[int, Tensor] = {}) -> Layout:
        """The layout of the store.

        Parameters
        ----------
        seed : int
            Of the run
        lowres : tuple[str, ...]
            Coarse variables that are kept
        ready : Mapping[int, Tensor], optional
            The input of its first case, of which gaps are recorded
        """
        spec = self.model.spec
        keep, outputs = self.options.keep, spec.output_variables
        static: dict[str, Any] = {}
        if (fields := spec.invariant_fields) is not None:  # they are kept as the networks see them
            fields = fields[:, ::-1].copy() if spec.flip else fields
            static = dict(zip(spec.invariants.names, spec.inner(fields), strict=True))
        return Layout(
            cases=self.cases,
            seeds=self.seeds(seed),
            outputs=outputs if keep == "all" else (),
            means=outputs if keep == "mean" else (),
            lowres=lowres,
            output_grid=spec.output_grid,
            input_grid=spec.input_grid,
            attributes=self.provenance(seed)
            | ({} if keep == "all" else {"keep": keep})
            | compression(self.bounds)
            | self._gaps(ready),
            static=static,
            bounds=self.bounds,
            projected=spec.projected,
            missing=self._missing if spec.missing_inputs else None,
        )

    def _gaps(self, ready: Mapping[int, Tensor]) -> dict[str, str]:
        """Attribute about missing values, and how many the first case has; none where there can be none."""
        if not self.model.spec.missing_inputs:
            return {}
        shares = {self.cases[i]: 100 * self._missing(coarse).float().mean() for i, coarse in ready.items()}
        texts = [f"{share:.3g} % at {case}" for case, share in shares.items()]
        return {
            "missing_values": ", ".join(["NaN where the own coarse cell of the input has no value", *texts])
        }

    def _missing(self, coarse: Tensor) -> Tensor:
        """Output cells ``[Co, H, W]`` without a value, of the coarse fields ``[C (+ 1), h, w]`` of a case."""
        downscaler = self.model.downscaler
        inputs = coarse[None, : len(self.model.input_variables)].to(downscaler.device)
        missing = cast(Tensor, downscaler.conditioning.missing(inputs))
        return cast(Tensor, self.model.spec.kept(missing)[0].cpu())


def _class(model: CorrDiff) -> dict[str, Any]:
    """The class of a model that is a subclass of this package's."""
    kind = type(model)
    foreign = isinstance(model, CorrDiff) and kind.__module__.partition(".")[0] != "earth2_corrdiff"
    return {"model": f"{kind.__module__}:{kind.__qualname__}"} if foreign else {}
