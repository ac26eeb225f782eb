# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command plot-corrdiff, and what all commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cartopy
import pytest
import xarray as xr
from loguru import logger
from PIL import Image
from plotting_store import build, write

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser, run_command
from earth2_corrdiff.cli.plot import main, parse_samples

SCRIPT = Path(__file__).parents[2] / "scripts" / "plot-corrdiff.py"
TIME = "corrdiff-2024-07-24T1200"


@pytest.fixture(autouse=True)
def no_coastlines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("data_dir", "pre_existing_data_dir"):
        monkeypatch.setitem(cartopy.config, place, tmp_path / "empty")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = build(tmp_path / "s.zarr", times=2), tmp_path / "new" / "pictures"
    flags = ["--plot-lowres", "--ensemble", "--animate", "--threshold", "mrr=20", "--samples", "0", "2"]
    assert main([str(store), "--output-dir", str(out), *flags]) == 0
    kinds = ("animation.gif", "ensemble.png", "lowres.png", "sample-0.png", "sample-2.png")
    wanted = [
        f"corrdiff-{time}-{kind}" for time in ("2024-07-24T1200", "2024-07-24T123015") for kind in kinds
    ]
    assert names(out) == sorted(wanted)
    assert sorted(capsys.readouterr().out.split()) == sorted(str(out / name) for name in wanted)
    with Image.open(out / f"{TIME}-animation.gif") as gif:
        assert gif.n_frames == 2
    with Image.open(out / f"{TIME}-sample-0.png") as picture:
        assert picture.width > 1500


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), [("jpg", b"\xff\xd8"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_and_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, start: bytes
) -> None:
    build(tmp_path / "s.zarr", members=1)
    monkeypatch.chdir(tmp_path)
    assert main(["s.zarr", "--format", kind]) == 0
    assert (tmp_path / f"{TIME}-sample-0.{kind}").read_bytes().startswith(start)


@pytest.mark.slow
def test_unwritten_members_are_skipped_with_a_warning(tmp_path: Path) -> None:
    store, out = build(tmp_path / "s.zarr", unwritten=((0, 1),)), tmp_path / "out"
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    assert main([str(store), "--output-dir", str(out)]) == 0
    logger.remove(sink)
    assert names(out) == [f"{TIME}-sample-0.png", f"{TIME}-sample-2.png"]
    assert [line for line in said if "Sample 1 at 2024-07-24T12:00 has not been written" in line]


def complain(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run with bad input: status 2 and one line on stderr, which is returned."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plot-corrdiff: error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "9"], "no sample 9: it has 0, 1, 2"),
        (["--samples", "two"], "--samples takes members like"),
        (["--samples", "3-1"], "--samples takes members like"),
        (["--format", "bmp"], "png, jpg, pdf, svg, got bmp"),
        (["--threshold", "mrr"], "NAME=VALUE"),
        (["--threshold", "rain=3"], "no quantity rain"),
        (["--output-dir", "FILE/inside"], "cannot make the folder"),
    ],
)
def test_bad_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    store, out = build(tmp_path / "s.zarr"), tmp_path / "out"
    (tmp_path / "file").write_text("in the way")
    flags = [flag.replace("FILE", str(tmp_path / "file")) for flag in flags]
    folder = [] if "--output-dir" in flags else ["--output-dir", str(out)]
    assert message in complain([str(store), *flags, *folder], capsys)
    assert not out.exists()


def test_bad_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_text("{oops")
    write(xr.Dataset({"x": ("y", [1.0, 2.0])}), tmp_path / "alien")
    build(tmp_path / "empty", unwritten=((0, 0), (0, 1), (0, 2)))
    build(tmp_path / "lone", unwritten=((0, 0), (0, 1)))
    for name, message in {
        "nowhere": "there is no store",
        "broken": "cannot be read as a Zarr store",
        "alien": "no store of run-corrdiff: it has no lat, lon, sample, time",
        "empty": "none of the members to plot has been written",
        ".": "is not a Zarr store",
    }.items():
        assert message in complain([str(tmp_path / name)], capsys)
    assert "two written members" in complain([str(tmp_path / "lone"), "--ensemble"], capsys)


def test_damaged_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = build(tmp_path / "s.zarr")
    for chunk in (path for path in (store / "t2m" / "c").rglob("*") if path.is_file()):
        chunk.write_bytes(b"noise" * 9)
    assert "t2m cannot be read" in complain([str(store)], capsys)


@pytest.mark.slow
def test_full_disk_leaves_nothing_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    out = tmp_path / "out"
    argv = [str(build(tmp_path / "s.zarr")), "--output-dir", str(out)]
    assert "No space left on device" in complain(argv, capsys)
    assert names(out) == []


def test_interrupt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted)
    out = tmp_path / "out"
    assert main([str(build(tmp_path / "s.zarr")), "--output-dir", str(out)]) == 130
    assert capsys.readouterr().err == "plot-corrdiff: interrupted\n"
    assert names(out) == []


def test_samples_are_lists_and_ranges() -> None:
    assert parse_samples(["0", "2-4,7", "3"]) == [0, 2, 3, 4, 7]


@pytest.mark.process
def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from earth2_corrdiff.cli.plot import main\n"
        "try: main(['--help'])\n"
        "finally: print({'numpy', 'matplotlib', 'cartopy', 'xarray', 'torch', 'loguru'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("set()\n") and "--plot-lowres" in done.stdout


@pytest.mark.process
def test_script_runs_from_anywhere(tmp_path: Path) -> None:
    build(tmp_path / "s.zarr", members=1)
    environment = {**os.environ, "CARTOPY_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "s.zarr"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{TIME}-sample-0.png\n")
    bad = subprocess.run([sys.executable, str(SCRIPT), "none"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


# ---- cli/common.py


def test_run_command_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException | None) -> None:
        if error is not None:
            raise error

    assert run_command("tool", fail, None) == 0
    assert run_command("tool", fail, InputError("two\n  lines")) == 2
    assert run_command("tool", fail, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "tool: error: two lines\ntool: interrupted\n"
    with pytest.raises(InputError):
        run_command("tool", fail, InputError("shown whole"), debug=True)
    with pytest.raises(ValueError, match="a defect"):
        run_command("tool", fail, ValueError("a defect"))


@pytest.mark.process
def test_reader_that_goes_away() -> None:
    code = (
        "import sys; from earth2_corrdiff.cli.common import run_command\n"
        "sys.exit(run_command('tool', lambda n: [print('x' * 999) for _ in range(n)], 2000))"
    )
    tool = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert tool.stdout is not None and tool.stderr is not None
    tool.stdout.read(10)
    tool.stdout.close()
    assert tool.stderr.read() == b"" and tool.wait(timeout=60) == 141
    tool.stderr.close()


def test_parser_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="tool")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--unknown"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "tool: error: unrecognized arguments: --unknown (see tool --help)\n"
