# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: against one put together from other parts, and each member on its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from axes import pairwise
from loguru import logger
from scipy.interpolate import RegularGridInterpolator
from tiny import COARSE, HILLS, INPUTS, OUTPUTS, make_downscaler, make_networks, make_spec, relerr, weather
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.solvers import Churn, Denoise
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import Sampling

pytestmark = pytest.mark.filterwarnings("ignore:.*legacy implementation")
SEEDS = [5, 2**31, 7, 8]


@pytest.fixture(scope="module")
def model() -> Downscaler:
    return make_downscaler()


# against another implementation


@pytest.mark.parametrize("bent", [True, False])
@pytest.mark.parametrize("invariants", [True, False])
def test_condition(bent: bool, invariants: bool) -> None:
    spec, x = make_spec(bent=bent, invariants=invariants), weather(2)
    points = np.stack(spec.output_grid.mesh(), axis=-1)
    axes = (COARSE.lat.astype(float), COARSE.lon.astype(float))
    fine = np.stack([[RegularGridInterpolator(axes, field)(points) for field in case] for case in x.double()])
    center, scale = (np.reshape(part, (1, 3, 1, 1)) for part in (INPUTS.center, INPUTS.scale))
    want = (fine - center) / scale
    if spec.invariant_fields is not None:
        static = (spec.invariant_fields - HILLS.center[0]) / HILLS.scale[0]
        want = np.concatenate([want, np.broadcast_to(static, (2, 1, 16, 24))], axis=1)
    got = make_downscaler(spec).condition(x)
    assert got.shape == want.shape and got.dtype == torch.float32
    assert np.abs(got.numpy() - want).max() < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "mean_conditioning", "bent"), pairwise(("euler", "heun"), (True, False), (True, False))
)
def test_equals_a_pipeline_made_of_upstreams_parts(solver: str, mean_conditioning: bool, bent: bool) -> None:
    """On a grid that is not square, where the stock class fails: their sampler, their noise."""
    from physicsnemo.diffusion.samplers.legacy_deterministic_sampler import deterministic_sampler
    from physicsnemo.diffusion.utils import StackedRandomGenerator

    sampling = Sampling(solver, 4, 0.004, 60.0)
    spec = make_spec((16, 24), bent=bent, hr_mean_conditioning=mean_conditioning, sampling=sampling)
    model, x = make_downscaler(spec), weather(2)

    class Net:
        """Our denoiser with the signature that their sampler calls."""

        sigma_min, sigma_max, round_sigma = 0.0, float("inf"), staticmethod(torch.as_tensor)

        def __call__(self, x: Tensor, cond: Tensor, sigma: Tensor, labels: None) -> Tensor:
            return model.denoiser(x, sigma, cond)

    got = model(x, SEEDS[:2])
    assert got.shape == (2, 2, 2, 16, 24) and got.dtype == torch.float32
    scale, center = (torch.tensor(part).view(-1, 1, 1) for part in (OUTPUTS.scale, OUTPUTS.center))
    for b in range(2):
        cond = model.condition(x[b : b + 1])
        with torch.no_grad():
            mean = model.regression(cond)
            for i, seed in enumerate(SEEDS[:2]):
                residual = deterministic_sampler(
                    Net(),
                    StackedRandomGenerator("cpu", [seed]).randn((1, 2, 16, 24), device="cpu"),
                    cond,
                    mean_hr=mean if mean_conditioning else None,
                    num_steps=4,
                    sigma_min=0.004,
                    sigma_max=60.0,
                    solver=solver,
                )
                want = ((mean + residual)[0] * scale + center).float()
                assert relerr(got[b, i], want) < 1e-6 and want.std() > 1


def test_mean_is_the_regression_alone(model: Downscaler) -> None:
    x = weather(3)
    got = model.mean(x)
    with torch.no_grad():
        mean = model.regression(model.condition(x))
    scale, center = (torch.tensor(part).view(-1, 1, 1) for part in (OUTPUTS.scale, OUTPUTS.center))
    assert got.shape == (3, 2, 16, 24) and relerr(got, mean * scale + center) < 1e-6
    assert torch.equal(got[1:2], model.mean(x[1:2]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (8, 40)])
@pytest.mark.parametrize("bent", [True, False])
def test_shapes(shape: tuple[int, int], bent: bool) -> None:
    out = make_downscaler(make_spec(shape, bent=bent))(weather(2), SEEDS[:3])
    assert out.shape == (2, 3, 2, *shape) and torch.isfinite(out).all()
    assert out.is_contiguous() and not out.requires_grad and not out.is_inference()


# members


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun", "stochastic", "dpmpp_2m", "trigflow"])
def test_a_member_is_the_same_alone_and_in_any_batch(solver: str) -> None:
    model = make_downscaler(make_spec(sampling=Sampling(solver, 2)))
    x = weather(2)
    alone = torch.stack([torch.cat([model(x[b : b + 1], [seed])[0] for seed in SEEDS]) for b in range(2)])
    assert len({float(member.sum()) for member in alone.flatten(0, 1)}) == 8
    for max_batch in (None, 1, 3):
        assert torch.equal(model(x, SEEDS, max_batch), alone)
    assert torch.equal(model(x.flip(0), SEEDS[::-1], 4), alone.flip(0, 1))


