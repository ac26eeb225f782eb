#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Seams of patches: steps of the residual across their edges over steps beside them, by overlap and calls."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

import torch  # noqa: E402
from bench.drawn import FetchedInput  # noqa: E402

from earth2_corrdiff.base.times import distinct, to_times  # noqa: E402
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry  # noqa: E402
from earth2_corrdiff.model.diffusion.patched import WINDOWS  # noqa: E402
from earth2_corrdiff.model.earth2studio import CorrDiff  # noqa: E402
from earth2_corrdiff.model.options import ModelOptions, patch_shape  # noqa: E402
from earth2_corrdiff.run.packages import load_model  # noqa: E402
from earth2_corrdiff.sources import make_source  # noqa: E402
from earth2_corrdiff.verification.seams import seam_ratio  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Arguments; the defaults are a quick look at the demo."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--package", default="demo")
    p.add_argument("--source", default="demo")
    p.add_argument("--times", nargs="+", default=["2024-07-24T12:00"])
    p.add_argument("--patch", default="64x64", help="height and width")
    p.add_argument("--overlap", type=int, nargs="+", default=[0, 8, 16])
    p.add_argument("--window", nargs="+", default=list(WINDOWS), choices=WINDOWS)
    p.add_argument("--steps", type=int, nargs="+", help="of the solver (default: the package's)")
    p.add_argument("--members", type=int, default=4)
    return p


def residuals(model: CorrDiff, coarse: torch.Tensor, members: int) -> torch.Tensor:
    """``[B · M, Co, H, W]``, in physical units."""
    made = model.downscaler(coarse, range(members)) - model.downscaler.mean(coarse)[:, None]
    return made.flatten(0, 1)


def main(argv: list[str] | None = None) -> int:
    """Print a row for each setting."""
    args = parser().parse_args(argv)
    model, times = load_model(ModelOptions(args.package)), distinct(to_times(args.times))
    fetch = FetchedInput(make_source(args.source), model.spec, times)
    coarse = torch.stack([fetch(time) for time in times])
    print(f"{'calls':>5} {'overlap':>7} {'window':>8}  {'  '.join(model.output_variables)}")
    for steps in args.steps or [model.number_of_steps]:
        model.number_of_steps = steps
        for overlap in args.overlap:
            geometry = PatchGeometry(
                model.spec.domain, patch_shape(args.patch), overlap, 0, model.downscaler.denoiser.multiple
            )
            for window in (None, *args.window):  # None: the whole domain, at the places of the same edges
                model.patching = geometry if window else None
                model.window = window or "flat"
                ratio = seam_ratio(residuals(model, coarse, args.members), geometry)
                row = f"{model.downscaler.sampling.calls:5d} {overlap:7d} {window or 'whole':>8}"
                print(row, *(f"{value:7.3f}" for value in ratio.tolist()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
