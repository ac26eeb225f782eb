# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff: the pipeline (``downscaler``, read it first), packages, and Earth2Studio's diagnostic model.

``CorrDiff`` and ``CorrDiffTaiwan`` are loaded when they are first used: nothing else here needs Earth2Studio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.model.earth2studio import CorrDiff as CorrDiff
    from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan as CorrDiffTaiwan

__all__ = ["CorrDiff", "CorrDiffTaiwan"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from earth2_corrdiff.model import earth2studio

    return getattr(earth2studio, name)
