# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Size of a run, checked before its start: members, bytes and files of the store, memory of a member."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from earth2_corrdiff.base.errors import InputError

FLOAT = 4  # bytes of float32
LEAST = {False: 0.25, True: 0.04}
"""Smallest share of their bytes that stored fields take: lossless, and with bounded errors."""
ENTRY = 64
"""Bytes of memory for a case or a member on any grid: its seed, its entry in the plan."""
LARGE = {"cases": 1000, "evaluations": 10**6, "bytes": 10**10}
"""Sizes from which on a run is called large."""
UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True)
class Size:
    """Numbers of a run.

    Attributes
    ----------
    cases, members : int
        Times or forecasts, and members of all of them together
    evaluations : int
        Evaluations of the network, over all members
    outputs, coarse : int
        Fields of a member, and of the coarse input of a case in the store
    points, coarse_points : int
        Points of their grids
    channels : int
        Channels of the condition of one member
    bounded : bool
        True if fields have bounded errors
    """

    cases: int
    members: int
    evaluations: int
    outputs: int
    coarse: int
    points: int
    coarse_points: int
    channels: int
    bounded: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of all fields as float32."""
        coarse = self.cases * self.coarse * self.coarse_points
        return FLOAT * (self.members * self.outputs * self.points + coarse)

    @property
    def stored(self) -> int:
        """Bytes on the disk, at least."""
        return int(LEAST[self.bounded] * self.bytes)

    @property
    def files(self) -> int:
        """Files of the store: one for each chunk and each seed."""
        return self.members * (self.outputs + 1 + self.bounded) + self.cases * self.coarse

    @property
    def memory(self) -> int:
        """Bytes of memory for one member, at least: its condition, its state, and its output."""
        return FLOAT * self.points * (self.channels + 3 * self.outputs)

    @property
    def text(self) -> str:
        """The counts as text."""
        counts = {"case": self.cases, "member": self.members, "evaluation": self.evaluations}
        return f"{', '.join(_count(*pair) for pair in counts.items())}, {size_text(self.bytes)} as float32"

    @property
    def large(self) -> bool:
        """True if the user should be warned before it starts."""
        return any(getattr(self, name) >= least for name, least in LARGE.items())


def check_memory(size: Size, free: int, device: str, on_device: int) -> None:
    """Refuse a run whose seeds, or one member of which, do not fit the memory.

    Parameters
    ----------
    size : Size
        Size of the run
    free : int
        Free bytes of the machine's memory
    device : str
        Device of the networks
    on_device : int
        Free bytes of the device's memory

    Raises
    ------
    InputError
        If they do not fit; with the bytes needed and free
    """
    entries = ENTRY * (size.cases + size.members)
    if entries > free:
        counts = f"{_count('case', size.cases)} with {_count('member', size.members)}"
        raise InputError(
            f"{counts} need {size_text(entries)} of memory for their seeds alone, and {size_text(free)} are "
            "free; ask for fewer times or members in one run"
        )
    if size.memory > on_device:
        raise InputError(
            f"one member on {size.points} points needs {size_text(size.memory)} of memory at least, and "
            f"{size_text(on_device)} are free on {device}; use a smaller domain, or another device"
        )


def check_in_memory(size: Size, free: int) -> None:
    """Refuse fields that do not fit the memory, for backends that keep them there; raises InputError."""
    if size.bytes > free:
        raise InputError(
            f"the fields need {size_text(size.bytes)} of memory, and {size_text(free)} are free; ask for "
            "fewer times or members, or give the path of a store"
        )


def check_disk(size: Size, path: Path) -> str:
    """Refuse a store that does not fit its disk; return the free space as text.

    Parameters
    ----------
    size : Size
        Size of what is still to be written
    path : Path
        Path of the store

    Raises
    ------
    InputError
        If it does not fit; with the bytes or files needed and free
    """
    folder = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if size.stored > free:
        raise InputError(
            f"the store {path} needs {size_text(size.stored)} at least ({size.text}), and {size_text(free)} "
            "are free on its disk; ask for fewer times or members, or give another --output"
        )
    about = os.statvfs(folder)
    if about.f_files and size.files > about.f_favail:
        raise InputError(
            f"the store {path} needs {size.files} files ({size.text}), and its disk takes {about.f_favail} "
            "more; ask for fewer times or members, or give another --output"
        )
    return f"{size_text(free)} free"


def _count(what: str, number: int) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def size_text(number: float) -> str:
    """A number of bytes like ``1.5 GB``."""
    for unit in UNITS:
        number /= 1000
        if number < 999.5 or unit == UNITS[-1]:
            break
    return f"{number:.3g} {unit}"
