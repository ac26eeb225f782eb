# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of measured choices: made with a timer that tells what it shall, read, damaged, and left out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import zarr
from earth2studio.models.auto import Package
from fast_kit import fields, make_denoiser
from loguru import logger
from run_kit import make_package, straight

from earth2_corrdiff import CorrDiff, InputError, downscale, make_source
from earth2_corrdiff.cli import tune as command
from earth2_corrdiff.networks.fast import memory_plan, tuning
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.networks.fast.executors import CpuExecutor, TorchExecutor, executor_of
from earth2_corrdiff.networks.kernels import cpu_conv, native, ops, tuned
from earth2_corrdiff.networks.kernels.tuned import DEFAULT, Choice
from earth2_corrdiff.run.downscaling import Options

CPU = torch.device("cpu")
needs_own = pytest.mark.skipif(not cpu_conv.available(), reason="the C kernels of the CPU are not here")
SLOW_OWN = Choice(own={"fp32": True, "bf16": False})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of tables; the compiled kernels stay where they are."""
    native.library()
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("EARTH2_CORRDIFF_TUNED", raising=False)
    tuned.forget()
    yield tmp_path / "cache"
    tuned.forget()


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level.name}: {message}", level="DEBUG")
    yield lines
    logger.remove(sink)


def test_without_a_table_nothing_is_measured_or_written(folder: Path, said: list[str]) -> None:
    assert tuned.chosen(CPU) == DEFAULT and str(DEFAULT) == "the defaults"
    net = make_denoiser()
    accelerate(net, "fp32")(fields()[0], 0.7, fields()[1])
    assert not folder.exists() and not any("tuned" in line for line in said)


def test_a_table_is_read_by_later_runs(folder: Path, said: list[str]) -> None:
    choice = Choice({"TILE": 2048, "LAUNCH": 8}, False, {"fp32": True, "bf16": False})
    path = tuned.save(CPU, choice, {"tiles": 1.25})
    assert path.parent == folder and [p.name for p in folder.iterdir()] == [path.name]
    assert tuned.chosen(CPU) == choice and tuned.chosen(CPU) == choice
    (line,) = said
    assert line.startswith(
        "DEBUG: tuned for this cpu: TILE 2048, LAUNCH 8, no graphs, PyTorch's operators in bf16"
    )
    assert "won: tiles 1.25 x" in line and str(path) in line


def test_it_belongs_to_device_versions_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.save(CPU, SLOW_OWN, {})
    assert tuned.chosen(CPU) == SLOW_OWN
    for name, what in {
        "torch": "9.9",
        "driver": "9",
        "device": "cpu of another",
        "kernels": "others",
    }.items():
        plain = tuned.about(CPU)
        with monkeypatch.context() as other:
            other.setattr(tuned, "about", lambda device, n=name, w=what, p=plain: {**p, n: w})
            tuned.forget()
            assert tuned.chosen(CPU) == DEFAULT, name
    tuned.forget()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 61)
    assert tuned.chosen(CPU) == DEFAULT


def test_it_can_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.save(CPU, SLOW_OWN, {})
    monkeypatch.setenv("EARTH2_CORRDIFF_TUNED", "0")
    assert tuned.chosen(CPU) == DEFAULT


def changed(**more: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, **more}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: "{",
        lambda content: [],
        lambda content: {},
        changed(format=99),
        changed(about={"torch": "another"}),
        changed(choice=None),
        changed(choice={"tiles": {"TILE": 3}, "graphs": True, "own": {}, "attention": "tiles"}),
        changed(choice={"tiles": {"TILE": True}, "graphs": True, "own": {}, "attention": "tiles"}),
        changed(choice={"tiles": {"__doc__": 4096}, "graphs": True, "own": {}, "attention": "tiles"}),
        changed(choice={"tiles": {}, "graphs": "yes", "own": {}, "attention": "tiles"}),
        changed(choice={"tiles": {}, "graphs": True, "own": {"int8": True}, "attention": "tiles"}),
        changed(choice={"tiles": {}, "graphs": True, "own": {}, "attention": "guessed"}),
        changed(won=7),
    ],
)
def test_a_damaged_table_is_ignored_with_one_line(
    damage: Callable[[dict[str, Any]], Any], said: list[str]
) -> None:
    path = tuned.save(CPU, SLOW_OWN, {})
    content = damage(json.loads(path.read_text()))
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert tuned.chosen(CPU) == DEFAULT and tuned.chosen(CPU) == DEFAULT
    (line,) = said
    assert (
        line.startswith("WARNING: the table") and "make it again with python -m earth2_corrdiff tune" in line
    )
    assert len(line.strip().splitlines()) == 1


def test_bytes_that_are_no_text(said: list[str]) -> None:
    tuned.save(CPU, SLOW_OWN, {}).write_bytes(b"\xff\xfe\x00")
    assert tuned.chosen(CPU) == DEFAULT and len(said) == 1


# making one


def by_engine(own: Mapping[str, float], torch_: Mapping[str, float]) -> tuning.Timer:
    order = iter([own["fp32"], torch_["fp32"], own["bf16"], torch_["bf16"]])
    return lambda work: next(order)


@pytest.mark.slow
@needs_own
def test_a_cpu_runs_what_was_faster(folder: Path) -> None:
    timer = by_engine({"fp32": 1.0, "bf16": 1.0}, {"fp32": 0.98, "bf16": 0.5})
    found = tuning.tune(CPU, timer)
    assert found.choice == Choice(own={"fp32": True, "bf16": False})  # 2 % are no reason to change
    assert found.won == {"PyTorch's operators in fp32": 1.0, "PyTorch's operators in bf16": 2.0}
    assert tuned.chosen(CPU) == found.choice and found.path.parent == folder
    assert tuning.lines(found)[1] == "won: PyTorch's operators in bf16: 2.00 x"
    net = make_denoiser()
    assert isinstance(executor_of(net.model, "fp32", CPU), CpuExecutor)
    assert isinstance(executor_of(net.model, "bf16", CPU), TorchExecutor)
    x, cond = fields()
    engine = TorchExecutor(net.model, torch.bfloat16, False)  # type: ignore[arg-type]
    fast = accelerate(net, "bf16")
    want = engine(x, engine.prepare(cond), fast._level(0.7))
    assert torch.equal(fast(x, 0.7, cond), want) and torch.equal(accelerate(net, "bf16")(x, 0.7, cond), want)
    own, other = (memory_plan.plan_memory(net.model, (64, 64), p, CPU, "device") for p in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert own.device != other.device  # memory is planned for what runs


@pytest.mark.slow
@needs_own
def test_a_cpu_in_a_hurry_keeps_the_defaults() -> None:
    found = tuning.tune(CPU, lambda work: 1.0, seconds=-1)
    assert found.choice == DEFAULT and found.won == {}


def test_the_search_for_tile_sizes_goes_group_by_group() -> None:
    tried: list[dict[str, int]] = []

    def seconds(tiles: Mapping[str, int]) -> float:
        tried.append(dict(tiles))
        if tiles.get("TILE") == 2048:
            raise RuntimeError("out of registers")
        cost = 1.0
        cost *= 0.8 if tiles.get("TILE") == 8192 and tiles.get("LAUNCH") == 8 else 1.0
        cost *= 0.9 if tiles.get("SUM_TILE") == 512 else 1.0
        return cost * (0.999 if tiles.get("SPANS") == 512 else 1.0)

    best, gain = tuning.search(seconds, time.monotonic() + 60)
    assert best["TILE"] == 8192 and best["LAUNCH"] == 8 and best["SUM_TILE"] == 512
    assert gain == pytest.approx(1 / min(0.72, 0.72 * 0.999), rel=2e-3)
    assert tried[0] == {} and len(tried) == 1 + 6 + 6 + 3
    assert tuning.search(seconds, time.monotonic() - 1)[0] == {}
    assert tuning.search(lambda tiles: 1.0 - 0.02 * bool(tiles), time.monotonic() + 60) == ({}, 1.0)


def test_a_gpu_is_searched_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acted on the CPU: the timer sees which tile sizes hold, and whether a graph is captured."""
    triton_tiles = pytest.importorskip("earth2_corrdiff.networks.kernels.triton_tiles")
    before = triton_tiles.TILE, dict(triton_tiles.LAUNCH), triton_tiles.SPANS
    made: list[bool] = []
    steps: dict[bool, float] = {True: 2.0, False: 1.0}
    forms = {"tiled_attention": 2.0, "flex_attention": 0.5, "natten_attention": 1.0}

    def engine(net: object, dtype: torch.dtype, graphs: bool) -> Any:
        made.append(graphs)
        return SimpleNamespace(prepare=lambda cond: cond)

    monkeypatch.setattr(tuning, "TorchExecutor", engine)
    monkeypatch.setattr(tuning, "SHAPES", ((1, 128, 4, 4),))
    monkeypatch.setattr(tuning, "_network", lambda device: None)

    def timer(work: tuning.Work) -> float:
        form = getattr(getattr(work, "func", None), "__name__", "")
        if form.endswith("attention"):
            return forms[form]
        if made:
            return steps[made[-1]]
        return 0.5 if triton_tiles.TILE == 2048 and triton_tiles.LAUNCH["num_warps"] == 4 else 1.0

    choice, won = tuning._on_gpu(CPU, timer, time.monotonic() + 60)
    assert choice == Choice({"TILE": 2048, "LAUNCH": 4}, graphs=False, attention="flex")
    assert won == {"tiles": 2.0, "no graphs": 2.0, "attention by flex": 4.0}
    assert (triton_tiles.TILE, dict(triton_tiles.LAUNCH), triton_tiles.SPANS) == before
    made.clear()
    steps[True] = 0.5
    forms["flex_attention"] = 2.0
    forms["natten_attention"] = 1.99
    choice = tuning._on_gpu(CPU, timer, time.monotonic() + 60)[0]
    assert choice.graphs and choice.attention == "tiles"


