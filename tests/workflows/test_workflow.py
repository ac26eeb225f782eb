# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The workflow in Earth2Studio's own server, with its queue and workers, over a Redis that is in memory."""

from __future__ import annotations

import importlib.util
import logging
import runpy
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import xarray as xr
import zarr
from run_kit import ROOT, TIMES, make_package, same

from earth2_corrdiff import CorrDiff, downscale, make_source
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.sources import make_forecast
from earth2_corrdiff.workflows import DIRECTORY

for needed in ("fakeredis", "uvicorn", "rq"):  # which take seconds to import
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"the workflow's tests need {needed}", allow_module_level=True)

NAME = "corrdiff_downscaling"
QUEUES = ("inference", "result_zip", "finalize_metadata")
CALLS = 3  # network evaluations of a member: heun with two steps
REQUEST = {"start_time": [TIMES[0]], "number_of_samples": 2, "seed": 7}
CONFIG = f"""
{NAME}:
  package: PACKAGE
  sources: [demo]
  device: cpu
  max_members: 4
  max_steps: 20
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and output of the server."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "config.yaml").write_text("{}\n")
    (folder / "workflows.yaml").write_text(CONFIG.replace("PACKAGE", str(package)))
    return folder


@pytest.fixture(scope="module")
def main(folder: Path) -> Iterator[ModuleType]:
    """Earth2Studio's server module, imported with our configuration; its logging ends with the tests."""
    root = logging.getLogger()
    handlers, level, known = list(root.handlers), root.level, set(sys.modules)
    settings = {"CONFIG_DIR": folder, "DEFAULT_OUTPUT_DIR": folder, "RESULTS_ZIP_DIR": folder}
    settings |= {"WORKFLOW_DIR": DIRECTORY, "EARTH2STUDIO_API_ACTIVE": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, str(value))
        import earth2studio.serve.server.main as module

        yield module
    for name in set(sys.modules) - known:
        if name.startswith("earth2studio.serve") or name == NAME:
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path != str(DIRECTORY)]
    root.handlers[:], root.level = handlers, level


def model_of(package: Path) -> CorrDiff:
    """As the workflow has it: accelerated."""
    from earth2studio.models.auto import Package

    return CorrDiff.load_model(Package(str(package)))


class Server:
    """The API over HTTP, and its workers, which work when they are told to."""

    def __init__(self, main: ModuleType, patch: pytest.MonkeyPatch) -> None:
        import fakeredis
        from earth2studio.serve.server import redis_factory
        from fastapi.testclient import TestClient

        self.servers, self.redis = fakeredis, fakeredis.FakeServer()
        client = fakeredis.FakeRedis(server=self.redis, decode_responses=True)
        shared = fakeredis.FakeAsyncRedis(server=self.redis, decode_responses=True)
        patch.setattr(main, "create_sync_redis_client", lambda: client)
        patch.setattr(main, "create_async_redis_client", lambda: shared)
        patch.setattr(redis_factory, "_worker_redis_instance", client)
        self.http = TestClient(main.app)

    def post(self, **parameters: Any) -> Any:
        return self.http.post(f"/v1/infer/{NAME}", json={"parameters": parameters})

    def work(self) -> None:
        """One worker for all queues, until they are empty."""
        import rq

        connection = self.servers.FakeStrictRedis(server=self.redis)
        queues = [rq.Queue(name, connection=connection) for name in QUEUES]
        rq.SimpleWorker(queues, connection=connection).work(burst=True, logging_level="ERROR")

    def waiting(self) -> bool:
        """Whether a worker has something to do."""
        connection = self.servers.FakeStrictRedis(server=self.redis)
        return any(connection.llen(f"rq:queue:{name}") for name in QUEUES)

    def finished(self, **parameters: Any) -> dict[str, Any]:
        """The status of a request that was accepted and worked on."""
        answer = self.post(**parameters)
        assert answer.status_code == 200, answer.text
        self.work()
        self.id = answer.json()["execution_id"]
        status: dict[str, Any] = self.http.get(f"/v1/infer/{NAME}/{self.id}/status").json()
        return status


@pytest.fixture(scope="module")
def server(main: ModuleType) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        server = Server(main, patch)
        with server.http:
            yield server


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """All progress that the workflow reports."""
    from earth2studio.serve.server.e2workflow import Earth2Workflow

    found: list[tuple[int, int, str]] = []
    original = Earth2Workflow.update_progress

    def note(self: Any, progress: Any) -> None:
        found.append((progress.current_step, progress.total_steps, progress.progress))
        original(self, progress)

    monkeypatch.setattr(Earth2Workflow, "update_progress", note)
    return found


