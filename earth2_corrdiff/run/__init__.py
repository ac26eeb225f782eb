# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs: the weather of given times into an ensemble, fetched, checked, computed, written and resumed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earth2_corrdiff.run.downscaling import Downscaling, downscale
    from earth2_corrdiff.run.options import Options

__all__ = ["Downscaling", "Options", "downscale"]


def __getattr__(name: str) -> Any:
    """The public names, when they are first used: the plan of a run needs no PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'options' if name == 'Options' else 'downscaling'}"), name)
