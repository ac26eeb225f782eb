#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fetch the coarse input of a run ahead of it; the same as the installed command fetch-corrdiff."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.fetch import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
