# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The Earth2Studio face: coordinates, attributes, leading dimensions, and Earth2Studio's own drivers."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto import Package
from loguru import logger
from tiny import (
    COARSE,
    INPUTS,
    earth2studio_module,
    make_downscaler,
    make_package,
    make_spec,
    make_taiwan,
    relerr,
    weather,
)
from torch import Tensor

import earth2_corrdiff
from earth2_corrdiff import CorrDiff, CorrDiffTaiwan, InputError
from earth2_corrdiff.model.diffusion.solvers import Churn

TIMES = np.array(["2024-07-24T00", "2024-07-24T06", "2024-07-24T12"], dtype="datetime64[ns]")
LEADS = np.array([0, 6], dtype="timedelta64[h]")


def make_model(members: int = 2, **what: Any) -> CorrDiff:
    return CorrDiff(make_downscaler(make_spec(**what)), number_of_samples=members)


@pytest.fixture(scope="module")
def model() -> CorrDiff:
    return make_model()


def coordinates(**leading: Any) -> OrderedDict[str, np.ndarray]:
    coords = OrderedDict((name, np.asarray(values)) for name, values in leading.items())
    coords |= {"variable": np.array(INPUTS.names), "lat": COARSE.lat, "lon": COARSE.lon}
    return coords


def cases(*leading: int) -> Tensor:
    return weather(int(np.prod(leading))).reshape(*leading, 3, 6, 8)


# the protocol


def test_is_a_diagnostic_model(model: CorrDiff) -> None:
    protocol = earth2studio_module("models.dx.base").DiagnosticModel
    assert isinstance(model, protocol)
    assert list(model.input_coords()) == ["batch", "variable", "lat", "lon"]
    assert model.input_coords()["batch"].shape == (0,)
    given = coordinates(batch=np.arange(3))
    out = model.output_coords(given)
    assert list(given) == ["batch", "variable", "lat", "lon"]
    assert list(out) == ["batch", "sample", "variable", "lat", "lon"]
    assert np.array_equal(out["batch"], np.arange(3)) and np.array_equal(out["sample"], [0, 1])
    assert list(out["variable"]) == ["mrr", "t2m"] and out["lat"].shape == out["lon"].shape == (16, 24)


def test_the_undecorated_call() -> None:
    """Earth2Studio's own tests take ``__call__.__wrapped__`` for it."""
    assert "self.downscaler" in inspect.getsource(CorrDiff.__call__.__wrapped__)
    model = make_model(members=1)
    coords = coordinates(batch=np.arange(2)) | {"time": TIMES[:2]}  # beside the batch, not in its place
    y, out = CorrDiff.__call__.__wrapped__(model, cases(2), coords)
    assert torch.equal(y, model(cases(2), coordinates(time=TIMES[:2]))[0]) and "time" not in out
    assert "time" in coords


@pytest.mark.slow
@pytest.mark.parametrize("bent", [True, False])
def test_coordinates_of_the_output(bent: bool) -> None:
    model = make_model(bent=bent)
    y, coords = model(cases(2), coordinates(batch=np.arange(2)))
    grid = model.spec.output_grid
    assert y.shape == (2, 2, 2, 16, 24) and y.dtype == torch.float32
    assert coords["lat"].ndim == (2 if bent else 1)
    assert np.array_equal(coords["lat"], grid.lat) and np.array_equal(coords["lon"], grid.lon)
    assert torch.equal(y, model.downscaler(cases(2), model.member_seeds()))


