#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What memory the published networks need on large domains: computed for any size, measured where asked."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import ArgumentParser, run_command, share_cores  # noqa: E402

share_cores()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench.cases import INPUTS, OUTPUTS, SIZES, randomise  # noqa: E402
from bench.provenance import command, machine, versions  # noqa: E402
from bench.report import columns  # noqa: E402

from earth2_corrdiff.base.errors import InputError  # noqa: E402
from earth2_corrdiff.base.grid import Grid  # noqa: E402
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry  # noqa: E402
from earth2_corrdiff.model.downscaler import Downscaler  # noqa: E402
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling  # noqa: E402
from earth2_corrdiff.networks.fast.cpu import KEPT  # noqa: E402
from earth2_corrdiff.networks.mdlus import Checkpoint  # noqa: E402
from earth2_corrdiff.networks.memory_model import memory_of  # noqa: E402
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create  # noqa: E402

Shape = tuple[int, int]
COARSE = Grid(np.linspace(19, 29, 41), np.linspace(115, 127, 49))
PATCH, OVERLAP, BOUNDARY = (448, 448), 4, 2  # NVIDIA's published CONUS case
POSITIONS = 100  # maps of position
LEGEND = """The regression: at once on the CPU's kernels, in strips, and with its maps in files. The
denoiser: what all patches of 448 are conditioned on, cut out once, a step of one patch, and what each patch
of a batch needs on a GPU. The whole run, on a CPU: Python, weights, the fields of the domain, and the larger
of the two networks; the same for any members and times."""
BASE = 3.8e9  # bytes: Python, PyTorch, both networks and their packed weights; measured on a small domain


def parser() -> ArgumentParser:
    """Arguments."""
    p = ArgumentParser(prog="memory-table.py", description=__doc__)
    sizes = ["448x448", "1056x1792", "2048x2048", "3072x3072", "4096x4096"]
    p.add_argument("--domains", nargs="+", default=sizes, metavar="HxW")
    p.add_argument(
        "--measure", nargs="*", default=[], metavar="HxW", help="domains to run, on this CPU: slow"
    )
    p.add_argument("--rounds", type=int, default=2, metavar="N", help="states and members (default: 2)")
    p.add_argument("--precision", default="bf16", help="bf16 (default) or fp32")
    p.add_argument(
        "--maps", default="auto", help="of a measured regression: auto (default), device or a folder"
    )
    p.add_argument("--child", help=argparse.SUPPRESS)
    return p


def networks(domain: Shape) -> tuple[Regression, Denoiser]:
    """Both networks in their published width, the denoiser as it is trained on patches.

    It is shown its patch, the whole domain resized to a patch, and 100 trained maps of position.
    """
    size, inputs, outputs = SIZES["full"], len(INPUTS.names), len(OUTPUTS.names)
    common = {
        "img_resolution": list(domain),
        "channel_mult": list(size.mult),
        "attn_resolutions": [domain[0] >> (len(size.mult) - 1)],
        "img_out_channels": outputs,
    }
    regression = {"img_in_channels": inputs, "model_type": "SongUNet", "embedding_type": "zero"}
    diffusion = {"img_in_channels": 2 * inputs + outputs + POSITIONS, "model_type": "SongUNetPosEmbd"}
    diffusion |= {"gridtype": "learnable", "N_grid_channels": POSITIONS}
    first = create(Checkpoint("UNet", {**regression, **common}, {}, "regression"))
    second = create(Checkpoint("EDMPrecondSuperResolution", {**diffusion, **common}, {}, "diffusion"))
    assert isinstance(first, Regression) and isinstance(second, Denoiser)
    return first, second


