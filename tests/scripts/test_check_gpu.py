# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU, on a CPU: its sections in toy sizes, processes with faults, and what it finds wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

from bench import counts, timing  # noqa: E402
from bench import stock as upstream_networks  # noqa: E402
from bench.cases import SIZES, fresh_networks, networks  # noqa: E402
from bench.gpu import ceilings, command, demo, kernels, plan, profiles, steps, summary, switches, verdict  # noqa: E402
from bench.gpu import runner as runners  # noqa: E402
from bench.gpu.candidates import OURS, PLAIN, SHIPPED, STOCK_FP32, Candidates, stock_module  # noqa: E402
from bench.gpu.correctness import NO_WAIT  # noqa: E402
from bench.gpu.layers import layers  # noqa: E402
from bench.gpu.meter import Meter, figures  # noqa: E402
from bench.gpu.plan import Section  # noqa: E402
from bench.gpu.processes import NO_DEVICE  # noqa: E402
from bench.gpu.record import POISONED, Record, Task, read  # noqa: E402
from bench.gpu.tiles import BASELINES  # noqa: E402

from earth2_corrdiff.base.errors import InputError  # noqa: E402
from earth2_corrdiff.networks import kernels as fused  # noqa: E402

CPU = torch.device("cpu")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def task(folder: Path, name: str = "X", seconds: float = 100.0, **more: Any) -> Task:
    given: dict[str, Any] = {"device": "cpu", "tiny": True, "out": folder, "log": folder / "log.txt"}
    given |= {"name": name, "work": "", "part": folder / f"{name}.json", "deadline": time.time() + seconds}
    return Task(**(given | more))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(task(tmp_path))


# the command


def check(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check-gpu.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.mark.process
def test_a_dry_run_of_the_command(tmp_path: Path) -> None:
    """Ceilings and kernels in their processes; the other sections are run below, in this one."""
    done = check("--cpu", "--tiny", "--sections", "Bk,A", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr + (tmp_path / "log.txt").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["sections"]) == ["A", "Bk-bf16", "Bk-fp16", "Bk-fp32"]
    assert all(
        s["done"] and s["exit status"] == 0 and not s.get("failed") for s in results["sections"].values()
    )
    assert results["command"].startswith("python scripts/check-gpu.py --cpu --tiny")
    text = (tmp_path / "summary.md").read_text()
    assert text in done.stdout and "## What is wrong\n\nNothing." in text
    for title in ("A. Ceilings", "B. Kernels against float64"):
        assert f"## {title}" in text
    log = (tmp_path / "log.txt").read_text()
    assert "sections run in forks" in log and "[Bk-fp16" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sections", "A,Z"), "Z is not a section; use A, Bk, B, D, C, E, F, K, G"),
        (("--total", "0"), "--total 0 is not a valid time"),
        (
            ("--ceilings", "nowhere.json", "--sections", "D"),
            "nowhere.json is not a results.json with section A",
        ),
        (("--out", "/dev/null/x"), "/dev/null/x cannot be written"),
    ],
)
def test_wrong_options_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command.run(command.parser().parse_args(["--cpu", "--tiny", *words]))


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no GPU here; use --cpu --tiny"):
        command.run(command.parser().parse_args([]))


