# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's commands on the tiny network, what they write, and the README's table made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

from bench import cases, corrdiff, kernels, measure, report, roofline, timing, trials, variants  # noqa: E402
from bench.rows import Row  # noqa: E402

from earth2_corrdiff.base.errors import InputError  # noqa: E402
from earth2_corrdiff.networks.kernels import cpu_conv  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a single call, and a machine whose peaks are known: no time matters here."""
    monkeypatch.setattr(timing, "LEAST", 1e-6)
    peaks = roofline.Peaks(dict.fromkeys(roofline.TYPES, 1e11), 1e10)
    monkeypatch.setattr(roofline, "measure", lambda device, precisions: peaks)


def options(*words: str) -> Any:
    return corrdiff.parser().parse_args(["--size", "tiny", "--rounds", "2", "--steps", "3", *words])


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_every_case_in_one_small_run(
    tmp_path: Path, stock: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "tiny.json"
    content = corrdiff.run(options("--members", "1,3", "--operators", "--json", str(target)), stock)
    rows: list[Row] = content["rows"]
    names = ["stock fp32", "stock bf16", "ours fp32", "ours bf16"]
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.what, row.members), []).append(row)
    assert list(found) == [("regression", 1)] + [(w, n) for w in variants.WHAT[1:] for n in (1, 3)]
    for (what, _), those in found.items():
        assert [r.variant for r in those] == [n for n in names if what != "loop" or n != "stock bf16"]
        first, *_, half = those
        assert first.equal and first.error == 0 and first.ratio == 1 and first.accepted is None
        assert all(len(r.seconds) == 2 and 0 < r.low <= r.median <= r.high for r in those)
        if what == "loop":
            assert those[1].equal and those[1].accepted and 0 < half.error < 1e-6
        else:
            assert those[2].accepted and those[2].error < 1e-5
            assert 1e-4 < half.error < 5e-2 and half.ratio_same_type is not None
            assert those[1].flop_rate and those[1].roofline and those[1].roofline_ideal
    printed = capsys.readouterr().out
    assert "denoising step, 3 members" in printed and "One denoising step by operator class" in printed
    again = report.read(target)
    assert again["rows"] == rows and again["operators"] == content["operators"]
    assert "ours bf16" in report.readme_table([again]) and str(tmp_path) not in again["command"]


@pytest.mark.slow
def test_fields_of_stock_and_ours_are_not_degenerate(stock: ModuleType) -> None:
    """All cases move: no output is a copy of its input, a constant, or the same for every member."""
    problem = cases.make_problem(cases.SIZES["tiny"], 3, 2, CPU)
    plain, ours = variants.make_variants(problem, stock, ["fp32"], compiled=False)
    with torch.inference_mode():
        for what in variants.WHAT:
            runs = [variants.work(v, what, 2, problem.sigmas[1]) for v in (plain, ours)]
            theirs, mine = (run() for run in runs if run is not None)
            assert theirs.shape == mine.shape == (1 if what == "regression" else 2, 4, 16, 16)
            assert torch.isfinite(mine).all() and float(mine.std()) > 0.1
            assert what == "regression" or not torch.allclose(mine[0], mine[1], rtol=0.05)
            assert measure.relative_error(mine, theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_errors_to_float64_at_every_noise_level(stock: ModuleType) -> None:
    words = ("--what", "step", "--precision", "fp32,fp16,auto", "--fp64", "--all-sigmas")
    content = corrdiff.run(options(*words), stock)
    assert content["reference"] == "stock operators in fp64, the largest of all noise levels"
    errors = {row.variant: row.error for row in content["rows"]}
    assert 1e-8 < errors["stock fp32"] < 1e-5 and errors["stock as shipped"] == errors["stock fp32"]
    assert errors["stock fp32"] < errors["stock fp16"] < 1e-2
    auto = next(row for row in content["rows"] if row.variant.startswith("ours auto"))
    assert auto.precision in roofline.TYPES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check-sync",), "needs --device cuda"),
        (("--steps", "1"), "--steps of 2 or more"),
        (("--rounds", "0"), "--rounds must be 1 or more"),
        (("--device", "nonsense"), "no kind of device 'nonsense'"),
    ],
)
def test_what_cannot_be_timed_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        corrdiff.run(options("--device", "cpu", *words))


@pytest.mark.parametrize("words", [("--what", "all"), ("--members", "0"), ("--members", "1,x")])
def test_wrong_words_end_with_status_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*words)
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_half_precision_is_held_to_stock_in_the_same_type() -> None:
    ours = variants.Ours.__new__(variants.Ours)
    ours.name, ours.precision = "ours bf16", "bf16"
    errors = [{"ours bf16": (0.01, False), "stock bf16": (0.02, False)}]
    errors.append({"ours bf16": (0.03, False), "stock bf16": (0.03, False)})
    assert measure.accepted(ours, "stock bf16", errors)
    errors.append({"ours bf16": (0.04, False), "stock bf16": (0.039, False)})
    assert not measure.accepted(ours, "stock bf16", errors)
    ours.precision = "fp32"
    assert measure.accepted(ours, "stock fp32", [{"ours bf16": (1e-5, False), "stock fp32": (0.0, True)}])


# tables


def row(variant: str, seconds: tuple[float, ...], ratio: float, **what: Any) -> Row:
    middle = sorted(seconds)[len(seconds) // 2]
    common: dict[str, Any] = {
        "what": "step",
        "members": 4,
        "steps": 8,
        "precision": "fp32",
        "first_call": 1.0,
        "ratio_same_type": None,
        "error": 0.0,
        "equal": False,
        "accepted": None,
        "flop_rate": None,
        "byte_rate": None,
        "roofline": None,
        "roofline_ideal": None,
        "peak_memory": None,
    }
    made = {"variant": variant, "seconds": seconds, "median": middle, "ratio": ratio}
    return Row(**{**common, **made, "low": min(seconds), "high": max(seconds), **what})


ROWS = [
    row("stock fp32", (1.2, 0.9996, 1.0), 1.0, equal=True),
    row("ours fp32", (0.5, 0.4, 0.6), 2.0, error=9e-7, accepted=True, roofline=0.715),
    row("ours bf16", (0.1, 0.1, 0.1), 10.0, error=0.2, accepted=False, roofline=0.9),
    row("stock fp32", (0.02, 0.02, 0.02), 1.0, what="loop", equal=True),
    row("ours fp32", (3.1e-5, 3.1e-5, 3.2e-5), 645.0, what="loop", equal=True, accepted=True),
]
CONTENT: dict[str, Any] = {
    "command": "python scripts/bench-corrdiff.py --size mid",
    "size": "mid, 112 x 112",
    "reference": "stock fp32",
    "machine": {"device": "A Processor (2 cores)", "threads": 2, "load": [0.14, 1.96]},
    "versions": {"torch": "2.9", "Triton": None},
    "peaks": {"matmul": {"fp32": 4.5e11}, "copy": 3.4e10},
    "operators": [
        {
            "profiles": {"before": {"cat": 0.004}, "after": {"cat": 0.002}},
            "least": {"cat": 0.001},
            "flops": {},
        }
    ],
}
TABLE = """\
| mid, 112 x 112 | stock fp32 | ours fp32 | ours bf16 |
| --- | ---: | ---: | ---: |
| denoising step, 4 members | 1.00 s | 500 ms, **2.00** ×, 9e-07, 72 % | error 2e-01: not accepted |
| sampler's loop, 4 members, 8 steps | 20.0 ms | 31.0 µs, **645.00** ×, bit-equal |  |

