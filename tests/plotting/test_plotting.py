# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The figures: what is on them, in numbers."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import BoundaryNorm, to_rgb
from PIL import Image
from plotting_store import (
    H,
    W,
    arrows,
    build,
    cells,
    drawn,
    forbid_network,
    limits,
    map_axes,
    texts,
    weather,
    write,
)

from earth2_corrdiff import plotting
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.plotting import maps, panels, style

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forbid_network(monkeypatch, tmp_path / "empty")


@pytest.fixture
def store(tmp_path: Path) -> xr.Dataset:
    return plotting.open_store(build(tmp_path / "store.zarr"))


# ---- a member


@pytest.mark.parametrize("curved", [True, False])
def test_member_panels_hold_the_values_in_displayed_units(tmp_path: Path, curved: bool) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", curved=curved))
    axes = map_axes(drawn(plotting.plot_member(ds, sample=1)))
    assert [ax.get_title(loc="left") for ax in axes] == [
        "Maximum radar reflectivity (dBZ)",
        "2 m temperature (°C)",
        "10 m wind (m/s)",
    ]
    truth = weather(maps.mesh_of(ds).lat, maps.mesh_of(ds).lon, 1)
    wanted = (truth["mrr"], truth["t2m"] - 273.15, np.hypot(truth["u10m"], truth["v10m"]))
    for ax, values in zip(axes, wanted, strict=True):
        assert cells(ax).get_array().shape == (H, W)
        np.testing.assert_allclose(cells(ax).get_array(), values, atol=1e-4)
    assert [len(arrows(ax)) for ax in axes] == [0, 0, 1]


def test_title_says_time_member_and_provenance(store: xr.Dataset) -> None:
    said = texts(plotting.plot_member(store, sample=2))
    for part in ("member 2", "2024-07-24 12:00 UTC", "package taiwan", "source gfs", "euler, 18 steps"):
        assert part in said
    assert "member seed 1002" in said
    assert "synthetic" not in said


def test_synthetic_weather_is_called_so(tmp_path: Path) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", synthetic=1))
    for figure in (plotting.plot_member(ds), plotting.plot_lowres(ds), plotting.plot_ensemble(ds)):
        assert "synthetic demo weather" in texts(figure)


def test_real_weather_through_a_demo_model_is_called_so(tmp_path: Path) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", synthetic=1, synthetic_source=0))
    for figure in (plotting.plot_member(ds), plotting.plot_ensemble(ds)):
        assert "demo model trained on synthetic weather" in texts(figure)
    assert "synthetic" not in texts(plotting.plot_lowres(ds))


def test_scales_are_shared_by_members_coarse_input_and_mean(store: xr.Dataset) -> None:
    wanted = limits(plotting.plot_member(store, sample=0))
    for sample in (1, 2):
        assert limits(plotting.plot_member(store, sample=sample)) == wanted
    assert limits(plotting.plot_lowres(store)) == wanted
    assert limits(plotting.plot_ensemble(store))[::3] == wanted
    temperature = store["t2m"].values - 273.15
    assert wanted[1][0] <= np.percentile(temperature, 0.5)
    assert wanted[1][1] >= np.percentile(temperature, 99.5)
    assert wanted[2][0] == 0.0
    assert wanted[2][1] >= np.hypot(store["u10m"], store["v10m"]).max()


# ---- coarse input, ensemble, other packages


def test_lowres_has_composite_reflectivity(store: xr.Dataset) -> None:
    figure = drawn(plotting.plot_lowres(store))
    titles = [ax.get_title(loc="left") for ax in map_axes(figure)]
    assert titles[0] == "Composite radar reflectivity (dBZ)"
    assert "Coarse input" in texts(figure)
    shown = cells(map_axes(figure)[1]).get_array()
    lat, lon = store["lat_lowres"].values, store["lon_lowres"].values
    rows, columns = panels.coarse_window(maps.mesh_of(store), maps.mesh_of(store, "_lowres"))
    values = weather(*np.meshgrid(lat[rows], lon[columns], indexing="ij"), 0)["t2m"] - 273.15
    np.testing.assert_allclose(shown, values, atol=1e-4)
    assert lat[rows].min() < store["lat"].min() and lat[rows].max() > store["lat"].max()
    assert shown.size < lat.size * lon.size


def test_lowres_without_reflectivity_shows_water_vapour_and_says_so(tmp_path: Path) -> None:
    figure = plotting.plot_lowres(plotting.open_store(build(tmp_path / "s.zarr", refc=False)))
    assert map_axes(figure)[0].get_title(loc="left") == "Total column water vapour (kg m⁻²)"
    assert "not in the coarse input: Maximum radar reflectivity" in texts(figure)


