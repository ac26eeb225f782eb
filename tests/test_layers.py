# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of the package, read from its source: what may import what, and what may be heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

NAME = "earth2_corrdiff"
ROOT = Path(__file__).parents[1] / NAME
# A unit is a file or folder of the package. It imports from the layers below; inside the first three also
# from its own layer, in L3 only what ALLOWED says.
LAYERS = (
    {"errors", "times", "grid", "sampler", "noise", "embeddings", "metadata", "kernels"}
    | {"states", "prefetch", "place", "claims", "ranks", "share", "options", "compression", "units", "sizes"}
    | {"patch_geometry", "patching", "map_store", "tiling", "graph_pool", "float32"}
    | {"archives", "documents", "weights", "network_arguments", "netcdf_files", "zarr_members"},
    {"spec", "unet", "checkpoint", "architectures", "networks", "compatibility"}
    | {"strips", "memory", "cpu_unet", "torch_unet", "engines", "accelerate"}
    | {"budget", "placement", "view", "tuning"},
    {"package", "package_writer", "downscaler", "layout", "lockstep", "stock_attributes"},
    {"sources", "model", "handshake", "store", "run", "plotting", "demo", "training"}
    | {"arrays", "codecs", "bounded", "integrity", "output", "work", "verification", "service", "workflows"},
    {"__init__", "__main__", "cli"},
)
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units}
EARTH2STUDIO_FROM = 3
ALLOWED = {
    "model": {"handshake"},
    "run": {"model", "store", "sources", "output", "work"},
    "output": {"store"},
    "store": {"arrays", "bounded", "integrity"},
    "arrays": {"codecs"},
    "bounded": {"codecs"},
    "work": {"store"},
    "training": {"demo", "sources"},
    "verification": {"plotting", "sources"},
    "service": {"model", "run", "sources", "plotting"},
    "workflows": {"model", "run", "sources"},
    "__main__": {"cli"},
}
LAZY = {"sources": {"demo"}, "verification": {"demo"}, "workflows": {"demo"}}  # inside a function
HEAVY = {"torch", "earth2studio", "xarray", "zarr", "matplotlib", "cartopy", "pandas", "scipy", "tqdm"}
COMPILES = "accelerate"
SWITCHES = "float32"  # throws PyTorch's for single calls and puts them back: see test_float32.py


@dataclass(frozen=True)
class Import:
    """One imported module by its full name; ``lazy`` inside a function, ``typing`` for the type checker."""

    module: str
    line: int
    lazy: bool
    typing: bool

    @property
    def unit(self) -> str | None:
        """The unit of this package that it belongs to; None for other packages."""
        parts = self.module.split(".")
        if parts[0] != NAME:
            return None
        return parts[1] if len(parts) > 1 else "__init__"


FILES = sorted(ROOT.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree_of(path), path, lazy=False, typing=False))