*Median of 3 interleaved rounds in one process; times faster than stock fp32 (median of the ratios per \
round); relative L2 error to stock fp32; share of the roofline of fused operators. A Processor (2 cores), \
2 threads, load average 0.1 to 2.0; torch 2.9. Measured peaks: matrix product fp32 450 GFLOP/s; copy 34 \
GB/s. `python scripts/bench-corrdiff.py --size mid`*

| operators | GFLOP | before | after | roofline | of roofline |
| --- | ---: | ---: | ---: | ---: | ---: |
| cat |  | 4.00 ms | 2.00 ms | 1.00 ms | 50 % |
| sum |  | 4.00 ms | 2.00 ms | 1.00 ms | 50 % |
"""


def write(path: Path, rows: list[Row] = ROWS, **other: Any) -> Path:
    report.write(path, {**CONTENT, **other}, rows)
    return path


def test_table_of_the_readme(tmp_path: Path) -> None:
    made = report.readme_table([report.read(write(tmp_path / "mid.json"))])
    assert made == f"{TABLE}\n*{report.OPERATORS}*\n"


@pytest.mark.process
def test_table_between_the_markers(tmp_path: Path) -> None:
    readme, result = tmp_path / "README.md", write(tmp_path / "mid.json")
    inner = report.readme_table([report.read(result)])
    readme.write_text(f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n")
    command = [sys.executable, str(SCRIPTS / "bench-table.py"), str(result), "--into", str(readme)]
    for _ in range(2):
        subprocess.run(command, check=True)
        assert readme.read_text() == f"Before.\n{report.BEGIN}\n\n{inner}\n{report.END}\nAfter.\n"
    for wrong in ("", report.BEGIN, report.END + report.BEGIN, 2 * (report.BEGIN + report.END)):
        readme.write_text(wrong)
        with pytest.raises(InputError, match="needs the markers"):
            report.insert(readme, "x")


def test_results_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="cannot be read"):
        report.read(path)
    wrong: Any
    for wrong in ("{", "[]", "{}", json.dumps({"format": 99}), json.dumps({"format": 1, "rows": [{"a": 1}]})):
        path.write_text(wrong)
        with pytest.raises(InputError, match="is no result"):
            report.read(path)
    assert asdict(ROWS[0])["seconds"] == (1.2, 0.9996, 1.0)


def test_ten_operator_classes_then_the_rest() -> None:
    before = {f"k{i}": float(20 - i) for i in range(12)}
    after = {"k11": 30.0, "new": 0.5}
    header, rows = report.operator_table({"a": before, "b": after}, {"k0": 1.0, "k11": 3.0}, {"k0": 10**9})
    assert header == ["operators", "GFLOP", "a", "b", "roofline", "of roofline"]
    assert [r[0] for r in rows] == ["k11", *(f"k{i}" for i in range(9)), "all others", "sum"]
    assert rows[0][2:] == ["9.00 s", "30.0 s", "3.00 s", "10 %"] and rows[1][1] == "1.0"
    assert rows[-2][2:4] == ["21.0 s", "500 ms"] and rows[-1][3] == "30.5 s"


def test_case_table_shows_what_there_is() -> None:
    text = report.case_table([ROWS[0], replace(ROWS[2], peak_memory=2_500_000_000)])
    assert "too large" in text and "2.50" in text and "GFLOP/s" not in text
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(24.13, "24.1 s"), (0.99996, "1.00 s"), (0.0999, "99.9 ms"), (9.996e-2, "100 ms"), (3.1e-5, "31.0 µs")],
)
def test_durations(value: float, text: str) -> None:
    assert report.seconds(value) == text


# kernels


@pytest.mark.parametrize("name", trials.TRIALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_versions_of_a_kernel_agree(name: str, dtype: torch.dtype) -> None:
    if name == "convolution" and not cpu_conv.available():
        pytest.skip("the C kernels cannot be built here")
    trial = trials.TRIALS[name]((1, 16, 10, 14), dtype, CPU)
    limit = 1e-5 if dtype is torch.float32 else 2e-2
    with torch.no_grad():
        for version, work in trial.works.items():
            assert measure.relative_error(work(), trial.truth) < limit, version
    assert set(trial.works) == {"stock", "reference", "ours"}


@pytest.mark.usefixtures("hasty")
def test_kernels_in_one_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "kernels.json"
    words = ["--size", "tiny", "--rounds", "1", "--kernel", "norm,residual", "--precision", "bf16"]
    rows = kernels.run(kernels.parser().parse_args([*words, "--batch", "2", "--json", str(target)]))
    shapes = [(2, 8, 16, 16), (2, 16, 16, 16), (2, 16, 8, 8), (2, 32, 8, 8)]
    assert [r.shape for r in rows if r.kernel == "norm" and r.version == "ours"] == shapes
    assert all(r.error < 1e-2 and r.median > 0 for r in rows)
    n = 2 * 8 * 256
    assert rows[0].byte_rate == pytest.approx(12 * n * 2 / rows[0].median)
    assert "residual, bf16" in capsys.readouterr().out
    assert len(json.loads(target.read_text())["rows"]) == len(rows) == 24
