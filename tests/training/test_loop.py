# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The loop: rates, averages and clipping by hand; reproducible; it stops where it must."""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import relerr
from torch import Tensor, nn
from training_kit import Watch, config, losses, rows, train, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.training import checkpoints
from earth2_corrdiff.training.config import StageConfig
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.parallel import World
from earth2_corrdiff.training.schedule import decay, earlier_ends, rate, steps_text
from earth2_corrdiff.training.stages import Images
from earth2_corrdiff.training.trainer import Progress, Trainer, evenly


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


# one number


class Toy:
    """A stage that learns one weight; its loss is told."""

    def __init__(self, start: float, of: Callable[[Tensor, int], Tensor]) -> None:
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.net.weight, start)
        self.loss: nn.Module = ToyLoss(self.net, of)
        self.batches: list[list[int]] = []

    def draw(self, keys: Any) -> None:
        pass

    def images(self, batch: Any) -> Images:
        self.batches.append(list(batch.indices))
        return Images(torch.zeros(len(batch.indices), 1), torch.zeros(len(batch.indices), 1))


class ToyLoss(nn.Module):
    def __init__(self, net: nn.Module, of: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.net, self.of, self.count = net, of, 0

    def forward(self, images: Images) -> Tensor:
        self.count += 1
        return self.of(self.net(torch.ones(1, 1)), self.count).mean()


def toy(
    folder: Path,
    pairs: Path,
    of: Callable[[Tensor, int], Tensor],
    start: float = 3.0,
    base: str = "",
    **more: Any,
) -> tuple[Toy, Iterator[Progress]]:
    told = config(folder, pairs, **{f"regression__{k}": v for k, v in more.items()}, checkpoint_every=1)
    Path(told.work).mkdir(exist_ok=True)
    stage = Toy(start, of)
    splits = (range(6), [])
    trainer = Trainer("toy", stage, told.regression, told, PairFile(pairs), splits, World(), base)  # type: ignore[arg-type]
    return stage, iter(trainer)


def test_one_step_by_hand(tmp_path: Path, pairs: Path) -> None:
    """Warm-up, clipping and Adam: w = 3, loss (10 w)², gradient 600, clipped to 1."""
    stage, steps = toy(tmp_path, pairs, lambda w, n: (10 * w).square(), lr=0.1, warmup=4, steps=8)
    assert next(steps).step == 0
    step = next(steps)
    assert (step.step, step.images, step.loss, step.validation) == (1, 4, 900.0, None)
    # Adam's first step is the rate, whatever the gradient: a quarter of the peak
    assert float(stage.net.weight.detach()) == pytest.approx(3.0 - 0.1 / 4, rel=1e-5)
    # the second: gradients (1, 1) after clipping give the rate again, now half of the peak
    next(steps)
    assert float(stage.net.weight.detach()) == pytest.approx(3.0 - 0.1 / 4 - 0.1 / 2, rel=1e-5)
    first = rows(tmp_path / "work" / "toy.csv")[0]
    assert float(first["gradient_norm"]) == pytest.approx(600, rel=1e-5)
    assert float(first["learning_rate"]) == pytest.approx(0.025) and first["validation"] == ""


def test_what_is_left_is_the_average_of_the_weights_by_hand(tmp_path: Path, pairs: Path) -> None:
    stage, steps = toy(tmp_path, pairs, lambda w, n: (w - n).square(), lr=0.5, steps=6)
    next(steps)
    average = 3.0
    for step in range(6):
        next(steps)
        keep = 0.5 ** (1 / min(3, 1 + step / 10))
        average = keep * average + (1 - keep) * float(stage.net.weight.detach())
    last = float(stage.net.weight.detach())
    assert next(steps, None) is None
    assert float(stage.net.weight) == pytest.approx(average, rel=1e-6) and abs(last - average) > 1e-3
    assert not stage.net.training and not stage.net.weight.requires_grad
    assert sorted(index for batch in stage.batches[:3] for index in batch) == sorted([*range(6)] * 2)


def test_learning_rate() -> None:
    how = StageConfig(steps=110, lr=2.0, warmup=10)
    assert [rate(how, i) for i in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert [rate(how, i) for i in (10, 35, 60, 110, 500)] == pytest.approx(
        [2.0, 1 + math.cos(math.pi / 4), 1.0, 0.0, 0.0], abs=1e-12
    )
    assert rate(StageConfig(steps=5, warmup=100, lr=1e-3), 4) == pytest.approx(5e-5)
    assert rate(StageConfig(steps=5, warmup=0, lr=3.0), 0) == 3.0
    assert decay(StageConfig(steps=5, ema_halflife=50), 1000) ** 50 == pytest.approx(0.5)


def test_added_steps_have_a_warm_up_and_a_cosine_of_their_own() -> None:
    """The rates of 110 steps, then those of a training of 60, then those of one of 5: no longer warm-up."""
    parts = [StageConfig(steps=n, lr=2.0, warmup=10) for n in (110, 60, 5)]
    want = [rate(how, step) for how in parts for step in range(how.steps)]
    whole = StageConfig(steps=175, lr=2.0, warmup=10)
    assert [rate(whole, step, (110, 170)) for step in range(175)] == want
    assert (steps_text(175), steps_text(175, (110, 170))) == ("175 steps", "110 + 60 + 5 steps")
    text = "110 + 60 steps of 8"
    assert earlier_ends(text, 130, 170) == (110,) and earlier_ends(text, 170, 175) == (110, 170)
    assert earlier_ends(text, 170, 90) == () == earlier_ends("letters", 3, 4)
    with pytest.raises(InputError, match=r"step 130 of 170 cannot have 175 steps; set steps to 170"):
        earlier_ends(text, 130, 175)


def test_evenly() -> None:
    assert evenly([5, 6, 7], 4) == [5, 6, 7] and evenly(range(10), 3) == [0, 3, 6] and evenly([], 3) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path, pairs: Path, bad: float) -> None:
    stage, steps = toy(tmp_path, pairs, lambda w, n: w.square() * (bad if n == 4 else 1.0))
    with pytest.raises(InputError, match=r"loss of the toy became (nan|inf) at step 4; .*holds step 3; .*lr"):
        list(steps)
    state = torch.load(tmp_path / "work" / "toy.ckpt", weights_only=True)
    assert state["step"] == 3 and torch.equal(state["net"]["weight"], stage.net.weight.detach())
    assert len(rows(tmp_path / "work" / "toy.csv")) == 3


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path: Path, pairs: Path) -> None:
    """The root of zero: a finite loss with an infinite slope."""
    stage, steps = toy(tmp_path, pairs, lambda w, n: w.square().sum().sqrt(), start=0.0)
    with pytest.raises(InputError, match="gradient of the toy became nan at step 1; there is no checkpoint"):
        list(steps)
    assert float(stage.net.weight.detach()) == 0


