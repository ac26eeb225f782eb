# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a model: its package, device and precision, and settings that replace the package's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.noise import check_where
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import check_window
from earth2_corrdiff.model.diffusion.solvers import check_solver
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.networks.fast.accelerate import check_precision
from earth2_corrdiff.networks.fast.memory_plan import AUTO, check_maps

if TYPE_CHECKING:
    from earth2_corrdiff.model.earth2studio import CorrDiff


@dataclass(frozen=True)
class ModelOptions:
    """Options of a model; None leaves a setting as the package has it.

    Attributes
    ----------
    package : str
        ``taiwan``, ``demo``, a folder or a URL: see ``run.packages.load_model``
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of the networks
    accelerated : bool
        False for upstream's arithmetic, operation by operation
    samples, steps, max_batch : int | None
        Members, steps of the solver, and most members in one network call
    solver, noise, window, maps : str | None
        As the attributes of ``CorrDiff``
    patch : str | None
        Height and width of patches, like ``448x448``, or ``none``
    overlap, boundary : int | None
        Points that patches share

    Raises
    ------
    InputError
        If the device is not there, or an option is not valid: before a package is read or downloaded
    """

    package: str = "taiwan"
    device: str = "auto"
    precision: str = "auto"
    accelerated: bool = True
    samples: int | None = None
    steps: int | None = None
    solver: str | None = None
    max_batch: int | None = None
    noise: str | None = None
    patch: str | None = None
    overlap: int | None = None
    boundary: int | None = None
    window: str | None = None
    maps: str | None = None

    def __post_init__(self) -> None:
        find_device(self.device)
        check_precision(self.precision)
        if self.solver is not None:
            check_solver(self.solver)
        check_where(self.noise or "host")
        check_window(self.window or "flat")
        check_maps(self.maps or AUTO)

    def model_of(self, package: Files) -> CorrDiff:
        """The model of a package with these options.

        Raises
        ------
        InputError
            If the package is not usable, or the options do not fit it
        """
        from earth2_corrdiff.model.earth2studio import CorrDiff

        model = CorrDiff.load_model(package, find_device(self.device), self.precision, self.accelerated)
        settings = {
            "number_of_samples": self.samples,
            "number_of_steps": self.steps,
            "solver": self.solver,
            "max_batch": self.max_batch,
            "noise": self.noise,
            "window": self.window,
            "maps": self.maps,
        }
        for name, value in settings.items():
            if value is not None:
                setattr(model, name, value)
        own, domain = model.patching, model.spec.domain
        patching = self.patching(own, domain, model.downscaler.denoiser.multiple)
        if patching is not own:
            model.patching = patching
        if model.patching is None and self.window is not None:
            raise InputError("--window goes with patches: give --patch HxW")
        return model

    def patching(
        self, own: PatchGeometry | None, domain: tuple[int, int], multiple: int = 1
    ) -> PatchGeometry | None:
        """Patches of a domain, where ``own`` are those of the package; None for the domain in one piece.

        Raises
        ------
        InputError
            If the options do not fit the domain, the network's ``multiple`` or each other
        """
        given = {"overlap": self.overlap, "boundary": self.boundary}
        changed = {name: value for name, value in given.items() if value is not None}
        if self.patch is None and not changed:
            return own
        if self.patch == "none" or (self.patch is None and own is None):
            if changed:
                raise InputError("--overlap and --boundary go with patches: give --patch HxW")
            return None
        own = own or PatchGeometry(domain, domain)
        patch = own.patch if self.patch is None else patch_shape(self.patch)
        shared = {"overlap": own.overlap, "boundary": own.boundary} | changed
        return PatchGeometry(domain, patch, **shared, multiple=multiple)


def patch_shape(text: str) -> tuple[int, int]:
    """``448x448`` → (448, 448); InputError for anything else."""
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise InputError(f"--patch takes a height and a width like 448x448, or none; got {text!r}")
    return int(height), int(width)
