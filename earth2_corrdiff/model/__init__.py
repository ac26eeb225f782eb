# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff: the pipeline (``downscaler``, read it first), packages, and Earth2Studio's diagnostic model.

The classes below are loaded when they are first used: nothing else here needs Earth2Studio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.model.cmip6 import CorrDiffCMIP6 as CorrDiffCMIP6
    from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5 as CorrDiffCosmoEra5
    from earth2_corrdiff.model.earth2studio import CorrDiff as CorrDiff
    from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan as CorrDiffTaiwan
    from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr as CorrDiffEra5Hrrr

_HOME = {
    "CorrDiff": "earth2studio",
    "CorrDiffCMIP6": "cmip6",
    "CorrDiffCosmoEra5": "cosmo",
    "CorrDiffEra5Hrrr": "hrrr",
    "CorrDiffTaiwan": "earth2studio",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
