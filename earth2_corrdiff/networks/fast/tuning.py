# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what ``kernels/tuned.py`` may choose: tile sizes, graphs, attention on a GPU, kernels on a CPU.

The default stays unless something else is faster by ``MARGIN``. cuDNN's search is not among the choices:
PyTorch cannot keep what it finds, so that another process might compute other bits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from earth2_corrdiff.networks.fast.cpu import supports
from earth2_corrdiff.networks.fast.executors import CpuExecutor, Level, TorchExecutor
from earth2_corrdiff.networks.kernels import feature_maps, group_norm_silu, tuned
from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.kernels.tuned import PRECISIONS, TILES, Choice
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.neighbourhood import FORMS
from earth2_corrdiff.networks.preconditioned import PRECISIONS as TYPES
from earth2_corrdiff.networks.preconditioned import create
from earth2_corrdiff.networks.unet import SKIP_SCALE, SongUNet

Work = Callable[[], object]
Timer = Callable[[Work], float]
MARGIN = 1.03  # times faster than the default, at least
SLOW = 0.3  # seconds of a call from which on few are enough
SECONDS = 45.0  # after which no other candidate is tried
GROUPS = (("TILE", "LAUNCH"), ("SUM_TILE", "SUMS"), ("SPANS",))  # chosen one after the other
# At the published network's sides; of one width, because each is compiled anew and tiles have 128 channels.
SHAPES = ((1, 128, 448, 448), (4, 128, 224, 224), (4, 128, 56, 56))
LEVEL = Level(0.1, 0.5, 1.0, 0.5, 0.5)
SIDE, CHANNELS = {"cpu": 112, "cuda": 448}, 24  # of the network that is timed


@dataclass(frozen=True)
class Tuned:
    """Choices of a tuning.

    Attributes
    ----------
    choice : Choice
        For this device
    won : dict[str, float]
        How many times faster than the default each part of it is; 1 where the default stays
    path : Path
        The table
    """

    choice: Choice
    won: dict[str, float]
    path: Path


def tune(device: torch.device, timer: Timer | None = None, seconds: float = SECONDS) -> Tuned:
    """Measure, and write the table of a device.

    Parameters
    ----------
    device : torch.device
        A GPU, or the CPU
    timer : Callable | None, optional
        Seconds of a work that it calls; by default the median of some calls, the first ones not counted
    seconds : float, optional
        After which no other candidate is tried, by default 45

    Raises
    ------
    OSError
        If the table cannot be written
    """
    timer, end = timer or Stopwatch(device), time.monotonic() + seconds
    with torch.inference_mode():
        choice, won = (_on_gpu if device.type == "cuda" else _on_cpu)(device, timer, end)
    return Tuned(choice, won, tuned.save(device, choice, won))


