# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of one call or two, and those of TrigFlow: sampling, packages, and what does not go together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from earth2studio.models.auto import Package
from tiny import COARSE, make_downscaler, make_networks, make_spec, relerr
from torch import Tensor

from earth2_corrdiff import CorrDiff, PatchGeometry
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.run.provenance import provenance
from earth2_corrdiff.service.decode import sampling_of
from earth2_corrdiff.service.errors import ServiceError

pytestmark = pytest.mark.filterwarnings("ignore")
ONE = Sampling("few_step", 1, schedule="few_step", levels=(2.0,))
TWO = Sampling("few_step", 2, schedule="few_step", levels=(2.0, 0.8))


def coarse(cases: int = 1) -> Tensor:
    center = torch.tensor([290.0, 1.0, 56000.0]).view(3, 1, 1)
    return center + torch.randn(cases, 3, *COARSE.shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = make_spec(sampling=TWO)
    return save_package(tmp_path_factory.mktemp("student") / "p", spec, *make_networks(spec))


@pytest.mark.parametrize("accelerated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_calls_by_hand_whatever_the_batch_and_the_order(accelerated: bool) -> None:
    model = make_downscaler(make_spec(sampling=TWO), accelerated=accelerated)
    (case,) = [model.prepare(coarse())]
    together = model.sample([(case, seed) for seed in (3, 4, 5)])
    for seeds in ([5], [4, 3]):
        apart = model.sample([(case, seed) for seed in seeds])
        torch.testing.assert_close(apart, together[[seed - 3 for seed in seeds]], rtol=0, atol=0)
    plain = make_downscaler(make_spec(sampling=TWO))
    noise, mean = plain.noise([4]), case.mean
    assert mean is not None
    seen, clean = torch.cat([mean, case.cond], 1), torch.zeros(1)
    for sigma in TWO.levels:
        clean = plain.denoiser((clean + sigma * noise().double()).float(), sigma, seen).double()
    want = plain.physical((mean + clean).detach())
    assert relerr(together[1:2], want) < 1e-5
    alone = model.sample([(case, 4)], replace(TWO, steps=1))
    assert relerr(alone, want) > 1e-3 and model.sampling.calls == 2


def test_patches_and_precisions_take_it_as_any_other() -> None:
    spec = make_spec(sampling=ONE)
    for precision in ("fp32", "bf16"):
        model = make_downscaler(spec, precision, accelerated=True)
        whole = model(coarse(), [1, 2])
        model.domain.patching = PatchGeometry((16, 24), (16, 24))
        torch.testing.assert_close(model(coarse(), [1, 2]), whole, rtol=0, atol=0)
        model.domain.patching = PatchGeometry((16, 24), (8, 12), 2, 1)
        assert model(coarse(), [1]).isfinite().all()
    attributes = provenance(model, replace(TWO, steps=1), "x", False, 0, "")
    assert (attributes["solver"], attributes["schedule"]) == ("few_step", "few_step, 2")


def test_a_package_says_what_it_is(student: Path, tmp_path: Path, stock: ModuleType) -> None:
    meta = json.loads((student / "metadata.json").read_text())
    assert meta["sampling"] == {"solver": "few_step", "sigmas": [2.0, 0.8]}
    got = read_package(Folder(student))
    assert got.spec.sampling == TWO
    again = save_package(tmp_path / "again", got.spec, got.regression, got.denoiser)  # type: ignore[arg-type]
    assert json.loads((again / "metadata.json").read_text()) == meta
    with pytest.raises(ValueError, match="few_step is not supported"):
        stock.CorrDiff.load_model(Package(str(student)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sampler_type": "stochastic"}, "goes with an entry sampling"),
        ({"sampling": None}, "goes with an entry sampling"),
        ({"sampling": {"solver": "few_step"}}, "must be an object like"),
        ({"sampling": {"solver": "heun", "sigmas": [2.0]}}, "must be an object like"),
        ({"sampling": {"solver": "few_step", "sigmas": [2.0, 3.0]}}, "must be positive and fall"),
        ({"sampling": {"solver": "few_step", "sigmas": [2.0]}}, "in 1 calls or fewer, not in 2"),
        ({"formulation": "vp"}, "formulation can only be trigflow"),
        ({"rectified_flow": {}}, "must be an object like"),
    ]
    for entries, message in wrong:
        (again / "metadata.json").write_text(json.dumps(meta | entries))
        with pytest.raises(InputError, match=message):
            read_package(Folder(again))


def test_solvers_of_the_other_kind_are_refused(student: Path) -> None:
    model = CorrDiff.load_model(Package(str(student)))
    ordinary = make_downscaler()
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: setattr(model, "solver", "heun"), "'heun' is not the sampling that the network"),
        (lambda: setattr(model, "number_of_steps", 3), "in 2 calls or fewer, not in 3"),
        (lambda: setattr(model, "sigma_max", 9.0), "belongs to the schedule karras"),
        (lambda: model.downscaler(coarse(), [1], sampling=Sampling("heun", 3)), "package's own, few_step"),
        (lambda: model.downscaler(coarse(), [1], sampling=ONE), "package's own, few_step"),
        (lambda: ordinary(coarse(), [1], sampling=ONE), "needs a network that was trained for it"),
        (lambda: replace(ordinary.sampling, solver="few_step"), "needs a network that was trained for it"),
    ]
    for call, message in calls:
        with pytest.raises(InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    model.number_of_steps = 1
    assert (
        model(coarse(), dict(model.input_coords()) | {"batch": torch.arange(1).numpy()})[0].isfinite().all()
    )
    assert TWO.solvers == ("few_step",) and "few_step" not in ordinary.sampling.solvers
    assert sampling_of(TWO, "few_step", 1) == replace(TWO, steps=1)
    for default, solver, steps in (
        (TWO, "heun", 2),
        (TWO, "few_step", 3),
        (Sampling("heun", 3), "few_step", 1),
    ):
        with pytest.raises(ServiceError) as raised_there:
            sampling_of(default, solver, steps)
        assert raised_there.value.status_code == 422


# TrigFlow


def test_a_denoiser_of_trigflow_by_its_own_equations() -> None:
    """``f = cos t x_t - sin t sd F(x_t / sd, t)``, plain and accelerated, with x_t of arXiv 2410.11081."""
    spec = make_spec()
    _, net = make_networks(spec)
    net.angle, sd = True, net.sigma_data
    y, z = (torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    cond = torch.randn(1, net.image_channels - 2, 16, 24)
    for sigma in (0.05, 0.6, 20.0):
        t = math.atan(sigma / sd)
        x = math.cos(t) * y + math.sin(t) * sd * z
        F = -net.model(torch.cat([x / sd, cond], 1), torch.tensor([t]), None)
        want = math.cos(t) * x - math.sin(t) * sd * F
        for made in (net, accelerate(net, "fp32")):
            assert relerr(made(y + sigma * z, sigma, cond), want) < 1e-5
        other = make_networks(spec)[1](y + sigma * z, sigma, cond)
        assert relerr(other, want) > 1e-3


def test_a_package_of_trigflow_is_told_apart(tmp_path: Path, stock: ModuleType) -> None:
    for sampling in (Sampling("trigflow", 3, 0.05, 40.0), Sampling("heun", 3), TWO):
        spec = make_spec(sampling=sampling)
        networks = make_networks(spec)
        networks[1].angle = True
        folder = save_package(tmp_path / sampling.solver, spec, *networks)
        got = read_package(Folder(folder))
        assert got.denoiser is not None and got.denoiser.angle and got.spec.sampling == sampling
        model = CorrDiff.load_model(Package(str(folder)), precision="fp32").downscaler
        plain = Downscaler(spec, *networks, "fp32", accelerated=False)
        assert relerr(model(coarse(), [1]), plain(coarse(), [1])) < 1e-5
        with pytest.raises(ValueError, match="is not supported|Unknown sampler type"):
            stock.CorrDiff.load_model(Package(str(folder)))
    meta = json.loads((folder / "metadata.json").read_text())
    meta |= {"sampling": None, "solver": "heun"}
    for entries in ({"formulation": None, "sampler_type": "trigflow"}, {"sampler_type": "stochastic"}):
        (folder / "metadata.json").write_text(json.dumps(meta | entries))
        with pytest.raises(InputError, match="goes with a formulation trigflow"):
            read_package(Folder(folder))
