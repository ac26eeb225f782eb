# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The third stage: its scores by hand in float64, its gradients, whole trainings, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_downscaler, make_networks, make_spec, relerr
from torch import Tensor, nn
from training_kit import Watch, config, losses, rows, train, weather, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.training.config import FewStepConfig
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.few_step import (
    ConsistencyLoss,
    EnsembleScore,
    FewStepLoss,
    FewStepStage,
    Physical,
    almost_fair_crps,
    difference_score,
    nearer_level,
    spectral_score,
)
from earth2_corrdiff.training.stages import Images
from earth2_corrdiff.training.trainer import Progress
from earth2_corrdiff.verification.pointwise import crps

pytestmark = pytest.mark.filterwarnings("ignore")
H, W = 9, 14


def fields(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loop(members: Any, truth: Any, alpha: float) -> float:
    """The double sum of arXiv 2412.15832, equation 4, of one point; numbers may be complex."""
    M, total = len(members), 0.0
    for j, k in product(range(M), range(M)):
        if j != k:
            shrunk = (1 - (1 - alpha) / M) * abs(members[j] - members[k])
            total += abs(members[j] - truth) + abs(members[k] - truth) - shrunk
    return total / (2 * M * (M - 1))


def each_point(members: Any, truth: Any, alpha: float) -> Any:
    """``[M, ...]`` and ``[...]`` → ``[...]``."""
    points = zip(members.reshape(len(members), -1).T, truth.ravel(), strict=True)
    return np.array([by_loop(m, t, alpha) for m, t in points]).reshape(truth.shape)


# scores


@pytest.mark.parametrize("M", [2, 3, 5])
def test_almost_fair_crps_by_a_double_loop_and_its_limits(M: int) -> None:
    members, truth = fields(2, M, 1, 3, 4), fields(2, 1, 3, 4, seed=1)
    got = almost_fair_crps(members, truth, torch.tensor([0.95, 0.5]))
    for i, alpha in enumerate((0.95, 0.5)):
        want = each_point(members[i].double().numpy(), truth[i].double().numpy(), alpha)
        np.testing.assert_allclose(got[i], want, atol=1e-6)
    fair, biased = crps(members[0], truth[0])
    for alpha, want in ((1.0, fair), (0.0, biased)):
        limit = almost_fair_crps(members[:1], truth[:1], torch.tensor([alpha]))
        torch.testing.assert_close(limit[0], want, atol=1e-6, rtol=0)


def pooled(field: Any, p: int) -> Any:
    h, w = field.shape[-2] // p, field.shape[-1] // p
    return field[..., : h * p, : w * p].reshape(*field.shape[:-2], h, p, w, p).mean((-3, -1))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("pooling", [1, 2, 4])
def test_scores_of_differences_by_hand(pooling: int, gaps: bool) -> None:
    members, truth = fields(1, 3, 2, H, W), fields(1, 2, H, W, seed=1)
    known = (fields(1, 2, H, W, seed=2) > -1.5).float() if gaps else None
    got = difference_score(members, truth, torch.tensor([0.9]), pooling, known)[0]
    x, y = pooled(members[0].double().numpy(), pooling), pooled(truth[0].double().numpy(), pooling)
    full = np.ones_like(y, bool) if known is None else pooled(known[0].double().numpy(), pooling) == 1
    for c in range(2):
        means = []
        for axis in (0, 1):
            score = each_point(np.diff(x[:, c], axis=axis + 1), np.diff(y[c], axis=axis), 0.9)
            n = score.shape[axis]
            there = full[c].take(range(n), axis) & full[c].take(range(1, n + 1), axis)
            means.append((score * there).sum() / max(there.sum(), 1))
        assert float(got[c]) == pytest.approx(np.mean(means), abs=1e-6)


def test_spectral_score_by_hand_and_its_size() -> None:
    members, truth = fields(1, 2, 1, H, W), fields(1, 1, H, W, seed=1)
    got = float(spectral_score(members, truth, torch.tensor([0.95]))[0, 0])
    window = np.outer(*(np.hanning(n) / np.sqrt((np.hanning(n) ** 2).mean()) for n in (H, W)))
    x, y = (np.fft.rfft2(window * f[0].double().numpy()) / math.sqrt(H * W) for f in (members, truth))
    assert got == pytest.approx(each_point(x[:, 0], y[0], 0.95).mean(), rel=1e-5)
    many = spectral_score(fields(1, 2, 1, 64, 48), fields(1, 1, 64, 48, seed=1), torch.ones(1))
    # of complex white noise: |x - y| has the mean sqrt(pi / 2), and the other term takes half of it
    assert float(many) == pytest.approx(math.sqrt(math.pi / 2) / 2, rel=0.1)


def images_of(n: int, alpha: float = 0.95, finest: float = 3.0) -> Images:
    weights = torch.tensor([[alpha, finest]]).expand(n, -1)
    return Images(fields(n, 4, H, W, seed=3), fields(n, 2, H, W, seed=4), weights=weights)


def test_a_score_in_physical_units_and_the_sum_of_all() -> None:
    """Rain by its logarithm, in millimetres above nothing; and weights as the images have them."""
    images, members = images_of(2), fields(2, 2, 2, H, W)
    rule = OutputRule(Transform("log_eps", eps=0.1))
    own = Physical(1, rule, 0.5, 0.8, 0.0, 2.0)
    got = own(members, images, torch.tensor([0.95, 0.95]))
    unit = 0.1 * (math.exp(1.3) - math.exp(0.5))
    for i in range(2):
        mean = images.cond[i, 1].double().numpy()
        mm = [
            np.maximum(0.1 * np.expm1(0.5 + 0.8 * (f.double().numpy() + mean)), 0) / unit
            for f in (members[i, :, 1], images.target[i, 1])
        ]
        assert float(got[i]) == pytest.approx(2 * each_point(*mm, 0.95).mean(), rel=1e-5)
    alpha = torch.tensor([0.95, 0.95])
    want = almost_fair_crps(members, images.target, alpha).mean((2, 3))
    want += 0.5 * (3 * difference_score(members, images.target, alpha, 1))
    want += 0.5 * difference_score(members, images.target, alpha, 2)
    want += 0.1 * spectral_score(members, images.target, alpha)
    want[:, 1] += got
    torch.testing.assert_close(EnsembleScore((1, 2), 0.5, 0.1, [own])(members, images), want)


# losses


class Linear(nn.Module):
    """``D = a x + b cond``: a network whose gradients are known."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.a, self.b, self.position = nn.Parameter(torch.tensor(0.7)), 0.3, like.position

    def forward(self, x: Tensor, sigma: Any, cond: Tensor, position: Any) -> Tensor:
        return self.a * x + self.b * cond[:, :2]


def test_no_gradient_goes_through_the_first_call() -> None:
    """Of two calls, in float64 by hand; the mean of both is the loss."""
    images = images_of(2)
    noise, score = fields(2, 2, 3, 2, H, W, seed=5), EnsembleScore((1, 2))
    net = Linear(make_networks(make_spec((16, 24)))[1])
    loss = FewStepLoss(net, score, (2.0, 0.8))  # type: ignore[arg-type]
    got = loss(Images(images.cond, images.target, noise, weights=images.weights))
    got.mean().backward()
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    double = Images(images.cond.double(), images.target.double(), weights=images.weights)
    given = 0.3 * double.cond[:, None, :2]
    first = a * 2.0 * noise[:, 0].double() + given
    second = a * (first.detach() + 0.8 * noise[:, 1].double()) + given
    want = (score(first, double) + score(second, double)).mean(0) / 2
    want.mean().backward()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    assert float(net.a.grad) == pytest.approx(float(a.grad), rel=1e-4)


def test_consistency_tuning_by_hand() -> None:
    """ECT in float64, with a true residual at r = 0; only the noisier side has a gradient."""
    images, noise = images_of(3), fields(3, 2, H, W, seed=5)
    t = torch.tensor([0.05, 0.9, 6.0])
    r = nearer_level(t, 0)
    by_hand = [max(0.0, x * (1 - 0.5 * (1 + 8 / (1 + math.exp(x))))) for x in t.tolist()]
    assert r.tolist() == pytest.approx(by_hand) and r[0] == 0 < r[2] < t[2]
    net = Linear(make_networks(make_spec((16, 24)))[1])
    got = ConsistencyLoss(net)(Images(images.cond, images.target, noise, torch.stack([t, r], 1)))  # type: ignore[arg-type]
    got.mean().backward()
    a, y, given = (
        torch.tensor(0.7).double().requires_grad_(),
        images.target.double(),
        0.3 * images.cond[:, :2],
    )
    far, near = (y + s.double().view(-1, 1, 1, 1) * noise for s in (t, r))
    clean = torch.where(r.view(-1, 1, 1, 1) > 0, a.detach() * near + given, y)
    rms = (a * far + given - clean).square().mean((2, 3))
    want = (((rms + 0.00054**2).sqrt() - 0.00054) / (t - r).double()[:, None]).mean(0)
    want.mean().backward()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    assert float(net.a.grad) == pytest.approx(float(a.grad), rel=1e-4)


# trainings

PATCHES = {"shape": [8, 12], "per_time": 2}
FEW: dict[str, Any] = {
    "steps": 8, "batch": 4, "warmup": 2, "ema_halflife": 2, "lr": 3e-3, "sigmas": [2.0, 0.8], "members": 2,
    "phases": [{"first": 0}, {"first": 5, "alpha": 1.0, "finest": 4.0}], "pooling": [1, 2],
    "physical": {"mrr": {"least": 0.0, "weight": 0.2}},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "few_step": {**FEW, "patches": PATCHES, "micro_batch": 3, "consistency": 3},
    "diffusion__patches": {**PATCHES, "overlap": 2},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A package of two calls, trained on patches after a warm start."""
    return train(config(tmp_path_factory.mktemp("student"), pairs, **SETTINGS))


class Stopped(Watch):
    """Stops after three steps of the third stage."""

    def step(self, progress: Progress) -> None:
        if self.stages[-1] == "few_step" and progress.step == 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    student: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path, pairs, **SETTINGS), Stopped())
    other = {**SETTINGS, "few_step": {**SETTINGS["few_step"], "members": 3}}
    with pytest.raises(InputError, match="trained otherwise"):
        train(config(tmp_path, pairs, **other))
    again = train(config(tmp_path, pairs, **SETTINGS))
    for file in ("diffusion.mdlus", "regression.mdlus", "metadata.json"):
        assert (again / file).read_bytes() == (student / file).read_bytes(), file
    for stage in ("consistency", "few_step"):
        name = f"work/{stage}.csv"
        assert (tmp_path / name).read_text() == (student.parent / name).read_text()
    row = rows(tmp_path / "work" / "few_step.csv")[-1]
    assert float(row["loss"]) == pytest.approx((float(row["loss_mrr"]) + float(row["loss_t2m"])) / 2)
    assert float(row["validation"]) > 0 and len(losses(tmp_path, "consistency")) == 3


