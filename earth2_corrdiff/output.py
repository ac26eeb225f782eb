# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run writes to: made anew, resumed, or joined while other processes fill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from earth2studio.io import ZarrBackend

from earth2_corrdiff.claims import Claims
from earth2_corrdiff.errors import InputError
from earth2_corrdiff.layout import Layout
from earth2_corrdiff.place import beside, check_target, recorded, tidy, writing
from earth2_corrdiff.store import Plain, Store


class Output:
    """The target of a run.

    Parameters
    ----------
    target : str | Path | IOBackend
        Path of a Zarr store, or an Earth2Studio backend that is already open
    overwrite, resume : bool, optional
        What to do with what is there, by default refuse it

    Attributes
    ----------
    claims : Claims | None
        Of this process, once a store at a path is open; other backends are nobody else's

    Raises
    ------
    InputError
        If there is something at the path that may not be replaced, or it cannot be written
    """

    def __init__(self, target: Any, overwrite: bool = False, resume: bool = False) -> None:
        self.target = Path(target) if isinstance(target, str | Path) else target
        self.overwrite, self.resume = overwrite, resume
        self.claims: Claims | None = None
        if isinstance(self.target, Path):
            check_target(self.target, overwrite, resume)

    def recorded(self) -> dict[str, Any]:
        """Attributes of the store that is there; none if there is no store of a run."""
        if isinstance(self.target, Path):
            return recorded(self.target) or {}
        return dict(self.target.root.attrs) if isinstance(self.target, ZarrBackend) else {}

    def existing(self, layout: Layout) -> Store | None:
        """What an earlier run left, where it shall be resumed.

        Raises
        ------
        InputError
            If it is another run's, or no store that can be resumed
        """
        if not self.resume:
            return None
        if isinstance(self.target, Path):
            return self.join(layout) if self.target.exists() else None
        if isinstance(self.target, ZarrBackend):
            return Store(self.target, layout, resume=True) if len(self.target.root) else None
        raise InputError("only a Zarr store can be resumed; give a path, or a ZarrBackend")

    def join(self, layout: Layout) -> Store:
        """Open the store at the path, and be at work there beside others.

        Raises
        ------
        InputError
            If it is another run's, or damaged
        """
        claims = self._enter(self.target)
        store = Store.resume(self.target, layout)
        if claims.alone:
            tidy(self.target)
        claims.share()
        return store

    def create(self, layout: Layout) -> Store | Plain:
        """Make it.

        Raises
        ------
        InputError
            If it cannot be written, or other processes are at work there
        """
        if not isinstance(self.target, Path):
            return (Store if isinstance(self.target, ZarrBackend) else Plain)(self.target, layout)
        claims = self._enter(self.target)
        if not claims.alone:
            raise InputError(
                f"another process is writing {self.target}; join it with --resume, or wait until it has ended"
            )
        store = Store.create(self.target, layout, self.overwrite)
        claims.share()
        return store

    def close(self) -> None:
        """Leave it to others."""
        if self.claims is not None:
            self.claims.close()

    def _enter(self, path: Path) -> Claims:
        with writing(path, kept=False):
            path.resolve().parent.mkdir(parents=True, exist_ok=True)
            self.claims = Claims(beside(path, "lock"))
        return self.claims
