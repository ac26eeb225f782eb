# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Mirrors of NOAA's bucket, made once for all tests of sources: each is a global file of 13 fields."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from gfs_files import LATER, POLAND, WINDS, WORLD, load_tool, mirror


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    return load_tool()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mirror(tmp_path_factory.mktemp("world"), WORLD, "2024-07-24T12")


@pytest.fixture(scope="session")
def poland(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two times of the native box, NaN outside: a step over its edge would show."""
    folder = tmp_path_factory.mktemp("poland")
    for grib, time in ((POLAND, "2024-08-04T12"), (LATER, "2024-08-04T18")):
        mirror(folder, grib, time, "--extend", "nan")
    return folder


@pytest.fixture(scope="session")
def winds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of the twelve inputs."""
    return mirror(tmp_path_factory.mktemp("winds"), WINDS, "2024-01-06T00", "--allow-missing")
