# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Subclasses that are written for the stock class give its fields."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cmip6_kit import days, make_cmip6
from cosmo_kit import make_cosmo
from tiny import COARSE, INPUTS, make_downscaler, make_networks, make_spec, relerr, weather

from earth2_corrdiff import (
    CorrDiff,
    CorrDiffCMIP6,
    CorrDiffCosmoEra5,
    CorrDiffTaiwan,
    InputError,
    save_package,
)
from earth2_corrdiff.model.domain_denoiser import Shard
from earth2_corrdiff.model.spec import Sampling

TIMES = np.array(["2024-07-24T00", "2024-07-24T06"], dtype="datetime64[ns]")


class Hour:
    """A channel of time and place more, as a solar zenith angle would be."""

    def preprocess_input(self, x: torch.Tensor, valid_time: datetime | None = None) -> torch.Tensor:
        cond = super().preprocess_input(x, valid_time)  # type: ignore[misc]
        assert valid_time is not None
        hour = valid_time.hour / 24 * self.lat_output_grid / 20  # type: ignore[attr-defined]
        return torch.cat([cond, hour.expand(len(cond), 1, -1, -1).to(cond.dtype)], dim=1)


class Roots:
    """Another normalisation, and its inverse for the output."""

    def normalize_input(self, x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[:, 2] = changed[:, 2].sqrt() * 200
        normalised: torch.Tensor = super().normalize_input(changed)  # type: ignore[misc]
        return normalised

    def postprocess_output(self, x: torch.Tensor) -> torch.Tensor:
        y = super().postprocess_output(x)  # type: ignore[misc]
        return torch.cat([y[:, :1].square(), y[:, 1:]], dim=1)


class Nearest:
    """Another interpolation."""

    def _interpolate(self, x: torch.Tensor) -> torch.Tensor:
        size = self.lat_output_grid.shape  # type: ignore[attr-defined]
        return torch.nn.functional.interpolate(x[None], size=tuple(size))[0]


@pytest.mark.parametrize(("hooks", "channels"), [(Hour, 1), (Roots, 0), (Nearest, 0)])
@pytest.mark.slow
def test_fields_are_those_of_the_stock_subclass(
    stock: Any, tmp_path: Path, hooks: type, channels: int
) -> None:
    from earth2studio.models.auto import Package

    spec = make_spec(sampling=Sampling("heun", 3), number_of_samples=2)
    networks = make_networks(replace(spec, hook_channels=channels))
    package = Package(str(save_package(tmp_path / "package", spec, *networks)))
    theirs = type("Theirs", (hooks, stock.CorrDiff), {}).load_model(package)
    ours = type("Ours", (hooks, CorrDiff), {}).load_model(package, precision="fp32", accelerated=False)
    want = torch.stack([theirs._forward(x, datetime(2024, 7, 24, 6 * i)) for i, x in enumerate(weather(2))])
    coords = OrderedDict(time=TIMES, variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    got, _ = ours(weather(2), coords)
    assert relerr(got, want) < 1e-6
    if channels:
        with pytest.raises(InputError, match="takes .* channels"):
            CorrDiff.load_model(package)
    else:
        plain, _ = CorrDiff.load_model(package, precision="fp32", accelerated=False)(weather(2), coords)
        assert relerr(got, plain) > 1e-3


def test_hooks_may_be_called_by_themselves(stock: Any, tmp_path: Path) -> None:
    from earth2studio.models.auto import Package

    spec = make_spec(sampling=Sampling("heun", 3))
    package = Package(str(save_package(tmp_path / "package", spec, *make_networks(spec))))
    ours, theirs = CorrDiff.load_model(package), stock.CorrDiff.load_model(package)
    x = weather(2)
    for given in (x, x[0]):
        assert relerr(ours.preprocess_input(given), theirs.preprocess_input(given)) < 1e-6
    assert relerr(ours._interpolate(x[0]), theirs._interpolate(x[0])) < 1e-6
    fine = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.normalize_input(fine), theirs.normalize_input(fine))
    assert relerr(ours.postprocess_output(fine[:, :2]), theirs.postprocess_output(fine[:, :2])) < 1e-6


def test_the_context_of_the_networks(tmp_path: Path) -> None:
    entered = []

    class Timed(CorrDiff):
        @contextmanager
        def _inference_context(self) -> Iterator[None]:
            entered.append(self)
            with torch.autocast("cpu", torch.bfloat16):
                yield

    model = Timed(make_downscaler())
    coords = OrderedDict(time=TIMES, variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    got, _ = model(weather(2), coords)
    assert entered == [model] * 4  # the regression and the denoiser of each case
    assert 0 < relerr(got, CorrDiff(make_downscaler())(weather(2), coords)[0]) < 0.02
    part = model.downscaler.sharded(Shard())  # a copy is in the context, too, with its own share
    assert relerr(part(weather(2), model.member_seeds()), got) == 0 and len(entered) == 8


def test_a_conditioning_of_another_shape_is_refused(tmp_path: Path) -> None:
    from earth2studio.models.auto import Package

    spec = make_spec(sampling=Sampling("heun", 3))
    package = Package(str(save_package(tmp_path / "package", spec, *make_networks(spec))))
    wrong = type("Wrong", (CorrDiff,), {"preprocess_input": lambda self, x, valid_time=None: x})
    coords = OrderedDict(time=TIMES, variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    with pytest.raises(InputError, match=r"preprocess_input must give the shape \[1, 4, 16, 24\]"):
        wrong.load_model(package)(weather(2), coords)


@pytest.mark.slow
def test_hooks_of_newer_models(tmp_path: Path) -> None:
    """Solar gates have their time in ``postprocess_output``; three days stand in a batch, as in stock."""
    from earth2studio.models.auto import Package

    seen = []

    class Warmer(CorrDiffCosmoEra5):
        def postprocess_output(self, x: Any) -> Any:
            return super().postprocess_output(x) + 1

    class Watched(CorrDiffCMIP6):
        def preprocess_input(self, x: Any, valid_time: Any = None) -> Any:
            seen.append((tuple(x.shape), valid_time))
            return super().preprocess_input(x, valid_time)

    package = Package(str(make_cosmo(tmp_path / "cosmo")))
    models = [kind.load_model(package, mode="mean", precision="fp32") for kind in (CorrDiffCosmoEra5, Warmer)]
    coords = OrderedDict(models[0].input_coords(), batch=np.arange(1), time=TIMES)
    x = torch.zeros([len(values) for values in coords.values()])
    plain, warmer = (model(x, coords)[0] for model in models)
    torch.testing.assert_close(warmer, plain + 1)
    climate = Watched.load_model(Package(str(make_cmip6(tmp_path / "cmip6"))), precision="fp32")
    climate.inference_mode = "regression"
    climate(*days(climate))
    assert seen[0] == ((1, *climate.spec.input_shape), datetime(2024, 7, 24)) and len(seen) == 2


def test_other_models_of_the_same_networks_stay_as_they_are() -> None:
    downscaler = make_downscaler()
    coords = OrderedDict(time=TIMES, variable=np.array(INPUTS.names), lat=COARSE.lat, lon=COARSE.lon)
    plain = CorrDiff(downscaler)
    want, _ = plain(weather(2), coords)
    changed, _ = type("Ours", (Roots, CorrDiff), {})(downscaler)(weather(2), coords)
    assert torch.equal(plain(weather(2), coords)[0], want) and not torch.equal(changed, want)


@pytest.mark.parametrize("kind", [CorrDiff, CorrDiffTaiwan])
@pytest.mark.parametrize("name", ["_forward", "_setup_sampler", "_check_latlon_grid"])
def test_a_subclass_with_a_method_that_is_not_called(kind: type[CorrDiff], name: str) -> None:
    with pytest.raises(InputError, match=f"Zenith replaces {name}, which this CorrDiff does not call"):
        type("Zenith", (kind,), {name: lambda self, x: x})
    assert type("Harmless", (kind,), {"more": 1}).more == 1  # type: ignore[attr-defined]


def test_a_hook_with_the_arguments_of_another_class() -> None:
    """The stock COSMO class gives its hooks latitudes and longitudes: here the class is refused at once."""
    for name, hook in (
        ("postprocess_output", lambda self, x, valid_time, lat2d, lon2d: x),
        ("preprocess_input", lambda self, era5, valid_time, lat2d, lon2d: era5),
    ):
        with pytest.raises(InputError, match=f"takes other arguments .* use {name}\\(self, x"):
            type("Sub", (CorrDiffCosmoEra5,), {name: hook})
    assert type("Sub", (CorrDiff,), {"preprocess_input": lambda self, x, valid_time=None, more=1: x})
