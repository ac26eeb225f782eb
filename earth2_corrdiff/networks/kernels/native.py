# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The C kernels: compiled for this machine's CPU at first use, kept in a cache, called through ctypes.

Nothing has to be compiled to install the package. Where there is no C compiler, or the operating system
is not Linux, the kernels are absent: there is one warning, and PyTorch's operators do the work.

Environment
-----------
EARTH2_CORRDIFF_CACHE
    Folder for the compiled kernels, by default ``$XDG_CACHE_HOME/earth2_corrdiff``
EARTH2_CORRDIFF_NATIVE
    ``0`` does without them
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from loguru import logger

FLAGS = (
    "-O3",
    "-march=native",
    "-std=gnu11",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
)
ABI = "1"  # part of the cache's key: changes when the compilation does


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (after one warning) where they cannot be had."""
    if os.getenv("EARTH2_CORRDIFF_NATIVE") == "0":
        return None
    reason = "they are made for Linux only" if sys.platform != "linux" else None
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if reason is None and compiler is None:
        reason = "there is no C compiler (cc, gcc or clang)"
    if reason is None and compiler is not None:
        try:
            import torch  # noqa: F401  (its OpenMP first: one pool of threads for both)

            return ctypes.CDLL(str(_built(compiler)))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
            reason = f"they could not be built ({_said(error)})"
    logger.warning("the CPU's own kernels are not available: {}; PyTorch's operators are slower", reason)
    return None


def _said(error: Exception) -> str:
    output = getattr(error, "stderr", None) or str(error)
    lines = [line for line in str(output).splitlines() if "error" in line] or [str(output).strip()]
    return lines[0]


def _built(compiler: str) -> Path:
    """The shared object for these sources, this compiler and this CPU; built where there is none."""
    sources = sorted(Path(__file__).parent.glob("*.c"))
    headers = sorted(Path(__file__).parent.glob("*.h"))
    key = hashlib.sha256("\0".join((ABI, compiler, *FLAGS, _cpu())).encode())
    for path in (*sources, *headers):
        key.update(path.read_bytes())
    folder = cache_folder()
    target = folder / f"kernels-{key.hexdigest()[:20]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(folder)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".so.part")
        os.close(handle)
        try:
            command = [compiler, *FLAGS, *map(str, sources), "-lm", "-o", name]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)  # noqa: S603
            os.replace(name, target)  # at once: other processes build the same file
        finally:
            Path(name).unlink(missing_ok=True)
    _check_owner(folder)
    return target


def cache_folder() -> Path:
    """The folder of compiled kernels and tables of tuned choices.

    Raises
    ------
    RuntimeError
        If the user has no home folder
    """
    given = os.getenv("EARTH2_CORRDIFF_CACHE")
    if given:
        return Path(given)
    base = os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "earth2_corrdiff"


def _check_owner(folder: Path) -> None:
    """Code of another user is not loaded."""
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o002:
        raise OSError(f"the cache {folder} must belong to this user and must not be open to others")


def _cpu() -> str:
    """The CPU as -march=native sees it: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(wanted)}))
