# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny packages of random weights in the layout of ``CorrDiffEra5Hrrr``, and the stock class made to run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny import earth2studio_module, randomise
from torch import Tensor

from earth2_corrdiff.networks.mdlus import Checkpoint, write_mdlus
from earth2_corrdiff.networks.preconditioned import create

INPUTS, OUTPUTS, FLAGS = ["t2m", "u10m", "tcwv"], ["t2m", "mslp", "u1hl", "refc"], ["tcwv"]
ROWS, COLS, INVARIANTS = [400, 412], [500, 520], 2
SHAPE = (12, 20)
TIMES = np.array(["2024-07-24T09:00", "2024-12-24T18:30", "2023-02-28T00:00"], dtype="datetime64[ns]")
SAMPLER = {"num_steps": 4, "solver": "heun", "shift": 32.0, "t_max": 0.99, "x0v_clip": 0.05, "amp": False}


def metadata(kind: str = "rectified_flow", prediction: str = "x0", **sampler: Any) -> dict[str, Any]:
    return {
        "era5_variables": INPUTS,
        "output_variables": OUTPUTS,
        "checkpoint": "dit.mdlus",
        "hrrr_window": {"rows": ROWS, "cols": COLS},
        "network": {"kind": kind, "prediction_type": prediction, "time_scale": 999.0, "sigma_data": 0.6},
        "scalar_conditions": {"day_of_year": True, "presence_flags": FLAGS},
        "sampler": {**SAMPLER, "sigma_min": 0.02, "sigma_max": 150.0, "rho": 6.0, **sampler},
        "number_of_samples": 2,
    }


def make_hrrr(folder: Path, kind: str = "rectified_flow", prediction: str = "x0", **sampler: Any) -> Path:
    """A package; returns its folder."""
    home = folder / "x_pred"
    home.mkdir(parents=True)
    rng = np.random.default_rng(1)

    def statistics(names: list[str]) -> dict[str, Any]:
        return {name: {"mean": rng.normal(), "std": rng.uniform(0.5, 2)} for name in names}

    documents = {"stats": {"era5": statistics(INPUTS), "hrrr": statistics(OUTPUTS)}}
    documents["metadata"] = metadata(kind, prediction, **sampler)
    for name, content in documents.items():
        (home / f"{name}.json").write_text(json.dumps(content))
    y, x = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    arrays = {
        "hrrr_lat": (38 + 0.03 * y + 0.001 * x).astype("f4"),
        "hrrr_lon": (260 + 0.035 * x - 0.002 * y).astype("f4"),
        "era5_lat": np.arange(39, 37.4, -0.25),  # from north to south, as ERA5
        "era5_lon": np.arange(259.5, 261.3, 0.25),
        "invariants": rng.normal(size=(INVARIANTS, *SHAPE)).astype("f4"),
    }
    for name, values in arrays.items():
        np.save(home / f"{name}.npy", values)
    write_network(home / "dit.mdlus")
    return folder


def write_network(path: Path) -> None:
    """A DiT that sees latent, coarse fields, zenith angle, invariants; and phase of the year and flags."""
    args = {
        "input_size": list(SHAPE),
        "in_channels": len(OUTPUTS) + len(INPUTS) + 1 + INVARIANTS,
        "out_channels": len(OUTPUTS),
        "patch_size": [2, 2],
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "attention_backend": "natten2d",
        "attn_kwargs": {"attn_kernel": 3},
        "condition_dim": 2 + len(FLAGS),
    }
    net = randomise(create(Checkpoint("DiT", args, {}, "dit")))
    write_mdlus(path, "DiT", "physicsnemo.models.dit.dit", args, net.checkpoint_state(), "0.2.0")


def coarse(cases: int = 3, batch: int = 1, seed: int = 0) -> Tensor:
    """Coarse fields ``[B, T, C, h, w]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, cases, len(INPUTS), 7, 8, generator=generator)


class RectifiedFlowNoiseScheduler:
    """The scheduler that the stock class imports, and no release of PhysicsNeMo has: t from t_max to 0."""

    def __init__(self, t_max: float) -> None:
        self.t_max = t_max

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def timesteps(self, steps: int, *, device: Any = None, dtype: Any = None) -> Tensor:
        return torch.linspace(self.t_max, 0, steps + 1, device=device, dtype=dtype)

    def get_denoiser(self, *, flow_predictor: Any) -> Any:
        return flow_predictor


@contextmanager
def stock_hrrr() -> Iterator[Any]:
    """Earth2Studio's class, with the scheduler that it lacks, and without NATTEN."""
    from dit_kit import plain_attention
    from earth2studio.utils.imports import OptionalDependencyFailure
    from physicsnemo.diffusion import noise_schedulers

    name = "RectifiedFlowNoiseScheduler"
    with pytest.MonkeyPatch.context() as patch, plain_attention():
        patch.setattr(noise_schedulers, name, RectifiedFlowNoiseScheduler, raising=False)
        if "natten" not in sys.modules:
            patch.setitem(sys.modules, "natten", ModuleType("natten"))
        patch.setattr(OptionalDependencyFailure, "failures", {})
        module = earth2studio_module("models.dx.corrdiff_era5_hrrr")
        if module.DiT is None:  # imported before, without these
            module = importlib.reload(module)
        yield module.CorrDiffEra5Hrrr
