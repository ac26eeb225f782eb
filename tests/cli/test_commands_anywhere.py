# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Commands on terminals and machines of any encoding: help, versions, results, configurations."""

from __future__ import annotations

import ast
import importlib
import io
import os
import re
import runpy
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli import log
from earth2_corrdiff.cli.common import run_command

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "run-corrdiff": "earth2_corrdiff.cli.run",
    "fetch-corrdiff": "earth2_corrdiff.cli.fetch",
    "plot-corrdiff": "earth2_corrdiff.cli.plot",
    "train-corrdiff": "earth2_corrdiff.cli.train",
    "make-pairs": "earth2_corrdiff.cli.make_pairs",
    "verify-corrdiff": "earth2_corrdiff.cli.verify",
    "calibrate-corrdiff": "earth2_corrdiff.cli.calibrate",
    "serve-corrdiff": "earth2_corrdiff.cli.serve",
    "verify-demo": "bench.demo_command",
    "bench-solvers": "bench.solver_command",
}
ENCODINGS = ("ascii", "latin-1", "big5", "cp950", "shift_jis", "utf-8")


def command(name: str) -> Any:
    return importlib.import_module(COMMANDS[name]).main


def terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """What a terminal of another encoding gets from now on; strict, as Python makes its stdout."""
    shown = io.BytesIO()
    stream = io.TextIOWrapper(shown, encoding=encoding, errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for encoding in ENCODINGS:
        shown = terminal(monkeypatch, encoding)
        with pytest.raises(SystemExit) as end:
            command(name)(["--help"])
        assert end.value.code == 0 and b"usage: " + name.encode() in shown.getvalue(), encoding
        assert b"--version" in shown.getvalue(), encoding


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_commands_print(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Units, signs, and names that no encoding has: a path of other bytes, a letter of another script."""
    text = "mrr ≥ 35 dBZ, ±20 %, 448 × 448, 24 °C, m² s⁻²; 臺灣 " + os.fsdecode(b"caf\xe9.zarr")

    def work(told: str) -> None:
        print(told)
        raise InputError(told)

    shown = terminal(monkeypatch, encoding)
    assert run_command("run-corrdiff", work, text) == 2
    first, second = shown.getvalue().splitlines()
    assert b"35 dBZ" in first and second.startswith(b"run-corrdiff: error: mrr ")


def test_plain_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, "ascii")
    run_command("x", print, "loading … 2 × 3, ≥ 35, −1 °C, 臺")
    assert shown.getvalue() == b"loading ... 2 x 3, >= 35, -1 degC, ?\n"


def test_messages_of_strangers_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: object) -> None:
        raise InputError("no \x1b[2J\x07variable\nof this name")

    assert run_command("x", work, None) == 2
    assert capsys.readouterr().err == "x: error: no ?[2J?variable of this name\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_versions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command(name)(["--version"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("\n") == 1
    assert re.match(rf"{name} (\d+\.\d+|of a checkout)", out)
    for package in ("earth2studio", "torch"):
        assert f"{package} {version(package)}" in out
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in out


@pytest.mark.process
def test_versions_need_no_import() -> None:
    program = (
        "import sys; from earth2_corrdiff.cli.run import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: assert not {'torch', 'earth2studio', 'numpy', 'xarray'} & sys.modules.keys()"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, check=True)
    assert done.stdout.startswith(b"-c " if done.stdout.startswith(b"-c") else b"run-corrdiff ")


@pytest.mark.process
def test_a_configuration_is_read_as_utf8(tmp_path: Path) -> None:
    """In an environment whose own encoding is ASCII."""
    path = tmp_path / "train.yaml"
    path.write_text("name: Zürich – 臺灣\n", encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from earth2_corrdiff.training.strict import read_yaml\n"
        "assert sys.flags.utf8_mode == 0\n"
        "print(ascii(read_yaml(Path(sys.argv[1]))['name']))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    environ |= {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ascii("Zürich – 臺灣")


@pytest.mark.slow
def test_texts_have_an_encoding() -> None:
    """Every file that is opened as text says which: the machine's own is another one elsewhere."""
    silent = []
    for path in sorted([*ROOT.glob("earth2_corrdiff/**/*.py"), *ROOT.glob("scripts/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
                continue
            method = isinstance(node.func, ast.Attribute)  # path.open(mode), but open(path, mode)
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            mode = [arg.value for arg in node.args[not method :][:1] if isinstance(arg, ast.Constant)]
            if called == "open" and mode and mode[0] in ("r", "w", "a", "x", "r+", "w+", "a+"):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if called in ("read_text", "write_text"):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def test_scores_are_saved_before_they_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that fails costs the table, not the hours of work."""
    from earth2_corrdiff.cli import verify
    from earth2_corrdiff.verification import files, report, tables

    done: list[str] = []

    class GoneError(Exception):
        pass

    def printed(result: object) -> str:
        done.append("printed")
        raise GoneError

    verification = SimpleNamespace(times=[], result=lambda: SimpleNamespace(about={}))
    monkeypatch.setattr("earth2_corrdiff.verification.open_verification", lambda *a, **k: verification)
    monkeypatch.setattr(verify, "progress_bar", lambda *a, **k: [])
    monkeypatch.setattr(files, "save", lambda result, path: done.append("saved"))
    monkeypatch.setattr(report, "write_report", lambda *a: done.append("report"))
    monkeypatch.setattr(tables, "report_text", printed)
    scores = tmp_path / "scores.csv"
    with pytest.raises(GoneError):
        verify.main([str(tmp_path / "run.zarr"), "--truth", "demo", "--output", str(scores)])
    assert done == ["saved", "report", "printed"]


def test_the_log_knows_every_archive() -> None:
    """Importing them replaces the sinks of loguru: a command imports them before it logs."""
    from earth2_corrdiff.sources import registry

    known = {*registry.KINDS, *registry.FORECASTS, "cmip6"}
    assert known - {"demo", "demo_fx"} == set(log.ARCHIVES)
    assert log.is_archive("gfs:/data/mirror") and not log.is_archive("file:gfs.grib")


def test_one_format_for_all_that_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Also after Earth2Studio's imports; warnings of libraries are one line, without their place."""
    from loguru import logger

    shown = log.Log("some-command", "INFO")
    logger.debug("too much")
    logger.info("as it is")
    logger.remove()
    logger.add(sys.stdout, colorize=True)
    shown.import_earth2studio("demo")
    logger.warning("of loguru")
    warnings.warn("of two\nlines", stacklevel=1)
    warnings.warn("of tomorrow", FutureWarning, stacklevel=1)
    warnings.warn("Numcodecs codecs are not in the Zarr version 3 specification", stacklevel=1)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "some-command: INFO: as it is",
        "some-command: WARNING: of loguru",
        "some-command: WARNING: of two lines",
    ]


def test_lines_that_are_held_are_shown_later(capsys: pytest.CaptureFixture[str]) -> None:
    from loguru import logger

    shown = log.Log("some-command", held=True)
    logger.warning("early")
    assert capsys.readouterr().err == ""
    shown.release()
    logger.warning("late")
    assert capsys.readouterr().err == "some-command: WARNING: early\nsome-command: WARNING: late\n"


@pytest.mark.slow
def test_every_script_is_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the folder's programs starts and shows its options."""
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what they set ends with them
    for path in sorted((ROOT / "scripts").glob("*.py")):
        monkeypatch.setattr(sys, "argv", [str(path), "--help"])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        assert end.value.code == 0 and "usage: " in capsys.readouterr().out, path
