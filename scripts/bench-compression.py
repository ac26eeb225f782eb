#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What --compress saves, and what it changes in scores and spectra: see --help."""

import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()
warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")

from bench import compression  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-compression.py", compression.run, compression.parser().parse_args()))
