# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``run-corrdiff`` as a user meets it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto.package import CallbackWholeFileCacheFileSystem
from rank_kit import finish, start
from run_kit import (
    NAMES,
    OUTPUTS,
    ROOT,
    SHAPE,
    TIMES,
    Weather,
    command,
    contents,
    load,
    make_package,
    make_taiwan,
    one_line,
    refused,
    same,
    weather_file,
)
from tiny import small_package

from earth2_corrdiff import CorrDiffTaiwan, InputError, downscale
from earth2_corrdiff.cli.common import TRY_LATER
from earth2_corrdiff.cli.measure import peak_memory
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import TAIWAN_ZIP
from earth2_corrdiff.run.downscaling import Options

H, W = SHAPE
HEAVY = {"torch", "earth2studio", "numpy", "xarray", "zarr", "matplotlib", "tqdm", "loguru", "pandas"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weather_file(tmp_path_factory.mktemp("weather") / "weather.nc")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, an own cache, and nobody who answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("NGC_CLI_SEARCH_SERVICE_URL", f"{nobody}/")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, nobody)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# what it is


@pytest.mark.process
def test_help_is_quick_and_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from earth2_corrdiff.cli.run import main\n"
        "try: main(['--help'])\n"
        f"finally: print(time.perf_counter() - start, sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    seconds, heavy = done.stderr.split(" ", 1)
    assert done.returncode == 0 and heavy == "[]\n" and float(seconds) < 1
    options = "samples steps solver seed package source device precision max-batch output overwrite resume"
    for option in [*options.split(), "demo", "debug"]:
        assert f"--{option} " in done.stdout or f"--{option}\n" in done.stdout
    for said in ("taiwan", "demo", "gfs:DIR", "file:PATH", "arco, ncar, wb2, cds", "UTC", "2024-07-24T12:00"):
        assert said in re.sub(r"\s+", " ", done.stdout)


def test_the_script_is_the_console_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("run-corrdiff", "plot-corrdiff"):
        module, function = scripts[name].split(":")
        assert callable(getattr(import_module(module), function))
        source = (ROOT / f"scripts/{name}.py").read_text()
        assert f"from {module} import {function}" in source and f"sys.exit({function}())" in source


