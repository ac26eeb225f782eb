# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Large domains through the pipeline: options, provenance, and memory that stays within its bounds."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from loguru import logger
from run_kit import COARSE, TIMES, command, load, make_package, refused, straight
from run_kit import make_spec as run_spec
from tiny import make_networks, make_spec, relerr, weather
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.networks.fast import memory_plan
from earth2_corrdiff.networks.fast.accelerate import FastRegression, accelerate
from earth2_corrdiff.networks.fast.executors import CpuExecutor, StripExecutor
from earth2_corrdiff.networks.fast.memory_plan import SPARE, plan_memory
from earth2_corrdiff.networks.memory_model import memory_of
from earth2_corrdiff.networks.unet import SongUNet

pytestmark = pytest.mark.slow

SHAPE, SEEDS = (40, 56), [3, 4]
PATCHES = PatchGeometry(SHAPE, (16, 24), 4, 2)
DOMAIN = (24, 36)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    handle = logger.add(lines.append, level="INFO", format="{message}")
    yield lines
    logger.remove(handle)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package without patches, on 24 x 36 points."""
    return make_package(tmp_path_factory.mktemp("package"), straight(DOMAIN))


@pytest.fixture
def argv(package: Path, tmp_path: Path) -> tuple[object, ...]:
    store = tmp_path / "run.zarr"
    how = ("--samples", 1, "--seed", 3, "--source", "demo", "--device", "cpu", "--output", store)
    return (TIMES[0], "--package", package, *how)


def patched_model(accelerated: bool = True, **what: Any) -> Downscaler:
    spec = make_spec(SHAPE, bent=False, patching=PATCHES)
    return Downscaler(spec, *make_networks(spec, **what), "fp32", accelerated)


# options


def test_options_reach_the_model_and_the_store(
    argv: tuple[object, ...], tmp_path: Path, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The store says how its members were cut; a run with other patches is no resumption of it."""
    cut = ("--patch", "12x16", "--overlap", 2, "--boundary", 1, "--window", "cosine", "--precision", "fp32")
    status, out, err = command(capfd, *argv, *cut, "--no-acceleration")
    assert status == 0, err
    assert "the denoiser sees the domain in 3 x 3 patches of 12 x 16, overlap 2, boundary 1, cosine" in err
    ds = xr.open_zarr(tmp_path / "run.zarr")
    assert ds.attrs["patches"] == "12 x 16, overlap 2, boundary 1, cosine window"
    model = load(package, patching=PatchGeometry(DOMAIN, (12, 16), 2, 1), window="cosine")
    by_hand = model.downscaler(coarse(), ds.member_seed.values[0].tolist())
    np.testing.assert_array_equal(ds.t2m.values[0, 0], by_hand[0, 0, 1])
    other = refused(capfd, *argv, "--patch", "12x16", "--overlap", 2, "--resume", "--precision", "fp32")
    assert "patches 12 x 16, overlap 2, boundary 1, cosine window instead of 12 x 16, overlap 2, b" in other
    whole = refused(capfd, *argv, "--resume", "--precision", "fp32")
    assert "patches 12 x 16, overlap 2, boundary 1, cosine window instead of none" in whole
    assert command(capfd, *argv, *cut, "--no-acceleration", "--resume")[1].startswith("nothing to do")


def coarse() -> Tensor:
    from earth2_corrdiff import demo
    from earth2_corrdiff.sources import Inputs, as_source

    source = as_source(demo.DemoWeather())
    inputs = Inputs(source, source.cases(TIMES[0], None), list(run_spec().inputs.names), COARSE)
    return inputs.fetch(0, inputs.kept)[None, :12]


