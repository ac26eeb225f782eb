# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Clients of the service: the published one, and the one in the examples."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from service_kit import (
    Service,
    check_members,
    fail_from,
    fields,
    make_model,
    npy,
    running,
    service,
    states,
)

from earth2_corrdiff import CorrDiff, InputError, demo, downscale
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.service.pages import EXAMPLE

__all__ = ["service"]
ROOT = Path(__file__).parents[2]


# the published client


@pytest.mark.slow
def test_the_published_benchmark_client(service: Service, tmp_path: Path) -> None:
    """Its request as NVIDIA's performance page has it; only its undefined name is put right."""
    requests = pytest.importorskip("requests")
    file = tmp_path / "input.npy"
    file.write_bytes(npy(states(1)[None]))  # 5-D, as the quickstart makes it
    for steps in (8, 18):
        data = {"samples": 1, "steps": steps, "seed": 0}
        with file.open("rb") as opened:
            r = requests.post(
                f"http://127.0.0.1:{service.port}/v1/infer",
                headers={"accept": "application/x-tar"},
                data=data,
                files={"input_array": ("input_array", opened)},
                timeout=180,
            )
        assert r.status_code == 200
        check_members(r.content, states(1), 0, 1, steps=steps)


# the example


@pytest.fixture
def example() -> dict[str, Any]:
    pytest.importorskip("requests")
    return runpy.run_path(str(ROOT / "examples/infer_client.py"))


@pytest.mark.slow
def test_the_example_takes_members_as_they_come(service: Service, example: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{service.port}"
    example["wait_until_ready"](url)
    want = fields(states(2), consecutive_seeds(4, 2), steps=3)
    for (sample, state), values in example["infer"](url, states(2), samples=2, seed=4, steps=3):
        assert np.array_equal(values, want[state, sample])
    with pytest.raises(SystemExit, match="422: .*samples must be a whole number from 1 to 64"):
        list(example["infer"](url, states(1), samples=0))


@pytest.mark.slow
def test_the_example_notices_an_answer_that_breaks_off(example: dict[str, Any]) -> None:
    """Also where it ends exactly between two members, as a tar without its end."""
    exceptions = pytest.importorskip("urllib3.exceptions")
    model = make_model()
    with running(model=model) as service:
        fail_from(model, 3)
        members = example["infer"](f"http://127.0.0.1:{service.port}", states(1), samples=5)
        assert [next(members)[0], next(members)[0]] == [(0, 0), (1, 0)]
        with pytest.raises(exceptions.ProtocolError, match="IncompleteRead"):
            list(members)


@pytest.mark.slow
def test_the_whole_example(tmp_path: Path, example: dict[str, Any]) -> None:
    """On the demo, as its first lines say; two members with few steps."""
    model = CorrDiff.load_model(demo.package())
    example["FIELDS"].update(samples=2, steps=1)
    with running(load=lambda: model) as service:
        example["main"](f"http://127.0.0.1:{service.port}", str(tmp_path / "members.nc"))
    ds = xr.open_dataset(tmp_path / "members.nc")
    model.number_of_samples, model.number_of_steps = 2, 1
    downscale(example["TIME"], model, demo.DemoWeather(), tmp_path / "run.zarr", options=Options(seed=0))
    run = xr.open_zarr(tmp_path / "run.zarr")
    for name in ("mrr", "t2m", "u10m", "v10m"):
        assert np.array_equal(ds[name].values, run[name].values[0]) and ds[name].units
    assert np.array_equal(ds.lat, run.lat) and ds.lat.dims == ("y", "x")


def test_the_help_of_the_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("requests")
    monkeypatch.setattr("sys.argv", ["infer_client.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "examples/infer_client.py"), run_name="__main__")
    assert stop.value.code == 0 and "http://127.0.0.1:8000" in capsys.readouterr().out


# curl


@pytest.mark.process
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_as_the_documentation_has_it(service: Service, tmp_path: Path) -> None:
    """The lines of /docs, but for the one that writes the input, which has a test of its own."""
    (tmp_path / "input.npy").write_bytes(npy(states(1)))
    lines = EXAMPLE.format(url=f"http://127.0.0.1:{service.port}").splitlines()
    assert lines[0].startswith("serve-corrdiff --package demo --write-example input.npy ")
    for line in lines[1:]:
        done = subprocess.run(line.split() + ["-s", "-S", "-f"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
    check_members((tmp_path / "members.tar").read_bytes(), states(1), 0, 2, steps=12)
    assert b'"name":"tiny"' in done.stdout


# the benchmark


@pytest.mark.slow
def test_the_benchmark_measures_and_refuses(service: Service) -> None:
    bench = runpy.run_path(str(ROOT / "scripts/bench-service.py"))
    url, model = f"http://127.0.0.1:{service.port}", make_model()
    x = bench["typical"](model)
    assert x.shape == (1, 3, 6, 8) and abs(x[0, 2].mean() - 56000) < 700
    client = bench["Client"](url, npy(x))
    args = SimpleNamespace(burn_in=1, rounds=3)
    one = bench["single"](model, x, client, 2, args)
    assert one.steps == 2 and min(one.in_process, one.service) > 0 and one.bar == 0.05
    assert bench["Single"](8, 4.0, 4.3, 0.3).bar == 0.2
    load = bench["under_load"](client, 2, 3, 1)
    assert load.requests == 6 and 0 < load.p50 <= load.p95 <= load.p99 and load.per_second > 0
    with pytest.raises(InputError, match="the service answered 422: .*input_array must be"):
        bench["Client"](url, npy(x[..., 1:])).seconds(1)