def test_what_is_wrong_at_once_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    """An output that exists, a wrong time, a source or a package that is not there."""
    Path("outputs/taken.zarr").mkdir(parents=True)
    wrong = {
        "exists": ["2024-07-24T12:00", "--demo", "--output", "outputs/taken.zarr"],
        "yesterday": ["yesterday", "--demo"],
        "2024-07-24T13:00": ["2024-07-24T13:00"],
        "lies in the future": ["2199-01-01", "--lead", "6h", "--source", "gfs_fx"],
        "no package folder": ["2024-07-24T12:00", "--package", "none"],
        "no source": ["2024-07-24T12:00", "--source", "none"],
    }
    code = (
        "import sys; from earth2_corrdiff.cli.run import main\n"
        f"for argv in {list(wrong.values())}: assert main(argv) == 2\n"
        "print(sorted({'torch', 'earth2studio', 'xarray', 'zarr', 'pandas'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stderr
    for said, line in zip(wrong, done.stderr.splitlines(), strict=True):
        assert line.startswith("run-corrdiff: error: ") and said in line


@pytest.mark.slow
@pytest.mark.process
def test_the_demo_imports_no_archive_and_no_compiler(package: Path) -> None:
    """They take half of the time until the first member is written."""
    heavy = {"earth2studio.data", "torch._dynamo", "sympy", "matplotlib", "cartopy", "pygrib"}
    code = (
        "import sys; from earth2_corrdiff.cli.run import main\n"
        f"assert main(['{TIMES[0]}', '--source', 'demo', '--package', {str(package)!r}]) == 0\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


# a run


def test_the_main_job(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 2, "--steps", 4, "--seed", 5)
    status, out, err = command(capfd, *argv)
    assert status == 0
    final = re.fullmatch(
        r"wrote outputs/corrdiff-2024-07-24T1200\.zarr: 1 time x 2 members of mrr, t2m, u10m, v10m "
        r"on 24 x 36 points of synthetic demo weather; seed 5; "
        r"load \d+\.\d s, fetch \d+\.\d s, compute \d+\.\d s, write \d+\.\d s; "
        r"peak (resident|device) memory \d+\.\d\d GB\n",
        out,
    )
    assert final
    assert (
        "SYNTHETIC demo weather, neither observed nor forecast; 1 time x 2 members, heun with 4 steps" in err
    )
    assert re.search(r"denoising: 100%\|█+\| 14/14 ", err)  # 1 time x 2 members x 7 evaluations
    ds = xr.open_zarr("outputs/corrdiff-2024-07-24T1200.zarr")
    assert ds.attrs["command"] == f"run-corrdiff {' '.join(map(str, argv))}" and ds.mrr.notnull().all()


def test_peak_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU what PyTorch allocated; of a CPU what the system says of this process."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7_504_000_000)
    assert peak_memory(torch.device("cuda")) == "peak device memory 7.50 GB"
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    gigabytes = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e9
    found = re.fullmatch(r"peak resident memory (\d+\.\d\d) GB", peak_memory(torch.device("cpu")))
    assert found and float(found[1]) == pytest.approx(gigabytes, rel=0.2)


@pytest.mark.slow
def test_a_profile_beside_the_output(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A trace of PyTorch's profiler, on a CPU too, as the published program has it."""
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 1, "--device", "cpu")
    status, out, _ = command(capfd, *argv, "--output", "results/run.zarr", "--profile")
    first, last = out.splitlines()
    assert status == 0 and first.startswith("wrote the profile results/run-profile.json.gz; ")
    assert last.startswith("wrote results/run.zarr: ")
    with gzip.open("results/run-profile.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event.get("name") for event in events}
    assert "aten::addmm" in names or "aten::matmul" in names
    assert sorted(path.name for path in Path("results").iterdir()) == ["run-profile.json.gz", "run.zarr"]


@pytest.mark.slow
def test_a_profile_that_cannot_be_written(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("run-profile.json.gz").mkdir()
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 1, "--output", "run.zarr")
    status, _, err = command(capfd, *argv, "--profile")
    assert status == 2 and "cannot write the profile run-profile.json.gz" in err.splitlines()[-1]


@pytest.mark.slow
def test_every_option_arrives(package: Path, weather: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = [*TIMES, "--package", package, "--source", f"file:{weather}", "--solver", "dpmpp_2m", "--seed", 0]
    argv += ["--device", "cpu", "--precision", "bf16", "--max-batch", 2, "--output", "a b/run.zarr"]
    status, out, err = command(capfd, *argv)
    assert status == 0 and out.startswith("wrote a b/run.zarr: 2 times x 3 members of ")
    assert "synthetic" not in out + err and "12/12" in err
    ds = xr.open_zarr("a b/run.zarr")
    about = {key: ds.attrs[key] for key in ("solver", "precision", "seed", "source", "synthetic", "device")}
    assert about == {
        **{"solver": "dpmpp_2m", "precision": "bf16", "seed": 0, "source": f"file:{weather}"},
        **{"synthetic": 0, "device": "cpu"},
    }
    assert "--output 'a b/run.zarr'" in ds.attrs["command"]
    model = load(package, solver="dpmpp_2m")
    downscale(TIMES, model, Weather(), "fp32.zarr", options=Options(seed=0))
    difference = np.abs(ds.t2m - xr.open_zarr("fp32.zarr").t2m).mean()
    assert 0 < difference < 0.1 * ds.t2m.std()


@pytest.mark.slow
def test_a_file_with_names_and_units_of_its_own(
    package: Path, weather: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same weather as Celsius, in knots, under other names, in two files: the same input."""
    data, knot = xr.open_dataset(weather).isel(time=[0]), 1852 / 3600
    own = data.rename(t2m="warmth", u10m="u10", time="valid_time", lat="latitude", lon="longitude")
    own["warmth"] = (own["warmth"] - 273.15).assign_attrs(units="degC")
    own["u10"] = (own["u10"] / knot).assign_attrs(units="knots", long_name="10 metre U wind component")
    Path("own").mkdir()
    own[["warmth", "u10"]].to_netcdf("own/surface.nc")
    own.drop_vars(["warmth", "u10"]).to_netcdf("own/others.nc")
    argv = (TIMES[0], "--package", package, "--samples", 1, "--seed", 0)
    assert command(capfd, *argv, "--source", f"file:{weather}", "--output", "plain.zarr")[0] == 0
    status, _, err = command(
        capfd, *argv, "--source", "file:own", "--rename", "warmth=t2m", "--output", "own.zarr"
    )
    assert status == 0, err
    plain, renamed = xr.open_zarr("plain.zarr"), xr.open_zarr("own.zarr")
    assert renamed.attrs["source"] == "file:own with warmth as t2m"
    for name in ("t2m_lowres", "u10m_lowres", "z500_lowres"):
        np.testing.assert_allclose(renamed[name], plain[name], rtol=1e-5, atol=1e-3)


def test_what_may_pass_has_a_status_of_its_own(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EX_TEMPFAIL, so that cron tries again: a time that is not published yet."""
    monkeypatch.setattr("earth2_corrdiff.sources.calendars._end", lambda source, known: known)
    assert TRY_LATER == os.EX_TEMPFAIL
    message = refused(capfd, "2026-01-02", "--source", "arco", expected=TRY_LATER)
    assert "got 2026-01-02T00:00, which is not published yet; try again later" in message
    assert "which lies in the future" in refused(capfd, "2199-01-02", "--source", "arco")
    assert "rename those of file:PATH only" in refused(capfd, TIMES[0], "--demo", "--rename", "a=b")


@pytest.mark.slow
def test_times_with_an_offset_are_utc(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ("2024-07-24T14:00+02:00", "2024-07-25", "--package", package, "--source", "demo")
    status, out, _ = command(capfd, *argv)
    assert status == 0 and "outputs/corrdiff-2024-07-24T1200-to-2024-07-25T0000.zarr" in out


@pytest.mark.slow
def test_demo_means_both(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capfd, TIMES[0], "--demo", "--samples", 1, "--steps", 1)
    assert status == 0 and "of synthetic demo weather" in out and "SYNTHETIC" in err
    about = xr.open_zarr("outputs/corrdiff-2024-07-24T1200.zarr").attrs
    assert about["source"] == "demo" and "demo" in about["package"] and about["synthetic"] == 1


@pytest.mark.slow
def test_a_demo_package_on_real_weather_says_so(
    tmp_path: Path, weather: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_package(tmp_path / "package", synthetic=True)
    status, out, err = command(capfd, TIMES[0], "--package", path, "--source", f"file:{weather}")
    assert status == 0 and "points by a demo model trained on synthetic weather; seed" in out
    assert "a demo model trained on SYNTHETIC weather: its output is no forecast" in err


@pytest.mark.slow
def test_on_a_terminal_it_says_that_it_loads(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, _, err = command(capfd, TIMES[0], "--package", package, "--source", "demo", "--samples", 1)
    assert status == 0 and err.startswith(f"run-corrdiff: loading the package {package} …\n")


@pytest.mark.slow
def test_debug_shows_the_traceback(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = spoilt(Path("celsius.nc"), lambda ds: ds.assign(t2m=ds.t2m - 273.15))
    with pytest.raises(InputError, match="t2m is .* it looks like degrees Celsius"):
        command(capfd, TIMES[0], "--package", package, "--source", f"file:{path}", "--debug")


# interrupted and resumed


SLOW = (*TIMES, "--source", "demo", "--solver", "euler", "--steps", 40, "--output", "run.zarr")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs, two outputs, three members."""
    return small_package(tmp_path_factory.mktemp("little"))


def stopped(how: signal.Signals, folder: Path, *argv: object) -> tuple[int | None, str, int]:
    """Send a process a signal after two members of six: exit status, stderr, and how many are missing."""
    process = start(folder, {}, argv)
    end, marker = time.monotonic() + 60, folder / "run.zarr/member_seed/c/0/1"
    while not marker.exists():
        assert process.is_alive() and time.monotonic() < end, finish(process)
        time.sleep(0.005)
    os.kill(process.pid, how)
    ended = finish(process)
    with xr.open_zarr(folder / "run.zarr") as ds:
        missing = int((ds.member_seed == -1).sum())
    assert 1 <= missing <= 4
    return ended.status, ended.err, missing


@pytest.mark.process
def test_a_killed_run_ends_with_the_same_bytes(
    little: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = (*SLOW, "--package", little, "--seed", 3)
    status, _, missing = stopped(signal.SIGKILL, tmp_path, *argv)
    assert status == -signal.SIGKILL
    status, out, err = command(capfd, *argv, "--resume")
    assert (
        status == 0
        and f"completed run.zarr ({missing} of 6 members were missing): 2 times x 3 members" in out
    )
    assert "240/240" in err
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert command(capfd, *argv)[0] == 0
    same(tmp_path / "run.zarr", Path("run.zarr"))


@pytest.mark.process
def test_an_interrupted_run_says_how_to_go_on(
    little: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C; the seed that was drawn is taken from the store. What is complete is left alone."""
    argv = (*SLOW, "--package", little)
    status, err, missing = stopped(signal.SIGINT, tmp_path, *argv)
    assert status == 130 and "Traceback" not in err
    assert err.endswith("\nrun-corrdiff: interrupted: run.zarr keeps what is done; go on with --resume\n")
    seed = xr.open_zarr("run.zarr").attrs["seed"]
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and f"completed run.zarr ({missing} of 6" in out and f"seed {seed};" in out
    before = contents(Path("run.zarr"))
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and out.startswith("nothing to do, run.zarr is complete: 2 times x 3 members of ")
    assert contents(Path("run.zarr")) == before


def test_interrupted_before_it_started(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("earth2_corrdiff.sources.inputs.fetch", interrupt)
    status, out, err = command(capfd, TIMES[0], "--package", package, "--source", "demo")
    assert (status, out, err) == (130, "", "run-corrdiff: interrupted\n") and not list(Path().iterdir())


@pytest.mark.slow
def test_resume_of_another_run_is_refused(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 2)
    assert command(capfd, *argv, "--seed", 1)[0] == 0
    before = contents(Path())
    message = refused(capfd, *argv, "--resume", "--seed", 2, "--steps", 3)
    store = "outputs/corrdiff-2024-07-24T1200.zarr"
    assert message.startswith(
        f"{store} belongs to another run, it has number of steps 2 instead of 3; seed 1 in"
    )
    assert "exists; use --resume to go on with it, or --overwrite" in refused(capfd, *argv)
    assert contents(Path()) == before
    status, out, _ = command(capfd, *argv, "--overwrite", "--seed", 2)
    assert status == 0 and out.startswith(f"wrote {store}: ") and contents(Path()) != before


@pytest.mark.slow
def test_resume_without_a_store_starts_afresh(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capfd, TIMES[0], "--package", package, "--source", "demo", "--resume")
    assert status == 0 and out.startswith("wrote outputs/")


# disk and memory


@pytest.mark.slow
def test_a_full_disk_leaves_a_store_to_resume(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zarr.storage import _local

    put, argv = (
        _local._put,
        (*TIMES, "--package", package, "--source", "demo", "--seed", 1, "--output", "run.zarr"),
    )
    assert command(capfd, *argv)[0] == 0
    Path("run.zarr").rename("whole.zarr")

    def full(path: Path, value: Any, exclusive: bool = False) -> int:
        if "t2m/c/1/1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(path, value, exclusive)

    with monkeypatch.context() as patch:
        patch.setattr(_local, "_put", full)
        status, out, err = command(capfd, *argv)
    last = "cannot write run.zarr: No space left on device; what is written is kept, go on with --resume"
    assert status == 2 and out == "" and err.endswith(f"\nrun-corrdiff: error: {last}\n")
    assert "Traceback" not in err
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and out.startswith("completed run.zarr (2 of 6 members were missing)")
    same(Path("run.zarr"), Path("whole.zarr"))


@pytest.mark.slow
def test_no_room_for_the_store_at_all(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With a real limit of the system: no file may be longer than 2 kB. The old store stays."""
    argv = (TIMES[0], "--package", package, "--source", "demo", "--seed", 1, "--output", "run.zarr")
    assert command(capfd, *argv)[0] == 0
    before = contents(Path())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        message = refused(capfd, *argv, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message == "cannot write run.zarr: File too large" and contents(Path()) == before


@pytest.mark.slow
def test_out_of_memory_is_said(
    package: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Downscaler.sample

    def sample(self: Downscaler, rows: Any, *how: Any) -> torch.Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("HIP out of memory. Tried to allocate 9.00 GiB")
        return original(self, rows, *how)

    monkeypatch.setattr(Downscaler, "sample", sample)
    argv = (*TIMES, "--package", package, "--source", "demo", "--samples", 5, "--max-batch", 5)
    status, out, err = command(capfd, *argv)
    assert status == 0 and out.startswith("wrote ") and "30/30" in err
    assert err.count("run-corrdiff: WARNING: out of memory with 5 members at once; going on with 2\n") == 1


# bad input: one line on stderr, exit status 2, nothing lost


def spoilt(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    weather_file(path.with_suffix(".whole"))
    with xr.open_dataset(path.with_suffix(".whole")) as ds:
        change(ds).to_netcdf(path)
    return path


def hole(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign(v500=ds.v500.where((ds.lat > 22) | (ds.lon > 119)))


SPOILT: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "missing variable": (lambda ds: ds.drop_vars(["t500", "u10m"]), "has no t500, u10m; it has "),
    "NaN": (hole, "at 2024-07-24T12:00 cannot be used: v500 is NaN or infinite at 10.8 % of the points"),
    "all NaN": (lambda ds: ds * np.nan, "cannot be used: it has no values at all"),
    "Celsius": (
        lambda ds: ds.assign(t2m=ds.t2m - 273.15),
        "expected within 150 to 350 K; it looks like degrees",
    ),
    "metres": (lambda ds: ds.assign(z500=ds.z500 / 9.81), "geopotential height in m instead of geopotential"),
    "small domain": (
        lambda ds: ds.isel(lat=slice(2, None)),
        "covers 19.75 to 28 N and 116 to 125.75 E, but the model",
    ),
    "another time": (lambda ds: ds.isel(time=[1]), "has only 2024-07-25T00:00; got 2024-07-24T12:00"),
}


@pytest.mark.slow
def test_weather_that_goes_bad_later(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first time is done and stays; the last line says what is wrong and how to go on."""
    path = spoilt(Path("input.nc"), lambda ds: ds.where(ds.time == ds.time[0]))
    argv = (*TIMES, "--package", package, "--source", f"file:{path}", "--output", "run.zarr", "--seed", 1)
    status, out, err = command(capfd, *argv)
    assert status == 2 and out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith(
        "run-corrdiff: error: the input from file:input.nc at 2024-07-25T00:00 "
    )
    assert err.endswith("; run.zarr keeps what is done; go on with --resume\n")
    shutil.copy(path.with_suffix(".whole"), path)
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and out.startswith("completed run.zarr (3 of 6 members were missing)")


@pytest.fixture
def old(tmp_path: Path, capfd: pytest.CaptureFixture[str], package: Path) -> Path:
    """The default output is there already: what is refused must not touch it."""
    path = Path("outputs/corrdiff-2024-07-24T1200.zarr")
    downscale(TIMES[0], load(package, number_of_samples=1), Weather(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILT)
def test_bad_weather(case: str, package: Path, old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, says = SPOILT[case]
    path, before = spoilt(Path("input.nc"), change), contents(old)
    message = refused(capfd, TIMES[0], "--package", package, "--source", f"file:{path}", "--overwrite")
    assert says in message and "file:input.nc" in message
    assert contents(old) == before and [p.name for p in old.parent.iterdir()] == [old.name]


GFS = "the source gfs has analyses at 00, 06, 12 and 18 UTC since 2021-01-01; got "
WRONG: dict[str, tuple[list[Any], str]] = {
    "no time": (["yesterday"], "'yesterday' is not a valid time; use a format like 2024-07-24T12:00 (UTC)"),
    "future": (["2199-01-01", "--source", "gfs"], f"{GFS}2199-01-01T00:00, which lies in the future"),
    "before the archive": (["2020-12-31T18:00", "--source", "gfs"], f"{GFS}2020-12-31T18:00"),
    "off the cycle": (["2024-07-24T13:00", "--source", "gfs"], f"{GFS}2024-07-24T13:00"),
    "one of several": ([*TIMES, "2024-07-24T13:00", "--source", "gfs"], f"{GFS}2024-07-24T13:00"),
    "beyond the archive": (
        [TIMES[0], "--source", "wb2"],
        "wb2 has analyses at 00, 06, 12 and 18 UTC from 1959-01-01 to 2023-01-10T18:00; got 2024-07-24T12:00",
    ),
    "twice": ([TIMES[0], "2024-07-24T12:00Z"], "the time 2024-07-24T12:00 is given twice"),
    "no samples": ([TIMES[0], "--samples", 0], "--samples must be 1 or more, got 0"),
    "no steps": ([TIMES[0], "--steps", 0], "--steps must be 1 or more, got 0"),
    "no batch": ([TIMES[0], "--max-batch", -1], "--max-batch must be 1 or more, got -1"),
    "solver": (
        [TIMES[0], "--solver", "rk4"],
        "unknown solver 'rk4'; use one of euler, heun, stochastic, dpmpp_2m",
    ),
    "precision": ([TIMES[0], "--precision", "fp8"], "unknown precision 'fp8'; use one of auto, fp32"),
    "source": (
        [TIMES[0], "--source", "ecmwf"],
        "there is no source 'ecmwf'; choose one of gfs, arco, ncar, wb2, cds",
    ),
    "no file": ([TIMES[0], "--source", "file:none.nc"], "there is no file none.nc"),
    "no mirror": (
        [TIMES[0], "--source", "gfs:none"],
        "needs a folder laid out like NOAA's bucket; none is not one",
    ),
    "GPU": ([TIMES[0], "--device", "cuda:7"], "there is no device cuda:7: this machine has "),
    "device": (
        [TIMES[0], "--device", "abacus"],
        "there is no kind of device 'abacus'; use cpu, cuda or cuda:N",
    ),
    "meta": ([TIMES[0], "--device", "meta"], "the device meta cannot be used here ("),
    "no package": (
        [TIMES[0], "--package", "none"],
        "there is no package folder none; give taiwan, cmip6, cosmo-rea6, cosmo-rea2, hrrr, demo, a folder",
    ),
    "protocol": (
        [TIMES[0], "--package", "abc://x"],
        "the package abc://x cannot be opened (Protocol not known: abc)",
    ),
    "demo and package": (
        [TIMES[0], "--demo", "--package", "taiwan"],
        "--demo means --package demo --source demo; lea",
    ),
    "demo and source": ([TIMES[0], "--demo", "--source", "gfs"], "leave out --source"),
    "both": ([TIMES[0], "--overwrite", "--resume"], "--overwrite and --resume exclude each other"),
    "below a file": ([TIMES[0], "--output", "file/run.zarr"], "cannot write file/run.zarr: "),
    "a file": (
        [TIMES[0], "--output", "file"],
        "the output file exists and is not a store of a run; give another",
    ),
    "a folder": (
        [TIMES[0], "--output", "outputs", "--overwrite"],
        "the output outputs exists and is not a store",
    ),
    "here": ([TIMES[0], "--output", "."], "the output . exists and is not a store"),
    "no such place": ([TIMES[0], "--output", "/proc/run.zarr"], "cannot write /proc/run.zarr: No such file"),
    "long name": ([TIMES[0], "--output", "a" * 300], "File name too long"),
    "not a number": (
        [TIMES[0], "--seed", "x"],
        "argument --seed: invalid int value: 'x' (see run-corrdiff --help)",
    ),
    "nothing": ([], "the following arguments are required: TIME (see run-corrdiff --help)"),
    "unknown option": ([TIMES[0], "--sample", 4, "--gpu"], "unrecognized arguments: --gpu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_arguments(case: str, package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv, says = WRONG[case]
    given = set(map(str, argv))
    argv = argv if given & {"--package", "--demo"} else [*argv, "--package", package]
    argv = argv if given & {"--source", "--demo"} else [*argv, "--source", "demo"]
    (tmp_path / "file").write_text("precious")
    (tmp_path / "outputs/thesis").mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert says in refused(capfd, *argv)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def cut(path: Path, part: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def swap(folder: Path) -> None:
    (folder / "regression.mdlus").rename(folder / "kept")
    (folder / "diffusion.mdlus").rename(folder / "regression.mdlus")
    (folder / "kept").rename(folder / "diffusion.mdlus")


PACKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: [f.unlink() for f in p.iterdir()], "has no metadata.json"),
    "no weights": (lambda p: (p / "diffusion.mdlus").unlink(), "has no diffusion.mdlus"),
    "no grid": (lambda p: (p / "output_latlon_grid.nc").unlink(), "has no output_latlon_grid.nc"),
    "cut weights": (
        lambda p: cut(p / "regression.mdlus"),
        "regression.mdlus is not a complete .mdlus checkpoint",
    ),
    "cut grid": (
        lambda p: cut(p / "output_latlon_grid.nc"),
        "output_latlon_grid.nc is no complete NetCDF file",
    ),
    "cut metadata": (lambda p: cut(p / "metadata.json"), "metadata.json is not valid JSON"),
    "fewer inputs": (
        lambda p: rewrite(p / "metadata.json", input_variables=list(NAMES[1:])),
        "its files do not belong together",
    ),
    "fewer outputs": (
        lambda p: rewrite(p / "metadata.json", output_variables=list(OUTPUTS.names[1:])),
        "its files do not belong together",
    ),
    "other statistics": (lambda p: rewrite(p / "stats.json", output={}), "has no output statistics of mrr"),
    "other domain": (
        lambda p: shutil.copy(
            make_package(p / "x").parent / "output_latlon_grid.nc", p / "input_latlon_grid.nc"
        ),
        "curvilinear input grid",
    ),
    "exchanged": (swap, "are the checkpoints exchanged?"),
    "solver": (lambda p: rewrite(p / "metadata.json", sampler_type="deterministic", solver="rk4"), "rk4"),
}


@pytest.mark.parametrize("case", PACKAGES)
def test_bad_packages(case: str, package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, says = PACKAGES[case]
    damage(Path(shutil.copytree(package, tmp_path / "package")))
    assert says in refused(capfd, TIMES[0], "--source", "demo", "--package", "package")
    assert not Path("outputs").exists()


# the published package and the network


@pytest.mark.slow
def test_without_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without: the default package, one line that names a way out."""
    monkeypatch.setenv("NGC_CLI_SEARCH_SERVICE_URL", "https://registry.invalid/")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name)
    begun = time.monotonic()
    message = refused(capfd, TIMES[0], expected=TRY_LATER)
    assert message.startswith(
        "the package taiwan cannot be downloaded (no connection to registry.invalid: the name"
    )
    assert message.endswith("; without network use --demo, or --package with a folder")
    assert time.monotonic() - begun < 60 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "local"), [("gfs", "gfs:DIR"), ("arco", "file:PATH")])
def test_without_network_for_the_weather(
    name: str, local: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refused(capfd, TIMES[0], "--package", package, "--source", name, expected=TRY_LATER)
    assert message.startswith(f"could not fetch 2024-07-24T12:00 from {name} (no connection to ")
    assert message.endswith(f"; without network use --demo or --source {local}")
    assert not list(Path().iterdir())


class Registry(BaseHTTPRequestHandler):
    """NVIDIA's model registry, as far as Earth2Studio asks it: where a file is, and the file."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/file":
            self.reply(self.server.data, self.server.sends)
        elif self.path.startswith(
            "/v2/models/org/nvidia/team/modulus/corrdiff_inference_package/1/files?path="
        ):
            known = self.path.endswith(f"={TAIWAN_ZIP}")
            url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
            self.reply(json.dumps({"urls": [url]}).encode()) if known else self.send_error(404)
        else:
            self.send_error(500)

    def reply(self, data: bytes, part: float = 1.0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: int(part * len(data))])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serves a small package of the published layout; ``sends`` is the part of it that arrives."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    folder = make_taiwan(tmp_path.parent / f"{tmp_path.name}-taiwan")
    server.data, server.sends, server.asked, server.folder = (
        (folder / TAIWAN_ZIP).read_bytes(),
        1.0,
        [],
        folder,
    )
    monkeypatch.setenv("NGC_CLI_SEARCH_SERVICE_URL", f"http://127.0.0.1:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_default_package_is_downloaded_once(
    registry: Any, weather: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published package through Earth2Studio's ``Package``: from the registry, then from the cache."""
    argv = (TIMES[0], "--source", f"file:{weather}", "--samples", 2, "--seed", 1)
    status, out, _ = command(capfd, *argv)
    assert status == 0 and "1 time x 2 members of mrr, t2m, u10m, v10m on 32 x 32 points; seed 1" in out
    assert registry.asked.count("/file") == 1
    ds = xr.open_zarr("outputs/corrdiff-2024-07-24T1200.zarr").load()
    assert ds.attrs["package"] == "CorrDiff-Taiwan" and (ds.solver, ds.number_of_steps) == ("euler", 8)
    model = CorrDiffTaiwan.load_model(Folder(registry.folder))
    model.number_of_samples = 2
    downscale(TIMES[0], model, Weather(), "python.zarr", options=Options(seed=1))
    np.testing.assert_array_equal(ds.mrr, xr.open_zarr("python.zarr").mrr)
    monkeypatch.setenv("NGC_CLI_SEARCH_SERVICE_URL", f"http://127.0.0.1:{free_port()}/")
    status, out, _ = command(capfd, *argv, "--output", "cached.zarr")
    assert status == 0 and registry.asked.count("/file") == 1
    np.testing.assert_array_equal(ds.mrr, xr.open_zarr("cached.zarr").mrr)


@pytest.mark.slow
def test_an_interrupted_download_of_the_package(
    registry: Any, weather: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = (TIMES[0], "--source", f"file:{weather}", "--samples", 1)
    registry.sends = 0.5
    status, out, err = command(capfd, *argv)
    err = err.split("\n", 1)[1] if err.startswith("\rDownloading") else err
    message = one_line(status, out, err, TRY_LATER)
    assert (
        "corrdiff_inference_package@1 cannot be read: ClientPayloadError: Response payload is not comp"
        in message
    )
    assert message.endswith("; if the download broke off, try again") and not list(tmp_path.iterdir())
    registry.sends = 1.0
    CallbackWholeFileCacheFileSystem.clear_instance_cache()  # as in the user's next process
    assert command(capfd, *argv)[0] == 0


def test_a_damaged_download_of_the_package(
    registry: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    registry.data = registry.data[:-5000]
    status, out, err = command(capfd, TIMES[0], "--source", "demo")
    message = one_line(status, out, err.split("\n", 1)[1] if err.startswith("\rDownloading") else err)
    assert (
        f"{TAIWAN_ZIP} is damaged or no CorrDiff-Taiwan package" in message and "download it again" in message
    )
    assert not list(tmp_path.iterdir())
