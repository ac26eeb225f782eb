#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# The main job on the embedded demo: set up, downscale synthetic weather into four members, plot them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
install_project ""
.venv/bin/python scripts/run-corrdiff.py 2024-07-24T12:00 --samples 4 --demo --overwrite
.venv/bin/python scripts/plot-corrdiff.py outputs/corrdiff-2024-07-24T1200.zarr \
    --plot-lowres --ensemble --animate --output-dir outputs