# real stages


@pytest.mark.slow
def test_a_rate_that_is_far_too_high_stops_it(tmp_path: Path, pairs: Path) -> None:
    told = config(tmp_path, pairs, regression__lr="1e30", regression__warmup=0, checkpoint_every=1)
    with pytest.raises(InputError, match=r"regression became (nan|inf) at step 2; .*\.ckpt holds step 1"):
        train(told)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_package(tmp_path: Path, pairs: Path) -> None:
    """Bit for bit, whatever is drawn elsewhere, and however often losses are watched."""
    more = {"regression__steps": 3, "diffusion__steps": 3, "diffusion__network": {"dropout": 0.2, **SMALL}}
    folders = [tmp_path / name for name in "abc"]
    one, two, three = (config(folder, pairs, **more) for folder in folders)
    for told, changed in ((one, {}), (two, {"validation__every": 1}), (three, {"seed": 1})):
        torch.manual_seed(99)
        torch.rand(len(changed) + 1)
        train(config(Path(told.work).parent, pairs, **more, **changed))
    first, second, third = ((folder / "package" / "diffusion.mdlus").read_bytes() for folder in folders)
    assert first == second != third
    watched = [rows(folder / "work" / "diffusion.csv") for folder in folders[:2]]
    assert [row["loss"] for row in watched[0]] == [row["loss"] for row in watched[1]]
    assert [bool(row["validation"]) for row in watched[0]] == [False, False, True]
    assert all(row["validation"] for row in watched[1])
    assert watched[0][2]["validation"] == watched[1][2]["validation"]
    assert losses(folders[0], "regression") != losses(folders[2], "regression")


SMALL = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}


def weights(folder: Path, name: str) -> Tensor:
    state = read_mdlus(folder / "package" / f"{name}.mdlus").state
    return torch.cat([value.flatten() for value in state.values()])


@pytest.mark.slow
def test_small_passes_add_up(tmp_path: Path, pairs: Path) -> None:
    patches = {"shape": [8, 8], "per_time": 2}
    both = {"diffusion__patches": patches, "regression__steps": 3, "diffusion__steps": 3}
    train(config(tmp_path / "a", pairs, **both))
    train(config(tmp_path / "b", pairs, **both, regression__micro_batch=1, diffusion__micro_batch=3))
    for stage in ("regression", "diffusion"):
        assert losses(tmp_path / "a", stage) == pytest.approx(losses(tmp_path / "b", stage), rel=1e-5)
        assert relerr(weights(tmp_path / "b", stage), weights(tmp_path / "a", stage)) < 1e-4


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path, pairs: Path) -> None:
    told = config(tmp_path, pairs, regression__steps=24, regression__lr=0.02, diffusion__steps=1)
    train(told)
    seen = [float(r["validation"]) for r in rows(tmp_path / "work" / "regression.csv") if r["validation"]]
    assert seen[-1] < 0.8 * seen[0] and (tmp_path / "work" / "regression.png").stat().st_size > 10_000


