# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded default: a synthetic atmosphere, so that everything runs without a network."""

from __future__ import annotations

from .weather import DemoWeather

__all__ = ["DemoWeather"]