class Stopwatch:
    """Times works: the median of several samples, after a call that compiles and one that warms up."""

    def __init__(self, device: torch.device, samples: int = 5, lasting: float = 0.02) -> None:
        self.device, self.samples, self.lasting = device, samples, lasting

    def __call__(self, work: Work) -> float:
        """Seconds of a call."""
        self._time(work, 1)
        once = self._time(work, 1)
        calls = max(1, min(100, round(self.lasting / max(once, 1e-6))))
        samples = self.samples if once < SLOW else 2
        return statistics.median(
            [*([once] if calls == 1 else []), *(self._time(work, calls) for _ in range(samples))]
        )

    def _time(self, work: Work, calls: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        self._wait()
        return (time.perf_counter() - start) / calls

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _on_gpu(device: torch.device, timer: Timer, end: float) -> tuple[Choice, dict[str, float]]:
    from earth2_corrdiff.networks.kernels import triton_tiles

    norms = _norms(device)

    def seconds(tiles: Mapping[str, int]) -> float:
        before = tuned.set_tiles(triton_tiles, tiles)
        try:
            return sum(timer(work) for work in norms)
        finally:
            tuned.set_tiles(triton_tiles, before)

    with tuned.using(tuned.DEFAULT):
        tiles, gain = search(seconds, end)
    before = tuned.set_tiles(triton_tiles, tiles)
    try:
        graphs, graph_gain = _graphs(device, timer)
    finally:
        tuned.set_tiles(triton_tiles, before)
    attention, attention_gain = _attention(device, timer)
    won = {"tiles": gain, "no graphs": graph_gain, f"attention by {attention}": attention_gain}
    return Choice(tiles, graphs, attention=attention), won


def _attention(device: torch.device, timer: Timer) -> tuple[str, float]:
    """The fastest form of neighbourhood attention, and how many times faster than tiles it is."""
    q, k, v = torch.randn(1, 64, 64, 3, 12, 64, device=device).bfloat16().unbind(3)
    seconds = {}
    for name, form in FORMS.items():
        try:
            seconds[name] = timer(partial(form, q, k, v, (13, 13)))
        except Exception as error:  # for instance no NATTEN, or no compiler
            logger.debug("attention by {} is passed over: {}", name, error)
    best = min(seconds, key=lambda name: seconds[name])
    gain = seconds["tiles"] / seconds[best]
    return (best, gain) if gain > MARGIN else ("tiles", 1.0)


def search(seconds: Callable[[Mapping[str, int]], float], end: float) -> tuple[dict[str, int], float]:
    """The fastest tile sizes, group after group, and how many times faster than the default they are.

    Parameters
    ----------
    seconds : Callable[[Mapping[str, int]], float]
        Of the kernels with some of ``TILES`` replaced; a candidate that raises is passed over
    end : float
        Of ``time.monotonic``, after which no other candidate is tried; each group has its share of the time
    """
    best: dict[str, int] = {}
    default = fastest = seconds(best)
    for number, group in enumerate(GROUPS):
        now = time.monotonic()
        until = now + (end - now) / (len(GROUPS) - number)
        for values in product(*(TILES[name] for name in group)):
            if time.monotonic() > until:
                break
            candidate = {**best, **dict(zip(group, values, strict=True))}
            try:
                found = seconds(candidate)
            except Exception as error:  # for instance too much shared memory or too many registers
                logger.debug("tile sizes {} are passed over: {}", candidate, error)
                continue
            if found < fastest and default / found > MARGIN:
                best, fastest = candidate, found
    return best, default / fastest


def _norms(device: torch.device) -> list[Work]:
    """The operators between the convolutions of a step, at some of its shapes."""
    return [work for shape in SHAPES for work in _between(shape, device)]


def _between(shape: tuple[int, int, int, int], device: torch.device) -> Iterator[Work]:
    C = shape[1]
    x, side = (
        torch.randn(shape, device=device).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight, bias = torch.ones(C, device=device), torch.zeros(C, device=device)
    norm = Norm(32, unbiased=True)
    yield lambda: feature_maps.normalised([feature_maps.measured(x)], weight, bias, norm, shift=bias[None])
    yield lambda: feature_maps.join(x, side, bias, SKIP_SCALE)
    yield lambda: group_norm_silu(x, 32, weight, bias, unbiased=True)


def _graphs(device: torch.device, timer: Timer) -> tuple[bool, float]:
    """True if a captured step is not slower than one without; and what going without would win."""
    net = _network(device)
    captured, eager = (
        timer(_step(TorchExecutor(net, torch.bfloat16, graphs), device)) for graphs in (True, False)
    )
    keep = captured < MARGIN * eager
    return keep, 1.0 if keep else captured / eager


def _on_cpu(device: torch.device, timer: Timer, end: float) -> tuple[Choice, dict[str, float]]:
    net = _network(device)
    own: dict[str, bool] = {}
    won: dict[str, float] = {}
    for precision in PRECISIONS:
        if not supports(net) or time.monotonic() > end:
            break
        ours = timer(_step(CpuExecutor(net, precision), device))
        theirs = timer(_step(TorchExecutor(net, TYPES[precision], False), device))
        own[precision] = ours < MARGIN * theirs
        won[f"PyTorch's operators in {precision}"] = 1.0 if own[precision] else ours / theirs
    return Choice(own=own), won


def _network(device: torch.device) -> SongUNet:
    """A denoiser of the published width; on a CPU, which would take minutes, of fewer blocks and points."""
    args: dict[str, Any] = {
        "img_resolution": SIDE[device.type],
        "img_channels": 4,
        "img_in_channels": CHANNELS - 4,
        "img_out_channels": 4,
        "model_type": "SongUNet",
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2, 2],
        "num_blocks": 4 if device.type == "cuda" else 1,
        "attn_resolutions": [SIDE[device.type] // 16],
    }
    with torch.inference_mode(False):
        net = create(Checkpoint("EDMPrecondSR", args, {}, "the network that is timed")).eval()
        net.requires_grad_(False).to(device)
        net.to(memory_format=torch.channels_last)
    assert isinstance(net.model, SongUNet)  # noqa: S101 (for the type checker)
    return net.model


def _step(engine: CpuExecutor | TorchExecutor, device: torch.device) -> Work:
    side = SIDE[device.type]
    x, cond = (torch.randn(1, channels, side, side, device=device) for channels in (4, CHANNELS - 4))
    slab: Any = engine.prepare(cond)
    return lambda: engine(x, slab, LEVEL)


def lines(found: Tuned) -> Sequence[str]:
    """Lines about a table, to print."""
    gains = [f"{name}: {ratio:.2f} x" for name, ratio in found.won.items() if ratio != 1]
    return [f"chosen: {found.choice}", f"won: {', '.join(gains) or 'nothing, the defaults are fastest here'}"]
