# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Requests for jobs, checked before a job is made of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, Times, distinct, lead_text, time_text, to_leads, to_times
from earth2_corrdiff.model.diffusion.noise import fresh_seed
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP, SOLVERS
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.service.decode import sampling_of
from earth2_corrdiff.service.engine import RETRY, Engine
from earth2_corrdiff.service.errors import ServiceError, wrong
from earth2_corrdiff.service.job import Order
from earth2_corrdiff.service.job_runner import sentence
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.sources import Forecast, Inputs, Source, make_forecast, make_source
from earth2_corrdiff.sources.registry import FORECASTS

Solver = Literal["euler", "heun", "stochastic", "dpmpp_2m", "trigflow", "few_step"]
assert get_args(Solver) == (*SOLVERS, FEW_STEP)  # noqa: S101 - a type must be spelled out
Text = Annotated[str, Field(max_length=64)]
SEEDS = 2**63  # what the generators of PyTorch take


class DownscaleRequest(BaseModel):
    """A job: the weather of some times, downscaled into an ensemble."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"time": "2024-07-24T12:00", "source": "demo", "samples": 2}},
    )

    time: Text | None = Field(None, description="valid time, UTC, as 2024-07-24T12:00")
    times: list[Text] | None = Field(None, min_length=1, max_length=1000, description="or several of them")
    lead_time: Text | None = Field(
        None, description="lead times of forecasts, as 6h, 0/48/6h or 6,12, for which the times are starts"
    )
    source: str | None = Field(None, max_length=256, description="one of the service's, by default the first")
    samples: int | None = Field(None, ge=1, description="members per case, by default the package's")
    steps: int | None = Field(None, ge=1, description="of the solver, by default the package's")
    solver: Solver | None = Field(None, description="by default the package's")
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS, description="of the run; by default drawn")


def read_order(
    asked: DownscaleRequest, engine: Engine, settings: Settings, largest: int
) -> tuple[Order, bool]:
    """The order of a request, and True if its input or the model is synthetic.

    Parameters
    ----------
    asked : DownscaleRequest
        The request
    engine : Engine
        Its package has the defaults
    settings : Settings
        The limits
    largest : int
        Most bytes of one job

    Raises
    ------
    ServiceError
        422 naming the field at fault; 503 where the service is not ready, or one of its sources is broken
    """
    if not engine.ready:
        raise ServiceError(503, f"the service is not ready, it is {engine.state}", retry_after=RETRY)
    spec, sampling = engine.spec, engine.sampling
    times = _times(asked, settings.max_times)
    leads = _leads(asked.lead_time, settings.max_times // len(times), spec)
    name = asked.source if asked.source is not None else settings.sources[0]
    if name not in settings.sources:
        raise wrong("source", f"one of {', '.join(settings.sources)}", repr(name))
    name = _with_leads(name) if leads is not None else name
    seed = asked.seed if asked.seed is not None else spec.seed
    order = Order(
        times=tuple(map(time_text, times)),
        source=name,
        samples=_at_most("samples", asked.samples, spec.number_of_samples, settings.max_samples),
        steps=_at_most("steps", asked.steps, sampling.steps, settings.max_steps),
        solver=asked.solver or sampling.solver,
        seed=seed if seed is not None else fresh_seed(),
        lead_time=() if leads is None else tuple(lead_text(lead).replace(" ", "") for lead in leads),
    )
    sampling_of(sampling, order.solver, order.steps)  # raises if the package's network cannot do it
    source = _source(name, leads is not None)
    _check_source(source, times, leads, spec)
    size = largest_size(order, spec)
    if size > largest:
        text = f"{order.members} members are up to {size / 1e9:.1f} GB; the service keeps {largest / 1e9:.1f}"
        raise ServiceError(422, f"{text}: ask for fewer samples or times", "samples", "fewer members")
    return order, source.synthetic or spec.synthetic


def largest_size(order: Order, spec: CorrDiffSpec) -> int:
    """Bytes of the store if nothing can be compressed."""
    fine = math.prod(spec.output_grid.shape) * len(spec.output_variables) * order.samples
    coarse = math.prod(spec.input_grid.shape) * (len(spec.inputs.names) + 1)
    return 4 * len(order.cases) * (fine + coarse)


def _times(asked: DownscaleRequest, most: int) -> Times:
    if (asked.time is None) == (asked.times is None):
        got = "neither" if asked.time is None else "both"
        raise wrong("time", "given, or else times, a list", got)
    field = "times" if asked.time is None else "time"
    texts = asked.times or [str(asked.time)]
    if len(texts) > most:
        raise wrong(field, f"a list of at most {most}", f"{len(texts)} of them")
    if any("/" in text for text in texts):  # a period could have a million
        raise wrong(field, "made of single times", ", ".join(texts))
    try:
        times = distinct(to_times(texts))
    except InputError as error:
        raise ServiceError(422, str(error), field, "times as 2024-07-24T12:00 (UTC)") from None
    if (times != times.astype("datetime64[s]")).any():
        raise wrong(field, "given in whole seconds", ", ".join(texts))
    return times


def _leads(text: str | None, most: int, spec: CorrDiffSpec) -> Leads | None:
    """Lead times, counted before they are made: a range could have a million. None where there are none."""
    expected = f"at most {most} lead times, as 6h, 0/48/6h or 6,12"
    try:
        if text is None:
            spec.lead_label(None)
            return None
        for part in text.split(","):
            ends = [to_leads(end)[0] for end in part.split("/")]
            if len(ends) == 3 and ends[2] and (ends[1] - ends[0]) // ends[2] >= most:
                raise wrong("lead_time", expected, repr(text))
        leads = to_leads(text)
        for lead in leads:
            spec.lead_label(float(lead / np.timedelta64(1, "h")))
    except InputError as error:
        raise ServiceError(422, sentence(error), "lead_time", expected) from None
    if len(leads) > most:
        raise wrong("lead_time", expected, f"{len(leads)} of them")
    return leads


def _with_leads(name: str) -> str:
    """The name of the source of forecasts that belongs to a name."""
    if name == "demo":
        return "demo_fx"
    kind = name.partition(":")[0]
    if kind not in FORECASTS and kind != "file":
        raise wrong("lead_time", "left out, or the source one that has forecasts", f"the source {name}")
    return name


def _at_most(field: str, asked: int | None, default: int, most: int) -> int:
    value = default if asked is None else asked
    if value > most:
        raise wrong(field, f"a whole number from 1 to {most}", value)
    return value


def _source(name: str, forecasts: bool) -> Source | Forecast:
    if not forecasts and name.partition(":")[0] in FORECASTS:
        raise wrong("lead_time", "given, as 0/48/6h, for a source of forecasts", "nothing")
    try:
        return make_forecast(name) if forecasts else make_source(name)
    except InputError as error:
        raise ServiceError(503, f"the source cannot be used now: {sentence(error)}") from error


def _check_source(source: Source | Forecast, times: Times, leads: Leads | None, spec: CorrDiffSpec) -> None:
    field = "time"
    try:
        cases = source.cases(times, leads)
        field = "source"
        Inputs.of(source, cases, spec)
    except InputError as error:
        raise ServiceError(422, sentence(error), field) from error