def test_ceilings_of_an_earlier_check(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    a = {"products TFLOP/s": {"bf16": 700.0, "tf32": 400.0}, "copy GB/s": 3000.0}
    file.write_text(json.dumps({"sections": {"A": a}}))
    found = command._ceilings(file)
    peaks = ceilings.peaks_of(found, "tf32")
    assert peaks is not None and peaks.matmul == {"fp32": 4e14} and peaks.copy == 3e12
    assert ceilings.peaks_of(found, "fp16") is None
    for content in ("{", '{"sections": {}}', '{"sections": {"A": {"copy GB/s": 1}}}', "[]"):
        file.write_text(content)
        with pytest.raises(InputError, match="results.json"):
            command._ceilings(file)


def test_sections_keep_their_order() -> None:
    assert [s.name for s in plan.chosen("G, D,A")] == ["A", "D", "G"]
    assert [s.name for s in plan.PLAN] == ["A", "Bk", "B", "D", "C", "E", "F", "K", "G"]


# sections, in this process


def run_section(name: str, folder: Path, **more: Any) -> dict[str, Any]:
    import importlib

    section = next(s for s in plan.PLAN if s.name == name)
    module, _, function = section.work.partition(":")
    made = Record(task(folder, name, **more))
    getattr(importlib.import_module(f"bench.gpu.{module}"), function)(made)
    assert not made.found.get("failed") and not verdict.faults({name: made.found}), made.found
    return made.found


def test_correctness_and_the_demo(tmp_path: Path) -> None:
    found = run_section("B", tmp_path)
    assert found["graph"]["fp32"]["error to fp32"] < 1e-5 and "equal" not in found["graph"]["bf16"]
    assert found["DiT"]["fp32"]["error to the CPU"] < 1e-5 < found["DiT"]["bf16"]["error to the CPU"] < 1e-2
    assert found["batches"] == {"same run again, same bits": True, "alone against together, error": 0.0}
    assert len(found["host waits"]) == 10 and found["default batch"] == [1, 1, 1]
    assert found["demo"]["fp32"]["error"] < 1e-5 < found["demo"]["bf16"]["error"] < 3e-2
    assert "demo against the CPU's fp32" in summary.text({"sections": {"B": found}})


def test_steps_ensembles_and_profiles(
    tmp_path: Path, stock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu.candidates.stock_module", lambda: stock)
    known = {"products TFLOP/s": {"bf16": 1.0, "fp32": 0.5}, "copy GB/s": 10.0}
    found = run_section("D", tmp_path, ceilings=known)
    first, *_ = found["steps"]["batch 1"]
    assert first == STOCK_FP32 and found["steps"]["batch 1"][first]["times faster than first"] == 1
    ours = found["steps"]["batch 2"][OURS]
    assert 0 < ours["of roofline, ideal"] < ours["of roofline, fused"] < ours["of roofline, eager"]
    assert max(found["errors"]["ours fp32"].values()) < 1e-5
    assert found["errors of a whole run"]["ours fp32"] < 1e-4
    assert set(found["ensembles"]["2 members, euler 8"]) == {SHIPPED, OURS, "ours fp16"}
    assert set(found["profiles"]) == {SHIPPED, OURS, "ours bf16, no graph"}
    text = summary.text({"sections": {"D": found}})
    assert "stock as shipped (fp16) | " in text and "(stock: its own 8)" in text


def test_steps_without_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain network takes the place of stock, and it is said that it is missing."""

    def missing() -> ModuleType:
        raise ModuleNotFoundError("No module named 'physicsnemo'", name="physicsnemo")

    monkeypatch.setattr("bench.gpu.candidates.stock_module", missing)
    record = Record(task(tmp_path, "D"))
    with torch.inference_mode():
        made = Candidates(record)
        steps.errors(record, made)
        steps.steps(record, made, 1, made.made)
    found = record.found
    assert "failed" not in found and found["left out"] == {"stock": "physicsnemo is not installed"}
    first, *rest = found["steps"]["batch 1"]
    assert first == PLAIN and OURS in rest and not any("stock" in name for name in rest)
    assert max(found["errors"]["ours fp32"].values()) < 1e-5
    assert "D: stock: physicsnemo is not installed" in summary.text({"sections": {"D": found}})


def test_a_domain_in_patches(tmp_path: Path, stock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.domain.stock_module", lambda: stock)
    found = run_section("E", tmp_path)
    ways = found["patches"]["ways"]
    assert [ways[name]["times faster than first"] for name in list(ways)[:1]] == [1]
    assert all(row["error"] < 2e-2 for row in ways.values()) and len(ways) == 4
    assert {row["error to the first way"] for row in found["regression"].values()} == {0.0}
    assert "E. 40 x 56, patches of 16" in summary.text({"sections": {"E": found}})


def test_training_recipes(tmp_path: Path, stock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.training.stock_module", lambda: stock)
    found = run_section("F", tmp_path)
    rows = list(found["recipes"].values())
    assert len(rows) >= 6 and all(row["ms per patch"] > 0 and len(row["losses"]) == 2 for row in rows)
    assert rows[0]["times faster than first"] == 1 and rows[0]["losses"][0] == pytest.approx(
        rows[-1]["losses"][0], rel=2e-2
    )


def test_tile_sizes(tmp_path: Path) -> None:
    triton_tiles = pytest.importorskip("earth2_corrdiff.networks.kernels.triton_tiles")
    found = run_section("G", tmp_path)
    assert found["defaults"]["TILE"] == triton_tiles.TILE and found["defaults"]["LAUNCH"] == 4
    rates = found["GB/s"]["(1, 16, 8, 8)"]
    assert set(rates) == {*BASELINES, "TILE 2048, LAUNCH 4", "SUM_TILE 512, SUMS 4", "SPANS 512"}
    assert "G. Tiles" in summary.text({"sections": {"G": found}})


WITHOUT = """
import importlib, json, pkgutil, sys, time
from pathlib import Path
for name in "earth2studio physicsnemo xarray zarr h5netcdf pandas cartopy matplotlib triton".split():
    sys.modules[name] = None
import bench.gpu
for module in pkgutil.iter_modules(bench.gpu.__path__, "bench.gpu."):
    importlib.import_module(module.name)
from bench.gpu import tiles, training, verdict
from bench.gpu.record import Record, Task
folder = Path(sys.argv[1])
for name, run in (("F", training.run), ("G", tiles.run)):
    task = Task(name, "", "cpu", True, time.time() + 100, folder, folder / f"{name}.json", folder / "log")
    record = Record(task)
    run(record)
    assert not verdict.faults({name: record.found}), record.found
    print(name, json.dumps(record.found["left out"]))
"""


@pytest.mark.process
def test_with_nothing_but_pytorch(tmp_path: Path) -> None:
    """Every module is imported; sections that need more are left out, and it is said why."""
    folders = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": folders},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("F ", "G "))]
    assert lines == [
        'F {"recipes": "xarray is not installed"}',
        'G {"tiles": "triton is not installed"}',
    ]


def test_the_stock_module_is_whole(stock: ModuleType) -> None:
    """It comes without the other models of its package, whose place is free again afterwards."""
    before = sys.modules.get("earth2studio.models.dx")
    found = stock_module()
    assert hasattr(found, "CorrDiffTaiwan") and found.StackedRandomGenerator is not None
    assert sys.modules.get("earth2studio.models.dx") is before


# what it finds


def demo_row(error: float) -> dict[str, Any]:
    names = ("error", "largest difference", "spread, ratio", "bound")
    row: dict[str, Any] = dict(zip(names, (error, error, 1.0, 0.05), strict=True))
    return {**row, "power per octave from the domain's length down, ratio": {"t2m": [1.0, 1.01]}}


def test_a_wrong_kernel_is_found(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fused.group_norm_silu
    kernels.forward(record, "bf16", (2, 16, 9, 7))
    right = record.found["rows"]["forward (2, 16, 9, 7)"]
    assert right["good"] and right["norm, SiLU"]["same bits alone"]

    def wrong(x: torch.Tensor, *args: Any, **how: Any) -> torch.Tensor:
        y = plain(x, *args, **how)
        y[..., -1, -1] = 0.0 if how.get("shift") is None else torch.nan  # a pixel that is not written
        return y

    monkeypatch.setattr(fused, "group_norm_silu", wrong)
    kernels.forward(record, "bf16", (2, 16, 9, 7))
    row = record.found["rows"]["forward (2, 16, 9, 7)"]
    assert not row["good"] and row["residual"]["error"] < 5e-3 < row["norm"]["error"]


def test_bits_that_depend_on_the_batch_are_found(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fused.residual_scale
    monkeypatch.setattr(fused, "residual_scale", lambda x, y, s: plain(x, y, s) * (1 + 1e-7 * (len(x) > 1)))
    kernels.forward(record, "fp32", (2, 16, 9, 7))
    row = record.found["rows"]["forward (2, 16, 9, 7)"]
    assert row["residual"]["error"] < 2e-6 and not row["residual"]["same bits alone"] and not row["good"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"failed": {"graph bf16": "ValueError: no"}}, "graph bf16: ValueError: no"),
        ({"bad": ["forward (1, 2, 3, 4)"]}, "a kernel is wrong: forward (1, 2, 3, 4)"),
        ({"graph": {"bf16": {"equal": False, "error to eager": 0.1}}}, "the captured graph in bf16 differs"),
        ({"graph equals eager": {"bf16, sigma 1": False}}, "differs from eager steps in bf16, sigma 1"),
        (
            {"host waits": {"bf16 euler": NO_WAIT, "bf16 heun": "an item"}},
            "the host waits in bf16 heun: an item",
        ),
        ({"batches": {"same run again, same bits": False}}, "the same run has other bits again"),
        ({"status": 1, "last line": "1 failed"}, "tests: 1 failed"),
        ({"demo": {"bf16": demo_row(0.2)}}, "the demo in bf16 has an error of 2.0e-01, more than 5e-02"),
        ({"demo": {"bf16": demo_row(float("nan"))}}, "the demo in bf16 has an error of nan"),
        ({"exit status": -9}, "ended with status -9"),
        ({"exit status": -9, "killed": "out of time at x"}, "killed, out of time at x"),
        ({"poisoned": "x", "exit status": 3}, "the device took no more work after x"),
    ],
)
def test_what_is_wrong_is_said_first(found: dict[str, Any], said: str) -> None:
    assert any(said in line for line in verdict.faults({"B": found}))
    text = summary.text({"sections": {"B": found if "graph" not in found else {"graph": found["graph"]}}})
    assert said in text.partition("## B.")[0]


def test_what_was_left_out_is_not_wrong() -> None:
    sections = {"E": {"skipped": "9 s were left"}, "C": {"status": 5, "last line": "no tests ran"}}
    assert verdict.faults(sections) == [] and verdict.left_out(sections) == ["E: skipped, 9 s were left"]


def test_power_per_octave_of_a_wave() -> None:
    """12 waves along an axis of 64 lie in the octave of 8 to 16."""
    x = np.sin(2 * np.pi * 12 * np.arange(64) / 64)
    power = demo.octaves(np.broadcast_to(x, (1, 48, 64)).copy())
    assert len(power) == 5 and power[3] > 50 * np.delete(power, 3).sum()
    field = np.random.default_rng(0).normal(size=(3, 2, 48, 64))
    row = demo.compare(2 * field, field, ["a", "b"])
    assert row["error"] == pytest.approx(1) and row["spread, ratio"] == pytest.approx(2)
    assert row["power per octave from the domain's length down, ratio"]["b"] == [4.0] * 5


def test_kernels_are_sorted_into_classes() -> None:
    assert profiles.classify("sm90_xmma_fprop_implicit_gemm_bf16") == "convolution, product"
    assert profiles.classify("void at::native::vectorized_elementwise_kernel<4, add>") == "elementwise"
    assert profiles.classify("nothing_known") == profiles.OTHER
    pytest.importorskip("triton")
    assert profiles.classify("_add_scaled") == profiles.OURS


# what it is made of


def test_operators_are_counted_on_this_packages_network_too(upstream: ModuleType) -> None:
    """As on PhysicsNeMo's, which is not there where stock is not installed."""
    for net in networks(SIZES["tiny"]):
        shape = (1, net.image_channels, 16, 16)
        theirs: Any = upstream_networks.network(net)
        assert Counter(counts.count(net.model, shape)) == Counter(counts.count(theirs.model, shape))


def test_layers_of_the_published_network() -> None:
    found = layers(SIZES["full"])
    assert sum(count for _, count in found.convolutions) == 158
    assert found.norms[0] == (384, 448) and (256, 28) in found.norms and len(found.norms) == 13
    flops = sum(count * shape.flops(1) for shape, count in found.convolutions)
    assert flops == pytest.approx(4.09e12, rel=0.03)


def test_networks_without_drawn_weights() -> None:
    with switches.Undrawn():
        net = fresh_networks(SIZES["tiny"])[1]
        drawn = torch.randn(3, generator=torch.Generator().manual_seed(1))
        made = networks(SIZES["tiny"])[1]
    assert float(next(net.parameters()).abs().max()) == 0 and drawn.abs().min() > 0
    for a, b in zip(made.parameters(), networks(SIZES["tiny"])[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_switches_are_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with switches.tf32(not before[0], not before[1]):
        assert torch.backends.cudnn.allow_tf32 is not before[0]
    with pytest.raises(ZeroDivisionError), switches.searching():
        assert torch.backends.cudnn.benchmark
        1 / 0  # noqa: B018
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert not torch.backends.cudnn.benchmark


class Clock:
    """Works that take as long as they say."""

    def __init__(self) -> None:
        self.spent = 0.0

    def time(self, work: timing.Work, repeats: int = 1) -> float:
        seconds: Any = work()
        self.spent += repeats * seconds
        return float(seconds)


def meter(left: float, quick: bool = False) -> tuple[Meter, Clock]:
    made, clock = Meter(CPU, quick, lambda: left - clock.spent), Clock()
    made.clock = clock
    return made, clock


def test_rounds_fit_the_time_that_is_left() -> None:
    made, clock = meter(100.0)
    works: dict[str, Callable[[], float]] = {"slow": lambda: 4.0, "fast": lambda: 1e-4}
    timings = made.interleave(works, 9, share=0.5)
    assert len(timings["slow"].seconds) == 9 and clock.spent < 50
    rows = figures(timings)
    assert rows["fast"]["times faster than first"] == pytest.approx(4e4) and rows["slow"]["ms"] == 4000
    made, clock = meter(20.0)
    assert len(made.interleave(works, 9, share=0.5)["slow"].seconds) == 1
    made, _ = meter(1e9, quick=True)
    assert len(made.interleave(works, 9)["fast"].seconds) == 2 and made.calls(1e-6) == 1
    assert meter(1.0)[0].calls(1e-3) == 50 and figures({}) == {}


def test_attempts_are_recorded_as_they_come(record: Record) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    def missing() -> None:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    def outer() -> int:
        record.attempt("inner", fail, "twice")
        assert record.found["running"] == "outer"
        record.put("a", "b", value=1)
        return 7

    assert record.attempt("outer", outer) == 7
    assert record.attempt("missing", missing) is None
    found = read(record.task.part)
    assert found["a"] == {"b": 1} and found["failed"] == {"inner": "ValueError: twice"}
    assert found["left out"] == {"missing": "no_such_package is not installed"}
    late = Record(task(record.task.out, "late", seconds=1, tiny=False))
    assert late.attempt("long", outer, least=5) is None and "long" in late.found["left out"]


# processes with faults


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Section]:
    """Makes a section of a function."""
    module = ModuleType("bench.gpu.made_for_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(name: str, function: Callable[[Record], None], most: float = 60.0) -> Section:
        setattr(module, name, function)
        return Section(name, f"made_for_a_test:{name}", most, 0.0)

    return make


def run_all(folder: Path, *made: Section, tiny: bool = True, total: float = 120.0) -> runners.Runner:
    (folder / "log.txt").touch()
    settings = runners.Settings("cpu", tiny, False, total, folder, {}, {})
    runner = runners.Runner(settings)
    runner.run(list(made))
    return runner


def good(record: Record) -> None:
    record.put("value", value=1)


@pytest.mark.process
@pytest.mark.parametrize("ending", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(POISONED)])
def test_a_section_that_breaks_is_started_again_without_what_broke_it(
    tmp_path: Path, sections: Callable[..., Section], ending: Callable[[], None]
) -> None:
    def breaks(record: Record) -> None:
        record.put("tries", f"{os.getpid()}", value=sorted(record.task.without))
        record.attempt("first", lambda: record.put("first", value=1))
        record.attempt("bad", ending)
        record.attempt("last", lambda: record.put("last", value=2))

    runner = run_all(tmp_path, sections("breaks", breaks), sections("good", good))
    found = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert found == runner.sections
    assert list(found["breaks"]["tries"].values()) == [[], ["bad"]]
    assert found["breaks"]["first"] == 1 and found["breaks"]["last"] == 2 and found["breaks"]["done"]
    assert found["breaks"]["failed"]["bad"].startswith("broke the process")
    assert found["good"]["value"] == 1 and found["breaks"]["exit status"] == 0
    assert "breaks: bad: broke the process" in (tmp_path / "summary.md").read_text()


@pytest.mark.process
def test_a_section_that_hangs_is_killed_and_what_it_had_is_kept(
    tmp_path: Path, sections: Callable[..., Section], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "GRACE", 0.5)
    pids: Path = tmp_path / "pids"

    def hangs(record: Record) -> None:
        record.put("value", value=3)
        child = subprocess.Popen(["sleep", "600"])
        pids.write_text(str(child.pid))
        record.attempt("endless", child.wait, least=0)

    run_all(tmp_path, sections("hangs", hangs, 2.0), sections("good", good), tiny=False)
    found = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert found["hangs"]["value"] == 3 and found["hangs"]["killed"] == "out of time at endless"
    assert found["good"]["value"] == 1
    time.sleep(0.2)
    case = Path(f"/proc/{pids.read_text()}/stat")
    assert not case.exists() or case.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_does_not_fit_the_time_is_skipped(tmp_path: Path, sections: Callable[..., Section]) -> None:
    made = Section("late", "made_for_a_test:good", 60.0, 1000.0)
    sections("good", good)
    runner = run_all(tmp_path, made, tiny=False, total=30.0)
    assert "it wants 1000" in runner.sections["late"]["skipped"]
    assert "late: skipped" in (tmp_path / "summary.md").read_text()


@pytest.mark.process
def test_a_section_that_raises_ends_alone(tmp_path: Path, sections: Callable[..., Section]) -> None:
    def raises(record: Record) -> None:
        record.put("value", value=3)
        raise RuntimeError("a defect")

    runner = run_all(tmp_path, sections("raises", raises), sections("good", good))
    assert runner.sections["raises"] == {"value": 3, "exit status": 1} and runner.sections["good"]["done"]
    assert "RuntimeError: a defect" in (tmp_path / "log.txt").read_text()


def test_fresh_interpreters_where_a_fork_cannot_use_the_device(tmp_path: Path) -> None:
    """The fork says so, and everything after it is spawned."""
    (tmp_path / "log.txt").touch()
    runner = runners.Runner(runners.Settings("cpu", True, False, 60.0, tmp_path, {}, {}))
    job = runners.Job(task(tmp_path))
    job._process, job.fresh = type("Ended", (), {"exitcode": NO_DEVICE}), False
    assert runner._shall_restart(job) and runner.spawn
    job.fresh = True
    assert not runner._shall_restart(job)


def test_candidates_have_a_reference_in_float32(
    record: Record, stock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu.candidates.stock_module", lambda: stock)
    found = Candidates(record, (STOCK_FP32, OURS))
    assert list(found.made) == [STOCK_FP32, OURS] and found.reference == STOCK_FP32
    assert counts.flops(found.operations) > 0
