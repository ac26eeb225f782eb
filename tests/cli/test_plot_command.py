# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command plot-corrdiff, and what all commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cartopy
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
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


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Small pictures, unless a test is about their size."""
    if "jpg" in request.node.name:
        return
    monkeypatch.setattr("earth2_corrdiff.plotting.figures._dpi", lambda mesh, plan: 40.0)
    monkeypatch.setattr("earth2_corrdiff.plotting.animation.FRAME_DPI", 25.0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = build(tmp_path / "s.zarr", times=2), tmp_path / "new" / "pictures"
    flags = ["--plot-lowres", "--ensemble", "--animate", "--threshold", "mrr=20", "--samples", "0", "2"]
    flags += ["--colormap", "viridis"]
    assert main([str(store), "--output-dir", str(out), *flags]) == 0
    kinds = ("animation.gif", "ensemble.png", "lowres.png", "sample-0.png", "sample-2.png")
    wanted = [
        f"corrdiff-{time}-{kind}" for time in ("2024-07-24T1200", "2024-07-24T123015") for kind in kinds
    ]
    assert names(out) == sorted(wanted)
    assert sorted(capsys.readouterr().out.split()) == sorted(str(out / name) for name in wanted)
    with Image.open(out / f"{TIME}-animation.gif") as gif:
        assert gif.n_frames == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), [("jpg", b"\xff\xd8"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_and_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, start: bytes
) -> None:
    build(tmp_path / "s.zarr", members=1)
    monkeypatch.chdir(tmp_path)
    assert main(["s.zarr", "--format", kind]) == 0
    path = tmp_path / f"{TIME}-sample-0.{kind}"
    assert path.read_bytes().startswith(start)
    if kind == "jpg":
        with Image.open(path) as picture:
            assert picture.width > 1500


@pytest.mark.slow
def test_one_line_about_all_members_that_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unwritten = ((0, 1), (1, 0), (1, 1), (1, 2))
    store, out = build(tmp_path / "s.zarr", times=2, members=4, unwritten=unwritten), tmp_path / "out"
    assert main([str(store), "--ensemble", "--output-dir", str(out)]) == 0
    wanted = [*(f"{TIME}-sample-{n}.png" for n in (0, 2, 3)), "corrdiff-2024-07-24T123015-sample-3.png"]
    assert names(out) == sorted([*wanted, f"{TIME}-ensemble.png"])
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "coastlines" not in line and "no ensemble" not in line]
    assert line.startswith("plot-corrdiff: WARNING: 4 of 8 members are not written and are left out: ")
    assert line.endswith(
        ": sample 1 at 2024-07-24T12:00, sample 0 at 2024-07-24T12:30:15, sample 1 at 2024-07-24T12:30:15, …"
    )


@pytest.mark.slow
def test_a_time_with_one_member_has_no_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unwritten = ((1, 0), (1, 2))
    store, out = build(tmp_path / "s.zarr", times=2, members=3, unwritten=unwritten), tmp_path / "out"
    assert main([str(store), "--ensemble", "--output-dir", str(out)]) == 0
    assert [name for name in names(out) if "ensemble" in name] == [f"{TIME}-ensemble.png"]
    assert "only one member is written at 2024-07-24T12:30:15: no ensemble" in capsys.readouterr().err


# options of AMD's published programs


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.slow
def test_one_sample(tmp_path: Path, first: bool) -> None:
    """``--sample N`` takes one number: the store may come after it."""
    store, out = build(tmp_path / "s.zarr"), tmp_path / "out"
    argv = ["--sample", "1", str(store)] if first else [str(store), "--sample", "1"]
    assert main([*argv, "--output-dir", str(out)]) == 0
    assert names(out) == [f"{TIME}-sample-1.png"]


def colors(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        found = picture.convert("RGB").getcolors(2**24)
    assert found is not None
    return {color for _, color in found if color[0] != color[1] or color[1] != color[2]}  # type: ignore[index]


@pytest.mark.slow
def test_a_colormap_of_matplotlib(tmp_path: Path) -> None:
    """All fields have its colours, and none of the usual ones."""
    store, flags = build(tmp_path / "s.zarr", members=1), ["--plot-lowres"]
    for folder, more in {"own": [], "magma": ["--colormap", "magma"]}.items():
        assert main([str(store), *flags, *more, "--output-dir", str(tmp_path / folder)]) == 0
    magma = {tuple(map(int, color)) for color in mpl.colormaps["magma"](range(256), bytes=True)[:, :3]}
    for name in (f"{TIME}-sample-0.png", f"{TIME}-lowres.png"):
        with_it, without = (colors(tmp_path / folder / name) for folder in ("magma", "own"))
        assert len(with_it & magma) > 20 and len(without & magma) < 5
    yellow = (255, 242, 122)  # of the radar's steps
    assert yellow in colors(tmp_path / "own" / f"{TIME}-sample-0.png")
    assert yellow not in colors(tmp_path / "magma" / f"{TIME}-sample-0.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tab10", "jet"])
def test_colormaps_of_few_or_many_colours(tmp_path: Path, name: str) -> None:
    """The radar's steps have as many colours as there are steps."""
    store, out = build(tmp_path / "s.zarr", members=1), tmp_path / "out"
    assert main([str(store), "--colormap", name, "--output-dir", str(out)]) == 0
    last = tuple(int(part) for part in mpl.colormaps[name](1.0, bytes=True)[:3])
    assert last in colors(out / f"{TIME}-sample-0.png")


