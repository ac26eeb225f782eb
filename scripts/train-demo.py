#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Train the demo package: see ``--help``."""

import sys

from earth2_corrdiff.cli.train_demo import main

if __name__ == "__main__":
    sys.exit(main())