@pytest.mark.slow
def test_the_server_finds_it(server: Server) -> None:
    assert NAME in server.http.get("/v1/infer/workflows").json()["workflows"]
    schema = server.http.get(f"/v1/infer/workflows/{NAME}/schema").json()
    assert schema["required"] == ["start_time"] and schema["additionalProperties"] is False
    optional = {"source", "lead_time", "number_of_samples", "number_of_steps", "solver", "seed"}
    assert set(schema["properties"]) == {"start_time", *optional}


def test_the_directory_holds_one_workflow() -> None:
    """The server imports everything in it as a top-level module."""
    assert [path.name for path in DIRECTORY.glob("*.py") if path.name != "__init__.py"] == [f"{NAME}.py"]


@pytest.mark.slow
def test_a_request_from_end_to_end(
    server: Server, folder: Path, package: Path, tmp_path: Path, told: list[tuple[int, int, str]]
) -> None:
    status = server.finished(**REQUEST)
    assert status["status"] == "completed", status
    done = [steps for steps, _, _ in told]
    assert done == sorted(done) and set(done) == set(range(2 * CALLS + 1))
    assert {total for _, total, _ in told} == {2 * CALLS}
    texts = [text for _, _, text in told]
    assert texts[0] == "fetching the input" and "denoising; 0 of 2 members written" in texts
    wrote = [text for text in texts if text.startswith("wrote")]
    assert wrote == [f"wrote member {i} of 2024-07-24T12:00" for i in range(2)]
    assert status["progress"]["current_step"] == 2 * CALLS
    results = server.http.get(f"/v1/infer/{NAME}/{server.id}/results").json()
    assert any("results.zarr" in entry["path"] for entry in results["output_files"])
    # the same fields as the command's, and the same store but for the name of what made it
    store = folder / NAME / server.id / "results.zarr"
    ours = tmp_path / "run.zarr"
    options = Options(seed=7, command=NAME)
    downscale(TIMES[0], model_of(package), make_source("demo"), ours, number_of_samples=2, options=options)
    same_but_for_metadata(store, ours)


def same_but_for_metadata(store: Path, ours: Path) -> None:
    """The server consolidates the metadata once more: arrays and attributes are compared as they are read."""
    a, b = xr.open_zarr(store), xr.open_zarr(ours)
    xr.testing.assert_identical(a.load(), b.load())
    assert a.attrs["synthetic"] == 1 and a.attrs["command"] == NAME and "t2m_lowres" in a
    for each in (store, ours):
        zarr.consolidate_metadata(each)
    same(store, ours)


@pytest.mark.slow
def test_over_http_as_earth2studios_client_reads_it(server: Server) -> None:
    server.finished(**REQUEST)
    answer = server.http.get(f"/v1/infer/{NAME}/{server.id}/results/{server.id}/results.zarr/zarr.json")
    assert answer.status_code == 200 and answer.json()["attributes"]["source"] == "demo"


