# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One process of a run that bench-scaling.py measures, and the package that it loads."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
import xarray as xr

from bench.cases import INPUTS, OUTPUTS, SIZES, Size, randomise
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.processes import launched, meet
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create

COARSE = Grid(np.linspace(19, 29, 41, dtype=np.float32), np.linspace(115, 127, 49, dtype=np.float32))
NETWORKS = {"small": Size(0, 16, (1, 2, 2, 2, 2), 1), "full": SIZES["full"]}
"""Widths; both have the published five levels, with attention on the last one."""


def child(asked: dict[str, Any]) -> None:
    """One process of a run: load, warm up, wait for the others, run; one line of JSON."""
    from earth2_corrdiff.model.earth2studio import CorrDiff
    from earth2_corrdiff.run.downscaling import Downscaling, Options

    processes = meet(launched(os.environ), os.environ)
    device = torch.device(asked["device"])
    if device.type == "cuda" and processes.size > 1:
        device = torch.device("cuda", processes.local % torch.cuda.device_count())
    model = CorrDiff.load_model(Folder(Path(asked["package"])), precision=asked["precision"]).to(device)
    model.number_of_samples, model.number_of_steps = asked["members"], asked["steps"]
    coarse = torch.from_numpy(steady(np.datetime64("2024-07-24"), list(INPUTS.names)).values).float()
    model.downscaler(coarse.to(device), [0])
    if processes.board is not None:
        processes.board.add("warm", 1)
        while processes.board.add("warm", 0) < processes.size:
            sleep(0.01)
    start = perf_counter()
    run = Downscaling("2024-07-24", model, steady, asked["output"], Options(seed=0, processes=processes))
    for _ in run:
        pass
    wall = perf_counter() - start
    processes.leave()
    said = {
        "seconds": run.seconds,
        "wall": wall,
        "calls": model.downscaler.sampling.calls,
        "peak": _peak(device),
    }
    print(json.dumps(said))


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


def _peak(device: torch.device) -> int:
    """Bytes that the process had at most: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
