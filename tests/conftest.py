# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

import pytest
from reasons import NO_BROWSER

# Compiled modules are kept: this process, its workers and the commands that tests start import the same ones.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Before PyTorch is imported: idle threads sleep instead of spinning, as the commands have it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tiny networks gain nothing from threads; several processes of tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What was measured on this machine chooses nothing here.
os.environ.setdefault("EARTH2_CORRDIFF_TUNED", "0")


def frames(context: int = 1) -> list[inspect.FrameInfo]:
    """Callers without their source lines.

    While Earth2Studio's sources are imported, they look for their own file by ``inspect.stack``, which goes
    through all modules for the lines of all frames: half a minute where many modules are loaded.
    """
    found = traceback.walk_stack(sys._getframe(1))
    return [
        inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
        for frame, line in found
    ]


inspect.stack = frames
# What a shell starts in the background ignores Ctrl-C, and so would the processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that want a browser where there is none: a reason in a list is easily overlooked."""
    skipped = terminalreporter.stats.get("skipped", [])
    names = sorted({test.nodeid for test in skipped if NO_BROWSER in str(test.longrepr)})
    if names:
        terminalreporter.section(
            f"not run, for want of a browser: {len(names)} of the page's tests", "!", yellow=True
        )
        for line in (*names, f"{NO_BROWSER} (.ci/run installs Debian's chromium and chromium-driver)"):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """No log handler that another test's imports or commands have left behind writes into this one."""
    from loguru import logger

    logger.remove()


@pytest.fixture(autouse=True)
def no_figure_is_left_open() -> Iterator[None]:
    """The test that leaves a figure of pyplot open fails, and not a later one of the same process."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        left = pyplot.get_fignums()
        pyplot.close("all")
        assert left == [], f"pyplot figures {left} are open after the test"


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
