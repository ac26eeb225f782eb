# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""From the command line's ``--package``, ``--device`` and settings to a model that is ready to run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError, UnavailableError, first_line

if TYPE_CHECKING:
    from earth2_corrdiff.model.earth2studio import CorrDiff


def load(args: argparse.Namespace) -> CorrDiff:
    """The model of ``--package`` on ``--device``, with the command's settings."""
    from earth2_corrdiff.model.diffusion.noise import check_where
    from earth2_corrdiff.model.diffusion.patched import check_window
    from earth2_corrdiff.model.diffusion.solvers import check_solver
    from earth2_corrdiff.model.earth2studio import CorrDiff, CorrDiffTaiwan
    from earth2_corrdiff.networks.fast.accelerate import check_precision
    from earth2_corrdiff.networks.fast.memory_plan import AUTO, check_place

    device = _device(args.device)  # these first: a package may have to be downloaded
    check_precision(args.precision)
    if args.solver is not None:
        check_solver(args.solver)
    check_where(getattr(args, "noise", None) or "host")
    check_window(getattr(args, "window", None) or "flat")  # not every command has these options
    check_place(getattr(args, "maps", None) or AUTO)
    kind: type[CorrDiff] = CorrDiffTaiwan if args.package == "taiwan" else CorrDiff
    with _download_hint(args.package):
        fast = not getattr(args, "no_acceleration", False)
        model = kind.load_model(_package(args.package), precision=args.precision, accelerated=fast).to(device)
    settings = {
        "number_of_samples": args.samples,
        "number_of_steps": args.steps,
        "solver": args.solver,
        "max_batch": args.max_batch,
        "noise": getattr(args, "noise", None),
        "window": getattr(args, "window", None),
        "maps": getattr(args, "maps", None),
    }
    for name, value in settings.items():
        if value is not None:
            setattr(model, name, value)
    set_patches(model, *(getattr(args, name, None) for name in ("patch", "overlap", "boundary")))
    if model.patching is None and getattr(args, "window", None) is not None:
        raise InputError("--window goes with patches: give --patch HxW")
    return model


def set_patches(model: CorrDiff, patch: str | None, overlap: int | None, boundary: int | None) -> None:
    """What ``--patch``, ``--overlap`` and ``--boundary`` say, over what the package says.

    Raises
    ------
    InputError
        If they do not fit the domain, the network or each other
    """
    from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry

    if patch is None and overlap is None and boundary is None:
        return
    own, domain = model.patching, model.spec.output_grid.shape
    if patch == "none" or (patch is None and own is None):
        if overlap is not None or boundary is not None:
            raise InputError("--overlap and --boundary go with patches: give --patch HxW")
        model.patching = None
        return
    shape = own.patch if patch is None and own is not None else patch_shape(patch or "")
    shared = (own.overlap, own.boundary) if own is not None else (0, 0)
    model.patching = PatchGeometry(
        domain,
        shape,
        shared[0] if overlap is None else overlap,
        shared[1] if boundary is None else boundary,
        model.downscaler.denoiser.multiple,
    )


def patch_shape(text: str) -> tuple[int, int]:
    """``448x448`` → (448, 448); InputError for anything else."""
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal():
        raise InputError(f"--patch takes a height and a width like 448x448, or none; got {text!r}")
    return int(height), int(width)


@contextmanager
def _download_hint(package: str) -> Iterator[None]:
    """Say what to do where a package cannot be downloaded, for want of a network or otherwise."""
    from earth2_corrdiff.sources.failures import interrupted, unreachable

    try:
        yield
    except InputError as error:
        reason = unreachable(error.__cause__)
        if reason is not None:
            raise UnavailableError(
                f"the package {package} cannot be downloaded ({reason}); without network use --demo, "
                "or --package with a folder"
            ) from error
        if error.__cause__ is None or ("://" not in package and package != "taiwan"):
            raise
        kind = UnavailableError if interrupted(error.__cause__) else InputError
        raise kind(f"{error}; if the download broke off, try again") from error


def _package(name: str) -> Any:
    from earth2studio.models.auto import Package

    from earth2_corrdiff import demo
    from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan

    if name == "taiwan":
        return CorrDiffTaiwan.load_default_package()
    if name == "demo":
        return demo.package()
    if "://" not in name and not Path(name).is_dir():
        raise InputError(f"there is no package folder {name}; give taiwan, demo, a folder or a URL")
    try:
        return Package(name if "://" in name else str(Path(name).absolute()))
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"the package {name} cannot be opened ({error})") from error


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"there is no kind of device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name}: this machine has {torch.cuda.device_count()} GPUs")
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"the device {name} cannot be used here ({first_line(error)}); use cpu, cuda or cuda:N"
        ) from error
    return device
