# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``model(DataArray)``: the fields and labels of ``model(x, coords)``, whatever the order of its input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from cosmo_kit import make_cosmo
from hrrr_kit import make_hrrr
from tiny import COARSE, INPUTS, make_downscaler, make_spec, weather

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5
from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr
from earth2_corrdiff.model.packages.files import Folder

TIMES = np.array(["2024-07-24T00", "2024-07-24T06"], dtype="datetime64[ns]")


def labelled(**leading: np.ndarray) -> xr.DataArray:
    sizes = [len(values) for values in leading.values()]
    coords = {**leading, "variable": list(INPUTS.names), "lat": COARSE.lat, "lon": COARSE.lon}
    x = weather(int(np.prod(sizes))).reshape(*sizes, 3, 6, 8)
    return xr.DataArray(x.numpy(), coords, list(coords))


@pytest.fixture(scope="module")
def model() -> CorrDiff:
    return CorrDiff(make_downscaler(), number_of_samples=2)


def with_coords(model: CorrDiff, x: xr.DataArray) -> tuple[torch.Tensor, OrderedDict[str, np.ndarray]]:
    return model(torch.from_numpy(x.values), OrderedDict((str(dim), x[dim].values) for dim in x.dims))


@pytest.mark.parametrize("bent", [True, False])
def test_the_fields_and_labels_of_the_call_with_coordinates(bent: bool) -> None:
    model = CorrDiff(make_downscaler(make_spec(bent=bent)), number_of_samples=2)
    leads = np.array([0, 6], dtype="timedelta64[h]")
    x = labelled(time=TIMES, lead_time=leads).assign_coords(run="test", number=("time", [4, 5]))
    want, coords = with_coords(model, x)
    got = model(x)
    np.testing.assert_array_equal(got.values, want.numpy())
    assert got.dims[:4] == ("time", "lead_time", "sample", "variable") and got.dtype == np.float32
    assert got.dims[4:] == (("ilat", "ilon") if bent else ("lat", "lon"))
    for name, values in coords.items():
        np.testing.assert_array_equal(got[name].values, values)
    assert got.run == "test" and list(got.number.values) == [4, 5] and got.number.dims == ("time",)
    assert dict(zip(got["variable"].values, got["units"].values, strict=True)) == {"mrr": "dBZ", "t2m": "K"}
    assert got["lat"].attrs["units"] == "degrees_north"
    assert got.sel(variable="t2m", sample=1, time=TIMES[1]).sizes["lead_time"] == 2


@pytest.mark.parametrize("kit", ["cosmo", "hrrr"])
def test_models_with_times_of_their_own(kit: str, tmp_path: Path) -> None:
    model: CorrDiff
    if kit == "hrrr":
        model = CorrDiffEra5Hrrr.load_model(Folder(make_hrrr(tmp_path / "package")), number_of_samples=2)
    else:
        model = CorrDiffCosmoEra5.load_model(Folder(make_cosmo(tmp_path / "package")), mode="diffusion")
    coords = OrderedDict(model.input_coords(), time=TIMES, batch=np.array([7]))
    shape = [len(values) for values in coords.values()]
    x = xr.DataArray(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy(), coords, list(coords)
    )
    model.seed = 3
    (want, out), got = model(torch.from_numpy(x.values), coords), model(x.isel(lat=slice(None, None, -1)))
    np.testing.assert_array_equal(got.values, want.numpy())
    axes = ["hrrr_y", "hrrr_x"] if kit == "hrrr" else ["ilat", "ilon"]
    assert list(got.dims) == ["batch", "sample", "time", "variable", *axes]
    for name, values in out.items():
        np.testing.assert_array_equal(got[name].values, values)
    assert got["lat"].shape == got["lon"].shape == want.shape[-2:]
    with pytest.raises(InputError, match="valid times must be datetimes of UTC, got 0"):
        model(x.assign_coords(time=np.arange(len(TIMES))))


CHANGES: dict[str, Callable[[xr.DataArray], xr.DataArray]] = {
    "variables in another order": lambda x: x.isel(variable=[2, 0, 1]),
    "a variable more": lambda x: xr.concat(
        [x, x.isel(variable=[0]).assign_coords(variable=["sp"])], "variable"
    ),
    "dimensions in another order": lambda x: x.transpose("lon", "variable", "time", "lat"),
    "latitudes that fall": lambda x: x.isel(lat=slice(None, None, -1)),
    "longitudes from -180": lambda x: x.assign_coords(lon=x.lon - 360),
    "big-endian": lambda x: x.astype(">f8"),
    "in pieces": lambda x: x.copy(data=x.values.astype(np.float64)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_same_weather_otherwise_labelled(
    model: CorrDiff, change: Callable[[xr.DataArray], xr.DataArray]
) -> None:
    x = labelled(time=TIMES)
    changed = change(x)
    before = changed.copy(deep=True)
    xr.testing.assert_identical(model(changed), model(x))
    xr.testing.assert_identical(changed, before)


def test_one_case_without_leading_dimensions(model: CorrDiff) -> None:
    x = labelled(time=TIMES)
    got = model(x.isel(time=0))
    assert got.dims[0] == "sample" and got.time == TIMES[0]
    np.testing.assert_array_equal(got.values, model(x).values[0])


BAD: dict[str, tuple[Callable[[xr.DataArray], xr.DataArray], str]] = {
    "no variables": (lambda x: x.drop_vars("variable"), "it has no variable"),
    "one variable": (lambda x: x.isel(variable=0), "must have the variables u10m, z500 once"),
    "a variable less": (
        lambda x: x.isel(variable=[0, 1]),
        "must have the variables z500 once, has t2m, u10m",
    ),
    "a variable twice": (lambda x: x.isel(variable=[0, 0, 1, 2]), "must have the variables t2m once"),
    "no latitudes": (lambda x: x.drop_vars("lat"), "it has no lat"),
    "one latitude": (
        lambda x: x.isel(lat=0),
        "must have the dimensions variable, lat, lon, has time, variable, lon",
    ),
    "another domain": (lambda x: x.assign_coords(lat=x.lat + 1), "6 latitudes from 20 to 25"),
    "members in sample": (lambda x: x.rename(time="sample"), "rename that of the input"),
}


@pytest.mark.parametrize(("change", "word"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(
    model: CorrDiff, change: Callable[[xr.DataArray], xr.DataArray], word: str
) -> None:
    with pytest.raises(InputError, match=word) as raised:
        model(change(labelled(time=TIMES)))
    assert "\n" not in str(raised.value)


def test_either_a_tensor_with_coordinates_or_an_array(model: CorrDiff) -> None:
    x = labelled(time=TIMES)
    for arguments in ((torch.from_numpy(x.values),), (x, model.input_coords()), (x.values,)):
        with pytest.raises(InputError, match="a tensor and its coordinates, or with a DataArray alone"):
            model(*arguments)
