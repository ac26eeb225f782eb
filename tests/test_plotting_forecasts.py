# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Stores of forecasts for plotting: over valid times and members, with the right fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from forecast_kit import LEADS, TIMES, Forecasts
from matplotlib.text import Text
from run_kit import Weather, load, make_package

from earth2_corrdiff import downscale, plotting
from earth2_corrdiff.plotting.fields import output_variables
from earth2_corrdiff.plotting.forecasts import over_valid_times


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with coarse members, one without, and one of analyses."""
    folder = tmp_path_factory.mktemp("stores")
    model = load(make_package(folder / "package", number_of_samples=2))
    downscale(TIMES, model, [Forecasts(0), Forecasts(5)], folder / "ensemble", lead_time=LEADS)
    downscale(TIMES[0], model, Forecasts(), folder / "one", lead_time="6h")
    downscale(TIMES, model, Weather(), folder / "analyses")
    return folder


def test_valid_times_and_members(folder: Path) -> None:
    """At 06 and 12 UTC there are two forecasts: the later one is shown."""
    ds = xr.open_zarr(folder / "ensemble", chunks=None)
    flat = over_valid_times(ds)
    expected = np.array(["2024-07-24T00", "2024-07-24T06", "2024-07-24T12", "2024-07-24T18"], dtype="M8[ns]")
    np.testing.assert_array_equal(flat.time, expected)
    assert flat.mrr.dims[:2] == ("time", "sample") and flat.sizes["sample"] == 4
    places = [(0, 0), (1, 0), (1, 1), (1, 2)]
    for i, (t, lead) in enumerate(places):
        for coarse in range(2):
            for member in range(2):
                np.testing.assert_array_equal(
                    flat.mrr[i, 2 * coarse + member], ds.mrr[t, lead, coarse, member]
                )
                assert flat.member_seed[i, 2 * coarse + member] == ds.member_seed[t, lead, coarse, member]
        np.testing.assert_array_equal(flat.t2m_lowres[i], ds.t2m_lowres[t, lead, 0])
    assert flat.attrs == ds.attrs and flat.mrr.attrs == ds.mrr.attrs
    np.testing.assert_array_equal(flat.orography, ds.orography)
    assert output_variables(flat) == ["mrr", "t2m", "u10m", "v10m"]


def test_one_lead_time(folder: Path) -> None:
    flat = over_valid_times(xr.open_zarr(folder / "one", chunks=None))
    assert flat.time.values == np.array(["2024-07-24T06"], dtype="M8[ns]") and flat.mrr.shape[:2] == (1, 2)


def test_analyses_stay_what_they_are(folder: Path) -> None:
    ds = xr.open_zarr(folder / "analyses", chunks=None)
    assert over_valid_times(ds) is ds


@pytest.mark.parametrize("name", ["ensemble", "one"])
def test_they_are_plotted(folder: Path, name: str) -> None:
    ds = over_valid_times(xr.open_zarr(folder / name, chunks=None)).set_coords(["lat", "lon"])
    for figure in (
        plotting.plot_member(ds, 0, 1),
        plotting.plot_ensemble(ds, 0),
        plotting.plot_lowres(ds, 0),
    ):
        text = " ".join(each.get_text() for each in figure.findobj(Text))
        assert ("2024-07-24 00:00" if name == "ensemble" else "2024-07-24 06:00") in text
