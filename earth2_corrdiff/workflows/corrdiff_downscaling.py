# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The workflow ``corrdiff_downscaling`` of Earth2Studio's server: from times and a source to a Zarr store.

Importing this file imports Earth2Studio's server, which configures its logging and output folder: only the
server's processes import it, through ``WORKFLOW_DIR`` (``earth2_corrdiff.workflows``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.studio import (
    Earth2Workflow,
    IOBackend,
    WorkflowParameters,
    WorkflowProgress,
    WorkflowRegistry,
)
from earth2_corrdiff.base.times import distinct, time_text, to_leads, to_times
from earth2_corrdiff.model.diffusion.solvers import check_solver
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.spec import Sampling, check_count
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.sources import Forecast, Source, make_forecast, make_source


@WorkflowRegistry.instance().register
class CorrDiffDownscaling(Earth2Workflow):  # type: ignore[misc]
    """Downscale the weather of given times into an ensemble, as the command ``run-corrdiff`` does.

    Parameters
    ----------
    package : str, optional
        ``demo`` (default), the name of a published package, a folder or a URL, as for ``run-corrdiff``
    sources : tuple[str, ...], optional
        Accepted sources of requests, as for ``make_source``; the first one is the default
    device : str, optional
        ``auto`` (default), ``cpu``, ``cuda``, ``cuda:1``, …
    precision : {"auto", "fp32", "bf16", "fp16"}, optional
        Precision of the networks, by default the fastest on the device
    max_members, max_steps : int, optional
        Most members over all times, and most solver steps, of one request
    mode, region : str | None, optional
        Of COSMO: ``mean`` or ``diffusion``, and ``south,north,west,east``, as for ``run-corrdiff``

    The server builds one object per worker, with the parameters in ``workflows.yaml`` under the name below.
    """

    name = "corrdiff_downscaling"
    description = "Kilometre-scale ensemble by CorrDiff downscaling (earth2_corrdiff)"

    def __init__(
        self,
        package: str = "demo",
        sources: tuple[str, ...] = ("demo",),
        device: str = "auto",
        precision: str = "auto",
        max_members: int = 256,
        max_steps: int = 100,
        mode: str | None = None,
        region: str | None = None,
    ) -> None:
        super().__init__()
        self.sources, self.max_members, self.max_steps = tuple(sources), max_members, max_steps
        self.model = load_model(ModelOptions(package, device, precision, mode=mode, region=region))

    def __call__(
        self,
        io: IOBackend,
        start_time: list[datetime],
        source: str | None = None,
        number_of_samples: int | None = None,
        number_of_steps: int | None = None,
        solver: str | None = None,
        seed: int | None = None,
        lead_time: str | None = None,
    ) -> None:
        """Run one request; progress goes to the server.

        Parameters
        ----------
        io : IOBackend
            The server's output. In Zarr the store is that of ``run-corrdiff``, with provenance and the
            coarse input; in NetCDF it holds the output fields alone
        start_time : list[datetime]
            Valid times, or with lead times the reference times of forecasts, UTC
        source : str | None, optional
            One of the server's ``sources``, by default the first
        number_of_samples, number_of_steps, solver : optional
            By default the package's
        seed : int | None, optional
            Seed of the run, by default drawn; a Zarr store records it
        lead_time : str | None, optional
            Lead times of forecasts, like ``6h``, ``0/48/6h`` or ``6,12``; with the demo, too

        Raises
        ------
        InputError
            If a parameter cannot be used; the server sends the sentence to the client
        """
        sampling = self._sampling(number_of_steps, solver)
        name = self._allowed(source)
        if lead_time is None:
            weather: Source | Forecast = make_source(name)
        else:
            weather = make_forecast("demo_fx" if name == "demo" else name)
        backend = getattr(io, "io", io)  # the server's wrapper needs a lead_time axis
        options = Options(seed, command=self.name, number_of_samples=number_of_samples, sampling=sampling)
        run = Downscaling(start_time, self.model, weather, backend, options, lead_time=lead_time)
        if run.members > self.max_members:
            raise InputError(
                f"this server makes at most {self.max_members} members a request, over all times; "
                f"got {run.members}"
            )
        self._run(run)

    @classmethod
    def validate_parameters(cls, parameters: dict[str, Any] | WorkflowParameters) -> WorkflowParameters:
        """Refuse parameters that are wrong for any model and source.

        Raises
        ------
        ValueError
            If a parameter is unknown, of another type, or impossible
        """
        checked = super().validate_parameters(parameters)
        distinct(to_times(checked.start_time))
        if checked.lead_time is not None:
            to_leads(checked.lead_time)
        for name in ("number_of_samples", "number_of_steps"):
            if getattr(checked, name) is not None:
                check_count(name, getattr(checked, name))
        if checked.solver is not None:
            check_solver(checked.solver)
        return checked

    def _sampling(self, steps: int | None, solver: str | None) -> Sampling:
        """Sampling of one request, by default the package's."""
        if steps is not None and steps > self.max_steps:
            raise InputError(f"this server takes at most {self.max_steps} steps; got {steps}")
        own = self.model.downscaler.sampling
        return replace(own, steps=own.steps if steps is None else steps, solver=solver or own.solver)

    def _allowed(self, source: str | None) -> str:
        if source is None:
            return self.sources[0]
        if source not in self.sources:
            raise InputError(f"this server has no source {source!r}; choose one of {', '.join(self.sources)}")
        return source

    def _run(self, run: Downscaling) -> None:
        """Run, and report each denoising step and each member to the server."""
        total, done = run.evaluations or run.members, 0

        def report(text: str) -> None:
            self.update_progress(WorkflowProgress(progress=text, current_step=done, total_steps=total))

        def denoised(steps: int) -> None:
            nonlocal done
            done += steps
            report(f"denoising; {run.written} of {run.members} members written")

        run.progress = denoised
        report("fetching the input")
        for when, member in run:
            done += not run.evaluations  # a package without a diffusion model
            report(f"wrote member {member} of {time_text(when)}")
