#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Time a denoising step of a diffusion transformer against PhysicsNeMo's: see ``--help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()

from bench import dit  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-dit.py", dit.run, dit.parser().parse_args()))
