#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of runs against members, area and processes, and the cost of larger ones: see --help."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # PyTorch writes stack traces when a process has ended

from bench import scaling  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-scaling.py", scaling.run, scaling.parser().parse_args()))
