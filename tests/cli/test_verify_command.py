# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command verify-corrdiff: tables, files, and what is refused in one line."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from plotting_store import write
from verification_kit import TIMES, build

from earth2_corrdiff.cli.verify import main

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify-corrdiff.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    _, truth = build(folder / "s.zarr", times=TIMES)
    truth.to_netcdf(folder / "truth.nc")
    return folder


@pytest.fixture
def kit(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store and the file of its truth, to be written beside."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "s.zarr", tmp_path / "truth.nc"


@pytest.mark.slow
def test_tables_report_and_scores(kit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, truth = kit
    output = store.parent / "out" / "scores.csv"
    flags = ["--variables", "t2m", "--bootstrap", "50", "--output", str(output)]
    assert main([str(store), "--truth", str(truth), *flags]) == 0
    out = capsys.readouterr().out
    report = store.parent / "s-verification.html"
    assert out.splitlines()[-2:] == [f"wrote {output}", f"wrote {report}"]
    assert "Fair CRPS" in out and "t2m" in out and "interpolation" in out
    assert report.read_text().startswith("<!DOCTYPE html>") and "verification of s.zarr" in report.read_text()
    assert output.read_text().startswith("variable,units,forecast,baseline,score")


@pytest.mark.slow
def test_choices(kit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, truth = kit
    flags = ["--variables", "mrr", "--threshold", "mrr=10,30", "--scales", "0", "150", "--bootstrap", "0"]
    other = store.parent / "other.zarr"
    other.symlink_to(store)
    flags += ["--compare", f"twin={other}", "--output", str(store.parent / "v.zarr"), "--no-report"]
    assert main([str(store), "--truth", str(truth), *flags]) == 0
    out = capsys.readouterr().out
    assert "mrr ≥ 10 dBZ" in out and "mrr ≥ 30 dBZ" in out and "t2m" not in out
    row = next(line for line in out.splitlines() if line.startswith("mrr  "))
    assert "+0 %" in row  # against itself
    ds = xr.open_zarr(store.parent / "v.zarr")
    assert ds["forecast"].values.tolist() == ["ensemble", "twin", "interpolation"]
    assert ds.sizes["scale"] == 2 and not list(store.parent.glob("*.html"))


@pytest.mark.slow
def test_a_model_adds_its_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import run_kit

    from earth2_corrdiff import demo, downscale

    package = run_kit.make_package(tmp_path / "package")
    model = run_kit.load(package, number_of_samples=2, number_of_steps=1)
    downscale(run_kit.TIMES[:1], model, demo.DemoWeather(), tmp_path / "s.zarr")
    ds = xr.open_zarr(tmp_path / "s.zarr")
    write(ds[["t2m", "mrr"]].isel(sample=0, drop=True).load(), tmp_path / "truth.zarr")
    argv = [str(tmp_path / "s.zarr"), "--truth", str(tmp_path / "truth.zarr"), "--variables", "t2m", "mrr"]
    assert main([*argv, "--package", str(package), "--device", "cpu", "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "regression" in out and "climatology" in out and "gain over regression" in out


def complain(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run with bad input: status 2 and one line on stderr, which is returned."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("verify-corrdiff: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err and len(err) < 500
    return err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variables", "rain"], "there is no variable rain"),
        (["--threshold", "mrr"], "--threshold takes"),
        (["--threshold", "mrr=a"], "--threshold takes numbers after NAME="),
        (["--threshold", "rain=3"], "there is no rain to set a threshold for"),
        (["--truth-name", "mrr=dbz"], "has no mrr; it has mrr, t2m"),
        (["--compare", "x"], "--compare takes NAME=VALUE"),
        (["--compare", "x=nowhere"], "there is no store nowhere"),
        (["--scales", "-5"], "the scales must be lengths in km"),
        (["--level", "95"], "must lie between 0 and 1"),
        (["--interval", "t"], "use one of bca, percentile"),
        (["--block", "0"], "the block of times"),
        (["--report", "r.html", "--no-report"], "exclude each other"),
        (["--output", "scores.txt"], "takes a file.csv or a store.zarr"),
        (["--output", "TRUTH/x.csv"], "cannot write"),
        (["--report", "TRUTH/x.html"], "cannot write"),
        (["--package", "nowhere"], "there is no package folder nowhere"),
        (["--truth", "nowhere.nc"], "there is no truth nowhere.nc"),
        (["--truth", "demo"], "the truth demo is on 112 x 112 points"),
    ],
)
def test_bad_flags(
    kit: tuple[Path, Path], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    store, truth = kit
    flags = [flag.replace("TRUTH", str(truth)) for flag in flags]
    assert message in complain([str(store), "--truth", str(truth), *flags], capsys)
    assert not list(store.parent.glob("*.html"))


@pytest.mark.slow
def test_bad_stores(kit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, truth = kit
    build(store.parent / "part.zarr", unwritten=((1, 2),))
    for name, message in {
        "nowhere.zarr": "there is no store",
        ".": "is not a Zarr store",
        "part.zarr": "member 2 of 2024-07-24T06:00 is not written; finish the run with run-corrdiff --resume",
    }.items():
        assert message in complain([str(store.parent / name), "--truth", str(truth), "--no-report"], capsys)
    part = ["--skip-incomplete", "--no-report", "--bootstrap", "0"]
    assert main([str(store.parent / "part.zarr"), "--truth", str(truth), *part]) == 0
    out, err = capsys.readouterr()
    assert "1 of 8 times are left out: members are missing." in out and "1 of 8 times are left out" in err


@pytest.mark.slow
def test_outputs_are_not_overwritten_unasked(
    kit: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    store, truth = kit
    output = store.parent / "scores.csv"
    output.write_text("precious")
    argv = [str(store), "--truth", str(truth), "--no-report", "--bootstrap", "0", "--output", str(output)]
    assert "use --overwrite" in complain(argv, capsys) and output.read_text() == "precious"
    assert main([*argv, "--overwrite"]) == 0 and output.read_text() != "precious"


@pytest.mark.process
def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from earth2_corrdiff.cli.verify import main\n"
        "try: main(['--help'])\n"
        "finally: print({'numpy', 'matplotlib', 'xarray', 'torch', 'loguru'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("set()\n") and "--truth" in done.stdout


@pytest.mark.process
def test_script_runs_from_anywhere(kit: tuple[Path, Path], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    argv = [sys.executable, str(SCRIPT), "s.zarr", "--truth", "demo", "--report", "r.html", "--no-report"]
    bad = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "exclude each other" in bad.stderr


@pytest.mark.slow
def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(SCRIPT.parents[1] / "examples" / "verify_in_python.py"))
    scope = program["main"].__globals__  # one time, two calls a member: what the example shows is the same
    scope["TIMES"] = scope["TIMES"][:1]
    program["main"](str(tmp_path))
    out = capsys.readouterr().out
    assert "CRPS of wind speed at 10 m (m/s): ensemble" in out and "without areas" in out
    by_area = next(line for line in out.splitlines() if line.startswith("CRPS of temperature at 2 m"))
    plain = float(out.split("without areas: ")[1].split()[0])
    assert plain == pytest.approx(float(by_area.split("ensemble ")[1].split(",")[0]), rel=0.05)
    assert (tmp_path / "verify-in-python.html").stat().st_size > 100_000
