# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels: through the interpreter, on a GPU where there is one, and compiled for others.

Triton decides at its import whether it interprets, so ``triton_cases.py`` runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

CASES = Path(__file__).with_name("triton_cases.py")


def run_cases(interpret: bool) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpret))}
    command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, cwd=CASES.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_kernels_through_the_interpreter() -> None:
    run_cases(interpret=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_on_the_gpu() -> None:
    run_cases(interpret=False)


# What the interpreter cannot say: types, shapes and constants as the compilers for GPUs want them. Arguments
# that are 1 become constants then, so they are tried as such.
ARGUMENTS = {"pixels": "i32", "stride_p": "i32", "stride_c": "i32", "tiles": "i32", "spans": "i32"}
ARGUMENTS |= {"span": "i32", "width": "i32", "eps": "fp32", "scale": "fp32", "count": "i64"}
FIELDS = ("x", "y", "grad", "dx", "out", "side", "raw")
CONSTANTS = {
    "C0": 64,
    "C": 96,
    "G": 24,
    "SHIFT": 2,
    "MODE": 2,
    "RAW": True,
    "SIDE": 2,
    "SILU": True,
    "UNBIASED": 1,
    "ROWS": 16,
    "COLS": 32,
    "FLAT": 256,
}
ONES = {
    "nhwc": {"stride_c": 1},
    "nchw": {"stride_p": 1},
    "one pixel": {"stride_p": 1, "stride_c": 1, "pixels": 1, "tiles": 1, "spans": 1, "count": 1},
}
TARGETS = {"cuda": ("cuda", 90, 32), "rocm": ("hip", "gfx942", 64)}


@pytest.mark.parametrize("ones", ONES.values(), ids=ONES.keys())
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_kernels_compile(target: tuple[Any, Any, int], ones: dict[str, int]) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from earth2_corrdiff.kernels import triton_backward, triton_maps, triton_norm
    from earth2_corrdiff.kernels.triton_tiles import LAUNCH

    norm, back, maps = triton_norm, triton_backward, triton_maps
    kernels = (norm._moments, norm._merge_moments, norm._apply, norm._add_scaled)
    kernels += (back._sums, back._merge_sums, back._input_gradient, maps._normalise, maps._join)
    for kernel in kernels:
        names = [parameter.name for parameter in kernel.params]
        known = {name: value for name, value in {**CONSTANTS, **ones}.items() if name in names}
        kinds = {name: ARGUMENTS.get(name, "*bf16" if name in FIELDS else "*fp32") for name in names}
        if kernel is maps._normalise:
            kinds["beside"] = "*bf16"
        kinds |= dict.fromkeys(known, "constexpr")
        constants = {(names.index(name),): value for name, value in known.items()}
        source = ASTSource(fn=kernel, signature=kinds, constexprs=constants)
        binary = triton.compile(source, target=GPUTarget(*target), options=LAUNCH)
        assert binary.kernel
