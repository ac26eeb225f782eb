# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Units and names of variables after the CF conventions."""

from __future__ import annotations

import re

# Earth2Studio name → (units, standard name, long name)
_KNOWN = {
    "mrr": ("dBZ", "equivalent_reflectivity_factor", "maximum radar reflectivity"),
    "refc": ("dBZ", "equivalent_reflectivity_factor", "composite radar reflectivity"),
    "t2m": ("K", "air_temperature", "temperature at 2 m"),
    "d2m": ("K", "dew_point_temperature", "dew point at 2 m"),
    "tcwv": ("kg m-2", "atmosphere_mass_content_of_water_vapor", "total column water vapour"),
    "orography": ("m", "surface_altitude", "height of the terrain"),
    "land_fraction": ("1", "land_area_fraction", "fraction of land"),
    "tcw": ("kg m-2", "atmosphere_mass_content_of_water", "total column water"),
    "skt": ("K", "surface_temperature", "skin temperature"),
    "sst": ("K", "sea_surface_temperature", "sea surface temperature"),
    "tprate": ("mm h-1", "lwe_precipitation_rate", "precipitation rate"),
    "tp": ("m", "precipitation_amount", "total precipitation"),
    "sp": ("Pa", "surface_air_pressure", "surface pressure"),
    "msl": ("Pa", "air_pressure_at_mean_sea_level", "mean sea-level pressure"),
}
# Letter of a variable on a level → the same
_LEVELLED = {
    "u": ("m s-1", "eastward_wind", "eastward wind"),
    "v": ("m s-1", "northward_wind", "northward wind"),
    "t": ("K", "air_temperature", "temperature"),
    "z": ("m2 s-2", "geopotential", "geopotential"),
    "w": ("Pa s-1", "lagrangian_tendency_of_air_pressure", "vertical velocity"),
    "q": ("kg kg-1", "specific_humidity", "specific humidity"),
    "r": ("%", "relative_humidity", "relative humidity"),
}
LAT = {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"}
LON = {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"}


def cf_attributes(variable: str) -> dict[str, str]:
    """CF attributes of an Earth2Studio variable; its name alone where it is unknown.

    Examples
    --------
    >>> cf_attributes("u850")["long_name"]
    'eastward wind at 850 hPa'
    """
    if variable in _KNOWN:
        units, standard, name = _KNOWN[variable]
        return {"units": units, "standard_name": standard, "long_name": name}
    match = re.fullmatch(r"([a-z])(\d+)(m?)", variable)
    if match is None or match[1] not in _LEVELLED:
        return {"long_name": variable}
    units, standard, name = _LEVELLED[match[1]]
    level = f"{match[2]} m" if match[3] else f"{match[2]} hPa"
    return {"units": units, "standard_name": standard, "long_name": f"{name} at {level}"}
