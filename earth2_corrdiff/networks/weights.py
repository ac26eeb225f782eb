# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Weights read from a file of ``torch.save``: shapes first, checked against the file, then values.

The pickle in such a file is a program. Here it is read as the description of a state dict: some thirty
instructions are known, three functions are noted instead of called, and anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.base.archives import Archive

MOST_PICKLE = 2 * 2**20
"""Bytes that describe the tensors, about 120 each."""
MOST_DIMENSIONS = 8
_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MAPPING, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
_NAMES = {_MAPPING, _TENSOR, _PARAMETER, *(f"torch {name}" for name in _TYPES)}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME"}


class ForeignContentError(ValueError):
    """A file holds something else than named tensors."""


@dataclass(frozen=True)
class _Name:
    """A class or function, noted and not imported."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """Numbers of one type, in a member of the archive."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor: part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state(data: bytes) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU.

    Parameters
    ----------
    data : bytes
        What ``torch.save`` wrote of a state dict, in its zip format

    Raises
    ------
    ForeignContentError
        If it holds anything but named tensors
    ValueError
        If a shape does not fit the bytes that are there
    zipfile.BadZipFile, EOFError, LookupError
        If it is no such file, or damaged
    """
    if not data.startswith(b"PK"):
        raise ForeignContentError("model.pt is no zip archive of PyTorch")
    archive = Archive(io.BytesIO(data))
    described = [name for name in archive.names if name.endswith("data.pkl")]
    if len(described) != 1:
        raise ValueError("model.pt has no data.pkl, or several")
    root = described[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.names:
        order = archive.read(f"{root}byteorder", 16).decode("ascii", "replace")
        if order != sys.byteorder:
            raise ValueError(f"its numbers are of the byte order {order!r}, not {sys.byteorder}")
    views = _described(archive.read(described[0], MOST_PICKLE))
    names = {view.storage.key: f"{root}data/{view.storage.key}" for view in views.values()}
    _check_sizes(views, {key: _stored(archive, name) for key, name in names.items()})
    numbers: dict[str, Tensor] = {}
    for view in views.values():
        key = view.storage.key
        if key not in numbers:
            raw = bytearray(archive.read(names[key]))
            dtype = view.storage.dtype
            numbers[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return {
        name: numbers[view.storage.key].as_strided(view.shape, view.stride, view.offset)
        for name, view in views.items()
    }


def _stored(archive: Archive, name: str) -> int:
    """Bytes of a member that is not compressed, as PyTorch writes it."""
    if not archive.stored(name):
        raise ValueError(f"{name} is compressed")
    return archive.size(name)


def _check_sizes(views: dict[str, _View], stored: dict[str, int]) -> None:
    """Raise ValueError where tensors claim more than the file holds."""
    types: dict[str, _Storage] = {}
    for name, view in views.items():
        storage, count = view.storage, math.prod(view.shape)
        if types.setdefault(storage.key, storage) != storage:
            raise ValueError(f"the numbers of {_short(name)} are of two types or sizes")
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
        if count > storage.count or (count and last >= storage.count):
            raise ValueError(f"{_short(name)} of {view.shape} is larger than its {storage.count} numbers")
        if storage.count * storage.dtype.itemsize != stored[storage.key]:
            raise ValueError(f"{_short(name)} needs {storage.count} numbers, but the file has others")
    claimed = sum(math.prod(view.shape) * view.storage.dtype.itemsize for view in views.values())
    if claimed > sum(stored.values()):
        raise ValueError("several weights share their numbers")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def _described(pickled: bytes) -> dict[str, _View]:
    """The tensors that a pickle describes."""
    found = _Machine().run(pickled)
    if not isinstance(found, dict) or not all(isinstance(view, _View) for view in found.values()):
        raise ForeignContentError("model.pt holds no named tensors")
    return found


class _Machine:
    """Interpreter of the pickle of a state dict; instructions are those of ``pickletools``."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under the marks
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        """The object that it leaves; anything unknown is a ForeignContentError."""
        try:
            for code, argument, _ in pickletools.genops(pickled):
                self._do(code.name, argument)
            (found,) = self.stack
        except ForeignContentError:
            raise
        except (ValueError, LookupError, TypeError) as error:
            raise ForeignContentError(f"its pickle is damaged: {type(error).__name__}") from error
        return found

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(_name(argument))
        elif name == "STACK_GLOBAL":
            last, first = stack.pop(), stack.pop()
            stack.append(_name(f"{_text(first)} {_text(last)}"))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            given, function = stack.pop(), stack.pop()
            stack.append(_noted(function, given))
        elif name == "BUILD":  # attributes of the mapping, like its versions
            stack.pop()
        elif name not in _IGNORED and name != "STOP":
            self._collect(name)

    def _collect(self, name: str) -> None:
        """Marks, tuples and mappings."""
        stack = self.stack
        if name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise LookupError
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            self.stack = self.below.pop()
            self.stack.append(tuple(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, value])
        elif name == "SETITEMS":
            self.stack = self.below.pop()
            _set(self.stack[-1], stack)
        else:
            raise ForeignContentError(f"the instruction {name} describes no weights")


def _name(text: str) -> _Name:
    if text not in _NAMES:
        raise ForeignContentError(f"it names {text[:80]!r}")
    return _Name(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ForeignContentError("a name is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ForeignContentError("a size, stride or offset is no whole number of 0 or more")
    return value


def _set(target: Any, flat: Sequence[Any]) -> None:
    if type(target) is not dict or len(flat) % 2:
        raise ForeignContentError("an entry belongs to no mapping")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        target[_text(key)] = value  # texts alone: the hash of nested tuples may take for ever


def _noted(function: Any, given: Any) -> Any:
    """The result of a call of the pickle, described without the call."""
    text = function.text if isinstance(function, _Name) else ""
    if not isinstance(given, tuple):
        raise ForeignContentError("a call has no arguments")
    if text == _MAPPING and not given:
        return {}
    if text == _PARAMETER and given and isinstance(given[0], _View):
        return given[0]
    if text == _TENSOR and len(given) >= 4 and isinstance(given[0], _Storage):
        shape, stride = given[2:4]
        if isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride):
            if len(shape) <= MOST_DIMENSIONS:
                sizes = (tuple(map(_whole, part)) for part in (shape, stride))
                return _View(given[0], _whole(given[1]), *sizes)
    raise ForeignContentError("a call makes no tensor")


def _storage(entry: Any) -> _Storage:
    if not isinstance(entry, tuple) or len(entry) != 5 or entry[0] != "storage":
        raise ForeignContentError("a storage is described in another way")
    kind, key, count = entry[1], _text(entry[2]), _whole(entry[4])
    if not isinstance(kind, _Name) or not kind.text.startswith("torch "):
        raise ForeignContentError("a storage is of no type of PyTorch")
    return _Storage(key, _TYPES[kind.text.removeprefix("torch ")], count)
