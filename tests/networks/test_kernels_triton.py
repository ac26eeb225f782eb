# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels: through the interpreter, on a GPU where there is one, and compiled for others.

Triton decides at its import whether it interprets, so ``triton_cases.py`` runs in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from axes import pairwise

pytest.importorskip("triton")

CASES = Path(__file__).parents[1] / "kits" / "triton_cases.py"


def run_cases(interpret: bool) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpret))}
    command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, cwd=CASES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@pytest.mark.process
def test_kernels_through_the_interpreter() -> None:
    run_cases(interpret=True)


@pytest.mark.process
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


def compiled(
    kernel: Any, constants: dict[str, Any], target: tuple[Any, Any, int], launch: Any, dtype: str
) -> Any:
    """A kernel as a GPU's compiler leaves it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [parameter.name for parameter in kernel.params]
    known = {name: value for name, value in constants.items() if name in names}
    # the moments of a second tensor, or the tensor
    fields = FIELDS if "parts" in names and "mean" in names else (*FIELDS, "beside")
    kinds = {name: ARGUMENTS.get(name, f"*{dtype}" if name in fields else "*fp32") for name in names}
    # as the launch says it: fields and strides are multiples of 16
    even = [name for name in names if kinds[name].startswith("*") or name.startswith("stride")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in even if name not in known}
    kinds |= dict.fromkeys(known, "constexpr")
    keys = {(names.index(name),): value for name, value in known.items()}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=keys, attrs=attributes)
    return triton.compile(source, target=GPUTarget(*target), options=launch)


@pytest.mark.slow
@pytest.mark.parametrize("ones", ONES.values(), ids=ONES.keys())
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_kernels_compile(target: tuple[Any, Any, int], ones: dict[str, int]) -> None:
    from earth2_corrdiff.networks.kernels import triton_backward, triton_maps, triton_norm
    from earth2_corrdiff.networks.kernels.triton_tiles import BACK_LAUNCH, LAUNCH, MERGE, SUMS

    norm, back, maps = triton_norm, triton_backward, triton_maps
    kernels = dict.fromkeys((norm._apply, norm._add_scaled, maps._normalise), LAUNCH)
    kernels |= {norm._moments: SUMS, maps._join: SUMS, norm._merge_moments: MERGE, back._merge_sums: MERGE}
    kernels |= dict.fromkeys((back._sums, back._input_gradient), BACK_LAUNCH)
    for kernel, launch in kernels.items():
        assert compiled(kernel, CONSTANTS | ones, target, launch, "bf16").kernel


# Registers a thread: with 64, half of the warps that a multiprocessor of sm_90 can hold are there.
MOST_REGISTERS = 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "dtype", "layout"), pairwise((64, 128, 384), ("bf16", "fp32"), ("nhwc", "nchw"))
)
def test_registers_of_the_gradients(channels: int, dtype: str, layout: str, tmp_path: Path) -> None:
    """Few enough that arithmetic hides behind memory, and none of them spilled to it."""
    import triton

    from earth2_corrdiff.networks.kernels import triton_backward
    from earth2_corrdiff.networks.kernels.triton_tiles import BACK_LAUNCH, Tiles

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton ships no cuobjdump")
    field = torch.empty(1, channels, 448, 448, device="meta")
    if layout == "nhwc":
        field = field.to(memory_format=torch.channels_last)
    cut = Tiles.of(field, backward=True)
    constants = CONSTANTS | ONES[layout] | {"C": channels, "G": 16, "ROWS": cut.rows, "COLS": cut.cols}
    for kernel in (triton_backward._sums, triton_backward._input_gradient):
        binary = compiled(kernel, constants, TARGETS["cuda"], BACK_LAUNCH, dtype)
        (tmp_path / "kernel.cubin").write_bytes(binary.asm["cubin"])
        command = [str(tool), "-res-usage", str(tmp_path / "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK"))
        assert registers <= MOST_REGISTERS and stack == 0, f"{kernel.__name__}: {said}"
