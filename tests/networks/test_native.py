# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Building and loading the C kernels: what goes wrong on other machines, and the way without them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from loguru import logger
from tiny import make_downscaler, make_spec, relerr, weather
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.kernels import cpu_conv, native

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
with_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="there is no C compiler"
)
# Stands in for a compiler where it does not matter what is built; counts its calls.
FAKE = """#!/bin/sh
echo called >> "{log}"
for last; do :; done
sleep {pause}
cp "{made}" "$last"
"""


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(handler)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process that has not looked for the kernels yet, with an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EARTH2_CORRDIFF_CACHE", str(folder))
    monkeypatch.delenv("EARTH2_CORRDIFF_NATIVE", raising=False)
    native.library.cache_clear()
    yield folder
    native.library.cache_clear()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Puts a compiler first in PATH; returns the file that counts its calls."""

    def put(text: str = FAKE, made: str = "/etc/hostname", pause: float = 0) -> Path:
        folder, log = tmp_path / "bin", tmp_path / "log"
        folder.mkdir()
        (folder / "cc").write_text(text.format(log=log, made=made, pause=pause))
        (folder / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return log

    return put


def left(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


# where there are none


def test_without_a_compiler(cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert native.library() is None and native.library() is None
    assert len(said) == 1 and "no C compiler (cc, gcc or clang)" in said[0] and "slower" in said[0]


def test_on_another_operating_system(cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert native.library() is None
    assert len(said) == 1 and "Linux only" in said[0] and not cold.exists()


def test_on_request(cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("EARTH2_CORRDIFF_NATIVE", "0")
    assert native.library() is None and said == [] and not cold.exists()


def test_a_compiler_that_fails(cold: Path, fake: Callable[..., Path], said: list[str]) -> None:
    fake("#!/bin/sh\necho 'In file included' >&2\necho 'a.c:1: fatal error: no omp.h' >&2\nexit 1\n")
    assert native.library() is None and left(cold) == []
    assert len(said) == 1 and "(a.c:1: fatal error: no omp.h)" in said[0] and "included" not in said[0]


@with_compiler
def test_what_is_no_library(cold: Path, fake: Callable[..., Path], said: list[str]) -> None:
    """As from a compiler for another kind of machine."""
    fake()
    assert native.library() is None and len(said) == 1 and "kernels-" in said[0]


@with_compiler
def test_a_cache_that_cannot_be_written(cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    cold.write_text("a file, where a folder should be")
    monkeypatch.setenv("EARTH2_CORRDIFF_CACHE", str(cold / "below"))
    assert native.library() is None
    assert len(said) == 1 and str(cold) in said[0]


@with_compiler
def test_without_a_home(cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """As in a container, for a user who is in no list."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EARTH2_CORRDIFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert native.library() is None and len(said) == 1 and "home directory" in said[0]


