# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a model: its package, device and precision, and settings that replace the package's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.devices import find_device
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.calibration import Calibration
from earth2_corrdiff.model.diffusion.noise import check_where
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import check_window
from earth2_corrdiff.model.diffusion.solvers import check_solver
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.model.packages.layouts import layout_of, only_variant
from earth2_corrdiff.model.packages.names import variant
from earth2_corrdiff.model.region import Box, cropped
from earth2_corrdiff.model.spec import check_count
from earth2_corrdiff.networks.fast.accelerate import check_precision
from earth2_corrdiff.networks.fast.memory_plan import AUTO, check_maps

if TYPE_CHECKING:
    from earth2_corrdiff.model.diagnostic import Diagnostic
    from earth2_corrdiff.model.earth2studio import CorrDiff

HEIGHTS = "metres above ground, like 100 or 100,150"
BOX = "south,north,west,east in degrees, like 47,55,5,16"


@dataclass(frozen=True)
class ModelOptions:
    """Options of a model; None leaves a setting as the package has it.

    Attributes
    ----------
    model : str | None
        ``MODULE:CLASS`` of another diagnostic model of Earth2Studio, which runs without acceleration, or of a
        subclass of ``CorrDiff``
    package : str
        One of ``names.KNOWN``, a folder or a URL: see ``run.packages.load_model``
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
    mode : {"mean", "diffusion"} | None
        Of packages with a network for each; by default samples
    hub_heights : str | None
        Heights in metres of winds to add, like ``100`` or ``100,150``
    region : str | None
        Part of the domain that comes out: south, north, west and east, like ``47,55,5,16``. Networks that
        take domains of any size see that part only, those of patches the patches around it, and all
        others the whole domain
    variables : str | None
        Outputs that come out, like ``t2m,mrr``
    calibration : str | None
        File of ``calibrate-corrdiff`` that corrects members

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
    mode: str | None = None
    hub_heights: str | None = None
    region: str | None = None
    variables: str | None = None
    calibration: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        find_device(self.device)
        check_precision(self.precision)
        if self.solver is not None:
            check_solver(self.solver)
        check_where(self.noise or "host")
        check_window(self.window or "flat")
        check_maps(self.maps or AUTO)
        if self.calibration is not None:
            Calibration.read(self.calibration)
        if self.mode == "mean" and (self.samples or 1) > 1:
            raise InputError("the mean is one field; leave out --samples, or use --mode diffusion")
        if any(not 0 < height < 1e4 for height in self.heights):
            raise InputError(f"--hub-heights takes {HEIGHTS}, got {self.hub_heights}")
        if self.box and (len(self.box) != 4 or not -90 <= self.box[0] < self.box[1] <= 90):
            raise InputError(f"--region takes {BOX}, got {self.region}")

    @property
    def heights(self) -> tuple[float, ...]:
        """Heights of winds to add, metres."""
        return _numbers(f"--hub-heights takes {HEIGHTS}", self.hub_heights)

    @property
    def box(self) -> tuple[float, ...]:
        """South, north, west and east of the region; empty for the whole domain."""
        return _numbers(f"--region takes {BOX}", self.region)

    def diagnostic_of(self, kind: type[Any], package: Files) -> Diagnostic:
        """Another diagnostic model, of a package.

        Raises
        ------
        InputError
            If it is not usable, or there are options that it does not take
        """
        from earth2_corrdiff.model.diagnostic import load_diagnostic

        own = {"model", "package", "device", "samples", "accelerated"}
        given = [f.name for f in fields(self) if f.name not in own and getattr(self, f.name) != f.default]
        if given or self.model is None:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"--model runs the class {self.model} as it is; leave out {names}")
        model = load_diagnostic(kind, self.model, package, find_device(self.device))
        if self.samples is not None:
            model.number_of_samples = check_count("number_of_samples", self.samples)
        return model

    def model_of(self, package: Files, kind: type[CorrDiff] | None = None) -> CorrDiff:
        """The model of a package with these options, by default a ``CorrDiff``.

        Raises
        ------
        InputError
            If the package is not usable, or the options do not fit it
        """
        model = self._loaded(package, kind)
        if self.box:
            model = _part(model, Box(*self.box))
        if self.variables is not None:
            model.downscaler.spec = model.spec.only(self.variables.split(","))
        settings = {
            "number_of_samples": 1 if self.mode == "mean" else self.samples,
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
        if self.patch is not None or self.overlap is not None or self.boundary is not None:
            model.patching = self.patching(own, domain, model.downscaler.denoiser.multiple)
        if model.patching is None and self.window is not None:
            raise InputError("--window goes with patches: give --patch HxW")
        if self.calibration is not None:
            model.downscaler.calibration = Calibration.read(self.calibration)
        return model

    def _loaded(self, package: Files, kind: type[CorrDiff] | None) -> CorrDiff:
        """The model as its package has it: of COSMO, of HRRR, or generic, as those of Taiwan and CMIP6."""
        how: dict[str, Any] = {
            "device": find_device(self.device),
            "precision": self.precision,
            "accelerated": self.accelerated,
        }
        from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5

        layout = layout_of(self.package, package) if kind is None else ""
        if layout == "cosmo" or (kind is not None and issubclass(kind, CorrDiffCosmoEra5)):
            how["resolution"] = variant(self.package) or only_variant(package)
            how["mode"] = self.mode or "diffusion"
            how["hub_heights"] = self.heights
            return (kind or CorrDiffCosmoEra5).load_model(package, **how)
        if self.mode is not None or self.hub_heights is not None:
            raise InputError(
                f"the package {self.package} has neither modes nor hub heights; leave out --mode and "
                "--hub-heights"
            )
        if kind is not None:
            return kind.load_model(package, **how)
        if layout == "hrrr":
            from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr

            return CorrDiffEra5Hrrr.load_model(package, **how)
        from earth2_corrdiff.model.earth2studio import CorrDiff

        return CorrDiff.load_model(package, **how)

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


def _part(model: CorrDiff, box: Box) -> CorrDiff:
    """The model whose output is a part of the domain."""
    if hasattr(model, "set_domain"):
        part: CorrDiff = model.set_domain(*box)
        return part
    if model.replaces("postprocess_output"):
        raise InputError(f"{type(model).__name__} makes its output itself; leave out --region")
    model.downscaler = model.downscaler.on(cropped(model.spec, box))
    model.connect()
    return model


def _numbers(takes: str, text: str | None) -> tuple[float, ...]:
    """``1,2.5`` → (1.0, 2.5); none for None."""
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{takes}, got {text}") from None


def patch_shape(text: str) -> tuple[int, int]:
    """``448x448`` → (448, 448); InputError for anything else."""
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise InputError(f"--patch takes a height and a width like 448x448, or none; got {text!r}")
    return int(height), int(width)
