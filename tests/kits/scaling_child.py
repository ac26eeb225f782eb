# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the test of the benchmark of scaling: one of its processes, as ``rank_kit`` starts it."""

from __future__ import annotations

import json

from bench.scaling_run import child


def main(argv: list[str]) -> int:
    child(json.loads(argv[0]))
    return 0
