# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a piece of work: of the process on Linux, or of PyTorch's allocator on a GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


@dataclass
class Peak:
    """Bytes that a piece of work needed at most, over what was there before; 0 where they are not known."""

    bytes: int = 0
    before: int = 0


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure the work inside the ``with``; on a CPU with Linux's ``/proc`` only."""
    found = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        found.before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device) - found.before
        return
    if not STATUS.exists():
        yield found
        return
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept does not count
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
    found.before = _status("VmRSS")
    yield found
    found.bytes = _status("VmHWM") - found.before


def _status(name: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
