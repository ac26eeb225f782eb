# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny packages with random weights in the layout of ``CorrDiffCosmoEra5``, and the stock class."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import earth2studio_module, randomise
from torch import Tensor

from earth2_corrdiff.networks.mdlus import Checkpoint, Nested, write_mdlus
from earth2_corrdiff.networks.preconditioned import create

INPUTS = ["u10m", "v10m", "t2m", "sp"]
OUTPUTS = ["U_10M", "T_2M", "TOT_PRECIP", "CLCT", "ASWDIR_S", "ASHFL_S", "U_L40", "V_L40", "U_L38", "V_L38"]
BEFORE = ["sin_lat", "cos_lat", "sin_lon", "cos_lon", "elevation_norm", "land_fraction"]
AFTER = ["z0_lu_norm"]
NATIVE, OFFSET, EXTENDED = (14, 18), (6, 4), (26, 28)  # the domain in its surroundings
TRAINED, KERNEL, PATCH = (12, 12), 3, 2  # networks are made for a patch and see any domain
TIMES = np.array(["2024-07-24T03:00", "2024-12-24T15:00", "2024-07-24T12:00"], dtype="datetime64[ns]")
"""Before sunrise, after sunset and at noon on the grid."""


def rotated(shape: tuple[int, int], step: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of a grid that is bent, as a rotated pole's."""
    y, x = np.meshgrid(np.arange(shape[0]) * step + 47.0, np.arange(shape[1]) * step + 8.0, indexing="ij")
    return (y + 0.02 * (x - 10)).astype("f4"), (x - 0.03 * (y - 50)).astype("f4")


def statistics(names: list[str], seed: int, size: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: {"mean": rng.normal(), "std": size * rng.uniform(0.5, 2.0)} for name in names}


def metadata(resolution: str = "rea6") -> dict[str, Any]:
    size = {"patch_size": PATCH, "attn_kernel_size": KERNEL}
    return {
        "era5_variables": INPUTS,
        "output_variables": OUTPUTS,
        "pre_invariant_variables": BEFORE,
        "post_invariant_variables": AFTER,
        "modes": {
            "mean": {"stats": "output_mean", "channel_transforms": False},
            "diffusion": {"stats": "output", "channel_transforms": True},
        },
        "channel_transforms": {
            "TOT_PRECIP": {"transform": "log_eps", "eps": 1e-2},
            "ASHFL_S": {"transform": "asinh", "eps": 1.0},
            "CLCT": {"transform": "logit_eps_percent", "eps": 0.01, "scale": 100.0},
        },
        "constraints": {
            "bounds": {
                "TOT_PRECIP": {"min": 0.0, "max": None},
                "CLCT": {"min": 0.0, "max": 100.0, "mode": "clamp"},
            },
            "sza_gate": {
                "half_width": 0.05,
                "channels": {"ASWDIR_S": {"threshold": 0.03}},
            },
        },
        "number_of_samples": 2,
        "sampler": {"num_steps": 3, "sigma_min": 0.002, "sigma_max": 800.0, "rho": 6.0, "solver": "heun"},
        "checkpoints": {f"{resolution}_{mode}": f"{mode}.mdlus" for mode in ("mean", "diffusion")},
        "regression": size,
        "diffusion": size,
        "wind_levels": {
            "elevation_invariant": "elevation_norm",
            "levels": [
                {"u": "U_L40", "v": "V_L40", "a": 10.0, "b": -0.5},
                {"u": "U_L38", "v": "V_L38", "a": 70.0, "b": -1.0},
            ],
        },
        "invariants": {
            "file": "invariants_ext.nc",
            "norm_stats_file": "norm.json",
            "native_offset": list(OFFSET),
            "native_shape": list(NATIVE),
        },
    }


def make_cosmo(folder: Path, resolution: str = "rea6") -> Path:
    """A package of one resolution, both modes; returns its folder."""
    home = folder / resolution
    home.mkdir(parents=True)
    norm = {
        "elevation": {"method": "zscore", "mean": 300.0, "std": 250.0},
        "land_fraction": {"method": "identity"},
        "z0_lu": {"method": "zscore", "mean": 0.3, "std": 0.4},
    }
    stats = {"era5": statistics(INPUTS, 3), "output": statistics(OUTPUTS, 4, 0.02)}
    stats["output_mean"] = statistics(OUTPUTS, 5)
    for key in ("output", "output_mean"):  # fields that are not zero everywhere
        stats[key] |= {name: {"mean": 2.0, "std": 0.02} for name in ("TOT_PRECIP", "CLCT", "ASWDIR_S")}
    documents = {"metadata": metadata(resolution), "stats": stats, "norm": {"channels": norm}}
    for name, content in documents.items():
        (home / f"{name}.json").write_text(json.dumps(content))
    lat, lon = rotated(EXTENDED)
    rng = np.random.default_rng(6)
    fields = {name: rng.random(EXTENDED) * (400 if name == "elevation" else 1) for name in norm}
    both = {"lat": lat, "lon": lon, **{name: field.astype("f4") for name, field in fields.items()}}
    xr.Dataset({name: (("y", "x"), field) for name, field in both.items()}).to_netcdf(
        home / "invariants_ext.nc"
    )
    rows, columns = (slice(i, i + n) for i, n in zip(OFFSET, NATIVE, strict=True))
    xr.Dataset(
        {
            "lat_input": ("la", np.arange(45, 54.6, 0.5, dtype="f4")),
            "lon_input": ("lo", np.arange(6, 16.1, 0.5, dtype="f4")),
            "lat_output": (("y", "x"), lat[rows, columns]),
            "lon_output": (("y", "x"), lon[rows, columns]),
        }
    ).to_netcdf(home / "grids.nc")
    write_networks(home)
    return folder


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON document of a package, or a NetCDF file."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return
    with xr.open_dataset(path) as ds:
        made = change(ds.load())
    made.to_netcdf(path)


def write_networks(home: Path) -> None:
    """``mean.mdlus``, a DiT, and ``diffusion.mdlus``, one in its preconditioner."""
    given, made = len(INPUTS) + len(BEFORE) + 1 + len(AFTER), len(OUTPUTS)
    args = {
        "input_size": list(TRAINED),
        "in_channels": given,
        "out_channels": made,
        "patch_size": [PATCH, PATCH],
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "attention_backend": "natten2d_rope",
        "attn_kwargs": {"attn_kernel": KERNEL},
        "detokenizer": "proj_reshape_2d_conv",
    }
    inner = {**args, "in_channels": given + made, "detokenizer": "proj_reshape_2d"}
    dit = Nested("DiT", inner, "physicsnemo.models.dit.dit")
    joined = Nested("ConcatConditionWrapper", {"model": dit}, "physicsnemo.diffusion.utils.model_wrappers")
    outer = {"model": joined, "sigma_data": 0.5}
    for seed, (mode, name, module, top) in enumerate(
        [
            ("mean", "DiT", "physicsnemo.models.dit.dit", args),
            (
                "diffusion",
                "EDMPreconditioner",
                "physicsnemo.diffusion.preconditioners.preconditioners",
                outer,
            ),
        ]
    ):
        net = randomise(create(Checkpoint(name, top, {}, mode)), seed)
        write_mdlus(home / f"{mode}.mdlus", name, module, top, net.checkpoint_state())


def coarse(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random coarse fields."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# the stock class


def windows(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, **_: Any) -> Tensor:
    """NATTEN's attention without dilation, ``[B, h, w, heads, dim]``: every query's window, gathered."""

    def near(n: int) -> Tensor:  # [n, kernel]: at a border the window is shifted
        first = (torch.arange(n) - kernel_size // 2).clamp(0, n - kernel_size)
        return first[:, None] + torch.arange(kernel_size)

    k, v = (x[:, near(x.shape[1])][:, :, :, near(x.shape[2])] for x in (k, v))
    scores = torch.einsum("bhwnd,bhkwlnd->bhwnkl", q * q.shape[-1] ** -0.5, k)
    weights = scores.flatten(-2).softmax(-1).view(scores.shape)
    return torch.einsum("bhwnkl,bhkwlnd->bhwnd", weights, v)


@contextmanager
def stock_cosmo() -> Iterator[ModuleType]:
    """Earth2Studio's module of the class, which runs without NATTEN."""
    from earth2studio.utils.imports import OptionalDependencyFailure
    from physicsnemo.nn.module import dit_layers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dit_layers, "_na2d_func", windows)
        patch.setattr(OptionalDependencyFailure, "failures", {})
        if "natten" not in sys.modules:  # it asks for it when it is imported
            patch.setitem(sys.modules, "natten", ModuleType("natten"))
        module = earth2studio_module("models.dx.corrdiff_cosmo_era5")
        if not hasattr(module, "natten"):  # imported before, without it
            module = importlib.reload(module)
        yield module
