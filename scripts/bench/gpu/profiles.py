# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""D: the costliest kernels of a step, by PyTorch's profiler."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch.profiler import ProfilerActivity, profile

from ..timing import Work
from .record import Record

LISTED = 15
# Parts of kernels' names in lower case, in the order in which they are looked for.
CLASSES = {
    "convolution, product": (
        *("conv", "gemm", "cutlass", "xmma", "cudnn", "implicit", "sm80", "sm90", "nvjet"),
    ),
    "layout": ("nchwtonhwc", "nhwctonchw", "transpose"),
    "attention": ("flash", "fmha", "softmax", "attention"),
    "cat": ("catarray", "cat_"),
    "resampling": ("upsample", "avg_pool", "depthwise"),
    "reduction": ("reduce", "welford", "norm"),
    "copy, cast": ("copy", "memcpy", "memset"),
    "elementwise": ("elementwise", "vectorized", "silu", "fused", "add", "mul"),
}
OURS, OTHER = "this package's Triton kernels", "other"


def profile_of(record: Record, name: str, step: Work) -> None:
    """Record the kernels of one step, in all and by class; on a CPU, its operators."""
    for _ in range(3):
        step()
    record.meter.wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if record.cuda else [])]
    with profile(activities=activities) as found:
        step()
        record.meter.wait()
    rows = _rows(found.key_averages(), record.cuda)
    total = sum(row["ms"] for row in rows)
    by_class: dict[str, float] = {}
    for row in rows:
        row["share"] = row["ms"] / total if total else 0.0
        kind = classify(row["kernel"])
        by_class[kind] = by_class.get(kind, 0.0) + row["ms"]
    ordered = dict(sorted(by_class.items(), key=lambda item: -item[1]))
    number = sum(row["calls"] for row in rows)
    value = {"ms": total, "kernels": number, "by class, ms": ordered, "costliest": rows[:LISTED]}
    record.put("profiles", name, value=value)
    record.say(f"profile of {name}: {total:.2f} ms in {number} kernels")


def _rows(events: Any, cuda: bool) -> list[dict[str, Any]]:
    """Kernels with their time, the costliest first."""
    rows = []
    for event in events:
        if cuda and "CUDA" not in str(event.device_type):
            continue
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us > 0:
            rows.append({"kernel": event.key[:160], "calls": event.count, "ms": us / 1e3})
    return sorted(rows, key=lambda row: -row["ms"])


def classify(kernel: str) -> str:
    """Class of a kernel by its name."""
    if kernel in _own_kernels():
        return OURS
    name = kernel.lower()
    return next((kind for kind, parts in CLASSES.items() if any(part in name for part in parts)), OTHER)


@cache
def _own_kernels() -> frozenset[str]:
    """Names of the package's Triton kernels; none where there is no Triton."""
    try:
        from triton.runtime import KernelInterface

        from earth2_corrdiff.networks.kernels import triton_backward, triton_norm
    except ImportError:
        return frozenset()
    modules = (triton_norm, triton_backward)
    return frozenset(n for m in modules for n, v in vars(m).items() if isinstance(v, KernelInterface))
