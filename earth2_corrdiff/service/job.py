# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One job of ``/v1/downscale``: its order and its progress."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import dataclasses as validated

from earth2_corrdiff.base.cases import Cases
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import to_leads, to_times

State = Literal["queued", "running", "done", "failed", "cancelled"]
STORE = "store.zarr"


@validated.dataclass(frozen=True)
class Order:
    """The times, source and sampling of a job; checked before.

    Attributes
    ----------
    times : tuple[str, ...]
        Valid times, or reference times of forecasts: ISO 8601, UTC
    source : str
        One of the service's sources
    samples, steps : int
        Members per case, and solver steps
    solver : str
        Solver of the residual
    seed : int
        Seed of the run
    lead_time : tuple[str, ...]
        Lead times of forecasts, as ``6h``; none of analyses
    """

    times: tuple[str, ...]
    source: str
    samples: int
    steps: int
    solver: str
    seed: int
    lead_time: tuple[str, ...] = ()

    @property
    def cases(self) -> Cases:
        """Analyses of all times, or forecasts of all times and lead times."""
        return Cases(to_times(self.times), to_leads(self.lead_time) if self.lead_time else None)

    @property
    def members(self) -> int:
        """Members over all cases."""
        return len(self.cases) * self.samples

    def document(self) -> dict[str, Any]:
        """The order as a client would write it."""
        return {name: value for name, value in asdict(self).items() if name != "lead_time" or value}


@dataclass
class Job:
    """One job; every change gives it a new ``version``, for the events of its clients.

    Attributes
    ----------
    id : str
        128 random bits in hexadecimal
    order : Order
        What to make
    folder : Path
        Folder of its record once it is done, and of its store
    url : AnyPath | None
        Where its store is instead
    state, stage : str
        Its state, and its current step in words
    denoised, denoisings : int
        Denoising steps done, and all of them, over all members; 0 without a diffusion model
    written : int
        Members on disk
    error : str | None
        One sentence, of a job that failed or was cancelled
    synthetic : bool
        True if its input or model is synthetic
    size : int
        Bytes on disk, once it is done
    mark : str
        Random, for this object: after a restart the versions start again
    digest : str
        Digest of the owner's token, which is sent once and not kept
    """

    id: str
    order: Order
    folder: Path
    url: AnyPath | None = None
    state: State = "queued"
    stage: str = "waiting for its turn"
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    denoised: int = 0
    denoisings: int = 0
    written: int = 0
    error: str | None = None
    synthetic: bool = False
    size: int = 0
    version: int = 0
    mark: str = field(default_factory=lambda: secrets.token_hex(4))
    stopped: bool = False
    readers: int = 0
    digest: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def store(self) -> AnyPath:
        """The Zarr store that it writes."""
        return self.url or self.folder / STORE

    @property
    def ended(self) -> bool:
        """True if nothing more will happen to it."""
        return self.state not in ("queued", "running")

    @property
    def event_id(self) -> str:
        """Id of the event of its current version."""
        return f"{self.mark}-{self.version}"

    def change(self, **values: Any) -> None:
        """Set some of the attributes above, all at once for other threads."""
        with self.lock:
            for name, value in values.items():
                setattr(self, name, value)
            self.version += 1

    def stop(self) -> None:
        """Ask it to end at its next denoising step; its files are removed when it has ended, not before."""
        self.stopped = True

    def give_token(self) -> str:
        """A new token, which makes its holder the owner of the job."""
        token = secrets.token_urlsafe(24)
        self.digest = _digest(token)
        return token

    def owned_by(self, token: str) -> bool:
        """True if the holder of this token may remove it."""
        return bool(self.digest) and hmac.compare_digest(_digest(token), self.digest)

    @property
    def fraction(self) -> float:
        """Part of it that is done, 0 to 1."""
        if self.state == "done":
            return 1.0
        if self.denoisings:
            return self.denoised / self.denoisings
        return self.written / self.order.members

    def summary(self) -> dict[str, Any]:
        """State and progress, for everybody."""
        with self.lock:
            progress = {"fraction": round(self.fraction, 4)}
            return {"id": self.id, "state": self.state, "created": _iso(self.created), "progress": progress}

    def document(self) -> dict[str, Any]:
        """Everything but its token, for those who have its id."""
        with self.lock:
            moments = {name: _iso(getattr(self, name)) for name in ("created", "started", "finished")}
            until = time.time() if self.finished is None else self.finished
            progress = {
                "fraction": round(self.fraction, 4),
                "denoising_steps": {"done": self.denoised, "total": self.denoisings},
                "members": {"done": self.written, "total": self.order.members},
                "seconds": round(until - self.started, 2) if self.started is not None else 0.0,
            }
            return {
                "id": self.id,
                "state": self.state,
                "stage": self.stage,
                "request": self.order.document(),
                "progress": progress,
                **moments,
                "error": self.error,
                "synthetic": self.synthetic,
                "bytes": self.size if self.state == "done" else None,
            }

    @contextmanager
    def reading(self) -> Iterator[AnyPath]:
        """Its store, which is not pruned while somebody reads it."""
        with self.lock:
            self.readers += 1
        try:
            yield self.store
        finally:
            with self.lock:
                self.readers -= 1


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _iso(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