# the cache


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels, for the fake compiler to copy."""
    monkeypatch.delenv("EARTH2_CORRDIFF_NATIVE", raising=False)
    native.library.cache_clear()
    found = native.library()
    assert found is not None
    return str(found._name)


@with_compiler
def test_is_built_once(library: str, cold: Path, fake: Callable[..., Path], said: list[str]) -> None:
    log = fake(made=library)
    cold.mkdir(mode=0o700)
    (cold / "old.so.part").touch()  # of a process that was killed
    for _ in range(2):
        native.library.cache_clear()
        assert native.library() is not None
    assert log.read_text() == "called\n" and left(cold) == [".part", ".so"] and said == []


@with_compiler
@pytest.mark.parametrize("what", ["open to all", "of another user"])
def test_code_of_others_is_not_loaded(
    library: str,
    cold: Path,
    fake: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    what: str,
) -> None:
    """Neither where it is to be built, nor where it is there already."""
    log = fake(made=library)
    assert native.library() is not None and cold.stat().st_mode & 0o777 == 0o700
    if what == "open to all":
        cold.chmod(0o777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: cold.stat().st_uid + 1)
    for path in (None, *cold.iterdir()):
        native.library.cache_clear()
        if path is not None:
            path.unlink()
        assert native.library() is None
    assert len(said) == 2 and all("must belong to this user" in line for line in said)
    assert log.read_text() == "called\n"


@with_compiler
def test_other_sources_flags_and_machines_have_other_files(
    library: str, cold: Path, fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(made=library)
    made = {native._built("cc")}
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    made.add(native._built("cc"))
    monkeypatch.setattr(native, "_cpu", lambda: "another")
    made.add(native._built("cc"))
    sources = cold.parent / "sources"
    shutil.copytree(Path(native.__file__).parent, sources)
    monkeypatch.setattr(native, "__file__", str(sources / "native.py"))
    assert native._built("cc") in made
    with (sources / "common.h").open("a") as header:
        header.write("// changed\n")
    made.add(native._built("cc"))
    assert len(made) == 4 and left(cold) == 4 * [".so"]


@pytest.mark.process
@with_compiler
def test_two_processes_build_at_once(library: str, cold: Path, fake: Callable[..., Path]) -> None:
    """Each its own file; the last one stays, and no half of one is ever there."""
    log = fake(made=library, pause=0.7)
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('native', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(module._built('cc'))"
    )
    command = [sys.executable, "-c", code, native.__file__]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0] and len(paths) == 1
    assert log.read_text() == 2 * "called\n" and left(cold) == [".so"]
    assert Path(paths.pop()).read_bytes() == Path(library).read_bytes()


# what is built


@pytest.mark.slow
@with_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another kind of machine")
@pytest.mark.parametrize(("flag", "lanes"), [("-march=x86-64", 4), ("-march=x86-64-v3", 8)])
def test_older_machines(cold: Path, monkeypatch: pytest.MonkeyPatch, flag: str, lanes: int) -> None:
    """Built with narrower vectors, and without this machine's conversions of float16."""
    if lanes == 8 and "avx2" not in native._cpu():
        pytest.skip("this machine is older still")
    monkeypatch.setattr(native, "FLAGS", tuple(flag if "march" in f else f for f in native.FLAGS))
    found = native.library()
    assert found is not None and found.e2c_vector_length() == lanes
    monkeypatch.setattr(cpu_conv, "library", lambda: found)
    generator = torch.Generator().manual_seed(0)
    for size, dtype in ((3, torch.float32), (1, torch.float32), (3, torch.float16), (1, torch.float16)):
        x = torch.randn(9, 13, 20, generator=generator)
        weight, bias = torch.randn(12, 20, size, size, generator=generator) / 10, torch.randn(12)
        got = cpu_conv.conv((cpu_conv.Field(x),), cpu_conv.pack(weight, bias, dtype), torch.empty(9, 13, 12))
        want = F.conv2d(x.permute(2, 0, 1).double(), weight.double(), bias.double(), padding=size // 2)
        bound = 1e-6 if dtype is torch.float32 else 2e-3
        assert relerr(got.data, want.permute(1, 2, 0)) < bound


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_pipeline_without_kernels(
    cold: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], precision: str
) -> None:
    """One warning in all, and the same fields: to rounding in float32, to bfloat16's digits in bfloat16."""
    monkeypatch.delenv("EARTH2_CORRDIFF_CACHE")
    spec = make_spec(sampling=Sampling("heun", 3))

    def run() -> torch.Tensor:
        return make_downscaler(spec, precision, accelerated=True)(weather(2), [5, 7])

    with_kernels = run()
    assert said == []
    native.library.cache_clear()
    monkeypatch.setenv("PATH", "")
    without = run()
    assert len(said) == 1 and "no C compiler" in said[0]
    error = relerr(without - without.mean(), with_kernels - without.mean())
    assert 0 < error < (1e-5 if precision == "fp32" else 2e-2)