@pytest.mark.slow
def test_members_arrive_in_order_as_soon_as_they_are_done(model: Downscaler) -> None:
    whole, seen = model(weather(2), SEEDS), []
    for b, first, block in model.members(weather(2), SEEDS, max_batch=3):
        assert torch.equal(block, whole[b, first : first + len(block)])
        seen.append((b, first, len(block)))
    assert seen == [(0, 0, 3), (0, 3, 1), (1, 0, 3), (1, 3, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "calls"), [("euler", 3), ("heun", 5)])
def test_progress_counts_every_network_call_of_every_member(solver: str, calls: int) -> None:
    model = make_downscaler(make_spec(sampling=Sampling(solver, 3)))
    steps: list[int] = []
    model(weather(2), SEEDS[:3], max_batch=2, progress=steps.append)
    assert sum(steps) == 2 * 3 * calls == 2 * 3 * model.sampling.calls
    assert steps[:calls] == [2] * calls and steps[calls : 2 * calls] == [1] * calls


@pytest.mark.slow
def test_global_random_numbers_are_left_alone(model: Downscaler) -> None:
    before = torch.get_rng_state()
    first = model(weather(), SEEDS)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(model(weather(), SEEDS), first)


# settings


@pytest.mark.slow
def test_sampling_is_honoured_at_call_time() -> None:
    model = make_downscaler()
    x, made = weather(), {}
    for name, what in {
        "first": {},
        "steps": {"steps": 5},
        "solver": {"solver": "heun"},
        "sigma_max": {"sigma_max": 20.0},
        "sigma_min": {"sigma_min": 0.1},
    }.items():
        model.sampling = replace(Sampling("euler", 3), **what)
        made[name] = model(x, SEEDS[:1])
    assert len({float(y.sum()) for y in made.values()}) == 5
    model.sampling = Sampling("euler", 3)
    assert torch.equal(model(x, SEEDS[:1]), made["first"])


@pytest.mark.slow
@pytest.mark.parametrize("accelerated", [False, True])
def test_settings_go_with_the_call_from_several_threads(accelerated: bool) -> None:
    """Each thread has the members that its own settings give, and the model keeps its defaults."""
    model, x = make_downscaler(accelerated=accelerated), weather()
    own = model.sampling
    settings = [replace(own, solver=solver, steps=steps) for solver, steps in (("heun", 4), ("euler", 3))]
    alone = [model(x, SEEDS[:2], sampling=one) for one in settings]
    assert not torch.equal(*alone)
    with ThreadPoolExecutor(2) as pool:
        again = [pool.submit(model, x, SEEDS[:2], 1, None, None, settings[i % 2]) for i in range(6)]
        for i, future in enumerate(again):
            assert torch.equal(future.result(), alone[i % 2])
    assert model.sampling == own


@pytest.mark.slow
def test_rows_of_several_cases_have_the_bits_of_each_alone(model: Downscaler) -> None:
    x = weather(2)
    cases, alone = [model.prepare(x[b : b + 1]) for b in range(2)], model(x, SEEDS)
    order = [(0, 2), (0, 0), (1, 1), (0, 1), (1, 3)]
    rows = [(cases[b], SEEDS[m]) for b, m in order]
    want = torch.stack([alone[b, m] for b, m in order])
    assert torch.equal(model.sample(rows), want)
    assert torch.equal(torch.cat(list(model.blocks(rows, max_batch=2))), want)


@pytest.mark.slow
def test_noise_range_is_kept_within_the_networks(model: Downscaler) -> None:
    spec = make_spec(sampling=Sampling("euler", 3, 0.002, 80.0))
    regression, denoiser = make_networks(spec)
    denoiser.sigma_min, denoiser.sigma_max = 0.05, 30.0
    got = Downscaler(spec, regression, denoiser, "fp32", accelerated=False)(weather(), SEEDS)
    inside = make_downscaler(replace(spec, sampling=Sampling("euler", 3, 0.05, 30.0)))
    assert torch.equal(got, inside(weather(), SEEDS))
    assert not torch.equal(got, make_downscaler(spec)(weather(), SEEDS))


@pytest.mark.slow
def test_churn_is_applied() -> None:
    made = []
    for solver, churn in (("heun", 2.0), ("stochastic", 0.0), ("stochastic", 2.0), ("stochastic", 1.0)):
        model = make_downscaler(make_spec(sampling=Sampling(solver, 4, churn=Churn(S_churn=churn))))
        made.append(model(weather(), SEEDS))
    assert torch.equal(made[0], made[1])
    for other in (made[1], made[3]):
        assert (made[2] - other).std() > 0.01 * made[2].std()


