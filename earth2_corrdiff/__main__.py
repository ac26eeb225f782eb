# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m earth2_corrdiff tune``: the package's own housekeeping."""

from __future__ import annotations

import sys

from earth2_corrdiff.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