def child(asked: dict[str, Any]) -> None:
    """In a process of its own: for each of some states the regression, and a denoising step of a member."""
    H, W = domain = asked["domain"][0], asked["domain"][1]
    patching = PatchGeometry(domain, PATCH, OVERLAP, BOUNDARY)
    fine = Grid(np.linspace(20, 28, H), np.linspace(116, 126, W))
    spec = CorrDiffSpec(INPUTS, OUTPUTS, COARSE, fine, Sampling("euler", 2), patching=patching)
    nets = networks(domain)
    for seed, net in enumerate(nets):
        randomise(net, seed)
        net.eval().requires_grad_(False)
    model = Downscaler(spec, *nets, asked["precision"])
    model.regression.maps = asked["maps"]
    coarse = torch.tensor(INPUTS.center).view(1, -1, 1, 1).expand(1, -1, *COARSE.shape)
    rows = [("loaded", 0.0, _peak())]
    with torch.inference_mode():
        for seed in range(asked["rounds"]):
            start = perf_counter()
            cond = model.condition(coarse.float())
            mean = model.normalised_mean(cond)
            rows.append(("regression", perf_counter() - start, _peak()))
            start = perf_counter()
            x = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
            model.domain.given(cond, mean)(x, 1.0)
            rows.append(("denoising step", perf_counter() - start, _peak()))
    print(json.dumps({"rows": rows, "placement": str(model.regression.memory_plan(domain, cond.device))}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(domain: Shape, args: argparse.Namespace) -> dict[str, Any]:
    """Run it in a process of its own."""
    asked = {"domain": domain, "precision": args.precision, "maps": args.maps, "rounds": args.rounds}
    words = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"the run on {domain[0]} x {domain[1]} points failed; see above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(domain: Shape, args: argparse.Namespace, found: dict[str, Any] | None) -> tuple[str, ...]:
    """A line of the table."""
    patching = PatchGeometry(domain, PATCH, OVERLAP, BOUNDARY)
    size = KEPT[args.precision][0]
    with torch.device("meta"):  # sizes alone
        regression, denoiser = (net.model for net in networks(patching.shape))
    whole = memory_of(regression, domain, size)
    step = memory_of(denoiser, patching.shape, size)
    patches, pixels = len(patching.patches), domain[0] * domain[1]
    inputs, outputs = len(INPUTS.names), len(OUTPUTS.names)
    kept = 4 * (2 * inputs + outputs + POSITIONS) * patches * patching.shape[0] * patching.shape[1]
    # the maps of position; what goes in, as it is, beside the mean and as the networks take it; states
    fields = 4 * pixels * (POSITIONS + 4 * inputs + 9 * outputs)
    run = BASE + fields + max(whole.kernels, kept + step.kernels)
    peak = f"{run / 1e9:.1f} computed" if found is None else f"{found['rows'][-1][2] / 1e9:.1f} measured"
    cells = (whole.kernels, whole.strips, whole.mapped, whole.files, kept, step.kernels, step.whole)
    return (f"{domain[0]} x {domain[1]}", str(patches), *(f"{n / 1e9:.1f}" for n in cells), peak)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    if args.child is not None:
        child(json.loads(args.child))
        return
    if args.precision not in KEPT:
        raise InputError(f"--precision takes one of {', '.join(KEPT)}")
    found = {shape: measured(shape, args) for shape in map(shape_of, args.measure)}
    domains = sorted({*map(shape_of, args.domains), *found}, key=lambda shape: shape[0] * shape[1])
    heads = ("domain", "patches", "at once", "strips", "mapped", "+ files", "kept", "a patch")
    heads += ("on a GPU", "whole run")
    print(f"{command()}\n{machine(torch.device('cpu'))}\n{versions()}\n")
    print(columns(heads, [row(shape, args, found.get(shape)) for shape in domains]))
    print(f"\nGB, {args.precision}, full width. {LEGEND}")
    for shape, ran in found.items():
        print(f"\n{shape[0]} x {shape[1]}, measured: the regression {ran['placement']}")
        for what, seconds, peak in ran["rows"]:
            print(f"  {what:16s} {seconds:7.1f} s, peak so far {peak / 1e9:.2f} GB")


def shape_of(text: str) -> Shape:
    """``1056x1792`` as two numbers, multiples of 16."""
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal() or int(height) % 16 or int(width) % 16:
        raise InputError(f"a domain is given as HxW in multiples of 16, like 1056x1792; got {text!r}")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(run_command("memory-table.py", run, parser().parse_args()))