def _imports(node: ast.AST, path: Path, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for module in _modules(child, path):
                yield Import(module, child.lineno, lazy, typing)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _imports(child, path, lazy or inside, typing or checked)


def _modules(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """Full names; of ``from earth2_corrdiff import x`` the module x, where there is one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        home = [NAME, *path.relative_to(ROOT).parts[:-1]]
        base = ".".join(filter(None, [*home[: len(home) - node.level + 1], base]))
    if base != NAME:
        return [base]
    return [f"{NAME}.{alias.name}" if alias.name in LAYER else NAME for alias in node.names]


def fault_of(path: Path, found: Import) -> str | None:
    """What is wrong with an import of this package; None if nothing is."""
    here, there = unit_of(path), found.unit
    if there is None or there == here:
        return None
    if there not in LAYER:
        return f"{there} is in no layer"
    if LAYER[there] < LAYER[here] or (LAYER[there] == LAYER[here] and LAYER[here] < EARTH2STUDIO_FROM):
        return None
    if there in ALLOWED.get(here, ()) or (there in LAZY.get(here, ()) and found.lazy):
        return None
    return f"{here} (L{LAYER[here]}) must not import {there} (L{LAYER[there]})"


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_file_is_in_a_layer() -> None:
    assert {unit_of(path) for path in FILES} == set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_go_down(path: Path) -> None:
    faults = [
        f"line {found.line}: {fault_of(path, found)}" for found in imports_of(path) if fault_of(path, found)
    ]
    assert faults == []


def test_there_are_no_cycles() -> None:
    """Not between units, imports inside functions included."""
    needs: dict[str, set[str]] = {unit: set() for unit in LAYER}
    for path in FILES:
        needs[unit_of(path)] |= {found.unit for found in imports_of(path) if found.unit and not found.typing}
    needs = {unit: others - {unit} for unit, others in needs.items()}
    while needs:
        ready = [unit for unit, others in needs.items() if not others & needs.keys()]
        assert ready, f"these import each other: {sorted(needs)}"
        for unit in ready:
            del needs[unit]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_where_upstream_may_be_imported(path: Path) -> None:
    """PhysicsNeMo in one file and inside a function; Earth2Studio not below L3, not even for types."""
    for found in imports_of(path):
        package = found.module.split(".")[0]
        if package == "physicsnemo":
            assert named(path) == "architectures.py" and found.lazy, found
        if package == "earth2studio":
            assert LAYER[unit_of(path)] >= EARTH2STUDIO_FROM, found


@pytest.mark.parametrize("path", FILES, ids=named)
def test_compiling_has_one_place(path: Path) -> None:
    """``torch.compile`` belongs to one file; regular expressions do not count."""
    names = [
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and node.attr == "compile"
    ]
    bare = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name) and node.id == "compile"]
    other = [ast.unparse(node) for node in [*names, *bare] if ast.unparse(node) != "re.compile"]
    assert other == [] or unit_of(path) == COMPILES


# What trains the demo is no command that is installed.
COMMANDS = [
    path
    for path in FILES
    if unit_of(path) in ("cli", "__init__") and not path.name.startswith(("demo_", "train_"))
]


@pytest.mark.parametrize("path", COMMANDS, ids=named)
def test_commands_import_what_is_heavy_when_they_work(path: Path) -> None:
    """``--help`` answers at once."""
    for found in imports_of(path):
        if not found.lazy and not found.typing:
            assert found.module.split(".")[0] not in HEAVY, found
            assert found.unit in (None, "cli", "errors"), found


@pytest.mark.parametrize("path", [p for p in FILES if unit_of(p) != "cli"], ids=named)
def test_the_library_leaves_the_process_as_it_is(path: Path) -> None:
    """No logger is configured, no precision or thread count set, no figure style changed."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            assert text not in ("logger.remove", "logger.add", "logging.basicConfig", "os.environ"), text
            changes = text.startswith(("torch.set_", "torch.backends", "plt.rcParams"))
            assert not changes or unit_of(path) == SWITCHES, text


# the test itself


@pytest.mark.parametrize(
    ("home", "code", "fault"),
    [
        ("grid.py", "from earth2_corrdiff.model import CorrDiff", True),
        ("grid.py", "from earth2_corrdiff import model", True),
        ("grid.py", "from earth2_corrdiff.errors import InputError", False),
        ("store.py", "import earth2_corrdiff.model", True),
        ("run.py", "from earth2_corrdiff.store import Store", False),
        ("run.py", "from earth2_corrdiff.plotting import maps", True),
        ("demo/weather.py", "from ..errors import InputError", False),
        ("demo/weather.py", "from .. import run", True),
        ("demo/weather.py", "from .storm import Vortex", False),
        ("sources/registry.py", "from earth2_corrdiff.demo import DemoWeather", True),
        ("sources/registry.py", "def f():\n    from earth2_corrdiff.demo import DemoWeather", False),
        ("model.py", "from earth2_corrdiff import downscale", True),
        ("model.py", "import earth2_corrdiff.newcomer", True),
    ],
)
def test_a_wrong_import_is_found(home: str, code: str, fault: bool) -> None:
    path = ROOT / home
    found = list(_imports(ast.parse(code), path, lazy=False, typing=False))
    assert len(found) == 1 and bool(fault_of(path, found[0])) == fault
