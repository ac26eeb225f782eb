# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Trainings of DiTs, by EDM and by rectified flow: losses by hand, packages, resumed trainings."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_kit import plain_attention
from tiny import randomise, relerr
from torch import Tensor
from training_kit import Watch, config, losses, train, weather, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.networks.dit import DiT
from earth2_corrdiff.networks.preconditioned import DiTDenoiser, DiTFlow, DiTMean
from earth2_corrdiff.training.losses import FlowLoss
from earth2_corrdiff.training.means import divide_output
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.preparation import open_material, start
from earth2_corrdiff.training.stages import DiffusionLoss, Images
from earth2_corrdiff.training.trainer import Progress

SIZE = {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 2}
NET = {"model_type": "DiT", **SIZE, "attn_kwargs": {"attn_kernel": 3}}
ALL = {"model_type": "DiT", **SIZE, "attention_backend": "timm"}
SEAMS = {**ALL, "detokenizer": "proj_reshape_2d_conv", "detokenizer_kwargs": {"conv_hidden": 4}}
DITS = {"regression__network": NET, "diffusion__network": NET}
FLOW = {**DITS, "diffusion__formulation": "rectified_flow"}
PATCHES = {"shape": [8, 12], "per_time": 2, "overlap": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr", 6)


def fields(channels: int, seed: int) -> Tensor:
    return torch.randn(2, channels, 16, 24, generator=torch.Generator().manual_seed(seed))


# losses


@pytest.mark.parametrize("prediction", ["x0", "flow"])
def test_the_loss_of_rectified_flow_by_hand(prediction: str) -> None:
    """On the straight path, of the flow or of x0, where values are known; none of a perfect predictor."""
    net = DiTFlow(DiT((16, 24), 5, 2, 2, 16, 1, 2, attention_backend="natten2d_rope"), prediction)
    randomise(net)
    clean, noise, cond, t = fields(2, 0), fields(2, 1), fields(3, 2), torch.tensor([0.02, 0.7])
    known = (fields(2, 3) > 0).float()
    loss = FlowLoss(clip=0.05 if prediction == "x0" else 0.0)
    at = t.view(-1, 1, 1, 1)
    x = (1 - at) * clean + at * noise
    made = net.model(torch.cat([x, cond], 1), 999 * t)
    error = made - (noise - clean) if prediction == "flow" else (made - clean) / at.clamp(min=0.05)
    want = ((error.square() * known).sum((2, 3)) / known.sum((2, 3))).mean(0)
    sigma = t / (1 - t)
    got = DiffusionLoss(net, loss)(Images(cond, clean, noise, sigma, known=known))
    assert torch.allclose(got, want, rtol=1e-4)
    assert not loss(clean, clean, sigma).any()
    z = fields(2, 4)
    assert torch.allclose(torch.logit(loss.sigma(z) / (1 + loss.sigma(z))), 1.2 * z, atol=1e-3)


@pytest.mark.parametrize("more", [ALL, SEAMS, {**SEAMS, "detokenizer_kwargs": {"conv_layers": 1}}])
def test_outputs_are_divided_in_the_last_layers(more: dict[str, Any]) -> None:
    net, x, t = (
        DiT((16, 24), 3, out_channels=2, **{k: v for k, v in more.items() if k != "model_type"}),
        fields(3, 0),
        torch.ones(1),
    )
    randomise(net)
    before, ratio = net(x, t).detach(), torch.tensor([0.3, 7.0])
    divide_output(net, ratio)
    assert relerr(net(x, t).detach(), before / ratio.view(-1, 1, 1)) < 1e-5


# packages


def loaded(package: Path) -> Downscaler:
    got = read_package(Folder(package))
    return Downscaler(got.spec, got.regression, got.denoiser, "fp32", accelerated=False)


def by_hand(model: Downscaler, x: Tensor) -> Tensor:
    """A member of seed 5: mean, and Heun in the time of the package's path, in float64."""
    cond, s = model.condition(x), model.sampling
    mean, noise = model.regression(cond), model.noise([5])().double()
    net, given = model.denoiser, torch.cat([mean, cond], 1)
    assert isinstance(net, DiTFlow) and s.schedule == "rectified_flow" and s.solver == "heun"

    def slope(state: Tensor, t: float) -> Tensor:
        raw = net.model(torch.cat([state.float(), given], 1), torch.tensor([999 * t])).double()
        return raw if net.prediction == "flow" else (state - raw) / max(t, 0.05)

    times = [s.t_max * (1 - i / s.steps) for i in range(s.steps + 1)]
    times = [s.shift * t / (1 + (s.shift - 1) * t) for t in times]
    state = times[0] * noise
    for t, after in pairwise(times):
        k = slope(state, t)
        guess = state + (after - t) * k
        state = guess if after == 0 else state + (after - t) * (k + slope(guess, after)) / 2
    return (mean + state.float()) * model.scale_out + model.center_out


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    return train(config(folder, pairs, **FLOW, sampling={"steps": 3, "shift": 2.0, "samples": 2}))


@pytest.mark.slow
@torch.no_grad()
def test_a_package_of_rectified_flow_runs_as_by_hand(flow: Path, pairs: Path, tmp_path: Path) -> None:
    model, x = loaded(flow), torch.from_numpy(weather(3)[0])[None]
    assert isinstance(model.regression, DiTMean)
    state = torch.load(flow.parent / "work" / "diffusion.ckpt", weights_only=True)["average"]
    assert all(
        torch.equal(value, state[f"model.{key}"]) for key, value in model.denoiser.model.state_dict().items()
    )
    ((_, _, got),) = model.members(x, [5])
    assert relerr(got, by_hand(model, x)) < 1e-5
    meta = json.loads((flow / "metadata.json").read_text())
    assert meta["sampler_type"] == "rectified_flow" and meta["rectified_flow"] == {
        "prediction": "x0", "time_scale": 999.0, "t_max": 0.99, "shift": 2.0, "clip": 0.05,
    }  # fmt: skip
    again = save_package(tmp_path / "again", model.spec, model.regression, model.denoiser)
    assert json.loads((again / "metadata.json").read_text()) == meta
    assert (again / "diffusion.mdlus").read_bytes() == (flow / "diffusion.mdlus").read_bytes()


@pytest.mark.slow
def test_fine_tuning_keeps_the_formulation(flow: Path, pairs: Path, tmp_path: Path) -> None:
    none = {"regression__network": {}, "diffusion__network": {}, "start_from": str(flow)}
    tuned = loaded(train(config(tmp_path, pairs, **none, regression__steps=0, diffusion__steps=1)))
    assert isinstance(tuned.denoiser, DiTFlow) and tuned.sampling == loaded(flow).sampling
    with pytest.raises(InputError, match=r"leave out diffusion.formulation"):
        config(tmp_path, pairs, **none, diffusion__formulation="rectified_flow")


@pytest.mark.slow
def test_a_package_of_edm(pairs: Path, tmp_path: Path) -> None:
    """In bfloat16, with a learnt position for whole domains, and a denoiser of patches."""
    from physicsnemo.core import Module

    more = {"regression__network": SEAMS, "diffusion__network": NET, "diffusion__patches": PATCHES}
    more |= {"regression__steps": 30, "regression__lr": 5e-3, "diffusion__sigma_data": 0.7}
    made = train(config(tmp_path, pairs, **more, precision="bf16"))
    model, x = loaded(made), torch.from_numpy(weather(3)[0])[None]
    assert isinstance(model.denoiser, DiTDenoiser) and model.denoiser.sigma_data == pytest.approx(0.7)
    members = torch.cat([block for _, _, block in model.members(x, [5, 6])])
    assert members.shape == (2, 2, 16, 24) and members.isfinite().all()
    with plain_attention(), torch.no_grad():  # PhysicsNeMo reads it, too
        theirs = Module.from_checkpoint(str(made / "diffusion.mdlus")).eval()
        noisy, cond = torch.randn(1, 2, 16, 24), torch.randn(1, 10, 16, 24)
        want = theirs(noisy, torch.tensor([3.0]), cond)
        assert relerr(model.denoiser(noisy, 3.0, cond), want) < 1e-5
    seen = losses(tmp_path, "regression")
    assert sum(seen[-5:]) < 0.9 * sum(seen[:5])


class Stopped(Watch):
    """Stops after five steps of the diffusion."""

    def step(self, progress: Progress) -> None:
        if self.stages[-1] == "diffusion" and progress.step == 5:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_nothing_had_been(pairs: Path, tmp_path: Path) -> None:
    more = {
        **FLOW,
        "diffusion__prediction": "flow",
        "diffusion__patches": PATCHES,
        "diffusion__micro_batch": 3,
    }
    one = train(config(tmp_path / "one", pairs, **more))
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "two", pairs, **more), Stopped())
    with pytest.raises(InputError, match="trained otherwise"):
        train(config(tmp_path / "two", pairs, **{**more, "diffusion__prediction": "x0"}))
    two = train(config(tmp_path / "two", pairs, **more))
    for stage in ("regression", "diffusion"):
        assert losses(tmp_path / "two", stage) == losses(tmp_path / "one", stage)
        assert (one / f"{stage}.mdlus").read_bytes() == (two / f"{stage}.mdlus").read_bytes()


