# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff downscaling of weather as an Earth2Studio diagnostic model.

The names below are loaded when they are first used, so that ``import earth2_corrdiff`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.base.errors import InputError as InputError
    from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry as PatchGeometry
    from earth2_corrdiff.model.downscaler import Downscaler as Downscaler
    from earth2_corrdiff.model.earth2studio import CorrDiff as CorrDiff
    from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan as CorrDiffTaiwan
    from earth2_corrdiff.model.packages.writer import save_package as save_package
    from earth2_corrdiff.run.downscaling import downscale as downscale
    from earth2_corrdiff.sources import make_source as make_source

__version__ = "0.1.0"

_HOME = {
    "CorrDiff": "model",
    "CorrDiffTaiwan": "model",
    "Downscaler": "model.downscaler",
    "InputError": "base.errors",
    "PatchGeometry": "model.diffusion.patch_geometry",
    "downscale": "run",
    "make_source": "sources",
    "save_package": "model.packages.writer",
}
__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
