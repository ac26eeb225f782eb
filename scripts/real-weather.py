#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Run, verify and draw the packages of real weather. See ``--help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from bench.real_command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
