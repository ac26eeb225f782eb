# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: its members in the order of their cases, cut into tasks.

A task is the addresses of members in the store. It writes their chunks, with the first member of a case those
of the coarse input, too, and no chunk of another task. It may run again: what is written is not missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from earth2_corrdiff.base.errors import InputError

PIECES = 2
"""Tasks per worker, at least. More would share more evenly, and compute the mean of a case more often."""


@dataclass(frozen=True)
class Task:
    """Members of one case.

    Attributes
    ----------
    case : int
        Its number
    members : tuple[int, ...]
        Rising numbers
    """

    case: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One of several parts of a plan, all of one size: any process may compute it, without the others.

    Attributes
    ----------
    number, of : int
        Number of the part, from 0, and how many there are
    unit : int
        Members that stay together: those of a case, or of several neighbours
    """

    number: int = 0
    of: int = 1
    unit: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """``2/3`` → the second of three; InputError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"--task takes I/N, from 1/N to N/N, got {text!r}")
        return cls(int(number) - 1, int(of))

    @property
    def whole(self) -> bool:
        """True if it is the whole plan."""
        return self.of == 1

    def within(self, cases: int, members: int) -> range:
        """The part's members by ``case * members + member``; they do not depend on what is missing."""
        units = cases * members // self.unit
        first, end = (units * part // self.of * self.unit for part in (self.number, self.number + 1))
        return range(first, end)

    def tasks(self, missing: Sequence[Sequence[int]], members: int) -> list[Task]:
        """What is missing of this part, one task a case.

        Parameters
        ----------
        missing : Sequence[Sequence[int]]
            Members of each case that are not written
        members : int
            Members of a case
        """
        own = self.within(len(missing), members)
        found = (
            Task(case, tuple(i for i in absent if case * members + i in own))
            for case, absent in enumerate(missing)
        )
        return [task for task in found if task.members]


def blocks(missing: Sequence[Sequence[int]], workers: int, batch: int) -> list[Task]:
    """All that is missing, each case in as many tasks as keep the workers busy.

    Parameters
    ----------
    missing : Sequence[Sequence[int]]
        Members of each case that are not written
    workers : int
        How many there are
    batch : int
        Members that share a network call: a task has no fewer if it need not
    """
    cases = sum(1 for members in missing if members)
    parts = 1 if workers == 1 else ceil(PIECES * workers / max(1, cases))
    tasks = []
    for case, members in enumerate(missing):
        size = max(1, ceil(ceil(len(members) / parts) / batch) * batch)
        tasks += [Task(case, tuple(members[at : at + size])) for at in range(0, len(members), size)]
    return tasks