def loaded(package: Path) -> Downscaler:
    got = read_package(Folder(package))
    return Downscaler(got.spec, got.regression, got.denoiser, "fp32", accelerated=False)


@pytest.mark.slow
@torch.no_grad()
def test_the_package_runs_as_by_hand_and_can_be_trained_further(
    student: Path, pairs: Path, tmp_path: Path
) -> None:
    meta = json.loads((student / "metadata.json").read_text())
    assert meta["sampling"] == {"solver": "few_step", "sigmas": [2.0, 0.8]}
    assert meta["sampler_type"] == "few_step" and "patching" in meta
    model, x = loaded(student), torch.from_numpy(weather(3)[0])[None]
    ((_, _, got),) = model.members(x, [5])
    cond, noise = model.condition(x), model.noise([5])
    mean = model.regression(cond)
    denoise, clean = model.domain.given(cond, mean), torch.zeros(1, 2, 16, 24, dtype=torch.float64)
    for sigma in (2.0, 0.8):
        clean = denoise(clean + sigma * noise().double(), sigma).double()
    assert relerr(got, (mean + clean.float()) * model.scale_out + model.center_out) < 1e-6
    further = {"regression__network": {}, "diffusion__network": {}, "start_from": str(student)}
    further |= {"regression__steps": 0, "few_step": {**FEW, "patches": PATCHES, "steps": 1, "sigmas": [1.5]}}
    with pytest.raises(InputError, match=r"one of few_step; set diffusion.steps to 0"):
        train(config(tmp_path, pairs, **further))
    with torch.enable_grad():
        made = loaded(train(config(tmp_path, pairs, **further, diffusion__steps=0)))
    assert made.sampling.levels == (1.5,) and made.sampling.calls == 1
    old, new = (torch.cat([p.flatten() for p in m.denoiser.parameters()]) for m in (model, made))
    assert 0 < relerr(new, old) < 0.1


