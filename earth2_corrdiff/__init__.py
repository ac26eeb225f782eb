# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff downscaling of weather as an Earth2Studio diagnostic model.

The names below are loaded when they are first used, so that ``import earth2_corrdiff`` costs nothing.

A folder is a layer, and imports go down only: ``base``, ``networks``, ``model``, ``demo``, ``sources``,
``store``, ``plotting``, ``run``, ``training``, ``verification``, ``service``, ``workflows``, ``cli``.

Glossary
--------
case        a valid time, or a forecast's reference time, lead time and coarse member: one coarse input
coarse      the input on the grid of global weather; fine: the output on the kilometre grid
mean        the regression's output; residual: the difference from it, which the denoiser samples
member      one sample of a case, given by its seed; block: the members of one network call
patch       a part of the domain that the denoiser sees at a time
package     the files of a trained model: two networks, grids, statistics
sigma       the noise level of the residual, in normalised units
store       the Zarr store of a run, with an address for each case and member
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.base.errors import InputError as InputError
    from earth2_corrdiff.model.cmip6 import CorrDiffCMIP6 as CorrDiffCMIP6
    from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5 as CorrDiffCosmoEra5
    from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry as PatchGeometry
    from earth2_corrdiff.model.downscaler import Downscaler as Downscaler
    from earth2_corrdiff.model.earth2studio import CorrDiff as CorrDiff
    from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan as CorrDiffTaiwan
    from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr as CorrDiffEra5Hrrr
    from earth2_corrdiff.model.packages.writer import save_package as save_package
    from earth2_corrdiff.run.downscaling import downscale as downscale
    from earth2_corrdiff.sources import make_source as make_source

__version__ = "0.1.0"

_HOME = {
    "CorrDiff": "model",
    "CorrDiffCMIP6": "model",
    "CorrDiffCosmoEra5": "model",
    "CorrDiffEra5Hrrr": "model",
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
