#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# All checks: style, types, tests. Arguments go to pytest.
#
#   ./scripts/test.sh              everything: a quarter of an hour on two cores
#   ./scripts/test.sh --quick      a minute and a half: not what is slow, starts processes or needs a browser
#   ./scripts/test.sh -k solver    the tests of that name; likewise -m gpu, tests/store, --durations 20
#
# Markers: slow, process, browser, gpu (pyproject.toml says what each means).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
install_project test
# One thread per process: pytest runs as many processes as there are cores. Each begins with its part of the
# files, so that what the tests of a file share is made once.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg
quick=()
if [ "${1:-}" = --quick ]; then
    shift
    quick=(-m "not slow and not process and not browser")
fi
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
.venv/bin/python -m pytest -n auto --dist worksteal ${quick[@]+"${quick[@]}"} "$@"
