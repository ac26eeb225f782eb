# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A: which card this is, and what its copies, its matrix products and cuDNN's convolutions reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.networks.kernels import tuned

from .. import provenance, roofline
from ..roofline import Peaks
from .layers import Convolution, layers, size_of
from .record import Record
from .switches import searching, tf32, within

CARD = (
    *("name", "driver_version", "memory.total", "memory.used", "power.draw", "power.limit"),
    *("temperature.gpu", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "pstate"),
)
MODES = ("ecc.mode.current", "compute_mode", "persistence_mode", "mig.mode.current")
SEARCHED = 10  # the costliest convolutions: a search takes seconds
WAYS = ("cuDNN's choice", "searched", "without bias", "1 x 1 as a product")


def run(record: Record) -> None:
    """Measure the ceilings."""
    record.attempt("environment", environment, record)
    record.attempt("peaks", peaks, record)
    record.put("clocks after the products", value=card(("clocks.sm", "clocks.mem", "power.draw")))
    for batch in (1,) if record.tiny else (1, 16):
        record.attempt(f"convolutions, batch {batch}", convolutions, record, batch)


def card(asked: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi reports, read only; empty where it is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    values = done.stdout.strip().splitlines()[:1] or [""]
    return dict(zip(asked, values[0].split(", "), strict=False))


def environment(record: Record) -> None:
    """Record machine, versions and settings."""
    about: dict[str, Any] = provenance.machine(record.device)
    about |= {"versions": provenance.versions(), "settings": provenance.settings()}
    about |= {"card": card(CARD), "modes": card(MODES), "tuned": str(tuned.chosen(record.device))}
    if record.cuda:
        p = torch.cuda.get_device_properties(record.device)
        about |= {
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory GB": p.total_memory / 1e9,
            "L2 MB": getattr(p, "L2_cache_size", 0) / 1e6,
            "triton target": _triton_target(),
        }
    about["stand-ins"] = sorted(n for n, m in sys.modules.items() if "." not in n and _stands_in(m))
    record.put("environment", value=about)
    record.say(f"{about['device']}, {about['versions']}, load {os.getloadavg()[0]:.1f}")


def _stands_in(module: object) -> bool:
    """True for a package that only takes the place of the real one, to be imported and never called."""
    return bool(getattr(module, "__dict__", {}).get("is_stub"))


def _triton_target() -> str:
    try:
        import triton.runtime

        return str(triton.runtime.driver.active.get_current_target())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def peaks(record: Record) -> None:
    """Record B/s of a copy and FLOP/s of products: ``roofline.measure`` without TF32, and fp32 with it."""
    tries = 5 if record.cuda else 1
    with tf32(False):
        found = roofline.measure(record.device, ("bf16", "fp16") if record.cuda else ("bf16",), tries)
    products = dict(found.matmul)
    if record.cuda:
        with tf32(True, True):
            products["tf32"] = roofline.measure(record.device, (), tries).matmul["fp32"]
    record.put("copy GB/s", value=found.copy / 1e9)
    record.put("products TFLOP/s", value={name: rate / 1e12 for name, rate in products.items()})
    record.say(f"copy {found.copy / 1e9:.0f} GB/s, products {record.found['products TFLOP/s']}")


def peaks_of(ceilings: Mapping[str, Any], precision: str) -> Peaks | None:
    """The roofline's peaks for a precision, "tf32" included, from the results of this section."""
    product, copy = ceilings.get("products TFLOP/s", {}).get(precision), ceilings.get("copy GB/s")
    if not product or not copy:
        return None
    return Peaks({type_of(precision): 1e12 * product}, 1e9 * copy)


def type_of(precision: str) -> str:
    """In which precision of ``roofline.TYPES`` tensors are: TF32 is a way to multiply float32."""
    return "fp32" if precision == "tf32" else precision


@torch.inference_mode()
def convolutions(record: Record, batch: int) -> None:
    """Record the convolutions of one bf16 step in NHWC, alone: each, and their sum in several ways."""
    sums = dict.fromkeys(WAYS, 0.0)
    for number, (shape, count) in enumerate(layers(size_of(record.tiny)).convolutions):
        if record.left() < 3:
            record.put("left out", f"convolutions, batch {batch}", value=f"all but the first {number}")
            return
        found = _ways(record, shape, batch, search=number < SEARCHED and record.left() > 8)
        plain = found[WAYS[0]]
        for way in WAYS:
            sums[way] += count * min(plain, found.get(way, plain))
        row = {"count": count, "TFLOP/s": shape.flops(batch) / min(found.values()) / 1e12}
        row |= {f"us, {way}": 1e6 * seconds for way, seconds in found.items()}
        record.put("convolutions", f"batch {batch}", str(shape), value=row)
    record.put("convolutions of a step, ms", f"batch {batch}", value={w: 1e3 * s for w, s in sums.items()})
    record.say(f"convolutions of a step, batch {batch}: {sums}")


def _ways(record: Record, shape: Convolution, batch: int, search: bool) -> dict[str, float]:
    """Seconds of a convolution in each way that there is."""

    def random(*size: int) -> Tensor:
        values = torch.randn(size, device=record.device).bfloat16()
        return values.contiguous(memory_format=torch.channels_last)

    x = random(batch, shape.c_in, shape.side, shape.side)
    weight = random(shape.c_out, shape.c_in, shape.kernel, shape.kernel) / (shape.c_in**0.5 * shape.kernel)
    bias, pad = torch.zeros(shape.c_out, device=record.device).bfloat16(), shape.kernel // 2

    def convolve() -> Tensor:
        return F.conv2d(x, weight, bias, padding=pad)

    works: dict[str, Callable[[], Tensor]] = {
        WAYS[0]: convolve,
        # PyTorch adds a bias in a pass of its own behind cuDNN
        WAYS[2]: lambda: F.conv2d(x, weight, None, padding=pad),
    }
    if shape.kernel == 1:  # in NHWC a matrix product, whose epilogue takes the bias
        rows, square = x.permute(0, 2, 3, 1), weight[:, :, 0, 0].contiguous()
        works[WAYS[3]] = lambda: F.linear(rows, square, bias)
    if search:
        works[WAYS[1]] = within(searching, convolve)
    return {way: record.meter.best(work, tries=3, sample=0.01) for way, work in works.items()}
