# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the core: tiny networks with weights that matter, tiny packages, and the stock classes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import Checkpoint, write_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create

SHARED = Path(__file__).resolve().parents[3] / "shared"
INPUTS = Statistics(("t2m", "u10m", "z500"), (290.0, 1.0, 56000.0), (8.0, 5.0, 700.0))
OUTPUTS = Statistics(("mrr", "t2m"), (3.0, 291.0), (9.0, 6.0))
HILLS = Statistics(("orography",), (400.0,), (600.0,))
COARSE = Grid(np.arange(20, 26, dtype=np.float32), np.arange(118, 125.5, dtype=np.float32))
UNET = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}


# weights and errors


@torch.no_grad()
def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a value that matters: fresh U-Nets have 1e-5, 0 and 1 where errors would hide."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            p.copy_(1 + 0.2 * noise)
        elif p.ndim >= 2 and "embd" not in name and "spatial" not in name:
            p.copy_(noise / p[0].numel() ** 0.5)
        else:
            p.copy_(0.2 * noise)
    return net


def relerr(ours: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over that of the reference."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).norm() / reference.norm())


# our networks, specifications and packages


def curved(H: int, W: int) -> Grid:
    """A slightly bent grid inside ``COARSE``, float32."""
    j, i = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    lat = 20.4 + 4.0 * j / (H - 1) + 0.3 * np.sin(i / W * np.pi)
    lon = 118.6 + 5.5 * i / (W - 1) + 0.3 * np.sin(j / H * np.pi)
    return Grid(lat.astype(np.float32), lon.astype(np.float32))


def straight(H: int, W: int) -> Grid:
    """A rectilinear grid inside ``COARSE``, float32."""
    return Grid(np.linspace(20.3, 24.8, H, dtype=np.float32), np.linspace(118.4, 124.9, W, dtype=np.float32))


def hills(grid: Grid) -> np.ndarray:
    """Orography on a grid, ``[1, H, W]`` float32, metres."""
    lat, lon = grid.mesh()
    return (900 * (1 + np.sin(3 * lat) * np.cos(2 * lon)))[None].astype(np.float32)


def make_spec(
    shape: tuple[int, int] = (16, 24), invariants: bool = True, bent: bool = True, **what: Any
) -> CorrDiffSpec:
    fine = curved(*shape) if bent else straight(*shape)
    if invariants:
        what = {"invariants": HILLS, "invariant_fields": hills(fine), **what}
    what = {"sampling": Sampling("euler", 3), "seed": 11, "name": "tiny", **what}
    return CorrDiffSpec(inputs=INPUTS, outputs=OUTPUTS, input_grid=COARSE, output_grid=fine, **what)


def make_networks(spec: CorrDiffSpec, seed: int = 0, **unet: Any) -> tuple[Regression, Denoiser]:
    """Random networks that fit a specification: a regression without, a denoiser with position features."""
    common = {**UNET, "img_resolution": list(spec.output_grid.shape), "dropout": 0.0, **unet}
    outputs = len(spec.outputs.names)
    condition = spec.condition_channels + (4 if spec.regression_grid else 0)
    regression = create(
        Checkpoint(
            "UNet",
            {
                "img_in_channels": condition,
                "img_out_channels": outputs,
                "model_type": "SongUNet",
                "embedding_type": "zero",
                **common,
            },
            {},
            "regression.mdlus",
        )
    )
    mean = outputs if spec.hr_mean_conditioning else 0
    denoiser = create(
        Checkpoint(
            "EDMPrecondSuperResolution",
            {
                "img_in_channels": spec.condition_channels + mean + 4,
                "img_out_channels": outputs,
                "model_type": "SongUNetPosEmbd",
                "gridtype": "sinusoidal",
                "N_grid_channels": 4,
                **common,
            },
            {},
            "diffusion.mdlus",
        )
    )
    for i, net in enumerate((regression, denoiser)):
        randomise(net, seed + i).eval().requires_grad_(False)
    return regression, denoiser


def make_downscaler(
    spec: CorrDiffSpec | None = None, precision: str = "fp32", accelerated: bool = False, **unet: Any
) -> Downscaler:
    """Plain by default: what the pipeline does is tested to the bit, its fast networks by themselves."""
    spec = spec or make_spec()
    return Downscaler(spec, *make_networks(spec, **unet), precision, accelerated)


def make_package(folder: Path, spec: CorrDiffSpec | None = None) -> Path:
    """A package of the generic layout, written by this project."""
    spec = spec or make_spec(sampling=Sampling("heun", 3, sigma_max=80.0))
    return save_package(folder, spec, *make_networks(spec))


def small_package(folder: Path, shape: tuple[int, int] = (16, 24), **what: Any) -> Path:
    """Three inputs that the demo's weather has, two outputs; three members of two steps, no seed."""
    what = {"sampling": Sampling("heun", 2, sigma_max=80.0), "number_of_samples": 3, "seed": None, **what}
    return make_package(folder, make_spec(shape, **what))


def weather(batch: int = 1, seed: int = 0, grid: Grid = COARSE) -> Tensor:
    """Smooth states in physical units, ``[batch, 3, h, w]``."""
    generator = torch.Generator().manual_seed(seed)
    lat, lon = (torch.from_numpy(np.array(x, dtype=np.float64)) for x in grid.mesh())
    phase = 6 * torch.rand(batch, len(INPUTS.names), 3, 1, 1, generator=generator)
    waves = torch.sin(0.9 * lat + phase[:, :, 0]) * torch.cos(0.7 * lon + phase[:, :, 1]) + torch.sin(
        0.4 * lat * lon / 50 + phase[:, :, 2]
    )
    scale, center = (torch.tensor(x).view(1, -1, 1, 1) for x in (INPUTS.scale, INPUTS.center))
    return (center + scale * waves).float()


# the Taiwan layout

TAIWAN_IN = {"tcwv": 0, "z500": 1, "t500": 2, "u500": 3, "v500": 4, "z850": 9, "t850": 10}
TAIWAN_IN |= {"u850": 11, "v850": 12, "t2m": 17, "u10m": 18, "v10m": 19}
TAIWAN_OUT = {"mrr": 0, "t2m": 17, "u10m": 18, "v10m": 19}


def taiwan_arrays(shape: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Grid, with the ring that is cut off, and 20-entry statistics, of which some rows are used."""
    H, W = shape[0] + 2, shape[1] + 2
    j, i = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    lat = 19.6 + 8.0 * j / (H - 1) + 0.05 * np.sin(i / W * np.pi)
    lon = 116.4 + 8.9 * i / (W - 1) + 0.05 * np.sin(j / H * np.pi)
    rng = np.random.default_rng(seed)
    return {
        "XLAT": lat.astype(np.float32),
        "XLONG": lon.astype(np.float32),
        "era5_center": rng.normal(0, 3, 20).astype(np.float32),
        "era5_scale": rng.uniform(2, 5, 20).astype(np.float32),
        "cwb_center": rng.normal(0, 3, 20).astype(np.float32),
        "cwb_scale": rng.uniform(2, 5, 20).astype(np.float32),
    }


def make_taiwan(
    folder: Path, shape: tuple[int, int] = (16, 24), arrays: dict[str, np.ndarray] | None = None, **unet: Any
) -> Path:
    """A zip of the layout that the published weights have, with random weights; returns the folder."""
    import zarr

    arrays = arrays or taiwan_arrays(shape)
    common = {**UNET, "img_resolution": shape[0] if shape[0] == shape[1] else list(shape), **unet}
    n_in, n_out = len(TAIWAN_IN), len(TAIWAN_OUT)
    homes = ("models.diffusion_unets.unet", "diffusion.preconditioners.legacy")
    networks = {
        "regression": (
            "UNet",
            {"img_in_channels": n_in + 4, "model_type": "SongUNet", "embedding_type": "zero"},
        ),
        "diffusion": (
            "EDMPrecondSR",
            {"img_channels": n_out, "img_in_channels": n_out + n_in + 4, "model_type": "SongUNetPosEmbd"},
        ),
    }
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "corrdiff_inference_package"
        (root / "checkpoints").mkdir(parents=True)
        for seed, (home, (stage, (name, args))) in enumerate(zip(homes, networks.items(), strict=True)):
            args = {**args, "img_out_channels": n_out, **common}
            net = randomise(create(Checkpoint(name, args, {}, stage)), seed)
            path = root / "checkpoints" / f"{stage}.mdlus"
            write_mdlus(path, name, f"physicsnemo.{home}", args, net.state_dict())
        group = zarr.open_group(
            root / "dataset" / "2023-01-24-cwb-4years_5times.zarr", mode="w", zarr_format=2
        )
        for name, values in arrays.items():
            group.create_array(name, data=values)
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / "corrdiff_inference_package.zip", "w") as target:
            for path in sorted(p for p in Path(temporary).rglob("*") if p.is_file()):
                target.write(path, path.relative_to(temporary))
    return folder


# the stock classes


def _from_parts(package: str, what: str) -> Any:
    """What a package's ``__init__`` would have taken from its modules: protocols and functions."""
    for part in ("base", "utils", what.lower()):
        if importlib.util.find_spec(f"{package}.{part}") is None:
            continue
        module = importlib.import_module(f"{package}.{part}")
        if hasattr(module, what):
            return getattr(module, what)
    raise AttributeError(what)


@contextlib.contextmanager
def _without_siblings(*packages: str) -> Iterator[None]:
    """Import modules out of large packages without all their other modules, which take half a minute."""
    added = [name for name in packages if name not in sys.modules]
    for name in added:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        bare = ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations or [])
        bare.__getattr__ = partial(_from_parts, name)  # type: ignore[method-assign]
        sys.modules[name] = bare
    try:
        yield
    finally:
        for name in [m for m in sys.modules if any(m == a or m.startswith(a + ".") for a in added)]:
            del sys.modules[name]


def earth2studio_module(name: str) -> ModuleType:
    """A module of Earth2Studio that is, or needs, one of its many models: as ``models.dx.corrdiff``."""
    packages = ("earth2studio.models.dx", "earth2studio.models.px", "earth2studio.data")
    with _without_siblings(*packages), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"earth2studio.{name}")


def upstream_wrapper(name: str, args: dict[str, Any], seed: int = 0) -> nn.Module:
    """PhysicsNeMo's class of a checkpoint's name with random weights, in evaluation mode."""
    from physicsnemo.diffusion.preconditioners import legacy
    from physicsnemo.models import diffusion_unets

    home = legacy if name.startswith("EDM") else diffusion_unets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomise(getattr(home, name)(**args), seed).eval()


def upstream_save(net: Any, path: Path, **how: Any) -> Path:
    """Write a checkpoint with PhysicsNeMo; from a folder without git, which it would ask."""
    target = path.resolve()
    with tempfile.TemporaryDirectory() as neutral, contextlib.chdir(neutral):
        net.save(str(target), **how)
    return target