@pytest.mark.slow
def test_the_example_client(
    server: Server, main: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earth2Studio's own client, over a socket; the store is read over HTTP."""
    importlib.import_module("earth2studio.data")  # whole; but without all models, which take long:
    tiny.earth2studio_module("serve.client.e2client")
    program = runpy.run_path(str(ROOT / "examples" / "workflow_client.py"))
    import uvicorn

    config = uvicorn.Config(main.app, port=0, lifespan="off", log_config=None)
    web, found = uvicorn.Server(config), list[xr.Dataset]()

    def ask() -> None:
        url = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
        found.append(program["main"](url, TIMES[0], 0.05))

    serving, asking = threading.Thread(target=web.run), threading.Thread(target=ask)
    serving.start()
    while not web.started:
        time.sleep(0.01)
    asking.start()
    while asking.is_alive():
        if server.waiting():
            server.work()
        asking.join(0.05)
    web.should_exit = True
    serving.join()
    assert found[0].sizes["sample"] == 2 and found[0].attrs["seed"] == 0
    said = capsys.readouterr().out
    request = said.partition("request ")[2].split()[0]
    ds = xr.open_zarr(folder / NAME / request / "results.zarr")
    wind = np.hypot(ds.u10m, ds.v10m).max(["time", *ds.t2m.dims[2:]])
    for member in range(2):
        assert f"member {member}: strongest wind {float(wind[member]):.1f} m/s" in said


@pytest.mark.slow
def test_settings_of_one_request_are_not_the_next_ones(server: Server, folder: Path) -> None:
    for extra, steps, solver in (({"number_of_steps": 3, "solver": "euler"}, 3, "euler"), ({}, 2, "heun")):
        assert server.finished(**REQUEST, **extra)["status"] == "completed"
        ds = xr.open_zarr(folder / NAME / server.id / "results.zarr")
        assert ds.attrs["number_of_steps"] == steps and ds.attrs["solver"] == solver


@pytest.mark.slow
def test_lead_times_are_those_of_the_command(
    server: Server, folder: Path, package: Path, tmp_path: Path
) -> None:
    assert server.finished(**REQUEST, lead_time="0/6/6h")["status"] == "completed"
    options = Options(seed=7, command=NAME)
    ours, forecast = tmp_path / "run.zarr", make_forecast("demo_fx")
    model = model_of(package)
    model.number_of_samples = 2
    downscale(TIMES[0], model, forecast, ours, options=options, lead_time="0/6/6h")
    ds, want = (xr.open_zarr(store) for store in (folder / NAME / server.id / "results.zarr", ours))
    assert ds.sizes["lead_time"] == 2
    np.testing.assert_array_equal(ds.t2m.values, want.t2m.values)


@pytest.mark.slow
def test_two_times_and_a_drawn_seed(server: Server, folder: Path) -> None:
    assert server.finished(start_time=list(TIMES), number_of_samples=1)["status"] == "completed"
    ds = xr.open_zarr(folder / NAME / server.id / "results.zarr")
    assert ds.sizes["time"] == 2 and np.isfinite(ds.t2m.values).all() and ds.attrs["seed"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"start_time": ["2024-07-24"]}, "start_time"),
        ({"start_time": "soon"}, "start_time"),
        ({"start_time": []}, "no time was given"),
        ({"start_time": [TIMES[0], TIMES[0]]}, "given twice"),
        ({"number_of_samples": 0}, "number_of_samples must be a whole number of 1 or more"),
        ({"number_of_samples": "many"}, "number_of_samples"),
        ({"number_of_steps": -1}, "number_of_steps must be"),
        ({"solver": "magic"}, "magic"),
        ({"lead_time": "soon"}, "'soon' is not a valid duration"),
        ({"lead_time": 6}, "lead_time"),
        ({"seed": 1.5}, "seed"),
        ({"memebrs": 2}, "memebrs"),
    ],
)
def test_refused_at_the_door(server: Server, wrong: dict[str, Any], says: str) -> None:
    answer = server.post(**{**REQUEST, **wrong})
    assert answer.status_code == 422 and says in answer.json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"source": "file:/etc/hosts"}, "this server has no source 'file:/etc/hosts'; choose one of demo"),
        ({"source": "gfs"}, "this server has no source 'gfs'; choose one of demo"),
        ({"start_time": ["1690-01-01T00:00"]}, "give times from 1700 to 2199"),
        ({"number_of_samples": 5}, "at most 4 members a request, over all times; got 5"),
        ({"number_of_steps": 21}, "at most 20 steps; got 21"),
    ],
)
def test_refused_by_the_worker_in_one_sentence(server: Server, wrong: dict[str, Any], says: str) -> None:
    status = server.finished(**{**REQUEST, **wrong})
    assert status["status"] == "failed" and says in status["error_message"]
    assert status["progress"]["error_message"] == status["error_message"]


@pytest.mark.slow
def test_netcdf_output_holds_the_fields(server: Server, folder: Path, package: Path, tmp_path: Path) -> None:
    from earth2studio.io import NetCDF4Backend

    workflow = sys.modules["earth2studio.serve.server.workflow"].WorkflowRegistry.instance().get(NAME)
    backend = NetCDF4Backend(str(tmp_path / "results.nc"), backend_kwargs={"mode": "w"})
    workflow.execution_id = None  # outside the server: no progress
    workflow(backend, [np.datetime64(TIMES[0]).item()], number_of_samples=2, seed=7)
    backend.close()
    model, store, options = model_of(package), tmp_path / "run.zarr", Options(seed=7)
    downscale(TIMES[0], model, make_source("demo"), store, number_of_samples=2, options=options)
    with xr.open_dataset(tmp_path / "results.nc") as ds:
        np.testing.assert_array_equal(ds.t2m.values, xr.open_zarr(store).t2m.values)


@pytest.mark.slow
def test_a_package_that_is_not_there(main: ModuleType, server: Server) -> None:
    registered = sys.modules["earth2studio.serve.server.workflow"].WorkflowRegistry.instance()
    with pytest.raises(ValueError, match="nowhere"):
        registered.get_workflow_class(NAME)(package="/nowhere/at/all", device="cpu")
