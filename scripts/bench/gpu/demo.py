# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""B: the embedded, trained demo package on this device against the CPU's plain float32."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.model.downscaler import Downscaler

from .record import Record
from .switches import tf32

TIME = np.datetime64("2024-07-24T12:00")  # a typhoon
SEEDS = (11, 12, 13)
Fields = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How the demo runs: precision, accelerated or operation by operation, convolutions in TF32 or not."""

    precision: str
    accelerated: bool = True
    quick: bool = False

    def __str__(self) -> str:
        kind = "" if self.accelerated else ", operation by operation"
        return self.precision + kind + (", TF32 allowed" if self.quick else "")

    @property
    def bound(self) -> float:
        """Relative L2 that it may have; float32 on fast kernels is full float32, whatever is allowed."""
        rounded = self.quick and not self.accelerated
        return {"fp32": 3e-3 if rounded else 1e-4, "bf16": 5e-2, "fp16": 2e-2}[self.precision]


REFERENCE = Way("fp32", accelerated=False)


def run(record: Record) -> None:
    """Record errors, spread and spectra of a few members, normalised."""
    coarse, want, names = _reference(record.tiny)
    record.say("demo: the CPU is done")
    for way in _ways(record.cuda):
        with tf32(way.quick):
            got = _members(_downscaler(way, record.tiny).to(record.device), coarse, record.tiny)
        record.put("demo", str(way), value={**compare(got, want, names), "bound": way.bound})
        record.say(f"demo {way}: {record.found['demo'][str(way)]['error']:.2e}")


def _ways(cuda: bool) -> list[Way]:
    if not cuda:
        return [Way("fp32"), Way("bf16")]
    plain = [Way("fp32", accelerated, quick) for accelerated in (True, False) for quick in (False, True)]
    return [*plain, Way("bf16", quick=True), Way("fp16", quick=True)]


def _reference(tiny: bool) -> tuple[Tensor, Fields, list[str]]:
    """Coarse fields ``[1, C, h, w]``, members of the CPU, and the names of their variables."""
    from earth2_corrdiff.demo import DemoWeather

    plain = _downscaler(REFERENCE, tiny)
    values = DemoWeather()(TIME, list(plain.spec.inputs.names)).values
    coarse = torch.from_numpy(values).flatten(0, 1)[None]
    return coarse, _members(plain, coarse, tiny), list(plain.spec.outputs.names)


def _downscaler(way: Way, tiny: bool) -> Downscaler:
    """The package's pipeline on the CPU, with its own sampler."""
    from earth2_corrdiff import demo
    from earth2_corrdiff.model.packages.files import Folder
    from earth2_corrdiff.model.packages.reader import read_package

    loaded = read_package(Folder(Path(demo.__file__).parent / "package"))
    made = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, way.precision, way.accelerated)
    made.sampling = replace(made.sampling, steps=2) if tiny else made.sampling
    return made


def _members(downscaler: Downscaler, coarse: Tensor, tiny: bool) -> Fields:
    """``[M, C, H, W]``, normalised."""
    fields = downscaler(coarse.to(downscaler.device), SEEDS[:1] if tiny else SEEDS)
    normal = (fields - downscaler.center_out) / downscaler.scale_out
    values: Fields = normal[0].double().cpu().numpy()
    return values


def compare(got: Fields, want: Fields, names: list[str]) -> dict[str, Any]:
    """Errors of members ``[M, C, H, W]``, and ratios of their spread and of their power per octave."""
    one = len(got) == 1
    spread = None if one else float(got.std(axis=0, ddof=1).mean() / want.std(axis=0, ddof=1).mean())
    power = {
        name: [round(float(a / b), 5) for a, b in zip(*(octaves(v[:, i]) for v in (got, want)), strict=True)]
        for i, name in enumerate(names)
    }
    return {
        "error": _relative(got, want),
        "error per variable": {n: _relative(got[:, i], want[:, i]) for i, n in enumerate(names)},
        "largest difference": float(np.abs(got - want).max()),
        "spread, ratio": spread,
        "power per octave from the domain's length down, ratio": power,
        "finite": bool(np.isfinite(got).all()),
    }


def _relative(got: Fields, want: Fields) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def octaves(fields: Fields) -> Fields:
    """Power of ``[M, H, W]`` per octave of the wavenumber, with a Hann window."""
    _, H, W = fields.shape
    side = min(H, W)
    anomalies = fields - fields.mean(axis=(1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.rfft2(anomalies * np.outer(np.hanning(H), np.hanning(W))))).mean(axis=0)
    k = side * np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W)[None])
    edges = [2.0**e for e in range(int(math.log2(side / 2)) + 1)]
    return np.array([power[(k >= low) & (k < 2 * low)].sum() for low in edges])