# checkpoints


@pytest.mark.slow
def test_a_finished_training_is_done_and_another_one_does_not_go_on_with_it(
    tmp_path: Path, pairs: Path
) -> None:
    few = {"regression__steps": 2, "diffusion__steps": 1, "regression__warmup": 0}
    package = train(config(tmp_path, pairs, **few))
    before = [(package / name).read_bytes() for name in ("regression.mdlus", "diffusion.mdlus")]
    watch = Watch()
    train(config(tmp_path, pairs, **few), watch)
    assert [(p.step, p.images, math.isnan(p.loss)) for p in watch.steps] == [(2, 8, True), (1, 4, True)]
    assert before == [(package / name).read_bytes() for name in ("regression.mdlus", "diffusion.mdlus")]
    with pytest.raises(
        InputError, match=r"regression\.ckpt was trained otherwise .*; remove it to start again"
    ):
        train(config(tmp_path, pairs, **few, regression__lr=0.5))


class Stopping(Watch):
    """Interrupts at a step of the second stage."""

    def step(self, progress: Progress) -> None:
        super().step(progress)
        if len(self.stages) == 2 and progress.step == 5 and not math.isnan(progress.loss):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_finished_training_goes_on_with_more_steps(tmp_path: Path, pairs: Path) -> None:
    """Interrupted and resumed as if in one go; the curve goes on; not on top of another regression."""
    few = {"regression__steps": 2, "diffusion__steps": 3, "regression__warmup": 0}
    more = {**few, "diffusion__steps": 7}
    train(config(tmp_path / "one", pairs, **few))
    curve = Path("work") / "diffusion.csv"
    before = (tmp_path / "one" / curve).read_text()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    train(config(tmp_path / "one", pairs, **more))
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "two", pairs, **more), Stopping())
    watch = Watch()
    train(config(tmp_path / "two", pairs, **more), watch)
    assert [p.step for p in watch.steps] == [2, 4, 5, 6, 7]  # the last checkpoint was of step 4
    for name in (curve, *(Path("package") / f"{stage}.mdlus" for stage in ("regression", "diffusion"))):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / curve).read_text().startswith(before)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "one" / curve)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 1e-3, 1e-3, 5e-4], rel=1e-6)
    kept = (tmp_path / "one" / "work" / "diffusion.ckpt").read_bytes()
    with pytest.raises(InputError, match=r"diffusion\.ckpt was trained on a regression that these"):
        train(config(tmp_path / "one", pairs, **{**more, "regression__steps": 4}))
    assert (tmp_path / "one" / "work" / "diffusion.ckpt").read_bytes() == kept


def test_a_checkpoint_on_another_base(tmp_path: Path, pairs: Path) -> None:
    stage, steps = toy(tmp_path, pairs, lambda w, n: w.square(), steps=2, base="regression abc")
    list(steps)
    with pytest.raises(InputError, match=r"trained otherwise \(.*regression abc; now .*regression xyz\)"):
        list(toy(tmp_path, pairs, lambda w, n: w.square(), steps=2, base="regression xyz")[1])


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    net, path = nn.Linear(2, 3), tmp_path / "s.ckpt"
    before = copy.deepcopy(net.state_dict())
    checkpoints.save(path, 7, "this", {"net": net})
    nn.init.zeros_(net.weight)
    (tmp_path / "s.ckpt.part").write_bytes(b"half of a later one")
    assert checkpoints.resume(path, "this", {"net": net}) == 7 and torch.equal(net.weight, before["weight"])
    with pytest.raises(InputError, match=r"s\.ckpt was trained otherwise \(this; now that\)"):
        checkpoints.resume(path, "that", {"net": net})
    with pytest.raises(InputError, match="not a checkpoint of this training"):
        checkpoints.resume(path, "this", {"net": nn.Linear(3, 3)})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a checkpoint of this training") as raised:
            checkpoints.resume(path, "this", {"net": net})
        assert "\n" not in str(raised.value)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "s.ckpt"
    checkpoints.save(path, 1, "this", {"net": nn.Linear(2, 3)})
    (tmp_path / f".s.ckpt.{os.getpid()}.part").mkdir()
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*s\.ckpt"):
        checkpoints.save(path, 2, "this", {"net": nn.Linear(2, 3)})
    assert torch.load(path, weights_only=True)["step"] == 1
