# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation: length, links, commands, options, Python and YAML agree with the code."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from earth2_corrdiff.training import read_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("examples/*.md")), ROOT / "scripts/bench/README.md"]
COMMANDS = (
    "run-corrdiff",
    "plot-corrdiff",
    "verify-corrdiff",
    "calibrate-corrdiff",
    "make-pairs",
    "train-corrdiff",
    "serve-corrdiff",
)
AMD = ("| `python run-corrdiff.py", "| `run-corrdiff.py", "| `python plot-corrdiff.py", "| `plot-corrdiff.py")
"""Rows of the README whose options are those of other programs."""
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    lines = page.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(AMD))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def options_of(command: str) -> frozenset[str]:
    """The options that a command has by its --help."""
    name = command.removesuffix("-corrdiff").replace("-", "_")
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(
            "argparse.ArgumentParser._print_message", lambda self, text, file=None: shown.append(text)
        )
        importlib.import_module(f"earth2_corrdiff.cli.{name}").main(["--help"])
    return frozenset(re.findall(r"--[a-z][a-z-]*", "".join(shown)))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_named_files_are_there(page: Path) -> None:
    for name in re.findall(r"\b(?:scripts|examples|tests)/[\w/.-]+\.(?:py|sh|yaml|md)\b", text_of(page)):
        assert (ROOT / name).is_file() or (page.parent / name).is_file(), name


@each_page
def test_options_of_the_commands(page: Path) -> None:
    """In lines of code each option belongs to its command."""
    text = re.sub(r" *\\\n *", " ", text_of(page))  # continued lines
    for line in re.findall(r"^ {4,}(.*)$", text, re.M):
        words = shlex.split(line.replace("\\%", "%"), comments=True) if line.count("'") % 2 == 0 else []
        names = [i for i, word in enumerate(words) if Path(word).name.removesuffix(".py") in COMMANDS]
        for i in names[:1]:
            known = options_of(Path(words[i]).name.removesuffix(".py"))
            used = {word.partition("=")[0] for word in words[i:] if re.match(r"--[a-z]", word)}
            assert used <= known, line


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text(page: Path) -> None:
    """In the text each option belongs to some command, but for those of scripts and examples."""
    known = frozenset({"--scale", "--quick"}).union(*map(options_of, COMMANDS))
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text_of(page)):
        if code.startswith("--") or code.split()[0] in COMMANDS:
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", code)) <= known, code


@each_page
def test_python_and_yaml(page: Path, tmp_path: Path) -> None:
    for program in fenced(page, "python"):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names)
    for document in fenced(page, "yaml"):
        (tmp_path / "train.yaml").write_text(document, encoding="utf-8")
        read_config(tmp_path / "train.yaml")


def test_the_tree_of_the_readme() -> None:
    named = re.findall(r"^(\w+)/ ", text_of(ROOT / "README.md"), re.M)
    folders = {path.parent.name for path in ROOT.glob("earth2_corrdiff/*/__init__.py")}
    assert set(named) == folders and len(named) == len(folders)