def test_ensemble_numbers(store: xr.Dataset) -> None:
    figure = drawn(plotting.plot_ensemble(store, thresholds={"t2m": 27.2, "mrr": 20.0}))
    shown = [cells(ax).get_array() for ax in map_axes(figure)]
    assert len(shown) == 9
    mrr, t2m = store["mrr"].values[0], store["t2m"].values[0] - 273.15
    speed = np.hypot(store["u10m"].values[0], store["v10m"].values[0])
    for row, (stack, threshold) in enumerate(((mrr, 20.0), (t2m, 27.2), (speed, 17.2))):
        np.testing.assert_allclose(shown[3 * row], stack.mean(axis=0), atol=1e-3)
        np.testing.assert_allclose(shown[3 * row + 1], stack.std(axis=0, ddof=1), atol=1e-3)
        np.testing.assert_allclose(shown[3 * row + 2], 100 * np.mean(stack > threshold, axis=0), atol=1e-3)
    assert map_axes(figure)[5].get_title(loc="left") == "Probability: above 27.2 °C (%)"


def test_ensemble_errors(store: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no quantity rain"):
        plotting.plot_ensemble(store, thresholds={"rain": 1.0})
    lone = plotting.open_store(build(tmp_path / "lone.zarr", members=1))
    with pytest.raises(InputError, match="two written members"):
        plotting.plot_ensemble(lone)


@pytest.mark.slow
def test_other_packages_are_plotted_generically(tmp_path: Path) -> None:
    lat, lon = np.linspace(50, 40, 9), np.linspace(350, 372, 13) % 360
    shape = (1, 2, 9, 13)
    names = {"u100m": "m s-1", "v100m": "m s-1", "tp": "mm", "z500": "m2 s-2", "d2m": "K", "q": ""}
    rng = np.random.default_rng(0)
    data = {
        name: (
            ("time", "sample", "lat", "lon"),
            280 + rng.standard_normal(shape).astype("f4"),
            {"units": units},
        )
        for name, units in names.items()
    }
    time = np.array(["2023-01-01"], "datetime64[ns]")
    ds = xr.Dataset(data, {"time": time, "sample": [0, 1], "lat": lat, "lon": lon})
    ds = plotting.open_store(write(ds, tmp_path / "other.zarr"))
    figure = drawn(plotting.plot_member(ds))
    titles = [ax.get_title(loc="left") for ax in map_axes(figure)]
    assert titles == [
        "Total precipitation (mm)",
        "Dew point at 2 m (°C)",
        *("100 m wind (m/s)", "q", "Geopotential height at 500 hPa (dam)"),
    ]
    assert cells(map_axes(figure)[3]).get_cmap().name.startswith("viridis")
    assert len(map_axes(drawn(plotting.plot_ensemble(ds)))) == 5 * 2 + 2  # wind and d2m have thresholds
    with pytest.raises(InputError, match="no coarse input"):
        plotting.plot_lowres(ds)


# ---- members that are not there


def test_unwritten_member(tmp_path: Path) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", times=2, unwritten=((0, 1), (1, 0), (1, 1), (1, 2))))
    assert plotting.written_members(ds) == [0, 2]
    with pytest.raises(InputError, match="sample 1 has been written at 2024-07-24T12:00"):
        plotting.plot_member(ds, sample=1)
    with pytest.raises(InputError, match="no sample has been written at 2024-07-24T12:30:15"):
        plotting.color_scales(ds, "2024-07-24T12:30:15")
    assert len(list(plotting.frames(ds))) == 2


def test_unknown_time_and_sample(store: xr.Dataset) -> None:
    with pytest.raises(InputError, match="no sample 7"):
        plotting.plot_member(store, sample=7)
    for time in (3, "2024-07-25"):
        with pytest.raises(InputError, match="no time"):
            plotting.plot_member(store, time)
    with pytest.raises(InputError, match="is not a valid time"):
        plotting.plot_member(store, "noon")


# ---- coastlines, globals, animation, style


def test_nothing_global_is_touched(store: xr.Dataset) -> None:
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    drawn(plotting.plot_ensemble(store))
    assert plt.get_fignums() == [] and dict(mpl.rcParams) == before


@pytest.mark.slow
def test_animation(store: xr.Dataset, tmp_path: Path) -> None:
    plotting.animate(store, tmp_path / "members.gif", samples=[0, 2], seconds=0.5)
    with Image.open(tmp_path / "members.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (2, 500, 0)
        rgb = np.asarray(gif.convert("RGB")).reshape(-1, 3)
    used = np.unique(rgb, axis=0).astype(float)
    for color in style.RADAR_COLORS:  # the rare steps keep their colour, too
        assert np.abs(used - 255 * np.array(to_rgb(color))).max(axis=1).min() <= 6


def test_radar_scale_is_the_forecasters() -> None:
    radar = style.scale("radar", -10.0, 90.0)
    assert isinstance(radar.norm, BoundaryNorm) and radar.extend == "max"
    shown = radar.cmap(radar.norm(np.array([-20.0, 0.0, 4.9, 37.0, 52.0])))
    assert (shown[:3, :3] == 1.0).all()
    assert tuple(shown[3, :3]) == to_rgb("#fff27a") and tuple(shown[4, :3]) == to_rgb("#e8432e")


@pytest.mark.parametrize(
    ("name", "label", "units", "value", "shown", "kind"),
    [
        ("mslp", "Mean sea-level pressure", "hPa", 101325.0, 1013.25, "pressure"),
        ("tp", "Total precipitation", "mm", 0.004, 4.0, "precipitation"),
        ("tpf", "Precipitation rate", "mm/h", 1e-3, 3.6, "precipitation"),
        ("tcc", "Total cloud cover", "%", 0.5, 50.0, "cloud"),
        ("q700", "Specific humidity at 700 hPa", "g/kg", 0.004, 4.0, "humidity"),
        ("z500", "Geopotential height at 500 hPa", "dam", 55000.0, 560.84, "pressure"),
        ("aswdir_s", "Direct solar radiation", "W m⁻²", 500.0, 500.0, "radiation"),
        ("lhfl_s", "Latent heat flux", "W m⁻²", -20.0, -20.0, "signed"),
        ("siconc", "Sea ice", "%", 80.0, 80.0, "snow"),
        ("t3hl", "Temperature on model level 3", "°C", 283.15, 10.0, "temperature"),
        ("fg10m", "Wind gusts at 10 m", "m/s", 20.0, 20.0, "wind"),
        ("p1hl", "Pressure on model level 1", "hPa", 9e4, 900.0, "pressure"),
    ],
)
def test_a_variable_of_any_model_by_its_name(
    name: str, label: str, units: str, value: float, shown: float, kind: style.Kind
) -> None:
    """Forecasters' units, by hand."""
    (quantity,) = style.quantities({name: {}})
    assert (quantity.label, quantity.units, quantity.kind) == (label, units, kind)
    assert quantity.factor * value + quantity.offset == pytest.approx(shown, abs=0.01)


def test_winds_of_model_levels_are_pairs() -> None:
    names = (
        "u1hl",
        "v1hl",
        "u_l40",
        "v_l40",
        "u3d_l48",
        "v3d_l48",
        "u100m",
        "v100m",
        "u500",
        "v500",
        "u",
        "v",
    )
    labels = [quantity.label for quantity in style.quantities(dict.fromkeys(names, {}))]
    assert labels == [
        *("Wind on model level 1", "Wind on model level 40", "Wind on model level 48"),
        *("100 m wind", "500 hPa wind", "Wind"),
    ]


def test_scales_of_clouds_rain_and_signed_quantities_do_not_depend_on_the_weather() -> None:
    cloud, flux, rain = (
        style.scale("cloud", 20, 60),
        style.scale("signed", -3, 80),
        style.scale("precipitation", 0, 1),
    )
    assert (cloud.norm.vmin, cloud.norm.vmax) == (0, 100)
    assert flux.norm.vmin == -flux.norm.vmax
    assert tuple(rain.ticks) == style.RAIN_STEPS and rain.extend == "max"
    assert style.scale("radar", 0, 1).ticks == [10, 20, 30, 40, 50, 60, 70]


def test_chosen_quantities(store: xr.Dataset) -> None:
    assert set(panels.only(store, None)) == set(store)
    kept = panels.only(store, ["ws10m", "t2m"])
    assert [quantity.name for quantity in panels.member_quantities(kept)] == ["t2m", "ws10m"]
    assert "refc_lowres" in kept
    with pytest.raises(InputError, match="no quantity rain to plot: the store has mrr, t2m, ws10m"):
        panels.only(store, ["rain"])


def test_missing_cells_are_not_no_echo(tmp_path: Path) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr")).load()
    ds["mrr"][0, 0, 3, 4] = np.nan
    image = cells(map_axes(plotting.plot_member(ds))[0])
    colors = image.to_rgba(image.get_array())
    assert tuple(colors[3, 4, :3]) == to_rgb(style.MISSING)


@pytest.mark.parametrize(
    ("name", "color"), [("magma", "white"), ("viridis", "white"), ("YlOrRd", style.COAST)]
)
def test_coastlines_differ_from_a_dark_colour_map(name: str, color: str) -> None:
    usual = {"spread": style.spread_scale(4.0)}
    assert usual["spread"].coast == style.COAST
    assert style.recolored(usual, mpl.colormaps[name])["spread"].coast == color
