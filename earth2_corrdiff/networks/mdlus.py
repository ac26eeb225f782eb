# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints ``.mdlus``, read and written: weights and arguments only, no code of the file is run.

The format is PhysicsNeMo's: a zip archive (a tar in old files) of ``args.json`` (class name and
constructor arguments), ``metadata.json`` (versions) and ``model.pt`` (the state dict). A module that is an
argument of another one stands beside it in ``args.json``, under the name that the argument holds.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from earth2_corrdiff.base.archives import Archive
from earth2_corrdiff.base.documents import MOST_BYTES, parse_json
from earth2_corrdiff.base.errors import InputError, first_line, listed
from earth2_corrdiff.base.files import whole
from earth2_corrdiff.networks.weights import ForeignContentError, read_state

_LEGACY_ATTENTION = {"norm2": "attn.norm", "qkv": "attn.qkv", "proj": "attn.proj"}
_PREFIX, _VERSION = "__physicsnemo.Module__", "mdlus_file_version"
MOST_NESTED = 8
_MODULES = {
    "DiT": "physicsnemo.models.dit.dit",
    "ConcatConditionWrapper": "physicsnemo.diffusion.utils.model_wrappers",
    "EDMPreconditioner": "physicsnemo.diffusion.preconditioners.preconditioners",
}
_UPSTREAM_VERSION = "2.2.2"  # the version whose arguments and keys are written
_DAMAGED = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, EOFError, MemoryError)


@dataclass(frozen=True)
class Nested:
    """A module that is an argument of another one.

    Attributes
    ----------
    name, module : str
        Upstream's class, and the module that it lives in
    args : dict
        Arguments of that class's constructor
    version : str
        Of that class's arguments and keys; empty where the file has none
    """

    name: str
    args: dict[str, Any]
    module: str = ""
    version: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a ``.mdlus`` file.

    Attributes
    ----------
    name : str
        Upstream's class name, as ``EDMPrecondSuperResolution``
    args : dict
        Arguments of that class's constructor; those that are modules are :class:`Nested`
    state : dict[str, Tensor]
        Weights on the CPU
    source : str
        Where it was read from, for messages
    version : str
        Of that class's arguments and keys; empty where the file has none
    """

    name: str
    args: dict[str, Any]
    state: dict[str, Tensor]
    source: str
    version: str = ""


def read_mdlus(data: bytes | str | Path, source: str | None = None) -> Checkpoint:
    """Read a checkpoint from its bytes or its path.

    Raises
    ------
    InputError
        If the file is missing, truncated, lacks a part, claims more bytes than it has, or holds anything but
        tensors
    """
    if isinstance(data, bytes):
        return _read(io.BytesIO(data), source or "checkpoint")
    source = source or str(data)
    try:
        with Path(data).open("rb") as stream:
            return _read(stream, source)
    except OSError as error:
        raise InputError(f"the checkpoint {source} cannot be read: {error.strerror or error}") from error


def _read(stream: BinaryIO, source: str) -> Checkpoint:
    try:
        archive = Archive(stream)
        missing = [name for name in ("args.json", "model.pt") if name not in archive.names]
        if not missing:
            about, weights = archive.read("args.json", MOST_BYTES), archive.read("model.pt")
            has_versions = "metadata.json" in archive.names
            versions = archive.read("metadata.json", MOST_BYTES) if has_versions else b"{}"
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, *_DAMAGED) as error:
        raise InputError(
            f"{source} is not a complete .mdlus checkpoint ({first_line(error)}); download or write it again"
        ) from error
    if missing:
        raise InputError(f"{source} lacks {' and '.join(missing)}; it is not a PhysicsNeMo checkpoint")
    try:
        top = _header(parse_json(about), parse_json(versions))
        return Checkpoint(top.name, top.args, read_state(weights), source, top.version)
    except ForeignContentError as error:
        raise InputError(
            f"{source} holds more than weights, or is damaged ({first_line(error)}); it was not loaded"
        ) from error
    except (zipfile.BadZipFile, zlib.error, *_DAMAGED) as error:
        raise InputError(f"{source} is damaged ({first_line(error)}); download or write it again") from error


def _header(content: Any, versions: Any, key: str = "") -> Nested:
    """The module that ``args.json`` has under a key, by default at its top, and those among its arguments."""
    found = content.get(key) if key and isinstance(content, dict) else content
    found = found if isinstance(found, dict) else {}
    name, args = found.get("__name__"), found.get("__args__")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise ValueError("args.json has no __name__ of a class and no __args__ by name")
    if key.count(".") > MOST_NESTED:
        raise ValueError(f"modules are nested more than {MOST_NESTED} levels deep")
    inner = {}
    for argument, value in args.items():
        if isinstance(value, str) and value.startswith(_PREFIX):
            if value != f"{key or _PREFIX}.{argument}":
                raise ValueError(f"the argument {argument[:60]!r} holds no module of its own")
            inner[argument] = _header(content, versions, value)
    stored = versions.get(f"{key}{'.' * bool(key)}{_VERSION}") if isinstance(versions, dict) else None
    version = stored if isinstance(stored, str) else ""
    return Nested(name, {**args, **inner}, str(found.get("__module__", "")), version)


def _flat(top: Nested, key: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse: what ``args.json`` and ``metadata.json`` say of a module and those among its arguments."""
    parts: dict[str, Any] = {}
    version = top.version or ("0.2.0" if top.name == "DiT" else "0.1.0")
    versions = {f"{key}{'.' * bool(key)}{_VERSION}": version}
    args = dict(top.args)
    for argument, value in top.args.items():
        if isinstance(value, Nested):
            args[argument] = f"{key or _PREFIX}.{argument}"
            inner, more = _flat(value, args[argument])
            parts, versions = {**parts, **inner}, {**versions, **more}
    own = {"__name__": top.name, "__module__": top.module or _MODULES.get(top.name, ""), "__args__": args}
    return {**({key: own} if key else own), **parts}, versions


