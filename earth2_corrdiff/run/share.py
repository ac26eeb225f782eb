# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A process's share of a run: pieces of one case each, taken one by one, so that faster processes do more."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from time import sleep

from loguru import logger

from earth2_corrdiff.base.processes import INTERVAL, Processes
from earth2_corrdiff.store.claims import Claims

PATIENCE = 60
"""Looks at the others' progress before the log mentions the wait."""
PIECES = 2
"""Pieces per process, at least. More would share more evenly, and compute the mean of a case more often."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring members of one case.

    Attributes
    ----------
    case : int
        Its number
    first, count : int
        The first member's number, and how many there are
    """

    case: int
    first: int
    count: int


@dataclass(frozen=True)
class Share:
    """Members that this process computes.

    Attributes
    ----------
    missing : Callable[[int], list[int]]
        Members of a case that are not written yet
    members : int
        Members of a case
    claims : Claims | None
        Work claims of all processes; None where there are no others
    processes : Processes
        This process among those of its job
    failed : Container[int]
        Cases that this process has given up
    """

    missing: Callable[[int], list[int]]
    members: int
    claims: Claims | None = None
    processes: Processes = Processes()
    failed: Container[int] = ()
    _own: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def of(self, missing: list[list[int]], batch: int) -> Iterator[tuple[int, list[int]] | None]:
        """Yield cases with the members that this process is to compute, once they are its own.

        First the part that it has if all are equally fast, then pieces that no other process has taken. The
        first process of a job goes on until nothing is missing, with the pieces of processes that died.

        Parameters
        ----------
        missing : list[list[int]]
            Members of each case that are not written
        batch : int
            Members that share a network call: a piece has no fewer if it need not

        Yields
        ------
        tuple[int, list[int]] | None
            None after a while in which there was nothing to do but to wait for other processes
        """
        pieces, r = self._pieces(missing, batch), self.processes
        own = pieces[r.rank :: r.size]
        others = [piece for i, piece in enumerate(pieces) if i % r.size != r.rank]
        left = [*own, *reversed(others)]  # from the end: where their owners come last
        for look in count():
            for piece in left:
                members = self._take(piece)
                if members:
                    self._own.update((piece.case, i) for i in members)
                    yield piece.case, members
                    self._give_back(piece)
            left = [piece for piece in left if self._still(piece)]
            if not left or not r.first:
                return
            if look == PATIENCE:
                logger.info("waiting for other processes, which have taken all that is left")
            sleep(INTERVAL)
            yield None

    def _pieces(self, missing: list[list[int]], batch: int) -> list[Piece]:
        """All members that are missing, each case in as many pieces as keep all processes busy."""
        spans = [(case, members[0], members[-1] + 1) for case, members in enumerate(missing) if members]
        parts = 1 if self.processes.size == 1 else ceil(PIECES * self.processes.size / max(1, len(spans)))
        pieces = []
        for case, first, end in spans:
            size = ceil(ceil((end - first) / parts) / batch) * batch
            pieces += [Piece(case, at, min(size, end - at)) for at in range(first, end, size)]
        return pieces

    def _still(self, piece: Piece) -> list[int]:
        """Members of a piece that are not written yet, and that this process has not had."""
        if piece.case in self.failed:
            return []
        inside = range(piece.first, piece.first + piece.count)
        return [i for i in self.missing(piece.case) if i in inside and (piece.case, i) not in self._own]

    def _take(self, piece: Piece) -> list[int]:
        """Members of a piece that no other process has taken and that are not written."""
        mine = self._still(piece)
        if self.claims is None or not mine:
            return mine
        taken = {i for i in mine if self.claims.take(piece.case * self.members + i)}
        return [i for i in self._still(piece) if i in taken]  # what was written before it was taken is done

    def _give_back(self, piece: Piece) -> None:
        """Release a failed piece: two processes would wait for each other's failures for ever."""
        if self.claims is not None and self.processes.first and piece.case in self.failed:
            for i in range(piece.first, piece.first + piece.count):
                self.claims.drop(piece.case * self.members + i)
