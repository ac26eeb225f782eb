# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a package may say, and what it may not."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from tiny import HILLS, hills, make_spec

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.packages.metadata import table
from earth2_corrdiff.model.spec import Sampling, Statistics, check_count


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(2)])
def test_counts(value: Any) -> None:
    got = check_count("members", value)
    assert got == value and type(got) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, "4", None, True, math.nan, np.float32(2)])
def test_bad_counts(value: Any) -> None:
    with pytest.raises(InputError, match="members must be a whole number of 1 or more, got"):
        check_count("members", value)


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ({"solver": "rk4"}, "rk4"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_min": 80.0}, "sigma_max"),
        ({"sigma_max": math.nan}, "sigma_max"),
    ],
)
def test_bad_sampling(what: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        replace(Sampling("euler", 8), **what)


def test_network_calls_per_member() -> None:
    assert Sampling("euler", 8).calls == 8 and Sampling("heun", 18).calls == 35


@pytest.mark.parametrize(
    ("names", "center", "scale", "word"),
    [
        (("a", "b", "a"), (0, 0, 0), (1, 1, 1), "repeats a"),
        (("a", "b"), (0,), (1, 1), "statistics of a, b"),
        (("a",), (0,), (0,), "not positive"),
        (("a",), (0,), (-1,), "not positive"),
        (("a",), (math.nan,), (1,), "not finite"),
        (("a",), (0,), (math.inf,), "not finite"),
    ],
)
def test_bad_statistics(names: Any, center: Any, scale: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Statistics(names, center, scale)


def test_table_keeps_the_order_of_the_names() -> None:
    stats = {"b": {"mean": 1, "std": 2}, "a": {"mean": 3, "std": 4}, "unused": {}}
    assert table(["a", "b"], stats, "input") == Statistics(("a", "b"), (3.0, 1.0), (4.0, 2.0))


@pytest.mark.parametrize(
    ("stats", "word"),
    [
        ({"a": {"mean": 0, "std": 1}}, "no input statistics of b, c"),
        ({n: {"mean": 0} for n in "abc"}, "std"),
        ({n: {"mean": "low", "std": 1} for n in "abc"}, "low"),
        ({n: 3 for n in "abc"}, "mean and a std"),
        ({n: {"mean": None, "std": 1} for n in "abc"}, "mean and a std"),
    ],
)
def test_bad_tables(stats: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        table(["a", "b", "c"], stats, "input")


def test_specification_counts_its_channels() -> None:
    assert make_spec().condition_channels == 4
    assert make_spec(invariants=False).condition_channels == 3


def test_specification_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_spec().seed = 3  # type: ignore[misc]


NOTHING = Statistics((), (), ())
BAD = {
    "samples": ({"number_of_samples": 0}, "number_of_samples"),
    "mode": ({"inference_mode": "all"}, "'all' is none of both, regression, diffusion"),
    "no inputs": ({"inputs": NOTHING}, "no input"),
    "no outputs": ({"outputs": NOTHING}, "no output"),
    "shape of invariants": ({"invariant_fields": np.zeros((1, 24, 16), np.float32)}, r"\(1, 24, 16\)"),
    "too few invariants": ({"invariant_fields": np.zeros((0, 16, 24), np.float32)}, r"\(0, 16, 24\)"),
    "no fields": ({"invariant_fields": None}, "invariants"),
    "no statistics": ({"invariants": NOTHING}, "invariants"),
    "nan": ({"invariant_fields": np.full((1, 16, 24), np.nan, np.float32)}, "not finite"),
    "seed of text": ({"seed": "lucky"}, "seed.*'lucky'"),
    "half a seed": ({"seed": 0.5}, "seed.*0.5"),
    "margin": ({"grid_bounds_margin": -0.1}, "grid_bounds_margin"),
    "nan margin": ({"grid_bounds_margin": math.nan}, "grid_bounds_margin"),
}


@pytest.mark.parametrize(("what", "word"), BAD.values(), ids=BAD.keys())
def test_bad_specifications(what: dict[str, Any], word: str) -> None:
    spec = make_spec()
    assert spec.invariants == HILLS and np.array_equal(spec.invariant_fields, hills(spec.output_grid))
    with pytest.raises(InputError, match=word) as raised:
        replace(spec, **what)
    assert "\n" not in str(raised.value)