# what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a U-Net": ({"diffusion__formulation": "rectified_flow"}, "rectified_flow needs a DiT"),
    "another formulation": ({"diffusion__formulation": "ddpm"}, "must be edm or rectified_flow"),
    "the flow of EDM": ({"diffusion__prediction": "flow"}, "belongs to the formulation rectified_flow"),
    "noise levels of EDM": ({**FLOW, "sampling": {"sigma_max": 9}}, "sigma_max belongs to the schedule"),
    "times of a flow": ({**DITS, "sampling": {"shift": 2}}, "shift belongs to the schedule rectified_flow"),
    "a U-Net's argument": (
        {"diffusion__network": {**NET, "attn_kernel": 5}},
        "unknown key diffusion.network.attn_kernel; did you mean diffusion.network.attn_kwargs?",
    ),
    "channels": ({"regression__network": {**NET, "hidden_size": 15}}, "regression.network"),
    "patches and places": ({"regression__network": ALL, "regression__patches": PATCHES}, "made for 16 x 24"),
    "odd patches": ({**DITS, "diffusion__patches": {"shape": [7, 12]}}, "in steps of 2"),
    "flips and places": (
        {"diffusion__network": ALL, "data__flips": True, "data__invariants": [], "data__inputs": ["t2m"]},
        "a DiT that learns positions",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(pairs: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError) as raised:
        told = config(tmp_path, pairs, **more)
        start(told, open_material(told, World(), lambda what, left: None), World())
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_packages_that_do_not_fit_themselves(flow: Path, tmp_path: Path) -> None:
    folder, model = Path(shutil.copytree(flow, tmp_path / "p")), loaded(flow)
    meta = json.loads((folder / "metadata.json").read_text())

    def refused(message: str, **entries: Any) -> None:
        changed = {key: value for key, value in {**meta, **entries}.items() if value is not None}
        (folder / "metadata.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            read_package(Folder(folder))

    refused("goes with an entry", sampler_type="stochastic")
    refused("goes with an entry", rectified_flow=None)
    refused("must be an object like", rectified_flow={"prediction": "x0"})
    refused("must be an object like", rectified_flow={**meta["rectified_flow"], "shift": "2"})
    refused("not a valid prediction", rectified_flow={**meta["rectified_flow"], "prediction": 3})
    refused("needs metadata of rectified flow", rectified_flow=None, sampler_type="stochastic")
    (folder / "diffusion.mdlus").write_bytes(unet(tmp_path))
    refused("rectified flow needs a DiT")
    with pytest.raises(InputError, match="knows the schedule rectified_flow"):
        save_package(
            tmp_path / "q", read_package(Folder(tmp_path / "unet")).spec, model.regression, model.denoiser
        )


def unet(folder: Path) -> bytes:
    """The denoiser of a package of U-Nets, in the folder ``unet``."""
    from tiny import make_networks, make_spec

    spec = make_spec((16, 24))
    return (save_package(folder / "unet", spec, *make_networks(spec)) / "diffusion.mdlus").read_bytes()
