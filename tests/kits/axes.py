# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For tests over several axes: combinations in which each pair of values occurs, not the whole product."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return combinations of values, one of each axis, so that every pair of values of two axes occurs.

    Greedy and deterministic: each is the first one of the product that adds the most new pairs.
    """
    values = [list(axis) for axis in axes]
    places = list(product(*(range(len(axis)) for axis in values)))
    todo, chosen = set().union(*map(_pairs, places)), []
    while todo:
        best = max(places, key=lambda place: len(todo & _pairs(place)))
        todo -= _pairs(best)
        chosen.append(tuple(axis[i] for axis, i in zip(values, best, strict=True)))
    return chosen


def _pairs(place: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(place), 2))
