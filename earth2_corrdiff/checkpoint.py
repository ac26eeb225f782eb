# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes ``.mdlus`` checkpoints: weights and arguments only, no code of the file is run.

The format is PhysicsNeMo's: a zip archive (a tar in old files) of ``args.json`` (class name and
constructor arguments), ``metadata.json`` (versions) and ``model.pt`` (the state dict).
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from earth2_corrdiff.errors import InputError, first_line

_LEGACY_ATTENTION = {"norm2": "attn.norm", "qkv": "attn.qkv", "proj": "attn.proj"}
_UPSTREAM_VERSION = "2.2.2"  # the version whose arguments and keys are written


@dataclass(frozen=True)
class Checkpoint:
    """What a ``.mdlus`` file holds.

    Attributes
    ----------
    name : str
        Upstream's class name, as ``EDMPrecondSuperResolution``
    args : dict
        Arguments of that class's constructor
    state : dict[str, Tensor]
        Weights on the CPU
    source : str
        Where it was read from, for messages
    """

    name: str
    args: dict[str, Any]
    state: dict[str, Tensor]
    source: str


def _members(data: bytes, source: str) -> dict[str, bytes]:
    stream = io.BytesIO(data)
    try:
        # tar first: a tar that ends in model.pt, itself a zip, would pass for a zip
        if not tarfile.is_tarfile(stream):
            with zipfile.ZipFile(stream) as archive:
                return {name: archive.read(name) for name in archive.namelist()}
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            files = [(m.name.removeprefix("./"), tar.extractfile(m)) for m in tar.getmembers() if m.isfile()]
            return {name: file.read() for name, file in files if file is not None}
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise InputError(
            f"{source} is not a complete .mdlus checkpoint ({first_line(error)}); download or write it again"
        ) from error


def read_mdlus(data: bytes | str | Path, source: str | None = None) -> Checkpoint:
    """Read a checkpoint from its bytes or its path.

    Raises
    ------
    InputError
        If the file is missing, truncated, lacks a part, or holds anything but tensors
    """
    if not isinstance(data, bytes):
        source = source or str(data)
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise InputError(f"the checkpoint {source} cannot be read: {error.strerror or error}") from error
    source = source or "checkpoint"
    members = _members(data, source)
    missing = [name for name in ("args.json", "model.pt") if name not in members]
    if missing:
        raise InputError(f"{source} lacks {' and '.join(missing)}; it is not a PhysicsNeMo checkpoint")
    try:
        args = json.loads(members["args.json"])
        state = torch.load(io.BytesIO(members["model.pt"]), map_location="cpu", weights_only=True)
        _check_state(state)
        return Checkpoint(args["__name__"], dict(args["__args__"]), state, source)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{source} holds more than weights, or is damaged ({first_line(error)}); it was not loaded"
        ) from error
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        raise InputError(f"{source} is damaged ({first_line(error)}); download or write it again") from error


def _check_state(state: object) -> None:
    pairs = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in pairs):
        raise TypeError("model.pt holds no named tensors")


def write_mdlus(
    path: Path, name: str, module: str, args: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Write a checkpoint that PhysicsNeMo's ``Module.from_checkpoint`` reads.

    Parameters
    ----------
    path : Path
        File to write; replaced only when complete
    name, module : str
        Upstream's class and the module that it lives in
    args : Mapping
        Arguments of its constructor
    state : Mapping[str, Tensor]
        State dict with upstream's keys
    """
    weights = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, weights)
    versions = {"physicsnemo_version": _UPSTREAM_VERSION, "mdlus_file_version": "0.1.0"}
    header = {"__name__": name, "__module__": module, "__args__": dict(args)}
    partial = path.with_name(path.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        # fixed dates, so that the same weights give the same bytes
        for member, content in {
            "model.pt": weights.getvalue(),
            "args.json": json.dumps(header).encode(),
            "metadata.json": json.dumps(versions).encode(),
        }.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    partial.replace(path)


def _current_key(key: str, keys: Mapping[str, Tensor]) -> str | None:
    """The key that upstream uses today for ``key``; None where another entry takes its place."""
    stem, _, leaf = key.rpartition(".")
    if f"{stem}.gn.{leaf}" in keys:
        return None  # Apex's norm held the trained weights under ".gn"; these were never updated
    key = key.replace(".gn.", ".")
    stem, _, leaf = key.rpartition(".")
    parent, _, layer = stem.rpartition(".")
    in_block = "_" in parent.rpartition(".")[2]  # "…enc.28x28_block0", not "….attn"
    if in_block and layer in _LEGACY_ATTENTION:
        return f"{parent}.{_LEGACY_ATTENTION[layer]}.{leaf}"
    return key


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into ``module``, strictly, under the names of today.

    Raises
    ------
    InputError
        If a weight is missing, unexpected or of another shape: the message names up to five of each
    """
    state = {}
    for key, value in checkpoint.state.items():
        current = _current_key(key, checkpoint.state)
        if current is not None:
            state[current] = value
    own = module.state_dict()
    # Deterministic buffers that some versions stored and others did not.
    optional = {key for key in own if key.endswith("map_noise.freqs")}
    extra = {key for key in state if key.endswith("pos_embd") and key not in own}
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own and key not in extra]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
    said = [f"{kind}: {_some(keys)}" for kind, keys in faults.items() if keys]
    if said:
        raise InputError(f"{checkpoint.source} does not fit its own args.json; weights {'; '.join(said)}")
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def _some(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
