#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# Real weather: run the shipped packages on held-out times, verify them, draw them. See --help.
#   scripts/real-weather.sh DATA   the folder with cwa_wrf3km_taiwan.nc and mrms_qpe1h_conus.nc
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
install_project ""
.venv/bin/python scripts/real-weather.py "${@:-../shared/data/real}"
