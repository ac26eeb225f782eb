# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Untrusted JSON: small, flat, and without a name that occurs twice."""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 4 * 2**20
MOST_DEPTH = 32
MOST_VALUES = 100_000


def parse_json(data: bytes) -> Any:
    """The content of a JSON document in UTF-8.

    Raises
    ------
    ValueError
        If it is not JSON, too large, too deeply nested, or names a key twice
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"{len(data)} bytes are more than the {MOST_BYTES} that it may have")
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_extent(content)
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _check_extent(content: Any) -> None:
    """Raise ValueError for more levels or values than any document of a package has."""
    level, count = [content], 0
    for _ in range(MOST_DEPTH):
        count += len(level)
        if count > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
        inner = [value for value in level if isinstance(value, dict | list)]
        level = [part for value in inner for part in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