LEADING = {
    "one case": {},
    "time": {"time": TIMES},
    "time and lead time": {"time": TIMES, "lead_time": LEADS},
    "ensemble": {"ensemble": [0, 1], "time": TIMES[:2], "lead_time": LEADS},
    "any name": {"scenario": ["wet", "dry"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("leading", LEADING.values(), ids=LEADING.keys())
def test_leading_dimensions(model: CorrDiff, leading: dict[str, Any]) -> None:
    sizes = [len(values) for values in leading.values()]
    x, given = cases(*sizes), coordinates(**leading)
    y, coords = model(x, given)
    assert list(coords) == [*leading, "sample", "variable", "lat", "lon"]
    for name, values in leading.items():
        assert np.array_equal(coords[name], values)
    assert y.shape == (*sizes, 2, 2, 16, 24)
    flat = model.downscaler(x.reshape(-1, 3, 6, 8), model.member_seeds())
    assert torch.equal(y.reshape(flat.shape), flat)
    assert list(given) == [*leading, "variable", "lat", "lon"]


# inputs that are the same, differently written


def test_latitude_in_either_order(model: CorrDiff) -> None:
    want, _ = model(cases(2), coordinates(time=TIMES[:2]))
    coords = coordinates(time=TIMES[:2])
    coords["lat"] = COARSE.lat[::-1]
    x = cases(2)
    got, out = model(x.flip(-2), coords)
    assert torch.equal(got, want) and torch.equal(x, cases(2))
    assert np.array_equal(out["lat"], model.spec.output_grid.lat)


@pytest.mark.parametrize("turn", [-360.0, 360.0, 1e-5])
def test_longitude_in_either_convention(model: CorrDiff, turn: float) -> None:
    coords = coordinates(time=TIMES[:1])
    coords["lon"] = COARSE.lon.astype(np.float64) + turn
    assert torch.equal(model(cases(1), coords)[0], model(cases(1), coordinates(time=TIMES[:1]))[0])


def test_input_in_double_precision(model: CorrDiff) -> None:
    """GFS comes in float64."""
    got, _ = model(cases(1).double(), coordinates(time=TIMES[:1]))
    assert got.dtype == torch.float32 and torch.equal(got, model(cases(1), coordinates(time=TIMES[:1]))[0])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "order": ({"variable": np.array(["u10m", "t2m", "z500"])}, "t2m, u10m, z500 in this order"),
    "other variable": ({"variable": np.array(["t2m", "u10m", "q700"])}, "got t2m, u10m, q700"),
    "shifted": ({"lat": COARSE.lat + 1}, "6 latitudes from 20 to 25"),
    "coarser": ({"lon": COARSE.lon * 2 - 118}, "8 longitudes from 118 to 125"),
    "fallen longitudes": ({"lon": COARSE.lon[::-1]}, "8 longitudes from 118 to 125"),
    "scrambled": ({"lat": COARSE.lat[[0, 2, 1, 3, 4, 5]]}, "6 latitudes"),
    "2-D": ({"lat": COARSE.mesh()[0], "lon": COARSE.mesh()[1]}, "6 x 8 from 20 to 25"),
}


@pytest.mark.parametrize(("change", "word"), BAD.values(), ids=BAD.keys())
def test_other_coordinates_are_refused(model: CorrDiff, change: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as raised:
        model(cases(1), coordinates(time=TIMES[:1]) | change)
    assert "\n" not in str(raised.value)


def test_another_size_is_refused(model: CorrDiff) -> None:
    coords = coordinates(time=TIMES[:1]) | {"lat": COARSE.lat[:5]}
    with pytest.raises(InputError, match="got 5 from 20 to 24 and 8 from 118 to 125; cut them out"):
        model(cases(1)[..., :5, :], coords)


# attributes


@pytest.mark.slow
def test_attributes_are_honoured_at_call_time() -> None:
    model = make_model(members=1)
    assert (model.solver, model.number_of_steps, model.sigma_max, model.seed) == ("euler", 3, 80.0, 11)
    x, made = weather(), {}

    def run(name: str) -> None:
        made[name] = model(x, coordinates(batch=[0]))[0]

    run("first")
    for name, value in {
        "number_of_steps": 4,
        "solver": "heun",
        "sigma_max": 20.0,
        "sigma_min": 0.05,
        "seed": 3,
    }.items():
        before = getattr(model, name)
        setattr(model, name, value)
        assert getattr(model, name) == value
        run(name)
        setattr(model, name, before)
    run("again")
    assert torch.equal(made.pop("again"), made["first"])
    assert len({float(y.sum()) for y in made.values()}) == len(made) == 6
    model.solver, model.churn = "stochastic", Churn(S_churn=1.0)
    run("churn")
    model.churn = Churn(S_churn=2.0)
    run("more churn")
    assert not torch.equal(made["churn"], made["more churn"])
    model.number_of_samples = 3
    run("three")
    assert made["three"].shape == (1, 3, 2, 16, 24)
    assert torch.equal(made["three"][:, :1], made["more churn"])
    assert np.array_equal(model.output_coords(coordinates(batch=[0]))["sample"], [0, 1, 2])


@pytest.mark.parametrize("max_batch", [1, 2, 4])
def test_max_batch_changes_nothing(model: CorrDiff, max_batch: int) -> None:
    other = make_model()
    other.max_batch = max_batch
    coords = coordinates(time=TIMES[:2])
    assert torch.equal(other(cases(2), coords)[0], model(cases(2), coords)[0])


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("number_of_samples", 0, "number_of_samples.*0"),
        ("number_of_samples", -1, "number_of_samples"),
        ("number_of_samples", 2.0, "number_of_samples"),
        ("number_of_steps", 0, "steps.*0"),
        ("number_of_steps", "8", "steps"),
        ("solver", "rk4", "'rk4'.*trigflow"),
        ("sigma_max", 0.001, "sigma_max"),
        ("sigma_min", 0, "sigma_min"),
        ("seed", "lucky", "seed.*'lucky'"),
    ],
)
def test_attributes_that_cannot_be(model: CorrDiff, name: str, value: Any, word: str) -> None:
    before = getattr(model, name)
    with pytest.raises(InputError, match=word):
        setattr(model, name, value)
    assert getattr(model, name) == before


def test_zero_samples_at_construction() -> None:
    with pytest.raises(InputError, match="number_of_samples"):
        make_model(members=0)


def test_seeds() -> None:
    model = make_model(members=3)
    assert model.member_seeds() == [11, 12, 13]
    model.seed = np.int64(2**32 - 1)
    assert model.member_seeds() == [2**32 - 1, 0, 1]
    assert make_model(seed=None).seed is None and CorrDiff(make_downscaler(), seed=0).seed == 0


def test_a_seed_that_is_drawn_is_logged_and_makes_the_same_members_again() -> None:
    model, said = make_model(seed=None), []
    handler = logger.add(said.append, level="INFO", format="{message}")
    try:
        first, second = (model(weather(), coordinates(batch=[0]))[0] for _ in range(2))
    finally:
        logger.remove(handler)
    drawn = [int(m[1]) for text in said if (m := re.search(r"drew the seed (\d+)", text))]
    assert len(drawn) == 2 and drawn[0] != drawn[1] and not torch.equal(first, second)
    model.seed = drawn[0]
    assert torch.equal(model(weather(), coordinates(batch=[0]))[0], first)


def test_cases_of_a_call_share_their_members_noise(model: CorrDiff) -> None:
    """As in the stock class; downscale() gives each time its own."""
    twice = weather().expand(2, -1, -1, -1)
    y, _ = model(twice, coordinates(time=TIMES[:2]))
    assert torch.equal(y[0], y[1]) and not torch.equal(y[0, 0], y[0, 1])


# loading


@pytest.mark.slow
def test_loading(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package")
    model = CorrDiff.load_model(Package(str(folder)))
    assert isinstance(model, CorrDiff) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert (model.input_variables, model.output_variables) == (["t2m", "u10m", "z500"], ["mrr", "t2m"])
    assert (model.solver, model.number_of_steps, model.sigma_max) == ("heun", 3, 80.0)
    coords = coordinates(batch=[0])
    want = model(weather(), coords)[0]
    for other in (
        CorrDiff.from_pretrained(str(folder)),
        CorrDiffTaiwan.load_model(Package(str(folder))),
        CorrDiff.load_model(Package(str(folder)), device="cpu", precision="auto"),
        CorrDiff.load_model(Package(str(folder))).to("cpu"),
    ):
        assert torch.equal(other(weather(), coords)[0], want)
    changed = CorrDiff.load_model(Package(str(folder)), sigma_min=0.01, sigma_max=50.0)
    assert (changed.sigma_min, changed.sigma_max) == (0.01, 50.0)
    plain = CorrDiff.load_model(Package(str(folder)), precision="fp32", accelerated=False)
    want = plain(weather(), coords)[0]
    for precision, most in (("fp32", 1e-6), ("bf16", 1e-2)):
        y = CorrDiff.load_model(Package(str(folder)), precision=precision)(weather(), coords)[0]
        assert y.dtype == torch.float32 and 0 < relerr(y, want) < most


@pytest.mark.slow
def test_taiwan_look_alike_through_either_class(tmp_path: Path) -> None:
    folder = make_taiwan(tmp_path / "package")
    for cls in (CorrDiff, CorrDiffTaiwan):
        model = cls.from_pretrained(str(folder))
        model.number_of_samples, model.number_of_steps, model.seed = 2, 2, 3
        coords = OrderedDict(model.input_coords(), batch=np.arange(1))
        y, out = model(torch.randn(1, 12, 36, 40, generator=torch.Generator().manual_seed(0)), coords)
        assert y.shape == (1, 2, 4, 16, 24) and list(out["variable"]) == ["mrr", "t2m", "u10m", "v10m"]


def test_default_packages() -> None:
    package = CorrDiffTaiwan.load_default_package()
    assert package.root == "ngc://models/nvidia/modulus/corrdiff_inference_package@1"
    with pytest.raises(NotImplementedError, match="CorrDiffTaiwan"):
        CorrDiff.load_default_package()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the device is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "teapot"])