@pytest.mark.slow
def test_show_without_a_display(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = build(tmp_path / "s.zarr", members=1), tmp_path / "out"
    assert main([str(store), "--show", "--output-dir", str(out)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "display" in line] == [
        "plot-corrdiff: WARNING: there is no display for --show; the pictures are written and not shown"
    ]
    assert len(names(out)) == 1


@pytest.mark.slow
def test_show_opens_a_window_for_each_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown is what is written."""
    import matplotlib.pyplot as plt

    store, out = build(tmp_path / "s.zarr", members=1), tmp_path / "out"
    shown: dict[str, np.ndarray] = {}

    def show(block: bool) -> None:
        assert block and len(plt.get_fignums()) == 1
        window = plt.gcf()
        shown[plt.get_figlabels()[0]] = np.asarray(window.axes[0].images[0].get_array())

    monkeypatch.setattr(
        "matplotlib.backends.backend_agg.FigureCanvasAgg.required_interactive_framework", "qt"
    )
    monkeypatch.setattr(plt, "show", show)
    assert main([str(store), "--show", "--plot-lowres", "--output-dir", str(out)]) == 0
    assert sorted(f"{name}.png" for name in shown) == names(out) and len(shown) == 2
    for name, pixels in shown.items():
        with Image.open(out / f"{name}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), pixels[..., :3])


@pytest.mark.slow
def test_the_only_store_of_a_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMD's program names its output by the date alone."""
    monkeypatch.chdir(tmp_path)
    build(Path("outputs/corrdiff-2024-07-24T1200.zarr"), members=1)
    build(Path("outputs/corrdiff-2024-07-25T1200.zarr"), members=1)
    asked = "outputs/corrdiff-2024-07-24.zarr"
    assert main([asked, "--plot-lowres"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [f"{TIME}-sample-0.png", f"{TIME}-lowres.png"]
    assert err.splitlines()[0] == f"plot-corrdiff: {asked} stands for outputs/corrdiff-2024-07-24T1200.zarr"
    build(Path("outputs/corrdiff-2024-07-24T1800.zarr"), members=1)
    message = complain([asked], capsys)
    for hour in ("1200", "1800"):
        assert f"outputs/corrdiff-2024-07-24T{hour}.zarr" in message
    assert "there is no store" in complain(["outputs/corrdiff-2023-07-24.zarr"], capsys)
    build(Path(asked), members=1)
    assert main([asked]) == 0
    assert "stands for" not in capsys.readouterr().err


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
        (["--colormap", "magna"], "'magna' is not a colour map of Matplotlib; use one like magma"),
        (["--threshold", "rain=3"], "no quantity rain"),
        (["--output-dir", "FILE/inside"], "; give another --output-dir"),
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


@pytest.mark.slow
def test_bad_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_text("{oops")
    write(xr.Dataset({"x": ("y", [1.0, 2.0])}), tmp_path / "alien")
    build(tmp_path / "empty", unwritten=((0, 0), (0, 1), (0, 2)))
    build(tmp_path / "lone", unwritten=((0, 0), (0, 1)))
    for name, message in {
        "nowhere": "there is no store",
        "broken": "cannot be read as a Zarr store",
        "alien": "not a store of run-corrdiff: it has no lat, lon, sample, time",
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


@pytest.mark.slow
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
