# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Units and names of variables after the CF conventions."""

from __future__ import annotations

import re

# Earth2Studio name → (units, standard name, long name)
_PRECIPITATION = ("m", "lwe_thickness_of_precipitation_amount", "total precipitation")
_PRESSURE = ("Pa", "air_pressure_at_mean_sea_level", "mean sea-level pressure")
_ICE = ("%", "sea_ice_area_fraction", "sea ice")
_SNOW = ("%", "surface_snow_area_fraction", "snow cover")
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
    "tpf": ("kg m-2 s-1", "precipitation_flux", "precipitation rate"),
    **dict.fromkeys(("tp", "tp01", "tp06"), _PRECIPITATION),
    "sp": ("Pa", "surface_air_pressure", "surface pressure"),
    **{"msl": _PRESSURE, "mslp": _PRESSURE},
    "tcc": ("1", "cloud_area_fraction", "total cloud cover"),
    "clt": ("%", "cloud_area_fraction", "total cloud cover"),
    **{"siconc": _ICE, "snc": _SNOW, "snowc": _SNOW},
    "sde": ("m", "surface_snow_thickness", "snow depth"),
    "blh": ("m", "atmosphere_boundary_layer_thickness", "boundary layer height"),
    "aswdir_s": ("W m-2", "surface_direct_downwelling_shortwave_flux_in_air", "direct solar radiation"),
    "aswdifd_s": ("W m-2", "surface_diffuse_downwelling_shortwave_flux_in_air", "diffuse solar radiation"),
    "rsds": ("W m-2", "surface_downwelling_shortwave_flux_in_air", "solar radiation at the surface"),
    "athd_s": ("W m-2", "surface_downwelling_longwave_flux_in_air", "downward thermal radiation"),
    "alwu_s": ("W m-2", "surface_upwelling_longwave_flux_in_air", "upward thermal radiation"),
    "rlut": ("W m-2", "toa_outgoing_longwave_flux", "outgoing thermal radiation"),
    **dict.fromkeys(("lhfl_s", "hfls"), ("W m-2", "surface_upward_latent_heat_flux", "latent heat flux")),
    **dict.fromkeys(
        ("shfl_s", "ashfl_s", "hfss"), ("W m-2", "surface_upward_sensible_heat_flux", "sensible heat flux")
    ),
}
# Letters of a variable on a level → the same
_LEVELLED = {
    "u": ("m s-1", "eastward_wind", "eastward wind"),
    "v": ("m s-1", "northward_wind", "northward wind"),
    "ws": ("m s-1", "wind_speed", "wind speed"),
    "fg": ("m s-1", "wind_speed_of_gust", "wind gusts"),
    "t": ("K", "air_temperature", "temperature"),
    "z": ("m2 s-2", "geopotential", "geopotential"),
    "Z": ("m", "geopotential_height", "geopotential height"),
    "w": ("Pa s-1", "lagrangian_tendency_of_air_pressure", "vertical velocity"),
    "q": ("kg kg-1", "specific_humidity", "specific humidity"),
    "r": ("%", "relative_humidity", "relative humidity"),
    "p": ("Pa", "air_pressure", "pressure"),
    "tke": ("m2 s-2", "specific_turbulent_kinetic_energy_of_air", "turbulent kinetic energy"),
}
_LEVEL = re.compile(r"(?P<what>[A-Za-z]+?)(?P<model>(?:3d)?_l)?(?P<level>\d+)(?P<of>m|hl)?")
"""t850 is on a pressure level, t100m at a height, t3hl (HRRR) and t_l38, u3d_l48 (COSMO) on a model level."""
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
    match = _LEVEL.fullmatch(variable)
    if match is None or match["what"] not in _LEVELLED:
        return {"long_name": variable}
    units, standard, name = _LEVELLED[match["what"]]
    return {"units": units, "standard_name": standard, "long_name": f"{name} {level_text(variable)}"}


def northward(eastward: str) -> str:
    """Name of the northward wind beside an eastward one; empty for anything else.

    Examples
    --------
    >>> northward("u_l38")
    'v_l38'
    """
    return f"v{eastward[1:]}" if re.fullmatch(r"u(\d*m?|\d+hl|(3d)?_l\d+)", eastward) else ""


def level_text(variable: str) -> str:
    """The level in a variable's name: ``at 850 hPa``, ``at 10 m``, ``on model level 38``; empty without one.

    Examples
    --------
    >>> level_text("u3d_l48")
    'on model level 48'
    """
    match = _LEVEL.fullmatch(variable)
    if match is None:
        return ""
    if match["model"] or match["of"] == "hl":
        return f"on model level {match['level']}"
    return f"at {match['level']} {match['of'] or 'hPa'}"
