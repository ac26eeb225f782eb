# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""TF32 is off while the reference mode computes, and afterwards what it was before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from fast_kit import fields, make_denoiser, make_regression
from tiny import make_networks, make_spec, weather

from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks import float32
from earth2_corrdiff.networks.fast.executors import Level, StripExecutor, TorchExecutor
from earth2_corrdiff.networks.fast.gpu import TorchUNet
from earth2_corrdiff.networks.float32 import full_float32
from earth2_corrdiff.networks.preconditioned import Denoiser
from earth2_corrdiff.networks.unet import SongUNet

GPU, CPU = torch.device("cuda"), torch.device("cpu")
NEW = hasattr(torch.backends.cudnn, "conv")  # names since PyTorch 2.9


def switches() -> tuple[Any, ...]:
    """What PyTorch's kernels read, and what a user sees."""
    seen: list[Any] = [torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]
    if NEW:
        places = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
        seen += [place.fp32_precision for place in places]
    return tuple(seen)


def rounds() -> tuple[bool, bool]:
    """Whether convolutions and matrix products are in TF32."""
    if NEW:
        places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
        return tuple(place.fp32_precision == "tf32" for place in places)  # type: ignore[return-value]
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=["highest", "high", "medium"])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    """The switches as PyTorch has them, and as users set them."""
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield switches()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision(own)


def test_only_inside(before: tuple[Any, ...]) -> None:
    assert rounds()[0]
    with full_float32(GPU):
        assert rounds() == (False, False)
        with full_float32(GPU):
            assert rounds() == (False, False)
        assert rounds() == (False, False)
    assert switches() == before
    with pytest.raises(KeyError), full_float32(GPU):
        raise KeyError
    assert switches() == before


def test_where_it_is_not_wanted(before: tuple[Any, ...]) -> None:
    for device, wanted in ((CPU, True), (GPU, False)):
        with full_float32(device, wanted):
            assert switches() == before


def test_what_was_off_is_not_touched() -> None:
    torch.backends.cudnn.allow_tf32 = False
    try:
        seen = switches()
        with full_float32(GPU):
            assert switches() == seen
        assert switches() == seen
    finally:
        torch.backends.cudnn.allow_tf32 = True


SET = (
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'ieee'",
    "torch.backends.cudnn.fp32_precision = 'ieee'",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.allow_tf32 = False; torch.backends.fp32_precision = 'tf32'",
)
CHECK = """
import os, sys, torch
from earth2_corrdiff.networks.float32 import full_float32
places = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul

def seen():
    return [place.fp32_precision for place in places]

def check(how):
    exec(how)
    before = seen()
    for _ in range(2):
        with full_float32(torch.device("cuda")):
            assert "tf32" not in (seen()[0], seen()[2]), (how, seen())
        assert seen() == before, (how, before, seen())

for how in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            check(how)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.process
@pytest.mark.skipif(not NEW, reason="this PyTorch has the older names alone")
def test_the_newer_names_of_pytorch() -> None:
    """It refuses to mix them with the older ones; each in a process of its own."""
    done = subprocess.run([sys.executable, "-c", CHECK, *SET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads(before: tuple[Any, ...]) -> None:
    """Whoever comes first and goes last; nobody computes in TF32 in between."""
    barrier, seen = Barrier(8), []

    def work(n: int) -> None:
        barrier.wait()
        for _ in range(200):
            with full_float32(GPU):
                seen.append(rounds())

    threads = [Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {(False, False)} and len(seen) == 1600 and switches() == before


@pytest.mark.process
def test_nothing_changes_at_import() -> None:
    code = (
        "import torch; p = torch.backends.cudnn, torch.backends.cuda.matmul; s = [x.allow_tf32 for x in p]\n"
        "import earth2_corrdiff.model.downscaler, earth2_corrdiff.networks.fast.accelerate\n"
        "assert s == [x.allow_tf32 for x in p] == [True, False]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# who computes in full float32


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """The CPU is taken for a device with TF32; whether it was on at each call of a U-Net."""
    monkeypatch.setattr(float32, "_KINDS", ("cpu", "cuda"))
    calls: list[tuple[bool, bool]] = []

    def watched(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            calls.append(rounds())
            return inner(*args, **how)

        return call

    for kind in (SongUNet, TorchUNet):
        name = "forward" if kind is SongUNet else "__call__"
        monkeypatch.setattr(kind, name, watched(getattr(kind, name)))
    return calls


def test_engines_in_float32(seen: list[tuple[bool, bool]], before: tuple[Any, ...]) -> None:
    x, cond = fields()
    net = make_denoiser().model
    assert isinstance(net, SongUNet)
    for dtype in (torch.float32, torch.bfloat16):
        engine = TorchExecutor(net, dtype, False)
        engine(x, engine.prepare(cond), Level(0.1))
    assert seen == [(False, False), (True, before[1] != "highest")] and switches() == before


def test_strips_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from earth2_corrdiff.networks.fast.strips import StripUNet

    monkeypatch.setattr(float32, "_KINDS", ("cpu",))
    found, inner = [], StripUNet.__call__

    def watched(*args: Any) -> Any:
        found.append(rounds()[0])
        return inner(*args)

    monkeypatch.setattr(StripUNet, "__call__", watched)
    net, cond = make_regression().model, torch.zeros(1, 9, 16, 24)
    assert isinstance(net, SongUNet)
    for dtype in (torch.float32, torch.bfloat16):
        engine = StripExecutor(net, dtype, "device")
        engine(torch.zeros(1, 2, 16, 24), engine.prepare(cond[:, :5]), Level(0.0))
    assert found == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "want"), [("fp32", False), ("auto", False), ("bf16", True)])
def test_a_plain_pipeline(seen: list[tuple[bool, bool]], precision: str, want: bool) -> None:
    """Without acceleration "auto" is the reference, too."""
    spec = make_spec(sampling=Sampling("heun", 2))
    model = Downscaler(spec, *make_networks(spec), precision, accelerated=False)
    model(weather(), [1, 2])
    assert {on for on, _ in seen} == {want} and len(seen) == 1 + 2 * 3
    assert rounds()[0]


def test_training_keeps_its_own_switches(seen: list[tuple[bool, bool]]) -> None:
    net, (x, cond) = make_denoiser(), fields()
    net.train()(x, torch.tensor([0.5]), cond)
    assert isinstance(net, Denoiser) and seen == [(True, False)]
