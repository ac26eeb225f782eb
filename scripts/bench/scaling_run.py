# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One run that bench-scaling.py measures, and the package that it loads."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr

from bench.cases import INPUTS, OUTPUTS, SIZES, Size, randomise
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create
from earth2_corrdiff.run.cluster import ClusterRun, Recipe, connected
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.run.packages import load_model

COARSE = Grid(np.linspace(19, 29, 41, dtype=np.float32), np.linspace(115, 127, 49, dtype=np.float32))
NETWORKS = {"small": Size(0, 16, (1, 2, 2, 2, 2), 1), "full": SIZES["full"]}
"""Widths; both have the published five levels, with attention on the last one."""


def child(asked: dict[str, Any]) -> None:
    """One run: load, warm up, run, here or on Dask's workers; one line of JSON."""
    options = ModelOptions(asked["package"], asked["device"], asked["precision"], steps=asked["steps"])
    how = Options(seed=0, number_of_samples=asked["members"])
    if asked["workers"]:
        with connected(asked["workers"], None) as client:
            run: Any = ClusterRun(client, Recipe("2024-07-24", options, steady, asked["output"], how))
            wall = _timed(iter(run))
            calls, peak = run.evaluations // run.members, max(client.run(_peak, asked["device"]).values())
    else:
        model = load_model(options)
        coarse = torch.from_numpy(steady(np.datetime64("2024-07-24"), list(INPUTS.names)).values).float()
        model.downscaler(coarse.to(model.downscaler.device), [0])
        run = Downscaling("2024-07-24", model, steady, asked["output"], how)
        wall = _timed(iter(run))
        calls, peak = model.downscaler.sampling.calls, _peak(asked["device"])
    print(json.dumps({"seconds": run.seconds, "wall": wall, "calls": calls, "peak": peak}))


def _timed(members: Iterator[object]) -> float:
    """Seconds of a run, once its output is open."""
    start = perf_counter()
    for _ in members:
        pass
    return perf_counter() - start


def steady(time: Any, variable: Any) -> xr.DataArray:
    """Weather without weather: every variable at its mean, as an Earth2Studio data source."""
    names = [str(name) for name in np.atleast_1d(variable)]
    means = dict(zip(INPUTS.names, INPUTS.center, strict=True))
    fields = [np.full(COARSE.shape, means[name], dtype=np.float32) for name in names]
    coords = {"time": np.atleast_1d(time), "variable": names, "lat": COARSE.lat, "lon": COARSE.lon}
    return xr.DataArray(np.stack(fields)[None], coords, ("time", "variable", "lat", "lon"))


def make_package(folder: Path, shape: tuple[int, int], size: Size) -> None:
    """Random networks of the published architecture for a domain."""
    spec = CorrDiffSpec(
        inputs=INPUTS,
        outputs=OUTPUTS,
        input_grid=COARSE,
        output_grid=Grid(np.linspace(20, 28, shape[0]), np.linspace(116, 126, shape[1])),
        sampling=Sampling("euler", 4),
    )
    common = {
        "img_resolution": list(shape),
        "model_channels": size.channels,
        "channel_mult": list(size.mult),
        "num_blocks": size.blocks,
        "attn_resolutions": [shape[0] >> (len(size.mult) - 1)],
        "img_out_channels": len(OUTPUTS.names),
    }
    condition = len(INPUTS.names)
    regression = {"img_in_channels": condition, "model_type": "SongUNet", "embedding_type": "zero", **common}
    diffusion = {"img_in_channels": condition + len(OUTPUTS.names) + 4, "model_type": "SongUNetPosEmbd"}
    diffusion |= {"gridtype": "sinusoidal", "N_grid_channels": 4, **common}
    nets = [create(Checkpoint("UNet", regression, {}, "regression"))]
    nets.append(create(Checkpoint("EDMPrecondSuperResolution", diffusion, {}, "diffusion")))
    for seed, net in enumerate(nets):
        randomise(net, seed)
    first, second = nets
    assert isinstance(first, Regression) and isinstance(second, Denoiser)
    save_package(folder, spec, first, second)


def _peak(device: str) -> int:
    """Bytes that the process had at most: of the GPU's memory, or of the machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
