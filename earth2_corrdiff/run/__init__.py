# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs: the weather of given times into an ensemble, fetched, checked, computed, written and resumed."""

from __future__ import annotations

from earth2_corrdiff.run.downscaling import Downscaling, downscale
from earth2_corrdiff.run.options import Options

__all__ = ["Downscaling", "Options", "downscale"]
