# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""How a regression runs on a domain of any size: at once, or in strips, and where its feature maps live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.networks.fast.cpu import KEPT
from earth2_corrdiff.networks.fast.executors import on_own_kernels
from earth2_corrdiff.networks.fast.feature_maps import MapStore
from earth2_corrdiff.networks.memory_model import Memory, memory_table
from earth2_corrdiff.networks.preconditioned import PRECISIONS
from earth2_corrdiff.networks.unet import SongUNet

AUTO = "auto"
SPARE = 0.8  # of the free memory: something else needs some, too
NOTABLE = 1e9  # bytes of feature maps from which on it is worth a line


@dataclass(frozen=True)
class Placement:
    """A way to run a U-Net once on a domain; all of them are exact.

    Attributes
    ----------
    how : {"at once", "in strips"}
        In strips, nothing is held but the feature maps that later layers need (``strips.py``)
    place : str | Path
        Where the maps live, as in :class:`MapStore`
    device, host, files : int
        Bytes that it needs at its peak: on the device, beside it in host memory, and in files
    """

    how: str
    place: str | Path = "device"
    device: int = 0
    host: int = 0
    files: int = 0

    @property
    def strips(self) -> bool:
        """Whether it runs in strips."""
        return self.how == "in strips"

    @property
    def notable(self) -> bool:
        """Whether a user should know: it is large, or not the quickest way."""
        return self.strips or self.place != "device" or self.device > NOTABLE

    def __str__(self) -> str:
        places = {"on the device": self.device, "in host memory": self.host, "in files": self.files}
        needs = [f"{need / 1e9:.1f} GB {where}" for where, need in places.items() if need]
        return f"{self.how}, with up to {' and '.join(needs)}"


def check_place(place: str | Path) -> None:
    """Raise InputError if feature maps cannot live there."""
    if place != AUTO:
        MapStore(place)


def placed(
    net: SongUNet, domain: tuple[int, int], precision: str, device: torch.device, place: str | Path = AUTO
) -> Placement:
    """How a U-Net runs on a domain.

    Parameters
    ----------
    net : SongUNet
        The network
    domain : tuple[int, int]
        (H, W)
    precision : {"fp32", "bf16", "fp16"}
        What it runs in
    device : torch.device
        Where it runs
    place : str | Path, optional
        Where its maps shall live; by default "auto": the quickest way that fits the memory which is free

    Raises
    ------
    InputError
        If none fits; the message says what would
    """
    kernels = on_own_kernels(net, precision, device)
    dtype = KEPT[precision][0] if kernels else PRECISIONS[precision]
    (row,) = memory_table(net, [domain], dtype)
    ways = list(_ways(row, kernels, device, place))
    if place != AUTO:
        return ways[0]
    free, host = free_bytes(device), free_bytes(torch.device("cpu"))
    for way in ways:
        if way.device < SPARE * free and way.host < SPARE * host:
            return way
    H, W = domain
    raise InputError(
        f"the regression of {H} x {W} points needs {ways[-1].device / 1e9:.1f} GB on {device.type}, and "
        f"{free / 1e9:.1f} GB are free; keep its feature maps in files: --maps FOLDER with room for "
        f"{max(row.kernels, row.files) / 1e9:.1f} GB"
    )


def _ways(row: Memory, kernels: bool, device: torch.device, place: str | Path) -> Iterator[Placement]:
    """Ways to try, the quickest first; one alone where a place is asked for."""
    if place in (AUTO, "device") or (place == "host" and device.type == "cpu"):
        yield Placement("at once", "device", device=row.kernels if kernels else row.whole)
    if place == AUTO:
        yield Placement("in strips", "device", device=row.strips)
    if device.type == "cuda" and place in (AUTO, "host"):
        yield Placement("in strips", "host", device=row.mapped, host=row.files)
    if place not in (AUTO, "device", "host"):
        how, files = ("at once", row.kernels) if kernels else ("in strips", row.files)
        yield Placement(how, place, device=row.mapped, files=files)
