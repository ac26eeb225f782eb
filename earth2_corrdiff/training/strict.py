# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Strict conversion of YAML to dataclasses: an unknown key is an error that names the nearest one."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from earth2_corrdiff.base.errors import InputError, first_line

T = TypeVar("T")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping of a YAML file.

    Raises
    ------
    InputError
        If there is no such file, or it is not a YAML mapping
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration {path} ({first_line(error)})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must be a mapping of keys to values, got {type(values).__name__}")
    return values


def build(kind: type[T], values: Any, where: str = "") -> T:
    """A dataclass from a mapping; nested dataclasses from nested mappings.

    Parameters
    ----------
    kind : type
        The dataclass; its fields are the keys
    values : Any
        Content of the file
    where : str, optional
        Dotted name of the mapping, for messages

    Raises
    ------
    InputError
        If a key is unknown (the message names the nearest), is missing, or has a value of another type
    """
    if not isinstance(values, Mapping):
        raise InputError(f"the key {where} needs a mapping of keys to values, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise InputError(unknown(where, str(key), list(fields)))
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [_dotted(where, name) for name in needed if name not in values]
    if missing:
        raise InputError(f"the configuration lacks {', '.join(missing)}")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, _dotted(where, key)) for key, value in values.items()})


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def unknown(where: str, key: str, known: list[str]) -> str:
    """Message of an unknown key, with the nearest that there is."""
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    message = f"unknown key {_dotted(where, key)}"
    if near:
        return f"{message}; did you mean {_dotted(where, near[0])}?"
    return f"{message}; {'the keys there' if where else 'the top-level keys'} are {', '.join(known)}"


def _value(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        if value is None and len(options) < len(get_args(kind)):
            return None
        return _value(options[0], value, where)
    if get_origin(kind) is dict and dataclasses.is_dataclass(inner := get_args(kind)[1]):
        if not isinstance(value, Mapping):
            raise InputError(f"the key {where} needs a mapping, got {value!r}")
        return {str(key): _value(inner, part, _dotted(where, str(key))) for key, part in value.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        return _sequence(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    plain = get_origin(kind) or kind
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        name = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
        raise InputError(f"the key {where} needs {name.get(plain.__name__, 'a mapping')}, got {value!r}")
    return value


def _sequence(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    inner = get_args(kind)
    endless = len(inner) == 2 and inner[1] is Ellipsis
    if not isinstance(value, list | tuple) or not (endless or len(value) == len(inner)):
        size = "a list" if endless else f"a list of {len(inner)}"
        raise InputError(f"the key {where} needs {size}, got {value!r}")
    kinds = [inner[0]] * len(value) if endless else inner
    return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
