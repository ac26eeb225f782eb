# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Real GFS files beside the checkout, and mirrors of NOAA's bucket made of them."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "shared"
WORLD = SHARED / "data/gfs/global_2p5/gfs.20110110.t12z.f120.2p5deg.grib2"
POLAND = SHARED / "data/gfs/poland/gfs.20200804.t12z.f006.grib2"
FIRST = SHARED / "data/gfs/poland/gfs.20200804.t12z.f000.grib2"
LATER = SHARED / "data/gfs/poland/gfs.20200804.t12z.f012.grib2"
WINDS = SHARED / "data/gfs/taiwan_winds/gfs.20240106.t00z.f000.winds.grib2"
TOOL = SHARED / "tools/make_gfs_store.py"
needed = pytest.mark.skipif(not TOOL.exists(), reason=f"no real GFS files in {SHARED}")


@cache
def load_tool() -> ModuleType:
    """The program that makes mirrors, as a module: it reads GRIB without the classes under test."""
    spec = spec_from_file_location("make_gfs_store", TOOL)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules["make_gfs_store"] = module
    spec.loader.exec_module(module)
    return module


@cache
def read(grib: Path) -> dict[str, Any]:
    """The fields of a file by that program; north first, heights in metres."""
    fields: dict[str, Any] = load_tool().read_source(str(grib))
    return fields


def mirror(folder: Path, grib: Path, valid: str, *options: str) -> Path:
    """A mirror in ``folder`` that says that the file is valid at ``valid`` (to the hour)."""
    assert load_tool().main([str(grib), str(folder), "--valid", valid[:13], *options]) == 0
    return folder
