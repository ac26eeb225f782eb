# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory plan of a regression on a domain of any size: at once or in strips, and where its maps live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.networks.fast.cpu import KEPT
from earth2_corrdiff.networks.fast.executors import on_own_kernels
from earth2_corrdiff.networks.fast.feature_maps import MapMemory
from earth2_corrdiff.networks.memory_model import Memory, memory_of
from earth2_corrdiff.networks.preconditioned import PRECISIONS
from earth2_corrdiff.networks.unet import SongUNet

AUTO = "auto"
SPARE = 0.8  # of the free memory: the rest is for other tensors
NOTABLE = 1e9  # bytes of feature maps that are worth a line in the log


@dataclass(frozen=True)
class MemoryPlan:
    """A plan to run a U-Net once on a domain; all plans are exact.

    Attributes
    ----------
    how : {"at once", "in strips"}
        In strips, nothing is held but the feature maps that later layers need (``strips.py``)
    maps : str | Path
        Where the maps live, as in :class:`MapMemory`
    device, host, files : int
        Bytes that it needs at its peak: on the device, beside it in host memory, and in files
    """

    how: str
    maps: str | Path = "device"
    device: int = 0
    host: int = 0
    files: int = 0

    @property
    def strips(self) -> bool:
        """True if it runs in strips."""
        return self.how == "in strips"

    @property
    def notable(self) -> bool:
        """True if it deserves a line in the log: it is large, or not the quickest plan."""
        return self.strips or self.maps != "device" or self.device > NOTABLE

    def __str__(self) -> str:
        places = {"on the device": self.device, "in host memory": self.host, "in files": self.files}
        needs = [f"{need / 1e9:.1f} GB {where}" for where, need in places.items() if need]
        return f"{self.how}, with up to {' and '.join(needs)}"


def check_maps(maps: str | Path) -> None:
    """Raise InputError if ``maps`` is not a valid home of feature maps."""
    if maps != AUTO:
        MapMemory(maps)


def plan_memory(
    net: SongUNet, domain: tuple[int, int], precision: str, device: torch.device, maps: str | Path = AUTO
) -> MemoryPlan:
    """The quickest plan for a U-Net on a domain that fits the free memory.

    Parameters
    ----------
    net : SongUNet
        The network
    domain : tuple[int, int]
        (H, W)
    precision : {"fp32", "bf16", "fp16"}
        Of its arithmetic
    device : torch.device
        Where it runs
    maps : str | Path, optional
        Where its maps live; by default "auto": the quickest plan that fits the free memory

    Raises
    ------
    InputError
        If none fits; the message names what would
    """
    kernels = on_own_kernels(net, precision, device)
    dtype = KEPT[precision][0] if kernels else PRECISIONS[precision]
    row = memory_of(net, domain, dtype)
    plans = list(_plans(row, kernels, device, maps))
    if maps != AUTO:
        return plans[0]
    free, host = free_bytes(device), free_bytes(torch.device("cpu"))
    for plan in plans:
        if plan.device < SPARE * free and plan.host < SPARE * host:
            return plan
    H, W = domain
    raise InputError(
        f"the regression of {H} x {W} points needs {plans[-1].device / 1e9:.1f} GB on {device.type}, and "
        f"{free / 1e9:.1f} GB are free; keep its feature maps in files: --maps FOLDER with room for "
        f"{max(row.kernels, row.files) / 1e9:.1f} GB"
    )


def _plans(row: Memory, kernels: bool, device: torch.device, maps: str | Path) -> Iterator[MemoryPlan]:
    """Plans to try, the quickest first; only one where the home of the maps is given."""
    if maps in (AUTO, "device") or (maps == "host" and device.type == "cpu"):
        yield MemoryPlan("at once", "device", device=row.kernels if kernels else row.whole)
    if maps == AUTO:
        yield MemoryPlan("in strips", "device", device=row.strips)
    if device.type == "cuda" and maps in (AUTO, "host"):
        yield MemoryPlan("in strips", "host", device=row.mapped, host=row.files)
    if maps not in (AUTO, "device", "host"):
        how, files = ("at once", row.kernels) if kernels else ("in strips", row.files)
        yield MemoryPlan(how, maps, device=row.mapped, files=files)
