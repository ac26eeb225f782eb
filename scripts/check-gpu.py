#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Check that this package is right and fast on this GPU: see ``--help``."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler says nothing about missing GPUs
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for a GPU must not start CUDA

from bench.gpu import command  # noqa: E402


def main() -> int:
    """0 if all is right, 1 if something is wrong, 2 for a wrong option."""
    right: list[bool] = []
    status = run_command(
        "check-gpu.py", lambda args: right.append(command.run(args)), command.parser().parse_args()
    )
    return status or int(right != [True])


if __name__ == "__main__":
    sys.exit(main())
