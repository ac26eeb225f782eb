# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny packages of the layout of ``CorrDiffCMIP6`` with random weights, and input for them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tiny import UNET, randomise
from torch import Tensor

from earth2_corrdiff.networks.mdlus import Checkpoint, write_mdlus
from earth2_corrdiff.networks.preconditioned import create

SHAPE, COARSE = (25, 48), (6, 9)  # the smallest that the padding leaves
INPUTS, OUTPUTS = ["t2m", "siconc", "snc"], ["u10m", "t2m", "q700"]
INVARIANTS = ["orography", "lsm", "coslat"]
TIMES = np.array(["2024-07-24T12:00", "2024-12-31T12:00"], dtype="datetime64[ns]")
LEADS = np.array([-12, 3], dtype="timedelta64[h]")


def _statistics(names: list[str], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: {"mean": float(rng.normal()), "std": float(rng.uniform(0.5, 2))} for name in names}


def _axes(shape: tuple[int, int]) -> dict[str, Any]:
    H, W = shape
    lat, lon = np.linspace(-72, 72, H, dtype="f4"), np.linspace(0, 360, W, endpoint=False, dtype="f4")
    return {"lat": lat, "lon": lon}


def make_cmip6(folder: Path, inputs: list[str] | None = None, **meta: Any) -> Path:
    """A package whose files are those that the stock class reads; returns the folder."""
    folder.mkdir(parents=True)
    (H, W), n_out, inputs = SHAPE, len(OUTPUTS), INPUTS if inputs is None else inputs
    channels = 3 * len(inputs) + len(INVARIANTS) + 2
    homes = ("models.diffusion_unets.unet", "diffusion.preconditioners.legacy")
    for seed, (stage, name, n_in, home) in enumerate(
        (
            ("regression", "UNet", channels, homes[0]),
            ("diffusion", "EDMPrecondSuperResolution", channels + n_out, homes[1]),
        )
    ):
        size = {"img_resolution": [H + 47, W + 96], "img_in_channels": n_in, "img_out_channels": n_out}
        args = {**UNET, **size, "model_type": "SongUNet", "attn_resolutions": [0]}
        net = randomise(create(Checkpoint(name, args, {}, stage)), seed)
        write_mdlus(folder / f"{stage}.mdlus", name, f"physicsnemo.{home}", args, net.state_dict())
    stats = {
        "input": _statistics([*inputs, "sza", "hod"], 3),
        "output": _statistics(OUTPUTS, 4),
        "invariants": _statistics(INVARIANTS, 5),
    }
    metadata = {
        "input_variables": inputs, "output_variables": OUTPUTS, "invariant_variables": INVARIANTS,
        "number_of_samples": 2, "number_of_steps": 2, "solver": "euler", "sampler_type": "stochastic",
    }  # fmt: skip
    (folder / "stats.json").write_text(json.dumps(stats))
    (folder / "metadata.json").write_text(json.dumps({**metadata, **meta}))
    for name, shape in (("input", COARSE), ("output", SHAPE)):
        xr.Dataset(coords=_axes(shape)).to_netcdf(folder / f"{name}_latlon_grid.nc")
    rng = np.random.default_rng(6)
    fields = {name: (("lat", "lon"), rng.normal(size=SHAPE).astype("f4")) for name in INVARIANTS}
    xr.Dataset(fields, coords=_axes(SHAPE)).to_netcdf(folder / "invariants.nc")
    return folder


def days(model: Any, cases: int = 1) -> tuple[Tensor, OrderedDict[str, Any]]:
    """Three daily means around each of ``TIMES``, with missing sea ice, and their coordinates."""
    coords = OrderedDict(model.input_coords(), batch=np.arange(cases), time=TIMES)
    generator = torch.Generator().manual_seed(cases)
    x = torch.randn([len(values) for values in coords.values()], generator=generator)
    ice = list(coords["variable"]).index("siconc")
    x[..., ice : ice + 2, :, :] *= 60
    x[..., ice, 2:4, 1:5] = torch.nan
    return x, coords