def test_a_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    model = make_model()
    with pytest.raises(InputError, match=f"device {device} cannot be used") as raised:
        model.to(device)
    assert "\n" not in str(raised.value)
    assert model(weather(), coordinates(batch=[0]))[0].isfinite().all()  # it is still where it was
    with pytest.raises(InputError, match=f"device {device}"):
        CorrDiff.load_model(Package(str(make_package(tmp_path / "package"))), device=device)


def test_public_names() -> None:
    for name in earth2_corrdiff.__all__:
        assert getattr(earth2_corrdiff, name) is not None and name in dir(earth2_corrdiff)
    with pytest.raises(AttributeError, match="teapot"):
        earth2_corrdiff.teapot  # noqa: B018


# Earth2Studio's drivers


class Weather:
    """A data source of one case per time."""

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        x = cases(len(TIMES)).numpy()[np.searchsorted(TIMES, np.asarray(time, TIMES.dtype))]
        coords = {"time": time, "variable": variable, "lat": COARSE.lat, "lon": COARSE.lon}
        return xr.DataArray(x, coords, ("time", "variable", "lat", "lon"))


@pytest.mark.slow
def test_run_deterministic_with_the_diagnostic_wrapper() -> None:
    """Each stored value is that of its own time, lead time and member."""
    from earth2studio.io import ZarrBackend

    run = earth2studio_module("run")
    wrapper = earth2studio_module("models.px.dxwrapper")
    persistence = earth2studio_module("models.px.persistence")
    step = 0.3 * torch.tensor(INPUTS.scale).view(-1, 1, 1)

    class Drift(persistence.Persistence):  # type: ignore[misc, name-defined]
        """A forecast that changes everything by a third of its standard deviation in each six hours."""

        def create_iterator(self, x: Tensor, coords: Any) -> Any:
            for i, (y, c) in enumerate(super().create_iterator(x, coords)):
                yield y + i * step, c

    model = make_model(members=2)
    forecast = wrapper.DiagnosticWrapper(
        Drift(list(INPUTS.names), OrderedDict(lat=COARSE.lat, lon=COARSE.lon)), model
    )
    times = TIMES[:2]
    io = ZarrBackend()
    run.deterministic(list(times), 2, forecast, Weather(), io, device=torch.device("cpu"), verbose=False)
    stored = np.stack([np.asarray(io[name][:]) for name in model.output_variables], axis=3)
    assert stored.shape == (2, 3, 2, 2, 16, 24)
    assert io.root["t2m"].metadata.dimension_names == ("time", "lead_time", "sample", "ilat", "ilon")
    assert np.array_equal(np.asarray(io["lat"][:]), model.spec.output_grid.lat)
    for i in range(2):
        for lead in range(3):
            case = cases(3)[i] + lead * step
            want = model.downscaler(case[None], model.member_seeds())[0]
            assert np.array_equal(stored[i, lead], want.numpy()), (i, lead)