def test_tile_sizes_hold_before_the_first_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_tiles = pytest.importorskip("earth2_corrdiff.networks.kernels.triton_tiles")
    for name in ("TILE", "SPANS"):
        monkeypatch.setattr(triton_tiles, name, getattr(triton_tiles, name))
    monkeypatch.setitem(triton_tiles.LAUNCH, "num_warps", 4)
    monkeypatch.setattr(tuned, "chosen", lambda device: Choice({"TILE": 8192, "LAUNCH": 8}))
    ops._on_accelerator.cache_clear()
    ops._on_accelerator("cuda")
    assert triton_tiles.TILE == 8192 and triton_tiles.LAUNCH["num_warps"] == 8
    ops._on_accelerator.cache_clear()
    old = ModuleType("a version without spans")
    old.TILE = 1  # type: ignore[attr-defined]
    assert tuned.set_tiles(old, {"TILE": 2048, "SPANS": 512}) == {"TILE": 1} and not hasattr(old, "SPANS")


def test_graphs_are_left_out_where_a_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    name = "earth2_corrdiff.networks.fast.executors.TorchExecutor"
    monkeypatch.setattr(name, lambda net, dtype, graphs: made.append(graphs))
    net, gpu = make_denoiser().model, torch.device("cuda")
    for graphs in (True, False):
        with tuned.using(Choice(graphs=graphs)):
            executor_of(net, "bf16", gpu)
    assert made == [True, False]


