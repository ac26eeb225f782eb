# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Sections of the check, the most valuable ones first."""

from __future__ import annotations

from dataclasses import dataclass

from earth2_corrdiff.base.errors import InputError


@dataclass(frozen=True)
class Section:
    """A section, its processes and its time.

    Attributes
    ----------
    name : str
        What ``--sections`` calls it
    work : str
        "module:function" in ``bench.gpu``; the function takes a ``Record``
    most, least : float
        Seconds that it has at most, and without which it is not started
    parts : tuple[str, ...]
        Names of processes that run side by side; one with the section's name where there are none
    stock : bool
        True if it compares with Earth2Studio, whose import takes seconds
    fresh : bool
        True if it wants an interpreter of its own: a compiler has worker processes that a fork could lose
    """

    name: str
    work: str
    most: float
    least: float
    parts: tuple[str, ...] = ()
    stock: bool = False
    fresh: bool = False

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of its processes."""
        return self.parts or (self.name,)


PLAN = (
    Section("A", "ceilings:run", 50, 10),
    Section("Bk", "kernels:run", 75, 20, ("Bk-bf16", "Bk-fp16", "Bk-fp32")),
    Section("B", "correctness:run", 80, 20),
    Section("D", "steps:run", 185, 40, stock=True),
    Section("C", "project_tests:run", 110, 25),
    Section("E", "domain:run", 55, 25, stock=True),
    Section("F", "training:run", 70, 30, stock=True),
    Section("K", "compiled:run", 150, 60, stock=True, fresh=True),
    Section("G", "tiles:run", 45, 20),
)
NAMES = tuple(section.name for section in PLAN)


def chosen(names: str) -> list[Section]:
    """The sections of "A,B,…" in the order of the plan.

    Raises
    ------
    InputError
        If there is no such section
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown or not wanted:
        raise InputError(f"{', '.join(unknown) or repr(names)} is not a section; use {', '.join(NAMES)}")
    return [section for section in PLAN if section.name in wanted]
