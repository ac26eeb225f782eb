# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of the package, read from its source: a folder is a layer, and imports go down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

NAME = "earth2_corrdiff"
ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists()) / NAME
# From the bottom to the top: each folder imports from those before it, and from no other.
LAYERS = ["base", "networks", "model", "demo", "sources", "store", "plotting", "run", "training"]
LAYERS += ["verification", "service", "workflows", "cli", "__init__", "__main__"]
HEAVY = {"torch", "earth2studio", "xarray", "zarr", "matplotlib", "cartopy", "pandas", "scipy", "tqdm"}
LIGHT = {f"{NAME}.base.{name}" for name in ("errors", "files", "object_path", "processes")}
LIGHT.add(f"{NAME}.model.packages.names")
FILES = sorted(ROOT.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module by its full name; ``lazy`` inside a function, ``typing`` for the type checker."""

    module: str
    line: int
    lazy: bool
    typing: bool

    @property
    def layer(self) -> str | None:
        """The layer of this package that it belongs to; None for other packages."""
        parts = self.module.split(".")
        return None if parts[0] != NAME else parts[1] if len(parts) > 1 else "__init__"


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(imports_in(tree_of(path), path))


def imports_in(node: ast.AST, path: Path, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for module in modules_of(child, path):
                yield Import(module, child.lineno, lazy, typing)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from imports_in(child, path, lazy or inside, typing or checked)


def modules_of(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """Full names; of ``from earth2_corrdiff import x`` the folder x, where there is one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        home = [NAME, *path.relative_to(ROOT).parts[:-1]]
        base = ".".join(filter(None, [*home[: len(home) - node.level + 1], base]))
    if base != NAME:
        return [base]
    return [f"{NAME}.{alias.name}" if alias.name in LAYERS else NAME for alias in node.names]


def goes_up(path: Path, found: Import) -> bool:
    """True if an import is from a layer above, or from none."""
    here, there = layer_of(path), found.layer
    if there in (None, here):
        return False
    return there not in LAYERS or LAYERS.index(there) > LAYERS.index(here)


def lines(faults: Iterator[tuple[Path, Import]]) -> list[str]:
    return [f"{named(path)}:{found.line} imports {found.module}" for path, found in faults]


def test_imports_go_down() -> None:
    """No exceptions: imports inside functions and for the type checker count."""
    assert {layer_of(path) for path in FILES} == set(LAYERS)
    assert lines((p, found) for p in FILES for found in imports_of(p) if goes_up(p, found)) == []


@pytest.mark.parametrize(
    ("home", "code", "up"),
    [
        ("base/grid.py", "from earth2_corrdiff.model import CorrDiff", True),
        ("base/grid.py", "from earth2_corrdiff import model", True),
        ("networks/unet.py", "from earth2_corrdiff.base.errors import InputError", False),
        ("store/writer.py", "def f():\n    import earth2_corrdiff.run.loop", True),
        ("run/loop.py", "from ..store.writer import Store", False),
        ("demo/weather.py", "from .. import run", True),
        ("demo/weather.py", "from .storm import Vortex", False),
        ("sources/registry.py", "from earth2_corrdiff import downscale", True),
        ("sources/registry.py", "import earth2_corrdiff.newcomer", True),
    ],
)
def test_an_import_that_goes_up_is_found(home: str, code: str, up: bool) -> None:
    (found,) = imports_in(ast.parse(code), ROOT / home)
    assert goes_up(ROOT / home, found) == up


def test_where_upstream_may_be_imported() -> None:
    """PhysicsNeMo in one function, Earth2Studio in one module, also by name and for types."""

    def wrong(path: Path, found: Import) -> bool:
        package = found.module.split(".")[0]
        if package == "physicsnemo":
            return named(path) != "networks/architectures.py" or not found.lazy
        return package == "earth2studio"

    assert lines((p, found) for p in FILES for found in imports_of(p) if wrong(p, found)) == []
    by_name = re.compile(r"(import_module|__import__|find_spec)\(f?['\"]earth2studio")
    assert [named(path) for path in FILES if by_name.search(path.read_text())] == ["base/studio.py"]


def test_commands_import_what_is_heavy_when_they_work() -> None:
    """``--help`` answers at once."""

    def wrong(found: Import) -> bool:
        own = found.layer in (None, "cli") or found.module in LIGHT
        return not (found.lazy or found.typing) and (found.module.split(".")[0] in HEAVY or not own)

    commands = [path for path in FILES if layer_of(path) in ("cli", "__init__")]
    assert lines((p, found) for p in commands for found in imports_of(p) if wrong(found)) == []


def attributes_of(path: Path) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)]


def test_compiling_has_its_places() -> None:
    """The network's, and that of ``flex_attention``, which is an operator only when it is compiled."""
    places = ("networks/fast/accelerate.py", "networks/neighbourhood.py")
    for path in FILES:
        names = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
        compiles = [
            text for text in attributes_of(path) if text.endswith(".compile") and text != "re.compile"
        ]
        assert named(path) in places or (not compiles and "compile" not in names), path


def test_the_library_leaves_the_process_as_it_is() -> None:
    """No logger is configured, no precision or thread count set, no figure style changed."""
    for path in (path for path in FILES if layer_of(path) != "cli"):
        for text in attributes_of(path):
            assert text not in ("logger.remove", "logger.add", "logging.basicConfig", "os.environ"), path
            changes = text.startswith(("torch.set_", "torch.backends", "plt.rcParams"))
            # float32 sets PyTorch's switches for single calls and puts them back: see test_float32.py
            assert not changes or named(path) == "networks/float32.py", (path, text)
