# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""All keys of a training's YAML file with their values and meanings, as a YAML file."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

import yaml

from earth2_corrdiff.training.config import Config

WIDTH = 100
_ENTRY = re.compile(r"^(\w+(?:, \w+)*) : .*$", re.MULTILINE)


def config_text(config: Config | None = None) -> str:
    """The YAML of a configuration with a comment on each key; without one, of the defaults."""
    return "\n".join(_lines(Config, config, 0)) + "\n"


def _lines(kind: type, values: Any, depth: int) -> Iterator[str]:
    indent, meanings, hints = "  " * depth, _meanings(kind), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        meaning, inner = meanings.get(field.name, ""), _nested(hints[field.name])
        first = (inspect.getdoc(inner) or "").split("\n")[0] if inner is not None else ""
        comment = first if meaning in ("", "See there") else meaning
        yield from textwrap.wrap(
            comment, WIDTH - len(indent), initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        value = _value(field) if values is None else getattr(values, field.name)
        if inner is not None and (value is not None or values is None):
            optional = "" if _value(field) is not None or _is_needed(field) else "  # by default none"
            yield f"{indent}{field.name}:{optional}"
            yield from _lines(inner, value if values is not None else None, depth + 1)
        else:
            needed = "  # needed" if values is None and _is_needed(field) else ""
            yield f"{indent}{field.name}: {_yaml(value)}{needed}"


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(field: dataclasses.Field[Any]) -> Any:
    """The default of a key; None where it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _nested(hint: Any) -> Any:
    """The dataclass of a key whose value is a mapping of known keys, or None."""
    options = get_args(hint) if type(None) in get_args(hint) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _plain(value: Any) -> Any:
    """A value as YAML has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _meanings(kind: type) -> dict[str, str]:
    """Key → its meaning, from the sections Attributes of the docstrings of the class and its bases."""
    found: dict[str, str] = {}
    for own in reversed(kind.__mro__):
        text = (own.__doc__ and inspect.cleandoc(own.__doc__) or "").partition("Attributes\n----------\n")[2]
        parts = _ENTRY.split(text.split("\n\nRaises\n")[0])[1:]  # names and meanings in turn
        for names, meaning in zip(parts[::2], parts[1::2], strict=True):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.replace("``", "").split()))
    return found