@pytest.mark.slow
def test_the_loss_falls(pairs: Path, tmp_path: Path) -> None:
    """Of one call on whole domains, with a spectral term."""
    more = {**FEW, "steps": 40, "sigmas": [2.0], "spectral": 0.1, "phases": [{}]}
    train(config(tmp_path, pairs, few_step=more, diffusion__steps=20, diffusion__lr=1e-2))
    seen = losses(tmp_path, "few_step")
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one member": ({"members": 1}, "needs 2 members or more"),
    "a network": ({"network": {"model_channels": 8}}, "no network"),
    "rising": ({"sigmas": [0.8, 2.0]}, "must be positive and fall"),
    "no first part": ({"phases": [{"first": 3}]}, "must begin with first: 0"),
    "alpha": ({"phases": [{"alpha": 1.5}]}, "alpha must be a part of 1"),
    "no steps": ({"steps": 0}, "must be a whole number of 1 or more"),
    "too small": ({"pooling": [1, 9]}, "leaves no differences in"),
    "an input": ({"physical": {"z500": {}}}, "is not an output; use one of mrr"),
}


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        how = config(tmp_path, Path("pairs.zarr"), few_step={**FEW, **more}).few_step
        assert isinstance(how, FewStepConfig)
        FewStepStage(make_downscaler(), Cutter(), how, lambda indices, cond: cond)
    assert "\n" not in str(raised.value)


def test_sampling_and_gaps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave out all of sampling but samples"):
        config(tmp_path, Path("p"), few_step=FEW, sampling={"steps": 3})
    how = config(tmp_path, Path("p"), few_step={**FEW, "spectral": 1.0}, sampling={"samples": 2}).few_step
    assert how is not None
    model = make_downscaler(make_spec(missing_inputs=True))
    with pytest.raises(InputError, match="needs fields without gaps"):
        FewStepStage(model, Cutter(), how, lambda indices, cond: cond)
