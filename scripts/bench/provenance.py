# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a number was measured on: machine, versions, settings, command."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = {
    "torch": "torch",
    "Earth2Studio": "earth2studio",
    "PhysicsNeMo": "nvidia-physicsnemo",
    "earth2_corrdiff": "earth2-corrdiff",
    "Triton": "triton",
}


def command() -> str:
    """This command, without the folders of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
    return shlex.join(["python", f"scripts/{Path(words[0]).name}", *words[1:]])


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, and the load average of the last minute."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or f"{_processor()} ({os.cpu_count()} cores)",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "load": [os.getloadavg()[0]],
        "system": platform.system(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        **({"clocks and power": _nvidia_smi()} if gpu else {}),
    }


def _nvidia_smi() -> str | None:
    """Clocks and power of NVIDIA GPUs, now and at most; None where the tool is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = "clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit"
    command = [tool, f"--query-gpu={asked}", "--format=csv"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return said.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str | None]:
    """Of Python and of everything that is timed; None where it is not installed."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        found["CUDA or ROCm"] = torch.version.cuda or torch.version.hip
        cudnn: Any = torch.backends.cudnn
        found["cuDNN or MIOpen"] = str(cudnn.version())
    return found


def settings() -> dict[str, Any]:
    """Global switches that change a time or an error."""
    return {
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        **{name: os.environ[name] for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS") if name in os.environ},
    }