def write_mdlus(
    path: Path,
    name: str,
    module: str,
    args: Mapping[str, Any],
    state: Mapping[str, Tensor],
    version: str = "",
) -> None:
    """Write a checkpoint that PhysicsNeMo's ``Module.from_checkpoint`` reads.

    Parameters
    ----------
    path : Path
        File to write; replaced only when complete
    name, module : str
        Upstream's class and the module that it lives in, empty for the classes of DiTs
    args : Mapping
        Arguments of its constructor
    state : Mapping[str, Tensor]
        State dict with upstream's keys
    version : str, optional
        Of the class's arguments and keys
    """
    weights = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, weights)
    header, parts = _flat(Nested(name, dict(args), module, version))
    versions = {"physicsnemo_version": _UPSTREAM_VERSION, **parts}
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        # fixed dates, so that the same weights give the same bytes
        for member, content in {
            "model.pt": weights.getvalue(),
            "args.json": json.dumps(header).encode(),
            "metadata.json": json.dumps(versions).encode(),
        }.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def _current_key(key: str, keys: Mapping[str, Tensor]) -> str | None:
    """The key that upstream uses today for ``key``; None where another entry takes its place."""
    stem, _, leaf = key.rpartition(".")
    front, legacy, _ = key.rpartition("t_embedder.")
    if legacy and not front.endswith("conditioning_embedder."):  # a DiT of version 0.1.0
        return None if leaf == "freqs" else f"{front}conditioning_embedder.{key.removeprefix(front)}"
    if f"{stem}.gn.{leaf}" in keys:
        return None  # Apex's norm held the trained weights under ".gn"; these were never updated
    key = key.replace(".gn.", ".")
    stem, _, leaf = key.rpartition(".")
    parent, _, layer = stem.rpartition(".")
    level, _, block = parent.rpartition(".")[2].partition("_")
    in_block = level[:1].isdigit() and bool(block)  # "…enc.28x28_block0", not "….attn"
    if in_block and layer in _LEGACY_ATTENTION:
        return f"{parent}.{_LEGACY_ATTENTION[layer]}.{leaf}"
    return key


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into ``module``, strictly, under the current names.

    Raises
    ------
    InputError
        If a weight is missing, unexpected or of another shape: the message names up to five of each
    """
    state = check_weights(module, checkpoint)
    module.load_state_dict(state, strict=False)


def check_weights(module: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A checkpoint's weights under the current names; ``module`` may be on the device ``meta``.

    Raises
    ------
    InputError
        If a weight is missing, unexpected, of another shape or not of floating-point numbers: the message
        names up to five of each
    """
    state = {}
    for key, value in checkpoint.state.items():
        current = _current_key(key, checkpoint.state)
        if current is not None:
            state[current] = value
    own = module.state_dict()
    # Deterministic buffers that some versions stored and others did not.
    optional = {key for key in own if key.endswith(("map_noise.freqs", "t_embedder.freqs"))}
    extra = {key for key in state if key.endswith("pos_embd") and key not in own}
    faults = {
        "missing": [key for key in own if key not in state and key not in optional],
        "unexpected": [key for key in state if key not in own and key not in extra],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
        "of whole numbers": [
            key
            for key, value in state.items()
            if key in own and own[key].is_floating_point() and not value.is_floating_point()
        ],
    }
    parts = [f"{kind}: {listed(keys, 5, 120)}" for kind, keys in faults.items() if keys]
    if parts:
        raise InputError(f"{checkpoint.source} does not fit its own args.json; weights {'; '.join(parts)}")
    return {key: value for key, value in state.items() if key in own}


def check_finite(module: nn.Module, source: str) -> None:
    """Refuse weights that are not finite, or not after rounding.

    Raises
    ------
    InputError
        If a weight is not finite: the message names up to five
    """
    wrong = [key for key, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if wrong:
        raise InputError(
            f"{source} has weights that are not finite: {listed(wrong, 5, 120)}; train or download it again"
        )
