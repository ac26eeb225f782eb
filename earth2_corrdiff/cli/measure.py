# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory and profiler trace of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.object_path import AnyPath

if TYPE_CHECKING:
    import torch


def peak_memory(device: torch.device) -> str:
    """``peak device memory 7.50 GB`` as PyTorch allocated it; on a CPU the process's resident memory."""
    import resource

    import torch

    if device.type == "cuda":
        return f"peak device memory {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"peak resident memory {kilobytes * 1024 / 1e9:.2f} GB"


def trace_path(store: AnyPath) -> Path:
    """Where the trace of a run goes: beside its store; of a URL, into the working directory."""
    name = f"{store.name.removesuffix('.zarr')}-profile.json.gz"
    return store.with_name(name) if isinstance(store, Path) else Path(name)


@contextmanager
def traced(path: Path) -> Iterator[None]:
    """Write a trace of PyTorch's operators in the block, with shapes and memory, for Perfetto or Chrome.

    Raises
    ------
    InputError
        If the file cannot be written
    """
    from torch.profiler import profile

    with profile(record_shapes=True, profile_memory=True) as found:
        yield
    try:
        found.export_chrome_trace(str(path))
    except OSError as error:
        raise InputError(f"cannot write the profile {path}: {error.strerror or error}") from error
