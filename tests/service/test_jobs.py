# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs of the service, over HTTP: what they make, how they are watched, refused, cancelled and kept."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import LocalCluster
from job_kit import CALLS, COMMAND, ORDER, ROOT, JobService, by_command, read_events, serving
from lead_kit import HOURS, arguments
from loguru import logger
from matplotlib.figure import Figure
from PIL import Image
from run_kit import TIMES, load, same, weather_file
from service_kit import Valve, running, untar, until
from tiny import INPUTS, make_networks, make_spec, randomise, small_package, weather
from zarr.storage import ZipStore, _local

from earth2_corrdiff import CorrDiff, InputError, downscale, plotting, save_package
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.networks.preconditioned import create
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.service import job_runner, jobs_api
from earth2_corrdiff.service.archives import zipped
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.job import Order
from earth2_corrdiff.service.jobs import Jobs, Keeping
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.sources import Source, make_forecast

pytestmark = pytest.mark.slow

TINY = Order((TIMES[0],), "demo", 1, 2, "heun", 7)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def model(package: Path) -> CorrDiff:
    """One for all services, which have it one after the other."""
    return load(package)


@pytest.fixture(scope="module")
def shared(model: CorrDiff, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobService]:
    """A service for the tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("shared")
    with serving(folder, model, max_samples=8, max_steps=9, max_times=3, keep_jobs=50) as service:
        yield service


@pytest.fixture(scope="module")
def two_times(shared: JobService) -> str:
    """A job of two times and three members."""
    return shared.done(time=None, times=list(TIMES), samples=3)


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "jobs").iterdir() if path.is_dir())


# what a job makes


def test_a_job_on_a_cluster(model: CorrDiff, package: Path, tmp_path: Path) -> None:
    """The same bytes as here; the service's own device is not used."""
    where = {
        "processes": False,
        "protocol": "tcp://",
        "host": "127.0.0.1",
        "dashboard_address": None,
        "memory_limit": None,
    }
    options = ModelOptions(str(package), "cpu", "fp32", accelerated=False)
    with LocalCluster(n_workers=2, threads_per_worker=2, **where) as cluster:
        how = {"scheduler": cluster.scheduler_address, "options": options}
        with serving(tmp_path, model, **how) as service:
            job = service.done()
            same(service.unzipped(job, tmp_path / "unzipped"), by_command(tmp_path / "one", package))
            document = service.get(job).json()["progress"]["denoising_steps"]
            assert document["done"] == document["total"] == CALLS * ORDER["samples"]


def test_a_job_makes_the_store_of_the_command(shared: JobService, package: Path, tmp_path: Path) -> None:
    job = shared.done()
    same(shared.unzipped(job, tmp_path / "job.zarr"), by_command(tmp_path / "run.zarr", package))
    document = shared.get(job).json()
    assert document["request"] == {
        "times": [TIMES[0]],
        "source": "demo",
        "samples": 2,
        "steps": 2,
        "solver": "heun",
        "seed": 7,
    }
    assert document["synthetic"] is True and document["error"] is None
    assert document["progress"]["denoising_steps"] == {"done": 2 * CALLS, "total": 2 * CALLS}
    assert document["progress"]["members"] == {"done": 2, "total": 2}
    assert document["created"] <= document["started"] <= document["finished"]


def test_everything_that_can_be_asked_for(shared: JobService, package: Path, tmp_path: Path) -> None:
    order = {"samples": 1, "steps": 4, "solver": "dpmpp_2m", "seed": 0, "source": "demo"}
    job = shared.done(time=None, times=list(TIMES), **order)
    settings = {"number_of_samples": 1, "number_of_steps": 4, "solver": "dpmpp_2m", "seed": 0}
    ours = by_command(tmp_path / "run.zarr", package, TIMES, **settings)
    same(shared.unzipped(job, tmp_path / "job.zarr"), ours)


def test_what_is_not_asked_for_is_the_packages(shared: JobService, tmp_path: Path) -> None:
    answers = [shared.post(time="2024-07-24T14:00+02:00").json() for _ in range(2)]
    assert answers[0]["request"]["times"] == [TIMES[0]]
    assert answers[0]["request"]["seed"] != answers[1]["request"]["seed"]
    assert shared.ended(answers[0]["id"])["state"] == "done"
    ds = xr.open_zarr(shared.unzipped(answers[0]["id"], tmp_path / "job.zarr"))
    assert ds.sizes["sample"] == 3 and ds.attrs["seed"] == answers[0]["request"]["seed"]


def test_the_zip_is_a_zarr_store_as_it_is(shared: JobService, two_times: str, tmp_path: Path) -> None:
    answer = shared.get(two_times, "/store.zip")
    said = answer.headers["content-disposition"]
    assert said.startswith('attachment; filename="corrdiff-2024-07-24T1200-') and said.endswith('.zarr.zip"')
    (tmp_path / "store.zip").write_bytes(answer.content)
    with ZipStore(tmp_path / "store.zip", mode="r") as store:
        ds = xr.open_zarr(store)
        assert ds.t2m.shape == (2, 3, 16, 24) and np.isfinite(ds.t2m.values).all()
    assert shared.get(two_times, "/store.zip").content == answer.content


