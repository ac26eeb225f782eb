# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Counters and clocks of a service for Prometheus, in a registry of its own."""

from __future__ import annotations

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from earth2_corrdiff.run.provenance import version_of

STAGES = ("receive", "wait", "compute", "total")
ENDS = ("done", "failed", "cancelled")
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and clocks of one service.

    The stages of a request: ``receive`` its body, ``wait`` in the queue, ``compute`` a block of members,
    and ``total`` from its arrival to the last byte of its answer.
    """

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("corrdiff_requests", "Requests answered", ("route", "status"), registry=own)
        self.open = Gauge("corrdiff_requests_open", "Requests being received or answered", registry=own)
        self.seconds = Histogram(
            "corrdiff_stage_seconds", "Seconds per stage", ("stage",), buckets=SECONDS, registry=own
        )
        text = "Requests answered 500 or more, and jobs that failed"
        self.failures = Counter("corrdiff_failures", text, ("what",), registry=own)
        self.jobs = Counter("corrdiff_jobs", "Jobs that have ended", ("state",), registry=own)
        text = "Seconds from a job's order to its end"
        self.job_seconds = Histogram("corrdiff_job_seconds", text, buckets=SECONDS, registry=own)
        labels = ("source", "outcome")
        self.fetches = Counter("corrdiff_source_fetches", "Cases fetched for jobs", labels, registry=own)
        self.members = Counter("corrdiff_members", "Members made for requests", registry=own)
        self.rate = Gauge("corrdiff_members_per_second", "Speed of the last block of members", registry=own)
        self.sizes = Histogram(
            "corrdiff_block_members", "Members per block", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.waiting = Gauge("corrdiff_queue", "Requests, members and jobs", ("what",), registry=own)
        self.ready = Gauge("corrdiff_ready", "1 if requests are accepted", registry=own)
        device = Gauge("corrdiff_device_memory_bytes", "Memory that PyTorch holds on GPUs", registry=own)
        device.set_function(_device_memory)
        build = Gauge("corrdiff_build_info", "Version of earth2_corrdiff", ("version",), registry=own)
        build.labels(version_of("earth2_corrdiff")).set(1)
        ProcessCollector(registry=own)
        for stage in STAGES:
            self.seconds.labels(stage)
        for state in ENDS:
            self.jobs.labels(state)
        for what in ("request", "job"):
            self.failures.labels(what)

    def stage(self, name: str, seconds: float) -> None:
        """A request has passed one of ``STAGES``."""
        self.seconds.labels(name).observe(seconds)

    def request(self, route: str, status: int | None, seconds: float) -> None:
        """A request is over; without a status it was never answered."""
        self.requests.labels(route, str(status or "none")).inc()
        if status is not None and status >= 500 and not route.startswith("/v1/health/"):
            self.failures.labels("request").inc()
        if route == "/v1/infer" and status == 200:
            self.stage("total", seconds)

    def job(self, state: str, seconds: float) -> None:
        """A job has ended in one of ``ENDS``."""
        self.jobs.labels(state).inc()
        self.job_seconds.observe(seconds)
        if state == "failed":
            self.failures.labels("job").inc()

    def fetch(self, source: str, worked: bool) -> None:
        """A case was fetched from a source, or could not be."""
        self.fetches.labels(source, "fetched" if worked else "failed").inc()

    def block(self, members: int, seconds: float) -> None:
        """A block of members is done."""
        self.stage("compute", seconds)
        self.members.inc(members)
        self.sizes.observe(members)
        self.rate.set(members / seconds)

    def text(self, ready: bool, requests: int, members: int, jobs: int) -> bytes:
        """All of them in Prometheus' format, with the current length of the queue."""
        self.ready.set(ready)
        for what, number in (("requests", requests), ("members", members), ("jobs", jobs)):
            self.waiting.labels(what).set(number)
        return generate_latest(self.registry)


def _device_memory() -> float:
    if not torch.cuda.is_available():
        return 0.0
    return float(sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())))
