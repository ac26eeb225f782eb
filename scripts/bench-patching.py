#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What cutting into patches and blending them costs: against PhysicsNeMo, and against the network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

import torch  # noqa: E402
from bench.provenance import command, machine, versions  # noqa: E402
from bench.timing import Timing, clock_of, interleave, warm_up  # noqa: E402

from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry  # noqa: E402
from earth2_corrdiff.model.diffusion.patched import Blend, merge, split  # noqa: E402
from earth2_corrdiff.networks.fast.accelerate import accelerate  # noqa: E402
from earth2_corrdiff.networks.mdlus import Checkpoint  # noqa: E402
from earth2_corrdiff.networks.preconditioned import Denoiser, create  # noqa: E402

Works = dict[str, Callable[[], torch.Tensor]]
STATE, CONDITION = 4, 40  # channels
FULL = {
    "img_resolution": 448,
    "model_type": "SongUNet",
    "channel_mult": [1, 2, 2, 2, 2],
    "attn_resolutions": [28],
}


def parser() -> argparse.ArgumentParser:
    """Arguments; the defaults are NVIDIA's published CONUS case."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--domain", type=int, nargs=2, default=[1056, 1792], metavar=("H", "W"))
    p.add_argument("--patch", type=int, default=448)
    p.add_argument("--overlap", type=int, default=4)
    p.add_argument("--boundary", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--compiled", action="store_true", help="also PhysicsNeMo's as its samplers compile them")
    p.add_argument("--precision", default="auto", help="of the network whose step is the measure")
    p.add_argument("--no-step", action="store_true", help="do not run the network")
    return p


def stock(args: argparse.Namespace) -> Any:
    """PhysicsNeMo's patching on the device (its count map moves along, which its own program forgets)."""
    from physicsnemo.diffusion.multi_diffusion import GridPatching2D

    sizes = tuple(args.domain), (args.patch, args.patch), args.overlap, args.boundary
    return GridPatching2D(*sizes).to(args.device)


def cases(args: argparse.Namespace, geometry: PatchGeometry) -> dict[str, Works]:
    """What is compared: per case, PhysicsNeMo's way and ours."""
    device, theirs = torch.device(args.device), stock(args)
    apply, fuse = {"": theirs.apply}, {"": theirs.fuse}
    if args.compiled:
        apply[" compiled"] = torch.compile(theirs.apply)
        fuse[" compiled"] = torch.compile(theirs.fuse)
    made: dict[str, Works] = {}
    for what, channels, dtype in (
        ("split state", STATE, torch.float32),
        ("split state, float64", STATE, torch.float64),
        ("split conditioning", CONDITION, torch.float32),
    ):
        field = torch.randn(1, channels, *geometry.domain, dtype=dtype, device=device)
        works: Works = {f"PhysicsNeMo{kind}": lambda f=f, x=field: f(x) for kind, f in apply.items()}
        made[what] = works | {"ours": lambda x=field: one_by_one(x, geometry)}
    for what, window, dtype in (
        ("merge flat", "flat", torch.float32),
        ("merge flat, float64", "flat", torch.float64),
        ("merge cosine", "cosine", torch.float32),
    ):
        shape = (len(geometry.patches), STATE, *geometry.shape)
        pieces = torch.randn(shape, dtype=dtype, device=device)
        works = {f"PhysicsNeMo{kind}": lambda f=f, x=pieces: f(x, batch_size=1) for kind, f in fuse.items()}
        made[what] = works | {"ours": merger(geometry, window, pieces)}
    return made


def one_by_one(field: torch.Tensor, geometry: PatchGeometry) -> torch.Tensor:
    """Every patch as the network gets it; never all of them in memory."""
    for patch in geometry.patches:
        piece = split(field, geometry, [patch]).contiguous()
    return piece


def merger(geometry: PatchGeometry, window: str, pieces: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Blending as a step of a sampler does it: the weights are there already."""
    blend = Blend(geometry, window, pieces)
    order = sorted(
        zip(geometry.patches, pieces.split(1), strict=True), reverse=True, key=lambda pair: pair[0]
    )

    def work() -> torch.Tensor:
        total = pieces.new_zeros(1, STATE, *geometry.domain)
        for patch, piece in order:
            blend.add(total, piece, [patch])
        return blend.normalise(total)

    return work


def check(args: argparse.Namespace, geometry: PatchGeometry) -> None:
    """What is not equal is not timed."""
    theirs = stock(args)
    field = torch.randn(1, STATE, *geometry.domain, device=args.device)
    pieces = theirs.apply(field)
    assert torch.equal(split(field, geometry), pieces)
    assert torch.allclose(merge(pieces, geometry), theirs.fuse(pieces, batch_size=1), rtol=0, atol=1e-6)


def step_seconds(args: argparse.Namespace, geometry: PatchGeometry) -> float:
    """One denoising step of one member: the full network on one patch, times the number of patches."""
    channels = {"img_in_channels": CONDITION, "img_out_channels": STATE}
    net = create(Checkpoint("EDMPrecondSuperResolution", {**FULL, **channels}, {}, "network"))
    assert isinstance(net, Denoiser)
    net = accelerate(net.eval().requires_grad_(False).to(args.device), args.precision)
    x, cond = (torch.randn(1, c, *geometry.shape, device=args.device) for c in (STATE, CONDITION))
    step, clock = net.given(cond), clock_of(torch.device(args.device))
    warm_up(lambda: step(x, 1.0), clock)
    return min(clock.time(lambda: step(x, 1.0)) for _ in range(3)) * len(geometry.patches)


def main() -> int:
    """Run and print."""
    args = parser().parse_args()
    geometry = PatchGeometry(tuple(args.domain), (args.patch, args.patch), args.overlap, args.boundary)
    check(args, geometry)
    device = torch.device(args.device)
    clock, ours = clock_of(device), {}
    print(f"{command()}\n{machine(device)}\n{versions()}")
    print(
        f"{len(geometry.patches)} patches of {geometry.shape} in {geometry.domain}; median, and ratio to ours"
    )
    for case, works in cases(args, geometry).items():
        repeats = {name: warm_up(work, clock)[1] for name, work in works.items()}
        timings: dict[str, Timing] = interleave(works, args.rounds, clock, repeats)
        ours[case] = timings["ours"].median
        for name, timing in timings.items():
            ratio = timings["ours"].ratio(timing)
            print(f"{case:24s} {name:22s} {timing.median * 1e3:9.2f} ms  {ratio:6.2f}", flush=True)
    if not args.no_step:
        step = step_seconds(args, geometry)
        cost = ours["split state"] + ours["split conditioning"] + ours["merge cosine"]
        kept = cost - ours["split conditioning"]
        print(f"one step of the full network, {args.precision}: {step:.2f} s; split and merge:")
        print(f"{100 * cost / step:.2f} % of it, {100 * kept / step:.2f} % where the conditioning is kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
