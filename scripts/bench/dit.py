# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``bench-dit.py``: a denoising step of a DiT, PhysicsNeMo's and ours with the same weights.

Both are EDM-preconditioned, with rotary positions and neighbourhood attention. Where NATTEN is not installed,
PhysicsNeMo's network gets masked attention in its place: exact, and the fastest that a CPU has without a
kernel of its own (NATTEN itself runs ``flex_attention`` uncompiled there).
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from earth2_corrdiff.base import peak_memory
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.neighbourhood import masked_attention
from earth2_corrdiff.networks.preconditioned import DiTDenoiser, create

from . import corrdiff, provenance, report
from .measure import relative_error
from .timing import clock_of, interleave, repeats_for

LATENT, CONDITIONING, SIGMA = 4, 12, 0.7  # channels, and the noise level of the step


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="bench-dit.py",
        description="Time a denoising step of a DiT against PhysicsNeMo's: one process, same weights.",
    )
    add = made.add_argument
    add("--cells", type=corrdiff.counts_of, default=[128, 128], metavar="H,W", help="by default 128,128")
    add("--patch", type=int, default=2, help="cells along each side of a token, by default 2")
    add("--kernel", type=int, default=13, help="tokens along each side of a window, by default 13")
    add("--hidden", type=int, default=768)
    add("--depth", type=int, default=12)
    add("--heads", type=int, default=12)
    add("--precision", type=corrdiff.several("fp32", "bf16", "auto"), default=["fp32", "bf16"], metavar="A,B")
    add("--rounds", type=int, default=5)
    add("--ours-only", action="store_true", help="time and memory without PhysicsNeMo's: for large domains")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int)
    add("--json", type=Path, metavar="FILE", help="write all rows, with machine, versions and command")
    return made


def run(args: Namespace) -> list[dict[str, Any]]:
    """Run the benchmark and print its table."""
    device = corrdiff.device_of(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = provenance.machine(device)
    print(f"{machine['device']}, {machine['threads']} threads, load average {machine['load'][0]:.2f}")
    with torch.inference_mode(), ExitStack() as stack:
        if not args.ours_only and find_spec("natten") is None:
            from physicsnemo.nn.module import dit_layers

            print("PhysicsNeMo's network: masked attention for NATTEN, which is not installed")
            stack.enter_context(mock.patch.object(dit_layers, "_na2d_func", _masked))
        rows = _rows(args, device)
    print(_table(rows))
    if args.json:
        content = {"command": provenance.command(), "machine": machine, "versions": provenance.versions()}
        text = json.dumps({**content, "rows": rows}, indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    return rows


def _masked(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, dilation: int = 1) -> Tensor:
    return masked_attention(q, k, v, kernel_size, dilation)


def _settings(args: Namespace) -> dict[str, Any]:
    return {
        "input_size": args.cells,
        "in_channels": LATENT + CONDITIONING,
        "out_channels": LATENT,
        "patch_size": [args.patch] * 2,
        "hidden_size": args.hidden,
        "depth": args.depth,
        "num_heads": args.heads,
        "attention_backend": "natten2d_rope",
        "attn_kwargs": {"attn_kernel": args.kernel},
        "detokenizer": "proj_reshape_2d_conv",
    }


@torch.no_grad()
def _weights(net: nn.Module) -> dict[str, Tensor]:
    """Random ones, none zero: zeros at the end of every block would hide errors."""
    generator = torch.Generator().manual_seed(0)
    state = net.state_dict()
    return {k: v + 0.02 * torch.randn(v.shape, generator=generator).to(v) for k, v in state.items()}


def _stock(settings: dict[str, Any], state: dict[str, Tensor], device: torch.device) -> nn.Module:
    from physicsnemo.diffusion.preconditioners import EDMPreconditioner
    from physicsnemo.diffusion.utils import ConcatConditionWrapper
    from physicsnemo.models.dit import DiT as PhysicsNeMo

    with torch.inference_mode(False):
        net = PhysicsNeMo(**settings)
        net.load_state_dict(state)
        made: nn.Module = EDMPreconditioner(ConcatConditionWrapper(net), 0.5).eval().to(device)
        return made


def _rows(args: Namespace, device: torch.device) -> list[dict[str, Any]]:
    settings = _settings(args)
    with torch.inference_mode(False):
        plain = create(Checkpoint("DiT", settings, {}, "random weights"), wrap=DiTDenoiser)
        plain.eval().requires_grad_(False)
        state = _weights(plain.model)
        plain.model.load_state_dict(state)
        ours: dict[str, Any] = {p: accelerate(plain.to(device), p) for p in args.precision}
    generator = torch.Generator().manual_seed(1)
    x, cond = (torch.randn(1, c, *args.cells, generator=generator).to(device) for c in (LATENT, CONDITIONING))
    works: dict[str, Callable[[], Tensor]] = {}
    if not args.ours_only:
        stock, sigma = _stock(settings, state, device), torch.full((1,), SIGMA, device=device)

        def in_half() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                made: Tensor = stock(x, sigma, condition=cond)
            return made.float()

        works = {"stock fp32": lambda: stock(x, sigma, condition=cond)}
        works |= {"stock bf16": in_half} if {"bf16", "auto"} & set(args.precision) else {}
    del state
    works |= {f"ours {p}": lambda net=net: net(x, SIGMA, cond) for p, net in ours.items()}  # type: ignore[misc]
    return _measured(works, args, device)


def _measured(
    works: dict[str, Callable[[], Tensor]], args: Namespace, device: torch.device
) -> list[dict[str, Any]]:
    clock = clock_of(device)
    found: dict[str, Tensor] = {}
    peaks, repeats = {}, {}
    for name, work in works.items():
        with peak_memory.peak(device) as peak:
            seconds = clock.time(lambda name=name, work=work: found.update({name: work()}))  # type: ignore[misc]
        peaks[name], repeats[name] = peak.bytes, repeats_for(seconds)
    timings = interleave(works, args.rounds, clock, repeats)
    first = next(iter(works))
    rows = []
    for name, timing in timings.items():
        ratios = [a / b for a, b in zip(timings[first].seconds, timing.seconds, strict=True)]
        error = relative_error(found[name], found[first])
        rows.append({"version": name, "seconds": timing.seconds, "median": timing.median,
                     "ratio": timing.ratio(timings[first]), "spread": [min(ratios), max(ratios)],
                     "error": error, "peak": peaks[name]})  # fmt: skip
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["version", "median", f"x {rows[0]['version']}", "spread", "difference", "peak memory"]
    cells = [
        [row["version"], report.seconds(row["median"]), f"{row['ratio']:.2f}",
         "{:.2f}-{:.2f}".format(*row["spread"]), f"{row['error']:.1e}", f"{row['peak'] / 2**20:.0f} MiB"]
        for row in rows
    ]  # fmt: skip
    return report.columns(header, cells)
