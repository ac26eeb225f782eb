# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For tests of properties with Hypothesis: the same few examples in every run, and what is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
"""For ``@quick`` under ``@given``."""


def rising(first: st.SearchStrategy[float], width: float, most: int = 20) -> st.SearchStrategy[NDArray]:
    """Axes of up to ``most`` points with spacings of their own, in all at most ``width`` wide."""
    steps = st.lists(st.floats(0.3, width / most), min_size=2, max_size=most - 1)
    return st.builds(lambda start, each: start + np.cumsum([0.0, *each]), first, steps)