@pytest.mark.slow
def test_inference_modes() -> None:
    x = weather()
    made = {
        mode: make_downscaler(make_spec(inference_mode=mode))(x, SEEDS)
        for mode in ("both", "regression", "diffusion")
    }
    mean = make_downscaler().mean(x)
    assert torch.equal(made["regression"], mean[:, None].expand(-1, 4, -1, -1, -1))
    center = torch.tensor(OUTPUTS.center).view(-1, 1, 1)
    assert relerr(made["diffusion"] - center + mean[:, None], made["both"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision: str) -> None:
    full, half = make_downscaler(), make_downscaler(precision=precision)
    a, b = full(weather(2), SEEDS), half(weather(2), SEEDS)
    assert b.dtype == torch.float32
    for i in range(2):
        assert 0 < relerr(b[:, :, i] - a[:, :, i].mean(), a[:, :, i] - a[:, :, i].mean()) < 0.05
    assert torch.equal(b[1, 2], half(weather(2)[1:], SEEDS[2:3])[0, 0])
    with pytest.raises(InputError, match="precision 'int4'"):
        make_downscaler(precision="int4")


# out of memory


class Cramped(Downscaler):
    """Fails above a number of members in one call."""

    most = 2
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails")
    failures = 0

    def _denoise(self, given: Denoise, x: Tensor, sigma: float) -> Tensor:
        if len(x) > self.most:
            self.failures += 1
            raise self.error
        return super()._denoise(given, x, sigma)


CPU_OOM = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"
)
OLD_CPU_OOM = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4294967296 bytes.")


def cramped(most: int, error: Exception) -> Cramped:
    spec = make_spec()
    model = Cramped(spec, *make_networks(spec), "fp32", accelerated=False)
    model.most, model.error = most, error
    return model


@pytest.fixture(scope="module")
def whole() -> Tensor:
    """Two cases, all members at once."""
    members: Tensor = make_downscaler()(weather(2), SEEDS)
    return members


@pytest.mark.slow
@pytest.mark.parametrize("error", [Cramped.error, CPU_OOM, OLD_CPU_OOM], ids=["gpu", "cpu", "old cpu"])
@pytest.mark.parametrize(("most", "failures"), [(1, 2), (2, 1), (3, 1), (4, 0)])
def test_out_of_memory_halves_the_batch_and_goes_on(
    whole: Tensor, error: Exception, most: int, failures: int
) -> None:
    said: list[str] = []
    handler = logger.add(said.append, level="WARNING", format="{message}")
    try:
        tight = cramped(most, error)
        got = tight(weather(2), SEEDS, max_batch=4)
    finally:
        logger.remove(handler)
    assert torch.equal(got, whole)
    assert tight.failures == failures == len(said)  # it stays small for the second case
    assert all("out of memory" in text for text in said)


@pytest.mark.parametrize("error", [Cramped.error, CPU_OOM, torch.OutOfMemoryError(), MemoryError("no room")])
def test_one_member_that_does_not_fit(error: Exception) -> None:
    with pytest.raises(InputError, match="one member alone does not fit the memory") as raised:
        cramped(0, error)(weather(), SEEDS, max_batch=4)
    assert "\n" not in str(raised.value)


def test_a_regression_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_downscaler()

    def fail(cond: Tensor, *how: object) -> Tensor:
        raise Cramped.error

    monkeypatch.setattr(model, "normalised_mean", fail)
    for attempt in (lambda: model(weather(), SEEDS), lambda: model.mean(weather())):
        with pytest.raises(InputError, match="does not fit the memory"):
            attempt()


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), KeyError("x")])
def test_other_errors_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        cramped(1, error)(weather(), SEEDS, max_batch=4)
    assert raised.value is error


# what cannot be


@pytest.mark.parametrize(
    "shape", [(3, 6, 8), (0, 3, 6, 8), (1, 2, 6, 8), (1, 3, 8, 6), (1, 4, 6, 8), (1, 1, 3, 6, 8)], ids=str
)
def test_input_of_another_shape(model: Downscaler, shape: tuple[int, ...]) -> None:
    for run in (lambda x: model(x, SEEDS), model.mean):
        with pytest.raises(InputError, match=r"must have the shape \[B, 3, 6, 8\], got"):
            run(torch.zeros(shape))


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ({"seeds": []}, "number of samples"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": -1}, "max_batch"),
        ({"max_batch": 1.5}, "max_batch"),
    ],
)
def test_bad_arguments(model: Downscaler, what: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        model(weather(), **{"seeds": SEEDS, **what})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
def test_gpu_agrees_with_the_cpu(model: Downscaler) -> None:
    gpu = make_downscaler().to("cuda")
    want = model(weather(2), SEEDS)
    for max_batch in (1, 4):
        got = gpu(weather(2).to("cuda"), SEEDS, max_batch)
        assert got.device.type == "cuda" and relerr(got.cpu(), want) < 1e-4
