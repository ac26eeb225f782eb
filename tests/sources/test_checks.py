# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that stand for missing values, and values that no weather has."""

from __future__ import annotations

import numpy as np
import pytest
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import check_input
from earth2_corrdiff.sources.checks import check_gappy, sentinels_to_nan


@pytest.mark.parametrize("number", [-99.0, -999.0, -9999.0, 9999.0, 1e20, -1e20, 9.96921e36, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sentinels_become_nan_and_are_counted(number: float, dtype: type) -> None:
    values = np.array([[1.5, number], [np.nan, -98.0]], dtype=dtype)
    result, count = sentinels_to_nan(values, "mrr")
    assert count == 1 and result.dtype == dtype
    np.testing.assert_array_equal(result, np.array([[1.5, np.nan], [np.nan, -98.0]], dtype=dtype))


def test_whole_numbers_and_heights() -> None:
    result, count = sentinels_to_nan(np.array([-999, 5], dtype=np.int16))
    assert count == 1 and result.dtype == np.float32 and result[1] == 5 and np.isnan(result[0])
    height = np.array([9999.0, -9999.0])
    assert sentinels_to_nan(height, "z925")[1] == 1 and sentinels_to_nan(height, "t2m")[1] == 2
    clean = np.array([1.0, np.nan])
    assert sentinels_to_nan(clean)[0] is clean


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("r850", 0.85, "a fraction instead of %"),
        ("orography", 20000.0, "geopotential instead of a height"),
        ("t2m", -999.0, "-999 stands for a missing value"),
        ("u10m", -99.0, "-99 stands for a missing value"),
        ("own", 1e30, "1e+30 stands for a missing value"),
    ],
)
def test_what_gives_itself_away(variable: str, value: float, cause: str) -> None:
    with pytest.raises(InputError) as caught:
        check_input(np.full((1, 1, 3, 4), value, dtype=np.float32), [variable], "file:x.nc")
    assert cause in str(caught.value) and variable in str(caught.value)


def test_one_missing_number_among_weather_is_found() -> None:
    fields = np.full((1, 1, 30, 40), 5.0, dtype=np.float32)
    fields[0, 0, 3, 4] = -99.0
    with pytest.raises(InputError, match=r"u10m has -99 at 1 of 1200 points"):
        check_input(fields, ["u10m"], "file:x.nc")


def test_dry_air_aloft_is_weather() -> None:
    check_input(np.full((1, 1, 3, 4), 0.9, dtype=np.float32), ["r100"], "gfs")
    check_input(np.full((1, 1, 3, 4), 3.0, dtype=np.float32), ["r850"], "gfs")


def test_fields_with_gaps() -> None:
    time, field = np.datetime64("2037-09-05T12"), np.array([[np.nan, 80.0], [0.0, 100.0]])
    check_gappy(field, "siconc", "file:x.nc", time)
    check_gappy(0 * field, "snc", "file:x.nc", time)
    faults = (field * np.nan, "has no siconc"), (field - 99, "siconc is -99 to 1, expected")
    infinite = np.where(field == 0, np.inf, field), "siconc is infinite at 1 of 4 points"
    for wrong, says in (*faults, infinite):
        with pytest.raises(InputError, match=f"file:x.nc at 2037-09-05T12:00 cannot be used: .*{says}"):
            check_gappy(wrong, "siconc", "file:x.nc", time)


def test_marks_of_missing_values_are_no_values() -> None:
    with pytest.raises(InputError, match="tp has -999 at 1 of 3 points; -999 stands for a missing value"):
        check_gappy(np.array([[np.nan, 0.001, -999.0]]), "tp", "file:x.nc")


def test_a_fraction_for_a_percentage_is_warned_of() -> None:
    said: list[str] = []
    handle = logger.add(said.append, level="WARNING", format="{message}")
    check_gappy(np.array([[np.nan, 0.97]]), "snc", "file:x.nc", np.datetime64("2037-09-05T12"))
    logger.remove(handle)
    assert said == ["file:x.nc: snc at 2037-09-05T12:00 is at most 0.97 %; it looks like a fraction\n"]
