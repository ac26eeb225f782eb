#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Which solver, how many steps, which noise range: see ``--help``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from bench.solver_command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