# the command


@pytest.mark.slow
def test_the_command_says_what_it_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tuning.tune
    timer = by_engine({"fp32": 2.0, "bf16": 1.0}, {"fp32": 1.0, "bf16": 1.0})
    monkeypatch.setattr(tuning, "tune", lambda device: plain(device, timer))
    assert command.main(["tune", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    if cpu_conv.available():
        assert "chosen: PyTorch's operators in fp32" in out and "fp32: 2.00 x" in out
    assert f"kept in {tuned.path_of(CPU)}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:77"], "no device cuda:77"),
        (["--device", "meta"], "the device meta cannot be used here"),
    ],
)
def test_a_device_that_is_not_there(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["tune", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr(tuning, "_on_cpu", lambda *given: (DEFAULT, {}))
    assert command.main(["tune", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "the table cannot be written" in error and "EARTH2_CORRDIFF_CACHE" in error


@pytest.mark.slow
def test_a_store_records_a_choice_that_changes_results(tmp_path: Path, folder: Path) -> None:
    """Members of other kernels are other members: no run with another choice goes on with them."""
    package, time_ = make_package(tmp_path / "package", straight((24, 36))), "2024-07-24T12:00"

    def run(choice: Choice, **how: Any) -> dict[str, Any]:
        model = CorrDiff.load_model(Package(str(package)), precision="bf16")
        with tuned.using(choice):
            downscale(time_, model, make_source("demo"), tmp_path / "store", options=Options(1, **how))
        return dict(zarr.open_group(tmp_path / "store", mode="r").attrs)

    assert run(SLOW_OWN)["kernels"] == "PyTorch's operators"
    run(SLOW_OWN, resume=True)
    with pytest.raises(InputError, match="kernels PyTorch's operators instead of the defaults"):
        run(DEFAULT, resume=True)
    assert "kernels" not in run(DEFAULT, overwrite=True)
    with pytest.raises(InputError, match="kernels the defaults instead of PyTorch's operators"):
        run(SLOW_OWN, resume=True)
