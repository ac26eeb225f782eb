# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training on disk, each written whole or not at all."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.files import whole


def save(path: Path, step: int, key: str, parts: dict[str, Any]) -> None:
    """Write a checkpoint beside its path, then move it there.

    Parameters
    ----------
    path : Path
        Of the checkpoint
    step : int
        Steps done
    key : str
        Text that identifies the training
    parts : dict[str, nn.Module | torch.optim.Optimizer]
        Networks and optimiser

    Raises
    ------
    InputError
        If it cannot be written; what was there before is still there
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    try:
        with whole(path) as part:
            torch.save({"step": step, "key": key, **state}, part)
    except (OSError, RuntimeError) as error:  # PyTorch's writer has the second for a full disk
        raise InputError(f"cannot write the checkpoint {path} ({first_line(error)})") from error


def about(path: Path) -> tuple[str, int]:
    """Text that identifies the training of a checkpoint, and its steps done; weights are not read.

    Raises
    ------
    InputError
        If it is damaged
    """
    with _readable(path):
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        return str(state["key"]), int(state["step"])


def resume(path: Path, key: str, parts: dict[str, Any]) -> int:
    """Load a checkpoint into ``parts``; returns the steps done.

    Raises
    ------
    InputError
        If it is of another training, or damaged
    """
    with _readable(path):
        state = torch.load(path, weights_only=True, map_location="cpu")
        stored = state["key"]
        if stored == key:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            return int(state["step"])
    raise InputError(f"{path} was trained otherwise ({stored}; now {key}); remove it to start again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn every error of a file that is no such checkpoint into one of ours."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is not a checkpoint of this training ({first_line(error)}); remove it to start again"
        ) from error


def save_json(path: Path, key: str, values: dict[str, Any]) -> None:
    """Write what was computed once for a key, as JSON, whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps({"key": key, **values}), encoding="utf-8")


def load_json(path: Path, key: str) -> dict[str, Any] | None:
    """Values of :func:`save_json` for the same key; None if there are none.

    Raises
    ------
    InputError
        If the file is damaged
    """
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored if stored["key"] == key else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; remove it") from error