def test_zipping(tmp_path: Path) -> None:
    """More than one piece, an empty file, an empty folder: as the standard library reads it."""
    rng = np.random.default_rng(0)
    contents = {"a/b": rng.bytes(2_500_000), "a/empty": b"", "z": b"z"}
    for name, data in contents.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(data)
    (tmp_path / "x/folder").mkdir()
    pieces = list(zipped(tmp_path / "x"))
    assert max(map(len, pieces)) < 2**20 + 1000
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents


def test_figures_are_those_of_the_command(shared: JobService, two_times: str, tmp_path: Path) -> None:
    links = shared.get(two_times).json()["links"]["figures"]
    assert len(links) == len(set(links)) == 2 * (2 + 3)
    ds = plotting.open_store(shared.unzipped(two_times, tmp_path / "job.zarr"))
    name = "corrdiff-2024-07-25T0000-lowres"
    assert f"{ROOT}/{two_times}/figures/{name}.png" in links
    answer = shared.get(two_times, f"/figures/{name}.png")
    assert answer.headers["content-type"] == "image/png"
    plotting.plot_lowres(ds, 1).savefig(tmp_path / "ours.png", dpi="figure")
    ours = np.asarray(Image.open(tmp_path / "ours.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), ours)
    for name in ("corrdiff-2024-07-24T1200-sample-3", "corrdiff-2024-07-23T1200-lowres", "..%2Fjob", "x"):
        assert shared.get(two_times, f"/figures/{name}.png").status_code == 404


def test_every_figure_by_its_name(
    shared: JobService, two_times: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def draw(kind: str) -> Any:
        return lambda ds, *which: asked.append((kind, *which)) or Figure(figsize=(0.1, 0.1))

    for kind in ("member", "lowres", "ensemble"):
        monkeypatch.setattr(plotting, f"plot_{kind}", draw(kind))
    jobs_api._drawn.cache_clear()
    for link in shared.get(two_times).json()["links"]["figures"]:
        assert shared.client.get(link).content.startswith(b"\x89PNG")
    jobs_api._drawn.cache_clear()
    assert asked == [
        (kind, t, *which)
        for t in (0, 1)
        for kind, *which in (("ensemble",), ("lowres",), *(("member", m) for m in range(3)))
    ]


def test_a_job_of_one_member(shared: JobService) -> None:
    job = shared.done(samples=1)
    links = shared.get(job).json()["links"]["figures"]
    assert [link.rpartition("1200-")[2] for link in links] == ["lowres.png", "sample-0.png"]
    about = shared.get(job, "/fields").json()
    assert all(q["spread"] is None and q["threshold"] is None for q in about["quantities"])
    np.testing.assert_array_equal(
        shared.field(job, "t2m", show="mean"), shared.field(job, "t2m", show="member-0")
    )
    answer = shared.get(job, "/fields/t2m", show="spread")
    assert answer.status_code == 422 and answer.json()["field"] == "show"


# watching


def test_events_come_in_order(shared: JobService) -> None:
    events = shared.events(shared.start(samples=4, steps=6))
    assert [event.kind for event in events[:-1]] == ["progress"] * (len(events) - 1) and len(events) > 1
    assert events[-1].kind == "done" and events[-1].data["state"] == "done"
    versions = [int(event.id.partition("-")[2]) for event in events]
    assert versions == sorted(set(versions))
    for what in ("denoising_steps", "members"):
        counts = [event.data["progress"][what]["done"] for event in events]
        assert counts == sorted(counts) and counts[-1] == events[-1].data["progress"][what]["total"]
    assert events[-1].data["progress"]["fraction"] == 1.0
    assert {"store", "fields", "figures"} <= set(events[-1].data["links"])


def test_coming_back_to_the_events(shared: JobService, two_times: str) -> None:
    (last,) = shared.events(two_times)
    assert last.kind == "done"
    for seen in ("", "nonsense", last.id[:-1] + "0", "00000000-3"):
        assert shared.events(two_times, seen) == [last]
    answer = shared.client.get(f"{ROOT}/{two_times}/events", headers={"last-event-id": last.id})
    assert answer.status_code == 204 and answer.content == b""


def test_events_of_a_job_that_fails(tmp_path: Path, model: CorrDiff, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Source:
        def data(time: Any, variable: Any) -> xr.DataArray:
            raise InputError("could not read /srv/archive/secret/a.grib (cut off): copy it again")

        return Source(name, lambda: data, lambda: INPUTS.names)

    monkeypatch.setattr(job_runner, "make_source", broken)
    with serving(tmp_path, model) as service:
        job = service.start()
        last = service.events(job)[-1]
        assert last.kind == "error" and last.data["state"] == "failed"
        assert last.data["error"] == "could not read …/a.grib (cut off): copy it again"
        assert service.get(job, "/store.zip").status_code == 409 and "store" not in last.data["links"]
        monkeypatch.undo()
        service.done()


def test_a_defect_is_told_by_a_number(
    tmp_path: Path, model: CorrDiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("/home/someone/secret")

    monkeypatch.setattr(job_runner, "held", broken)
    with serving(tmp_path, model) as service:
        document = service.ended(service.start())
        assert document["state"] == "failed" and document["error"].startswith("internal error ")
        assert "secret" not in json.dumps(document)


def test_the_list_is_newest_first(shared: JobService) -> None:
    jobs = [shared.start(samples=1) for _ in range(3)]
    listed = shared.client.get(ROOT).json()["jobs"]
    assert [each["id"] for each in listed][:3] == jobs[::-1]
    assert all(len(job) == 32 and set(job) <= set("0123456789abcdef") for job in jobs)
    for job in jobs:
        shared.ended(job)


# refusing


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"time": "soon"}, "time", "'soon' is not a valid time"),
        ({"time": None}, "time", "neither"),
        ({"times": [TIMES[1]]}, "time", "both"),
        ({"time": 3}, "time", "valid string"),
        ({"time": "x" * 65}, "time", "at most 64"),
        ({"time": "1500-01-01"}, "time", "1678"),
        ({"time": "2024-07-24T12:00:00.5"}, "time", "whole seconds"),
        ({"time": "2024-07-20T00/2024-07-25T18/6h"}, "time", "single times"),
        ({"time": None, "times": []}, "times", "at least 1"),
        ({"time": None, "times": [TIMES[0]] * 2}, "times", "given twice"),
        ({"time": None, "times": [f"2024-07-0{i}" for i in range(1, 5)]}, "times", "at most 3, got 4"),
        ({"time": None, "times": "2024-07-24"}, "times", "valid list"),
        ({"source": "gfs"}, "source", "source must be one of demo, got 'gfs'"),
        ({"source": "file:/etc/passwd"}, "source", "one of demo"),
        ({"source": "file:../../../etc/passwd"}, "source", "one of demo"),
        ({"source": "https://example.org/x.nc"}, "source", "one of demo"),
        ({"source": "demo "}, "source", "one of demo"),
        ({"source": ""}, "source", "one of demo"),
        ({"source": ["demo"]}, "source", "valid string"),
        ({"samples": 0}, "samples", "greater than or equal to 1"),
        ({"samples": -1}, "samples", "greater than or equal to 1"),
        ({"samples": 9}, "samples", "a whole number from 1 to 8, got 9"),
        ({"samples": 10**30}, "samples", "a whole number from 1 to 8"),
        ({"samples": "2"}, "samples", "valid integer"),
        ({"samples": 1.5}, "samples", "valid integer"),
        ({"samples": True}, "samples", "valid integer"),
        ({"samples": float("nan")}, "samples", "valid integer"),
        ({"steps": 10}, "steps", "from 1 to 9, got 10"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"solver": "magic"}, "solver", "'euler', 'heun'"),
        ({"solver": 1}, "solver", "'euler', 'heun'"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"seed": -(2**63) - 1}, "seed", "greater than"),
        ({"seed": "7"}, "seed", "valid integer"),
        ({"memebrs": 2}, "memebrs", "not permitted"),
    ],
)
def test_bad_input_names_the_field(shared: JobService, change: dict[str, Any], field: str, says: str) -> None:
    body = json.dumps({**ORDER, **change})
    answer = shared.client.post(ROOT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field and says in answer.json()["detail"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', '{"time": 1' + "0" * 5000 + "}", "\x00"])
def test_what_is_no_order_at_all(shared: JobService, body: str) -> None:
    answer = shared.client.post(ROOT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and set(answer.json()) >= {"detail"}


def test_sources_on_the_list_alone_are_opened(model: CorrDiff, package: Path, tmp_path: Path) -> None:
    """A path that is allowed works, by its exact name; what it lacks is said at the door."""
    whole = f"file:{weather_file(tmp_path / 'whole.nc')}"
    poor = f"file:{weather_file(tmp_path / 'poor.nc', names=['t2m'])}"
    with serving(tmp_path, model, sources=(whole, poor, "file:/nowhere.nc")) as service:
        job = service.done(source=None)
        assert service.get(job).json()["request"]["source"] == whole
        ours = by_command(tmp_path / "run.zarr", package, source=whole)
        same(service.unzipped(job, tmp_path / "job.zarr"), ours)
        late = service.refused(**{**ORDER, "time": "2020-01-01"})
        assert late["field"] == "time" and "got 2020-01-01T00:00" in late["detail"]
        lacking = service.refused(**ORDER, source=poor)
        assert lacking["field"] == "source" and "has no " in lacking["detail"]
        for source in ("demo", whole.replace("whole", "./whole"), f"{whole}/../poor.nc"):
            assert service.refused(**ORDER, source=source)["field"] == "source"
        broken = service.refused(503, **ORDER, source="file:/nowhere.nc")
        assert "the source cannot be used now" in broken["detail"]


def test_too_large_a_job(model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_api, "Keeping", lambda jobs: Keeping(jobs, bytes=100_000))
    with serving(tmp_path, model) as service:
        refused = service.refused(**{**ORDER, "samples": 64})
        assert refused["field"] == "samples" and "ask for fewer samples or times" in refused["detail"]
        service.done(samples=1)


def test_there_is_no_such_thing(shared: JobService, two_times: str) -> None:
    for path in ("", "/events", "/store.zip", "/fields", "/fields/t2m", "/figures/x.png", "/points/t2m"):
        query = {"row": 0, "column": 0} if "points" in path else {}
        for job in ("0" * 32, "x", two_times[:-1]):
            assert shared.get(job, path, **query).status_code == 404, path
    for path, query in (
        ("/fields/x", {}),
        ("/fields/t2m", {"time": 2}),
        ("/fields/t2m", {"show": "member-3"}),
        ("/points/x", {"row": 0, "column": 0}),
        ("/points/t2m", {"row": 16, "column": 0}),
    ):
        assert shared.get(two_times, path, **query).status_code == 404
    for path, query in (
        ("/fields/t2m", {"show": "all"}),
        ("/fields/t2m", {"time": -1}),
        ("/fields/t2m", {"part": "along"}),
        ("/points/t2m", {"row": "x", "column": 0}),
        ("/points/t2m", {"row": 0}),
    ):
        assert shared.get(two_times, path, **query).status_code == 422


def test_the_key_is_asked_for(model: CorrDiff, tmp_path: Path) -> None:
    with serving(tmp_path, model, api_key="a secret key") as service:
        assert service.client.get("/").status_code == 200
        for answer in (service.post(**ORDER), service.client.get(ROOT), service.get("0" * 32, "/store.zip")):
            assert answer.status_code == 401
        service.client.headers["authorization"] = "Bearer a secret key"
        assert service.state(service.done()) == "done"


def test_not_before_the_model_is_there(tmp_path: Path, model: CorrDiff) -> None:
    def slow() -> CorrDiff:
        until(lambda: (tmp_path / "go").exists())
        return model

    with running(Settings(jobs=tmp_path / "jobs", drain_seconds=5), load=slow, ready=False) as service:
        client = JobService(service)
        for answer in (client.post(**ORDER), client.client.get(f"{ROOT}/options")):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        (tmp_path / "go").touch()
        until(lambda: service.engine.ready)
        client.done()


def test_options(shared: JobService) -> None:
    options = shared.client.get(f"{ROOT}/options").json()
    assert options["sources"] == ["demo"] and options["solvers"][0] == "euler"
    assert options["limits"] == {"samples": 8, "steps": 9, "times": 3}
    assert options["defaults"] == {"time": "2024-07-24T12:00", "samples": 3, "steps": 2, "solver": "heun"}
    assert options["package"]["synthetic"] is False


# many at once


@pytest.fixture
def valve(package: Path) -> Valve:
    """In front of a model of its own."""
    held = load(package)
    valve = Valve(held)
    valve.model = held  # type: ignore[attr-defined]
    return valve


def warmed(valve: Valve) -> CorrDiff:
    """The model of a valve that lets the warm-up through, and nothing more."""
    valve.allowed.release()
    return valve.model  # type: ignore[attr-defined,no-any-return]


def test_no_more_than_may_wait(valve: Valve, tmp_path: Path) -> None:
    with serving(tmp_path, warmed(valve), max_jobs=2) as service:
        jobs = [service.start(samples=1) for _ in range(2)]
        answer = service.post(**ORDER)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        valve.open()
        assert [service.ended(job)["state"] for job in jobs] == ["done", "done"]
        service.done()


def test_jobs_and_a_request_share_the_device(valve: Valve, package: Path, tmp_path: Path) -> None:
    """Two jobs with other settings and a request take turns, and each gets its own fields."""
    coarse = weather().numpy()
    with serving(tmp_path, warmed(valve)) as service:
        first = service.start(samples=3)
        second = service.start(samples=2, steps=3, solver="euler", seed=11)
        valve.wait()
        until(lambda: service.service.engine.waiting[2] == 2)
        valve.open()
        answer = service.service.infer(coarse, samples=2, seed=5, steps=4)
        assert answer.status_code == 200
        assert [service.ended(job)["state"] for job in (first, second)] == ["done", "done"]
        stores = [service.unzipped(job, tmp_path / job) for job in (first, second)]
    same(stores[0], by_command(tmp_path / "a.zarr", package, number_of_samples=3))
    settings = {"number_of_samples": 2, "number_of_steps": 3, "solver": "euler", "seed": 11}
    same(stores[1], by_command(tmp_path / "b.zarr", package, **settings))
    mine = load(package, number_of_samples=2, number_of_steps=4, seed=5)
    want = mine.downscaler(torch.from_numpy(coarse), mine.member_seeds())[0]
    for (sample, _), values in untar(answer.content).items():
        np.testing.assert_array_equal(values[0, 0], want[sample].numpy())
    # turn by turn, and not one job after the other
    calls = [seeds for seeds in valve.seeds[1:] if len(seeds) == 1]
    assert len(calls) == 3 + 2 + 2


def test_watching_a_job_that_is_held_up(valve: Valve, tmp_path: Path) -> None:
    with serving(tmp_path, warmed(valve)) as service:
        job = service.start(samples=2)
        with service.client.stream("GET", f"{ROOT}/{job}/events") as answer:
            events = read_events(answer)
            while (event := next(events)).data["stage"] != "denoising":
                assert event.data["state"] in ("queued", "running")
            assert event.kind == "progress" and event.data["progress"]["fraction"] == 0
            assert service.get(job, "/fields").status_code == 409
            valve.open()
            assert [e.kind for e in events][-1] == "done"


# cancelling


def test_a_running_job_is_cancelled_and_leaves_nothing(valve: Valve, tmp_path: Path) -> None:
    with serving(tmp_path, warmed(valve)) as service:
        valve.wait()  # of the warm-up
        job = service.start(samples=4)
        valve.wait()
        assert folders(tmp_path) == [job]
        with service.client.stream("GET", f"{ROOT}/{job}/events") as answer:
            events = read_events(answer)
            next(events)
            assert service.remove(job) == 204
            assert service.get(job).status_code == 404 and service.client.get(ROOT).json()["jobs"] == []
            calls = len(valve.seeds)
            valve.open()
            last = list(events)[-1]
        assert last.kind == "error" and last.data["state"] == "cancelled" and last.data["error"]
        assert len(valve.seeds) == calls  # no other member was begun
        until(lambda: folders(tmp_path) == [])
        assert service.remove(job) == 404
        service.done()


def test_a_waiting_job_is_cancelled(valve: Valve, tmp_path: Path) -> None:
    with serving(tmp_path, warmed(valve), max_jobs=4) as service:
        jobs = [service.start(samples=1) for _ in range(4)]
        until(lambda: [service.state(job) for job in jobs].count("running") == 2)
        assert service.remove(jobs[3]) == 204
        service.start(samples=1)  # its place is free
        valve.open()
        assert [service.ended(job)["state"] for job in jobs[:3]] == ["done"] * 3
        assert jobs[3] not in folders(tmp_path)


def test_a_finished_job_is_removed(model: CorrDiff, tmp_path: Path) -> None:
    with serving(tmp_path, model) as service:
        keep, go = service.done(), service.done(samples=1)
        assert sorted(folders(tmp_path)) == sorted([keep, go])
        assert service.remove(go) == 204
        assert folders(tmp_path) == [keep] and service.state(keep) == "done"


def test_stopping_the_service_ends_streams_and_jobs(valve: Valve, tmp_path: Path) -> None:
    with serving(tmp_path, warmed(valve), drain_seconds=0.2) as service:
        job = service.start(samples=4)
        valve.wait()
        with service.client.stream("GET", f"{ROOT}/{job}/events") as answer:
            events = read_events(answer)
            next(events)
            service.service.server.should_exit = True
            assert all(event.kind != "done" for event in events)
        valve.open()
    until(lambda: not any((tmp_path / "jobs" / job).glob("job.json")))
    with serving(tmp_path, load_again(valve)) as service:
        assert service.client.get(ROOT).json()["jobs"] == [] and folders(tmp_path) == []


def load_again(valve: Valve) -> CorrDiff:
    return valve.model  # type: ignore[attr-defined,no-any-return]


# a full disk


@pytest.mark.parametrize("last", [0, 30, 50])
def test_a_full_disk_fails_the_job_alone(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """At the first write, in the layout, in the members: a sentence, no leftovers, and all else goes on."""
    count, put = itertools.count(), _local._put

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        if next(count) >= last:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(path, *args, **kwargs)

    with serving(tmp_path, model) as service:
        monkeypatch.setattr(_local, "_put", full)
        document = service.ended(service.start(samples=8, time=None, times=list(TIMES)))
        monkeypatch.undo()
        assert document["state"] == "failed"
        assert document["error"].startswith("the service's disk is full: remove finished jobs, or ask for ")
        assert folders(tmp_path) == [] and str(tmp_path) not in json.dumps(document)
        service.done()


def test_a_disk_that_is_full_for_the_record(
    model: CorrDiff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving(tmp_path, model) as service:
        monkeypatch.setattr(os, "fsync", full)
        document = service.ended(service.start())
        monkeypatch.undo()
        assert document["state"] == "failed" and "disk is full" in document["error"]
        assert folders(tmp_path) == []
        service.done()


def test_a_folder_that_cannot_be_used(model: CorrDiff, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("precious")
    with serving(tmp_path, model) as service:
        refused = service.refused(503, **ORDER)
        assert "the folder of the jobs cannot be used" in refused["detail"]
        assert service.client.get("/v1/health/ready").status_code == 200
    assert (tmp_path / "jobs").read_text() == "precious"


# starting again


def test_a_restart_serves_what_was_done_and_nothing_else(
    model: CorrDiff, package: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, model) as service:
        job = service.done()
        before = service.get(job).json()
        store = service.get(job, "/store.zip").content
        (event,) = service.events(job)
    half, damaged = "a" * 32, "b" * 32
    by_command(tmp_path / "jobs" / half / "store.zarr", package)  # killed before its record was written
    (tmp_path / "jobs" / damaged).mkdir()
    (tmp_path / "jobs" / damaged / "job.json").write_text("{")
    (tmp_path / "jobs" / "notes").mkdir()
    (tmp_path / "jobs" / "notes" / "precious.txt").write_text("precious")
    with serving(tmp_path, model) as service:
        assert [each["id"] for each in service.client.get(ROOT).json()["jobs"]] == [job]
        assert service.get(job).json() == before
        assert service.get(job, "/store.zip").content == store
        assert [e.kind for e in service.events(job, event.id)] == ["done"]
        assert service.get(half).status_code == 404 and service.get(damaged).status_code == 404
        assert folders(tmp_path) == sorted([job, damaged, "notes"])
        assert (tmp_path / "jobs" / "notes" / "precious.txt").read_text() == "precious"


def test_two_services_do_not_share_a_folder(model: CorrDiff, package: Path, tmp_path: Path) -> None:
    with serving(tmp_path, model) as service, serving(tmp_path, load(package)) as other:
        job = service.done()
        assert "another service uses the folder" in other.refused(503, **ORDER)["detail"]
        assert service.state(job) == "done"


# keeping


def kept(folder: Path, keep: Keeping, sizes: list[int]) -> tuple[Jobs, list[str]]:
    """Finished jobs of these sizes, the oldest first."""
    jobs, names = Jobs(folder, keep, 4), []
    for size in sizes:
        job = jobs.add(TINY, synthetic=True)
        job.store.mkdir(parents=True)
        (job.store / "data").write_bytes(bytes(size))
        job.change(started=time.time())
        jobs.settle(job, "done")
        names.append(job.id)
    return jobs, names


def test_the_oldest_go_first_where_there_are_too_many(tmp_path: Path) -> None:
    jobs, names = kept(tmp_path, Keeping(jobs=3), [10] * 5)
    assert [job.id for job in jobs.all()] == names[:1:-1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(names[2:])


def test_the_oldest_go_first_where_they_are_too_large(tmp_path: Path) -> None:
    jobs, names = kept(tmp_path, Keeping(bytes=100), [40, 40, 70, 20])
    assert [job.id for job in jobs.all()] == names[:1:-1]


def test_what_is_too_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, names = kept(tmp_path, Keeping(seconds=60), [1, 1])
    assert len(jobs.all()) == 2
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert jobs.all() == []
    with pytest.raises(ServiceError, match="no longer kept") as caught:
        jobs.get(names[0])
    assert caught.value.status_code == 404


def test_what_is_being_read_stays(tmp_path: Path) -> None:
    jobs, names = kept(tmp_path, Keeping(jobs=1), [1])
    with jobs.get(names[0]).reading():
        assert len(jobs.all()) == 1
        second = jobs.add(TINY, synthetic=False)
        jobs.settle(second, "failed", "said why")
        assert names[0] in {job.id for job in jobs.all()}
    assert {job.id for job in jobs.all()} == {second.id}


# whose they are


def test_a_job_is_its_makers(model: CorrDiff, tmp_path: Path) -> None:
    with serving(tmp_path, model) as service:
        mine, other = service.done(), service.done(samples=1)
        delete, token = service.client.delete, service.tokens[mine]
        for headers in (
            *({}, {"x-job-token": ""}, {"x-job-token": service.tokens[other]}, {"x-job-token": token[:-1]}),
            *({"authorization": "Bearer nonsense"}, {"authorization": token}, {"x-job-token": "é"}),
        ):
            sent = {name: value.encode() for name, value in headers.items()}
            answer = delete(f"{ROOT}/{mine}", headers=sent)
            assert answer.status_code == 403 and "X-Job-Token: TOKEN" in answer.json()["detail"]
        assert service.state(mine) == "done"
        assert delete(f"{ROOT}/{'0' * 32}", headers={"x-job-token": token}).status_code == 404
        assert delete(f"{ROOT}/{mine}", headers={"authorization": f"Bearer {token}"}).status_code == 204
        assert service.remove(other) == 204 and len({token, service.tokens[other]}) == 2


def test_a_token_is_told_once_and_not_kept(model: CorrDiff, tmp_path: Path) -> None:
    with serving(tmp_path, model) as service:
        job = service.done()
        tokens, answers = service.tokens, [service.get(job), service.client.get(ROOT)]
        assert all(tokens[job] not in answer.text for answer in answers)
        assert all(tokens[job] not in event.data.values() for event in service.events(job))
        assert tokens[job].encode() not in (tmp_path / "jobs" / job / "job.json").read_bytes()
    with serving(tmp_path, model) as service:
        service.tokens = {job: "x" * 32}
        assert service.remove(job) == 403
        service.tokens = tokens
        assert service.remove(job) == 204


def test_the_list_has_states_and_no_contents(shared: JobService) -> None:
    job = shared.start(samples=1)
    found = next(each for each in shared.client.get(ROOT).json()["jobs"] if each["id"] == job)
    assert set(found) == {"id", "state", "created", "progress"} and set(found["progress"]) == {"fraction"}
    shared.ended(job)


# forecasts


@pytest.fixture(scope="module")
def forecast(shared: JobService) -> str:
    """A job of two lead times."""
    return shared.done(samples=2, lead_time="0/6/6h")


def test_a_job_with_lead_times_makes_the_store_of_the_command(
    shared: JobService, forecast: str, package: Path, tmp_path: Path
) -> None:
    model = load(package, number_of_samples=2)
    options = Options(seed=7, command=COMMAND)
    downscale(
        TIMES[0], model, make_forecast("demo_fx"), tmp_path / "run", options=options, lead_time="0/6/6h"
    )
    same(shared.unzipped(forecast, tmp_path / "job.zarr"), tmp_path / "run")
    request = shared.get(forecast).json()["request"]
    assert request["lead_time"] == ["0h", "6h"] and request["source"] == "demo_fx"
    assert request["times"] == [TIMES[0]]
    assert shared.get(forecast).json()["progress"]["members"] == {"done": 4, "total": 4}


def test_what_a_forecast_shows(shared: JobService, forecast: str, tmp_path: Path) -> None:
    about = shared.get(forecast, "/fields").json()
    assert about["times"] == [TIMES[0], "2024-07-24T18:00"] and about["members"] == [0, 1]
    ds = xr.open_zarr(shared.unzipped(forecast, tmp_path / "job.zarr"))
    for lead in (0, 1):
        field = shared.field(forecast, "t2m", time=lead, show="member-1")
        np.testing.assert_allclose(field, ds.t2m.values[0, lead, 1] - 273.15, atol=1e-3)
    figures = shared.get(forecast).json()["links"]["figures"]
    assert len(figures) == 2 * (2 + 2) and figures[-1].endswith("corrdiff-2024-07-24T1200+006h-sample-1.png")
    assert shared.client.get(figures[-1]).content.startswith(b"\x89PNG")


def test_forecasts_for_one_valid_time_are_all_shown(model: CorrDiff, tmp_path: Path) -> None:
    """Two starts six hours apart, each with lead times 0 h and 6 h: four states at three valid times."""
    starts = ["2024-07-24T06:00", "2024-07-24T00:00"]  # shown in their order, whatever was asked first
    order = {"time": None, "times": starts, "lead_time": "0/6/6h", "samples": 1}
    with serving(tmp_path / "service", model, max_times=4) as service:
        job = service.done(**order)
        about = service.get(job, "/fields").json()
        fields = [service.field(job, "t2m", time=number, show="member-0") for number in range(4)]
        point = service.get(job, "/points/t2m", row=3, column=4).json()
        links = service.get(job).json()["links"]["figures"]
        pictures = [service.client.get(link) for link in links if link.endswith("sample-0.png")]
        assert service.get(job, "/fields/t2m", time=4).status_code == 404
        ds = xr.open_zarr(service.unzipped(job, tmp_path / "job.zarr")).load()
    assert about["times"] == [f"2024-07-24T{hour}:00" for hour in ("00", "06", "06", "12")]
    assert about["starts"] == [f"2024-07-24T{hour}:00" for hour in ("00", "00", "06", "06")]
    labels = ["0000+000h", "0000+006h", "0600+000h", "0600+006h"]
    assert about["labels"] == [f"2024-07-24T{label}" for label in labels]
    want = ds.t2m.values[[1, 1, 0, 0], [0, 1, 0, 1], 0] - 273.15
    np.testing.assert_allclose(fields, want, atol=1e-3)
    np.testing.assert_allclose(np.ravel(point["values"]), want[:, 3, 4], atol=1e-3)
    coarse = ds.t2m_lowres.values.reshape(4, -1)
    assert len(point["coarse"]) == 4 and len(np.unique(coarse, axis=0)) == 3
    assert [link.rpartition("/")[2] for link in links] == [
        f"corrdiff-2024-07-24T{label}-{kind}.png" for label in labels for kind in ("lowres", "sample-0")
    ]
    assert all(picture.content.startswith(b"\x89PNG") for picture in pictures)
    assert len({picture.content for picture in pictures}) == 4


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"lead_time": "soon"}, "lead_time", "'soon' is not a valid duration"),
        ({"lead_time": "-6"}, "lead_time", "must not be negative"),
        ({"lead_time": "6,6"}, "lead_time", "given twice"),
        ({"lead_time": "0/18/6h"}, "lead_time", "at most 3 lead times"),
        ({"lead_time": "0/99999/1min"}, "lead_time", "at most 3 lead times"),
        ({"lead_time": "0/12/0h"}, "lead_time", "must be positive"),
        ({"lead_time": "1,2,3,4"}, "lead_time", "at most 3 lead times"),
        ({"lead_time": "0,6", "time": None, "times": list(TIMES)}, "lead_time", "at most 1 lead times"),
        ({"lead_time": 6}, "lead_time", "valid string"),
        ({"lead_time": "6", "source": "gfs"}, "source", "one of demo"),
    ],
)
def test_lead_times_that_cannot_be(shared: JobService, change: dict[str, Any], field: str, says: str) -> None:
    refused = shared.refused(**{**ORDER, **change})
    assert refused["field"] == field and says in refused["detail"], refused


def test_sources_and_lead_times_belong_together(model: CorrDiff, tmp_path: Path) -> None:
    whole = f"file:{weather_file(tmp_path / 'whole.nc')}"
    with serving(tmp_path, model, sources=("demo_fx", "gfs", whole)) as service:
        assert service.refused(**ORDER)["field"] == "lead_time"  # demo_fx, the first
        assert service.refused(**ORDER, source="gfs", lead_time="6")["field"] == "lead_time"
        service.refused(503, **ORDER, source=whole, lead_time="6")
        job = service.done(lead_time="90min", samples=1)
        assert service.get(job).json()["request"]["lead_time"] == ["90min"]


def test_a_package_that_knows_lead_times(tmp_path: Path) -> None:
    spec = make_spec(lead_time_hours=HOURS, seed=None)
    nets = [
        create(replace(net.origin, args=args))
        for net, (_, args) in zip(make_networks(spec), arguments(spec), strict=True)
    ]
    for seed, net in enumerate(nets):
        randomise(net, seed)
    folder = save_package(tmp_path / "package", spec, *nets)
    with serving(tmp_path, load(folder)) as service:
        assert service.refused(**ORDER)["field"] == "lead_time"
        assert "not of 3 h" in service.refused(**ORDER, lead_time="3")["detail"]
        assert service.client.get(f"{ROOT}/options").json()["lead_time_hours"] == list(HOURS)
        job = service.done(lead_time="6", samples=1)
        store = service.unzipped(job, tmp_path / "job.zarr")
    options = Options(seed=7, command=COMMAND)
    model = load(folder, number_of_samples=1)
    downscale(TIMES[0], model, make_forecast("demo_fx"), tmp_path / "run", options=options, lead_time="6")
    same(store, tmp_path / "run")


# what is told of them


def test_one_line_and_the_counters_of_each_job(model: CorrDiff, tmp_path: Path) -> None:
    lines: list[str] = []
    with serving(tmp_path, model) as service:
        handler = logger.add(lines.append, level="INFO", format="{level.name} {message}")
        done, broken = service.done(), service.start(samples=1)
        service.ended(broken)
        with pytest.MonkeyPatch.context() as patch:
            lost = InputError("no such day")
            patch.setattr(job_runner.Inputs, "fetch", lambda *_: (_ for _ in ()).throw(lost))
            failed = service.start()
            service.ended(failed)
        logger.remove(handler)
        text = service.client.get("/v1/metrics").text
    told = [line for line in lines if f"job {done}" in line]
    assert len(told) == 1
    assert re.fullmatch(rf"INFO job {done}: done in \d+\.\d s, 2 of 2 members\n", told[0])
    (told,) = [line for line in lines if f"job {failed}" in line]
    assert told.startswith("WARNING") and told.endswith("0 of 2 members (no such day)\n")
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert numbers['corrdiff_jobs_total{state="done"}'] == "2.0"
    assert numbers['corrdiff_jobs_total{state="failed"}'] == numbers['corrdiff_failures_total{what="job"}']
    assert numbers['corrdiff_jobs_total{state="failed"}'] == "1.0"
    assert numbers['corrdiff_source_fetches_total{outcome="fetched",source="demo"}'] == "2.0"


def test_a_damaged_store_is_said_in_a_sentence(model: CorrDiff, tmp_path: Path) -> None:
    with serving(tmp_path, model) as service:
        job = service.done(samples=1)
        chunks = [p for p in (tmp_path / "jobs" / job / "store.zarr/t2m/c").rglob("*") if p.is_file()]
        for chunk in chunks:
            chunk.write_bytes(b"nonsense")
        answer = service.get(job, "/fields/t2m")
        assert answer.status_code == 500 and str(tmp_path) not in answer.text
        assert "damaged" in answer.json()["detail"] and service.state(job) == "done"
