# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a units attribute says is what is done: values computed by hand, and units that are refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.units import canonical, conversion


def converted(values: np.ndarray, *unit: str | None) -> np.ndarray:
    return conversion(*unit)(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "units", "value", "right"),
    [
        *(("t2m", units, 20.0, 293.15) for units in ("degC", "°C", "C", "deg C", "celsius", "Celsius")),
        *(("t2m", units, 20.0, 293.15) for units in ("degree_Celsius", "degrees C", "deg_C")),
        *(("t850", units, 293.15, 293.15) for units in ("K", "kelvin", "Kelvin", "degK", "deg K")),
        *(("d2m", units, 68.0, 293.15) for units in ("degF", "F", "°F", "degree_Fahrenheit")),
        *(("u10m", units, 30.0, 15.433333) for units in ("knots", "knot", "kt", "kts", "Knots")),
        *(("v500", units, 36.0, 10.0) for units in ("km/h", "km h-1", "km h**-1", "kph")),
        *(("u10m", units, 5.0, 5.0) for units in ("m s-1", "m s**-1", "m/s", "m.s-1", "ms-1", "m s^-1")),
        *(("u10m", units, 5.0, 5.0) for units in ("meter second-1", "m s⁻¹", "Meters/Second")),
        ("ws10m", "mi/h", 10.0, 4.4704),
        *(("msl", units, 1013.0, 101300.0) for units in ("hPa", "mb", "mbar", "millibars", "hectopascals")),
        ("sp", "kPa", 101.3, 101300.0),
        *(("z1000", units, 95.0, 931.63175) for units in ("gpm", "m", "meter", "geopotential_meter", "gp m")),
        *(("z500", units, 550.0, 53936.575) for units in ("dam", "gpdam", "gpdm")),
        *(("z500", units, 5e4, 5e4) for units in ("m2 s-2", "m**2 s**-2", "m2/s2", "m^2 s^-2", "J kg-1")),
        *(("r850", units, 0.85, 85.0) for units in ("1", "(0 - 1)", "0-1", "fraction", "kg kg-1", "Numeric")),
        *(("r850", units, 85.0, 85.0) for units in ("%", "percent", "pct")),
        *(("q700", units, 5.0, 0.005) for units in ("g kg-1", "g/kg", "g kg**-1", "1e-3 kg kg-1", "1e-3")),
        *(("tcwv", units, 50.0, 50.0) for units in ("kg m-2", "kg m**-2", "kg/m^2", "mm", "mm of water")),
        ("tcwv", "cm", 5.0, 50.0),
        *(("tp", units, 12.0, 0.012) for units in ("mm", "kg m-2", "kg m**-2", "millimeter")),
        ("tp06", "m", 0.012, 0.012),
        ("tprate", "kg m-2 s-1", 0.001, 3.6),
        ("orography", "km", 3.5, 3500.0),
        *(("mrr", units, 35.0, 35.0) for units in ("dBZ", "dbz", "dBz", "dB")),
        ("w500", "hPa s-1", 0.01, 1.0),
        ("t2m", None, 20.0, 20.0),
        ("t2m", "", 20.0, 20.0),
        ("own_name", "banana", 20.0, 20.0),
    ],
)
def test_known_units_are_converted(variable: str, units: str | None, value: float, right: float) -> None:
    values = np.full((2, 3), value, dtype=np.float64)
    result = converted(values, units, variable)
    assert result.shape == (2, 3)
    np.testing.assert_allclose(result, right, rtol=1e-7)


@pytest.mark.parametrize(
    ("variable", "units"),
    [
        ("t2m", "banana"),
        ("t2m", "unknown"),
        ("t2m", "m s-1"),
        ("u10m", "K"),
        ("z500", "Pa"),
        ("z500", "kg m-2"),
        ("r850", "degrees"),
        ("r850", "dB"),
        ("r850", "m"),
        ("mrr", "mm6 m-3"),
        ("mrr", "K"),
        ("orography", "kg m-2"),
        ("tp", "mm h-1"),
        ("tcwv", "K"),
        ("u10m", "m s-1; __import__('os')"),
        ("u10m", "9**9**9**9"),
        ("u10m", "m**999999999"),
        ("u10m", "km999999999/s"),
        ("u10m", "(9^9)^9 m"),
        ("u10m", "m" * 100_000),
        ("u10m", "(" * 50),
    ],
)
def test_other_units_are_refused_by_name(variable: str, units: str) -> None:
    with pytest.raises(InputError) as caught:
        converted(np.ones(3), units, variable, "file:x.nc")
    message = str(caught.value)
    assert units[:60] in message and str(canonical(variable)) in message and variable in message
    assert "\n" not in message and len(message) < 250 and "file:x.nc" in message


def test_the_kind_of_number_stays_and_whole_numbers_become_real() -> None:
    assert converted(np.ones(3, dtype=np.float32), "degC", "t2m").dtype == np.float32
    assert converted(np.ones(3), "degC", "t2m").dtype == np.float64
    np.testing.assert_allclose(converted(np.array([10], dtype=np.int16), "degC", "t2m"), 283.15, rtol=1e-6)
    same = np.ones(3, dtype=np.float32)
    assert converted(same, "K", "t2m") is same


def test_missing_values_stay_missing() -> None:
    assert np.isnan(converted(np.array([np.nan, 1.0]), "degC", "t2m")).tolist() == [True, False]


@pytest.mark.process
def test_pint_is_imported_when_it_is_needed_and_leaves_the_process_as_it_is() -> None:
    code = (
        "import sys, numpy as np; from earth2_corrdiff.base.units import conversion\n"
        "conversion('m s**-1', 'own'); conversion('K', 't2m')\n"
        "print('pint' in sys.modules)\n"
        "import pint; before = pint.get_application_registry().get()\n"
        "conversion('degC', 't2m'); print(pint.get_application_registry().get() is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_unit_that_this_package_writes_is_read_again() -> None:
    for (
        variable
    ) in "t2m d2m u10m v850 z500 r700 q925 w500 tcwv tp sp msl mrr refc orography tprate tcc".split():
        assert conversion(canonical(variable), variable).identity, variable
