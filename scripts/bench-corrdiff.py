#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Time stock Earth2Studio's CorrDiff against this package: see ``--help``."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler says nothing about missing GPUs

from bench import corrdiff  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-corrdiff.py", corrdiff.run, corrdiff.parser().parse_args()))
