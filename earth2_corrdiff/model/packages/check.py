# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that a package's networks and metadata agree, before a run begins."""

from __future__ import annotations

from dataclasses import replace

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression

Network = Regression | Denoiser


def patching_of(
    spec: CorrDiffSpec, denoiser: Denoiser | None, patching: PatchGeometry | None
) -> PatchGeometry | None:
    """Patches, checked against what a denoiser can take; None where it sees the domain in one piece.

    Raises
    ------
    InputError
        If they belong to another domain, are not multiples of the network's step (the message names sizes
        that are), or the network cannot take patches
    """
    if patching is None:
        return None
    if denoiser is None or spec.vector:
        raise InputError("the package has no diffusion network that takes patches; leave out the patches")
    if patching.domain != spec.domain:
        sizes = ("{} x {}".format(*shape) for shape in (patching.domain, spec.domain))
        raise InputError("the patches are those of a domain of {}, the package's is {}".format(*sizes))
    patching = replace(patching, multiple=denoiser.multiple)
    fault = denoiser.shape_fault(spec.domain, patching.shape)
    if fault:
        raise InputError(f"the diffusion network {fault}; leave out the patches")
    return patching


def check_stages(spec: CorrDiffSpec, regression: object | None, denoiser: object | None) -> None:
    """Check that a package has the networks that its ``inference_mode`` and conditioning need.

    Raises
    ------
    InputError
        If one is missing
    """
    mode = spec.inference_mode
    if regression is None and (mode != "diffusion" or spec.hr_mean_conditioning):
        raise InputError(f"the package has no regression network, which inference_mode {mode!r} needs")
    if denoiser is None and mode != "regression":
        raise InputError(f"the package has no diffusion network, which inference_mode {mode!r} needs")


def check_networks(spec: CorrDiffSpec, regression: Regression | None, denoiser: Denoiser | None) -> bool:
    """True if the denoiser sees the inputs of the whole domain beside those of its patch.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of the package
    regression, denoiser : Regression | None, Denoiser | None
        Its networks

    Raises
    ------
    InputError
        If a network is missing, or has other channels, another size, other lead times or other patches
    """
    check_stages(spec, regression, denoiser)
    if spec.patching is not None and denoiser is not None:
        replace(spec.patching, multiple=denoiser.multiple)  # raises if the sizes do not fit
    outputs, inputs, whole = len(spec.outputs.names), spec.condition_channels, False
    if regression is not None:
        _check(spec, "regression", regression, inputs + (4 if spec.regression_grid else 0))
    if denoiser is not None:
        seen = inputs + (outputs if spec.hr_mean_conditioning else 0)
        whole = spec.patching is not None and denoiser.image_channels == seen + inputs + outputs
        _check(spec, "diffusion", denoiser, seen + (inputs if whole else 0))
    if spec.lead_time_hours and not any(net and net.uses_lead_time for net in (regression, denoiser)):
        raise InputError(
            "metadata.json names lead_time_hours, but neither network was trained with lead times"
        )
    return whole


def _check(spec: CorrDiffSpec, stage: str, net: Network, inputs: int) -> None:
    made, outputs = net.out_channels, len(spec.outputs.names)
    if made != outputs:
        raise InputError(
            f"the {stage} network makes {made} channels, but the package's metadata name {outputs} "
            "output variables; its files do not belong together"
        )
    steps = int(net.origin.args.get("lead_time_steps", 9))
    if net.uses_lead_time and steps != len(spec.lead_time_hours):
        raise InputError(
            f"the {stage} network was trained with {steps} lead times: metadata.json needs an entry "
            f"lead_time_hours with as many, got {len(spec.lead_time_hours)}"
        )
    channels = inputs + net.latent_channels
    if net.image_channels != channels:
        raise InputError(
            f"the {stage} network takes {net.image_channels} channels, but the package's metadata "
            f"make {channels}; {_hint(spec, stage, net, channels)}"
        )
    patch = spec.patching.shape if spec.patching is not None and stage == "diffusion" else None
    fault = net.shape_fault(spec.domain, patch)
    if fault:
        H, W = spec.domain
        raise InputError(f"the output grid of {H} x {W} does not fit the {stage} network, which {fault}")


def _hint(spec: CorrDiffSpec, stage: str, net: Network, channels: int) -> str:
    """A likely cause of channels that do not agree."""
    if stage == "diffusion" and spec.patching is None:
        if net.image_channels == channels + spec.condition_channels:
            return (
                "it may have been trained on patches: then metadata.json needs an entry patching with "
                "patch_shape_y and patch_shape_x"
            )
    return "its files do not belong together"
