#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Time neighbourhood attention against the masked form, and measure its memory: see ``--help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()

from bench import attention  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-attention.py", attention.run, attention.parser().parse_args()))
