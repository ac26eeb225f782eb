# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
from types import ModuleType

import pytest

# Before PyTorch is imported: idle threads sleep instead of spinning, as the commands have it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What was measured on this machine chooses nothing here.
os.environ.setdefault("EARTH2_CORRDIFF_TUNED", "0")
# What a shell starts in the background ignores Ctrl-C, and so would the processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """No log handler that another test's imports or commands have left behind writes into this one."""
    from loguru import logger

    logger.remove()


@pytest.fixture(scope="session")
def stock() -> ModuleType:
    """Earth2Studio's module of the stock CorrDiff classes."""
    import tiny

    return tiny.earth2studio_module("models.dx.corrdiff")


@pytest.fixture(scope="session")
def upstream() -> ModuleType:
    """PhysicsNeMo's U-Nets."""
    from physicsnemo.models import diffusion_unets

    return diffusion_unets