WRONG = {
    "no size": (("--patch", "16"), "--patch takes a height and a width like 448x448, or none; got '16'"),
    "steps": (("--patch", "13x16"), "in steps of 2, do, for instance 12 x 16"),
    "too small": (("--patch", "8x8", "--overlap", 4, "--boundary", 3), "for instance 12 x 12"),
    "negative": (("--patch", "8x8", "--overlap", -1), "an overlap and boundary of 0 or more"),
    "overlap of nothing": (("--overlap", 2), "--overlap and --boundary go with patches: give --patch HxW"),
    "overlap of none": (("--patch", "none", "--boundary", 2), "--overlap and --boundary go with patches"),
    "window": (("--patch", "8x8", "--window", "hann"), "unknown window 'hann'; use one of flat, cosine"),
    "window of nothing": (("--window", "flat"), "--window goes with patches: give --patch HxW"),
    "maps": (("--maps", "cellar"), "go to the device, the host or a folder; cellar is none of these"),
    "plain maps": (("--no-acceleration", "--maps", "host"), "without acceleration keeps its feature maps on"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG.keys())
def test_options_that_do_not_fit(
    argv: tuple[object, ...], capfd: pytest.CaptureFixture[str], options: tuple[object, ...], words: str
) -> None:
    assert words in refused(capfd, *argv, *options)


def test_what_the_package_says_holds_where_nothing_else_is_said(tmp_path: Path) -> None:
    from earth2_corrdiff.model.options import ModelOptions

    own = PatchGeometry(DOMAIN, (12, 16), 2, 1)
    model = load(make_package(tmp_path, straight(DOMAIN), patching=own))
    for asked, want in (
        ((None, None, None), own),
        (("16x16", None, None), replace(own, patch=(16, 16))),
        ((None, 4, None), replace(own, overlap=4)),
        (("12x16", None, 0), replace(own, boundary=0)),
        (("none", None, None), None),
    ):
        patch, overlap, boundary = asked
        options = ModelOptions(patch=patch, overlap=overlap, boundary=boundary)
        model.patching = options.patching(own, DOMAIN)
        assert model.patching == (None if want is None else replace(want, multiple=2)), asked


def test_patches_that_cannot_be_set() -> None:
    model = patched_model()
    for patching, words in (
        (PatchGeometry((40, 40), (16, 16)), "of a domain of 40 x 40, the package's is 40 x 56"),
        (PatchGeometry(SHAPE, (15, 16)), "in steps of 2"),
    ):
        with pytest.raises(InputError, match=words):
            model.domain.patching = patching
    assert model.domain.patching == replace(PATCHES, multiple=2)
    with pytest.raises(InputError, match="unknown window"):
        model.domain.window = "box"
    spec = make_spec(SHAPE, bent=False)
    model = Downscaler(spec, *make_networks(spec, additive_pos_embed=True), "fp32")
    with pytest.raises(InputError, match="adds an embedding of the whole domain and cannot take patches"):
        model.domain.patching = PATCHES


def test_a_denoiser_that_sees_patch_and_domain_can_see_it_in_one_piece() -> None:
    """As one patch, beside which the inputs are shown a second time."""
    spec = make_spec(SHAPE, bent=False, patching=PATCHES)
    model = Downscaler(spec, *wide(spec), "fp32", accelerated=False)
    assert model.domain.whole
    model.domain.patching = None
    assert model.domain.patching is not None and model.domain.patching.single
    with torch.inference_mode():
        cond = model.condition(weather())
        mean = model.normalised_mean(cond)
        x = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        want = model.denoiser(x, 0.7, torch.cat([mean, cond, cond], dim=1))
        assert torch.equal(model.domain.given(cond, mean)(x, 0.7), want)


def wide(spec: Any) -> Any:
    """A denoiser that is shown the inputs of the whole domain, too: made by naming the inputs twice."""
    regression, _ = make_networks(spec)
    doubled = replace(
        spec,
        invariants=replace(
            spec.invariants, names=("a", "b", "c", "d", "e"), center=(0.0,) * 5, scale=(1.0,) * 5
        ),
        invariant_fields=np.zeros((5, *SHAPE), np.float32),
    )
    return regression, make_networks(doubled)[1]


# where the regression runs


TALL = (960, 16)  # many strips


def regression() -> FastRegression:
    spec = make_spec(TALL, bent=False)
    net = accelerate(make_networks(spec, attn_resolutions=[])[0], "fp32", "auto")
    assert isinstance(net, FastRegression)
    return net


def conditioning() -> Tensor:
    return torch.randn(1, 4, *TALL, generator=torch.Generator().manual_seed(5))


def engine(net: FastRegression) -> object:
    return net.__dict__["_made"][1]


def test_the_regression_takes_what_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    """At once, in strips, or a sentence that names what would do."""
    want, net = regression()(conditioning()), regression().model
    assert said == [] and isinstance(net, SongUNet)  # small: nothing to say
    row = memory_of(net, TALL, torch.float32)
    assert row.strips < 0.9 * row.kernels
    for need, kind in ((row.kernels, CpuExecutor), (row.strips, StripExecutor)):
        monkeypatch.setattr(memory_plan, "free_bytes", lambda _, n=need: int(1.01 * n / SPARE))
        fast = regression()
        assert relerr(fast(conditioning()), want) < 3e-6 and isinstance(engine(fast), kind)
    assert len(said) == 1 and said[0].startswith(
        "the regression of 960 x 16 points runs in strips, with up to"
    )
    monkeypatch.setattr(memory_plan, "free_bytes", lambda _: 1000)
    with pytest.raises(InputError, match=r"needs 0\.0 GB on cpu, and 0\.0 GB are free; .*--maps FOLDER"):
        regression()(conditioning())
    fast = regression()
    for place in ("device", "host", tmp_path):  # as asked for, whatever is free
        fast.maps = place
        assert relerr(fast(conditioning()), want) < 3e-6
    assert "in files" in said[-1] and list(tmp_path.iterdir()) == []


def test_the_ways_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be chosen there: at once, in strips, in strips with the maps in host memory."""
    net, domain, gpu = regression().model, (1056, 1792), torch.device("cuda")
    assert isinstance(net, SongUNet)
    row = memory_of(net, domain, torch.bfloat16)
    found = []
    for free in (3 * row.whole, 1.5 * row.strips, 1.5 * row.mapped):
        monkeypatch.setattr(
            memory_plan,
            "free_bytes",
            lambda device, n=int(free): n if device.type == "cuda" else 2 * row.files,
        )
        found.append(plan_memory(net, domain, "bf16", gpu))
    assert [(way.how, way.maps) for way in found] == [
        ("at once", "device"),
        ("in strips", "device"),
        ("in strips", "host"),
    ]
    assert found[2].host == row.files and plan_memory(net, domain, "bf16", gpu, "host") == found[2]


def test_large_buffers_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be used again is bounded while the network runs, and gone after the regression."""
    from earth2_corrdiff.networks.fast import cpu as cpu_unet

    want, peaks = regression()(conditioning()), []
    for unused in (2**30, 0):
        monkeypatch.setattr(cpu_unet, "UNUSED", unused)
        net, waits = regression(), []
        buffers = net._executor(torch.device("cpu"))._unet._buffers
        take = buffers.take

        def watched(*what: Any, take: Any = take, buffers: Any = buffers, waits: Any = waits) -> Tensor:
            tensor: Tensor = take(*what)
            waits.append(sum(t.nbytes for free in buffers._free.values() for t in free))
            return tensor

        monkeypatch.setattr(buffers, "take", watched)
        assert torch.equal(net(conditioning()), want)
        peaks.append(max(waits))
        assert bool(buffers._free) == (unused > 0)
    assert peaks[1] < 0.6 * peaks[0]


def test_memory_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's, or what the limit of a batch system's control group leaves of it."""
    cpu, free = torch.device("cpu"), free_bytes(torch.device("cpu"))
    assert 2**28 < free < 2**50
    group = tmp_path / "slurm/job_1"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/slurm/job_1\n")
    monkeypatch.setattr("earth2_corrdiff.base.free_memory._GROUPS", tmp_path)
    monkeypatch.setattr("earth2_corrdiff.base.free_memory._OWN", tmp_path / "own")
    for folder, limit in ((group, "max"), (group.parent, str(2**27))):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{2**26}\n")
        (folder / "memory.stat").write_text(f"anon {2**26 - 4096}\nfile 4096\n")
    assert free_bytes(cpu) == 2**26 + 4096
    monkeypatch.setattr("earth2_corrdiff.base.free_memory._OWN", tmp_path / "nothing")
    assert free_bytes(cpu) > 2**27


# memory of patches


class Meagre:
    """A denoiser that has memory for so many images in a call, and counts them."""

    def __init__(self, model: Downscaler, most: int) -> None:
        self.most, self.calls, self.prepared = most, [0], 0
        self._given = model.denoiser.given
        model.denoiser.given = self.given  # type: ignore[method-assign]

    def given(self, *what: Any) -> Any:
        inner = self._given(*what)
        self.prepared += 1

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.calls.append(len(x))
            return inner(x, sigma)

        return denoise


def test_patches_are_cut_once_where_they_fit(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    made = []
    for free in (10**12, 0):
        monkeypatch.setattr("earth2_corrdiff.model.batching.free_bytes", lambda _, n=free: n)
        model = patched_model(accelerated=False)
        denoiser = Meagre(model, 16)
        made.append((model(weather(), SEEDS), denoiser.prepared))
    patches = len(PATCHES.patches)
    assert torch.equal(made[0][0], made[1][0])
    assert made[0][1] == 2 * patches and made[1][1] == 2 * 3 * patches  # members; members and steps
    assert ["kept" in line for line in said] == [True, False]


def test_out_of_memory_halves_the_patches_then_the_members(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    from earth2_corrdiff.model.batching import Batching

    want = patched_model(accelerated=False)(weather(2), SEEDS)
    monkeypatch.setattr(Batching, "images", lambda self, *_: min(self.most_images, 8))
    monkeypatch.setattr("earth2_corrdiff.model.batching.free_bytes", lambda _: 10**12)
    model = patched_model(accelerated=False)
    denoiser = Meagre(model, 2)
    got = model(weather(2), SEEDS, max_batch=2)
    assert relerr(got, want) < 1e-6 and max(denoiser.calls) == 2
    assert [line.strip() for line in said if "out of memory" in line] == [
        "out of memory with 8 patches at once; going on with 4, cut out at each call",
        "out of memory with 4 patches at once; going on with 2, cut out at each call",
    ]
    assert sum("conditioning cut out at each call" in line for line in said) == 1
    model = patched_model(accelerated=False)
    Meagre(model, 0)
    with pytest.raises(InputError, match="one member alone does not fit the memory"):
        model(weather(), SEEDS, max_batch=2)


def test_a_run_on_a_large_machine_fills_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that go together bring as many patches as a call takes."""
    model = patched_model()
    for images, members in ((1, 1), (16, 1), (31, 1), (60, 3)):
        monkeypatch.setattr(type(model.domain.batching), "images", lambda *_, n=images: n)
        assert model.batch_size() == members, images
    model.domain.patching = None
    assert model.batch_size() == 60


def test_the_table_of_domains(capsys: pytest.CaptureFixture[str]) -> None:
    """Computed rows to 4096 x 4096, by ``memory_model``; sizes that cannot be are refused."""
    monkeypatch = pytest.MonkeyPatch()
    script = Path(__file__).parents[2] / "scripts/memory-table.py"
    monkeypatch.setattr(sys, "path", [*sys.path, str(script.parent)])
    try:
        program = runpy.run_path(str(script))
    finally:
        monkeypatch.undo()
    program["run"](program["parser"]().parse_args(["--domains", "4096x4096", "448x448"]))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("computed")]
    assert [line.split()[:4] for line in lines] == [
        ["448", "x", "448", "1"],
        ["4096", "x", "4096", "100"],
    ]
    with torch.device("meta"):
        row = memory_of(program["networks"]((448, 448))[0].model, (4096, 4096), torch.bfloat16)
    shown = [float(number) for number in lines[1].split()[4:8]]
    assert shown == pytest.approx(
        [n / 1e9 for n in (row.kernels, row.strips, row.mapped, row.files)], abs=0.051
    )
    with pytest.raises(InputError, match="in multiples of 16, like 1056x1792; got '100x160'"):
        program["shape_of"]("100x160")
