# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter before version 3.7 with NumPy 2.4 and later, for the tests alone.

The interpreter holds a scalar as an array of one value and one dimension, and makes the bound of a loop of it
by ``int(array)``, which NumPy 2.4 refuses. Triton 3.7 asks for the value itself. Only interpreted kernels are
concerned: compiled ones never come here.
"""

from __future__ import annotations

from typing import Any

import triton

FIXED_IN = (3, 7)


def mend_scalars() -> None:
    """Let interpreted scalars be the bounds of loops, whatever NumPy is installed."""
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= FIXED_IN:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda scalar: int(scalar.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_mend
