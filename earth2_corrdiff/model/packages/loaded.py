# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A package in memory, with networks from its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.architectures import DENOISERS, REGRESSIONS
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, DiTFlow, Regression, Wrap, build


@dataclass(frozen=True)
class Loaded:
    """A package in memory: its metadata and its networks, one of which may be absent.

    ``precision`` is that of calls that name none: "auto", or "fp32" where the package allows no other.
    """

    spec: CorrDiffSpec
    regression: Regression | None
    denoiser: Denoiser | None
    precision: str = "auto"


def read_networks(
    regression: Checkpoint, diffusion: Checkpoint, domain: tuple[int, int], flow: Wrap | None = None
) -> tuple[Regression, Denoiser]:
    """The networks of two checkpoints for a domain (H, W); ``flow`` makes that of rectified flow.

    Raises
    ------
    InputError
        If a checkpoint is not usable, or is that of the other network
    """
    for checkpoint, known in ((regression, REGRESSIONS), (diffusion, DENOISERS)):
        other = DENOISERS if known is REGRESSIONS else REGRESSIONS
        if checkpoint.name in other:
            raise InputError(f"{checkpoint.source} holds a {checkpoint.name}; are the checkpoints exchanged?")
    mean, denoiser = build(regression, domain), build(diffusion, domain, flow)
    if not isinstance(mean, Regression):
        raise InputError(f"{regression.source} holds a {regression.name}, and no regression")
    if not isinstance(denoiser, DiTFlow if flow else Denoiser):
        kind = "a package of rectified flow needs a DiT" if flow else "it needs metadata of rectified flow"
        raise InputError(f"{diffusion.source} holds a {diffusion.name}; {kind}")
    return mean, denoiser
