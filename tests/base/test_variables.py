# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Units and names of variables."""

from __future__ import annotations

import pytest

from earth2_corrdiff.base.variables import cf_attributes


@pytest.mark.parametrize(
    ("variable", "units", "standard", "long"),
    [
        ("mrr", "dBZ", "equivalent_reflectivity_factor", "maximum radar reflectivity"),
        ("t2m", "K", "air_temperature", "temperature at 2 m"),
        ("u10m", "m s-1", "eastward_wind", "eastward wind at 10 m"),
        ("v100m", "m s-1", "northward_wind", "northward wind at 100 m"),
        ("z500", "m2 s-2", "geopotential", "geopotential at 500 hPa"),
        ("t850", "K", "air_temperature", "temperature at 850 hPa"),
        ("q1000", "kg kg-1", "specific_humidity", "specific humidity at 1000 hPa"),
        ("tcwv", "kg m-2", "atmosphere_mass_content_of_water_vapor", "total column water vapour"),
    ],
)
def test_known_variables(variable: str, units: str, standard: str, long: str) -> None:
    assert cf_attributes(variable) == {"units": units, "standard_name": standard, "long_name": long}


@pytest.mark.parametrize("variable", ["lightning", "x500", "u10cm", "T2M", "u", ""])
def test_unknown_variables_get_no_unit(variable: str) -> None:
    """No unit is better than a wrong one."""
    assert cf_attributes(variable) == {"long_name": variable}
