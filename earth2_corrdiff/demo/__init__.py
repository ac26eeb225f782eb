# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The demo: a small trained CorrDiff package and a synthetic atmosphere, for use without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from earth2_corrdiff.demo.weather import DemoWeather
from earth2_corrdiff.model.packages.files import Folder

if TYPE_CHECKING:
    from earth2_corrdiff.base.studio import Package

__all__ = ["DemoWeather", "folder", "package"]

FOLDER = Path(__file__).parent / "package"


def folder() -> Folder:
    """The trained demo model for ``read_package``, without Earth2Studio."""
    return Folder(FOLDER)


def package() -> Package:
    """The trained demo model as an Earth2Studio package, generic layout; the stock class loads it too."""
    from earth2_corrdiff.base.studio import Package

    return Package(str(FOLDER))
