#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A demonstration of each newer model without its weights: package, weather, run and picture.

    python scripts/family-demo.py hrrr --folder outputs/family

The package has the model's layout, true domain and kind of network, at reduced size and with random weights:
fields are random functions of synthetic coarse weather, terrain and sun, in the range of the climate. They
show that the commands work for the model, and nothing about its skill.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

import numpy as np  # noqa: E402
import torch  # noqa: E402
import xarray as xr  # noqa: E402
import zarr  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from earth2_corrdiff.cli import plot, run  # noqa: E402
from earth2_corrdiff.cli.common import ArgumentParser, run_command  # noqa: E402
from earth2_corrdiff.model.options import ModelOptions  # noqa: E402
from earth2_corrdiff.networks.mdlus import Checkpoint, Nested, write_mdlus  # noqa: E402
from earth2_corrdiff.networks.preconditioned import create  # noqa: E402
from earth2_corrdiff.run.packages import load_model  # noqa: E402
from earth2_corrdiff.sources import Inputs, make_source  # noqa: E402

Field = NDArray[np.float64]
Stats = dict[str, dict[str, float]]

CLIMATE = {
    **{"t2m": (285, 12), "d2m": (279, 10), "u10m": (0, 6), "v10m": (0, 6), "tcwv": (22, 11)},
    **{"sp": (98500, 1500), "msl": (101300, 900), "mslp": (101300, 900), "refc": (0, 14)},
    **{"siconc": (15, 25), "snc": (20, 25), "u1hl": (0, 5), "v1hl": (0, 5), "t1hl": (284, 12)},
    **{"T_2M": (285, 12), "U_10M": (0, 6), "V_10M": (0, 6), "PS": (98500, 1500), "TOT_PRECIP": (-1, 3)},
    **{"CLCT": (0, 3), "ASWDIR_S": (350, 200), "ASHFL_S": (1, 2), "U_L38": (0, 8), "V_L38": (0, 8)},
    **{"U_L40": (0, 7), "V_L40": (0, 7), "q1hl": (0.009, 0.004), "p1hl": (97000, 3000), "Z1hl": (10, 1)},
    **{"z1000": (1000, 700), "z850": (14300, 600), "z500": (55000, 1500), "z250": (101500, 2500)},
    **{"t1000": (287, 9), "t850": (279, 8), "t500": (254, 7), "t250": (222, 4), "q1000": (0.009, 0.003)},
    **{"q850": (0.006, 0.002), "q500": (0.001, 0.0003), "q250": (5e-5, 1e-5), "q700": (0.003, 0.001)},
    **{
        f"{wind}{level}": (4, speed)
        for wind in "uv"
        for level, speed in ((1000, 6), (850, 8), (500, 12), (250, 18))
    },
}
"""Mean and standard deviation; of COSMO's precipitation, clouds and fluxes those of their transforms."""
PEAKS = (
    *(
        (46.5, 10, 5, 1.5),
        (62, 9, 3, 5),
        (42.7, 0.5, 3, 0.7),
        (46.5, 25, 4, 2),
        (33, -4, 6, 2),
        (39, 38, 9, 3),
    ),
    *(
        (40, -110, 9, 9),
        (37, -119, 2, 3),
        (37, -80, 3, 5),
        (33, 88, 12, 5),
        (-15, -69, 4, 20),
        (72, -40, 12, 8),
    ),
    *(
        (-80, 90, 80, 12),
        (0, 25, 12, 12),
        (25, 135, 15, 8),
        (60, 100, 30, 8),
        (45, 70, 25, 8),
        (22, 5, 20, 7),
    ),
)
"""Latitude, longitude and widths east and north in degrees of a rough terrain."""
TIME = np.datetime64("2024-07-24T12", "ns")
HRRR_Y, HRRR_X = -1587306.152556665 + 3000.0 * np.arange(1059), -2697520.142521929 + 3000.0 * np.arange(1799)


def waves(lat: Field, lon: Field, seed: int, day: float = 0.0) -> Field:
    """A smooth field without jumps at any longitude, of about unit deviation."""
    rng, found = np.random.default_rng(seed), np.zeros(np.broadcast(lat, lon).shape)
    for _ in range(12):
        m, n, phase = rng.integers(2, 14), rng.uniform(4, 16), rng.uniform(0, 6.28)
        found += np.sin(np.deg2rad(m * (lon - 12 * day)) + phase) * np.cos(np.deg2rad(n * lat) + 2 * phase)
    return found / np.sqrt(3.0)


def terrain(lat: Field, lon: Field) -> Field:
    """Heights between 0 and 1."""
    away = ((lon[..., None] - np.array([p[1] for p in PEAKS])) + 180) % 360 - 180
    up = (lat[..., None] - np.array([p[0] for p in PEAKS])) / np.array([p[3] for p in PEAKS])
    return np.exp(-0.5 * ((away / np.array([p[2] for p in PEAKS])) ** 2 + up**2)).max(axis=-1)


def weather(path: Path, names: Sequence[str], lat: Field, lon: Field, times: NDArray[Any]) -> None:
    """Write coarse fields: the climate of the latitude, and waves."""
    rows, columns = np.meshgrid(lat, lon, indexing="ij")
    data = {}
    for seed, name in enumerate(names):
        mean, spread = CLIMATE[name]
        tilt = np.cos(np.deg2rad(2 * rows)) * (1.2 if name[0] in "tqz" else 0)
        fields = [
            mean + spread * np.clip(0.7 * tilt + 0.6 * waves(rows, columns, seed, i), -2.5, 2.5)
            for i in range(len(times))
        ]
        low = 0.0 if name in ("siconc", "snc", "tcwv") or name[0] == "q" else -np.inf
        data[name] = (("time", "lat", "lon"), np.maximum(fields, low).astype("f4"))
    xr.Dataset(data, {"time": times, "lat": lat, "lon": lon}).to_netcdf(path)


def statistics(names: Sequence[str]) -> Stats:
    """Statistics of the climate."""
    return {name: {"mean": float(CLIMATE[name][0]), "std": float(CLIMATE[name][1])} for name in names}


def units(names: Sequence[str]) -> Stats:
    """Statistics that change nothing, until `fit` has seen what the networks make."""
    return {name: {"mean": 0.0, "std": 1.0} for name in names}


@torch.no_grad()
def write_network(
    path: Path, name: str, module: str, args: dict[str, Any], latent: int = 0, seed: int = 0
) -> None:
    """Write random weights that treat the cells of a patch alike and hardly look at the noise."""
    net = create(Checkpoint(name, args, {}, path.stem))
    state, generator = net.checkpoint_state(), torch.Generator().manual_seed(seed)
    for key, value in state.items():
        if value.is_floating_point() and not key.endswith(("freqs", "sigma_data")):
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.1 * noise)
        if key.endswith("pos_embed"):
            value.zero_()
        if key.endswith("x_embedder.proj.weight"):
            value[:, :latent] *= 0.02
            value.copy_(value.mean((2, 3), keepdim=True).expand_as(value) * 2.0)
        if "aux_conv" in key:  # of a U-Net: a small residual on a large mean
            value *= 0.02 if "sigma_data" in args else 20
        if "output_projection" in key:
            value.copy_(_alike(value, _inner(args)["out_channels"]) * (20 if "sigma_data" in args else 1))
    version = "0.2.0" if name == "DiT" else ""
    write_mdlus(path, name, module, args, state, version)


def _inner(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the innermost network."""
    return (
        args
        if "model" not in args
        else _inner(args["model"].args if isinstance(args["model"], Nested) else {})
    )


def _alike(weights: torch.Tensor, outputs: int) -> torch.Tensor:
    """Weights of a head ``[p q C, ...]`` with those of one cell for all cells."""
    cells = weights.unflatten(0, (-1, outputs))
    return cells[:1].expand_as(cells).flatten(0, 1)


def dit(size: tuple[int, int], given: int, made: int, patch: int, **more: Any) -> dict[str, Any]:
    """Arguments of a small DiT."""
    return {
        "input_size": list(size),
        "in_channels": given,
        "out_channels": made,
        "patch_size": [patch, patch],
        "hidden_size": 48,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "attn_kwargs": {"attn_kernel": 5},
        **more,
    }


def dump(folder: Path, **documents: Any) -> None:
    """Write JSON files."""
    for name, content in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def fit(options: ModelOptions, source: str, stats: Path, table: str, names: Sequence[str]) -> None:
    """Give the outputs the climate's mean and deviation, as the networks make them for one case."""
    model, source_of = load_model(options), make_source(source)
    pipeline = model.downscaler
    coarse = Inputs.of(source_of, source_of.cases(TIME), model.spec).fetch(0, model.spec.inputs.names)
    case = pipeline.prepare(coarse[None], None, TIME)
    made = case.mean
    if model.spec.inference_mode != "regression":
        sampled = pipeline.residual(case.cond, case.mean, [0], vector=case.vector)
        made = sampled if made is None else made + sampled
    assert made is not None
    content = json.loads(stats.read_text(encoding="utf-8"))
    for name, field in zip(names, made[0].double(), strict=True):
        (mean, spread), deviation = CLIMATE[name], float(field.std())
        scale = spread / deviation
        content[table][name] = {"mean": mean - scale * float(field.mean()), "std": scale}
    stats.write_text(json.dumps(content, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Demo:
    """A model's demonstration.

    Attributes
    ----------
    write : Callable[[Path], None]
        Writes ``random-weights`` and ``synthetic-weather.nc`` into a folder
    runs : dict[str, tuple[str, ...]]
        Options of ``run-corrdiff`` by the name of the store
    """

    write: Callable[[Path], None]
    runs: dict[str, tuple[str, ...]]


def hrrr(folder: Path) -> None:
    """HRRR's grid of 3 km over the contiguous United States, without its last rows and columns."""
    import cartopy.crs as ccrs

    home = folder / "random-weights" / "x_pred"
    home.mkdir(parents=True)
    inputs = ["u10m", "v10m", "t2m", "tcwv", "sp", "msl", "u500", "v500", "z500", "t850"]
    outputs = ["u10m", "v10m", "t2m", "mslp", "u1hl", "v1hl", "t1hl", "q1hl", "p1hl", "refc"]
    H, W = 1056, 1792
    sphere = ccrs.Globe(semimajor_axis=6371229.0, semiminor_axis=6371229.0, ellipse=None)
    cone = ccrs.LambertConformal(262.5, 38.5, standard_parallels=(38.5, 38.5), globe=sphere)
    points = ccrs.PlateCarree().transform_points(cone, *np.meshgrid(HRRR_X[:W], HRRR_Y[:H]))
    lat, lon = points[..., 1], points[..., 0] % 360
    heights = terrain(lat, lon)
    np.save(home / "hrrr_lat.npy", lat.astype("f4"))
    np.save(home / "hrrr_lon.npy", lon.astype("f4"))
    np.save(home / "era5_lat.npy", np.arange(54, 19.7, -0.5))
    np.save(home / "era5_lon.npy", np.arange(224, 300.6, 0.5))
    np.save(home / "invariants.npy", np.stack([2 * heights - 0.5, heights > 0.3]).astype("f4"))
    args = dit(
        (H, W), len(outputs) + len(inputs) + 3, len(outputs), 8, attention_backend="natten2d", condition_dim=2
    )
    write_network(home / "dit.mdlus", "DiT", "physicsnemo.models.dit.dit", args, len(outputs))
    sampler = {
        "num_steps": 4,
        "solver": "euler",
        "shift": 32.0,
        "t_max": 0.99,
        "x0v_clip": 0.05,
        "amp": False,
    }
    metadata = {
        "era5_variables": inputs,
        "output_variables": outputs,
        "checkpoint": "dit.mdlus",
        "hrrr_window": {"rows": [0, H], "cols": [0, W]},
        "network": {
            "kind": "rectified_flow",
            "prediction_type": "x0",
            "time_scale": 999.0,
            "sigma_data": 0.5,
        },
        "scalar_conditions": {"day_of_year": True, "presence_flags": []},
        "sampler": sampler,
        "number_of_samples": 2,
    }
    dump(home, metadata=metadata, stats={"era5": statistics(inputs), "hrrr": units(outputs)})
    weather(
        folder / "synthetic-weather.nc",
        inputs,
        np.arange(60, 14.9, -0.5),
        np.arange(215, 310.1, 0.5),
        np.array([TIME]),
    )
    fit(_options(folder), _source(folder), home / "stats.json", "hrrr", outputs)


def cosmo(folder: Path) -> None:
    """COSMO-REA6's domain on its rotated pole, at a quarter of its resolution."""
    import cartopy.crs as ccrs

    home = folder / "random-weights" / "rea6"
    home.mkdir(parents=True)
    inputs = ["u10m", "v10m", "t2m", "tcwv", "sp", "msl", "u850", "v850", "z500", "t850"]
    outputs = ["U_10M", "V_10M", "T_2M", "PS", "TOT_PRECIP", "CLCT", "ASWDIR_S", "ASHFL_S"]
    outputs += ["U_L40", "V_L40", "U_L38", "V_L38"]
    before, after = (
        ["sin_lat", "cos_lat", "sin_lon", "cos_lon", "elevation_norm", "land_fraction"],
        ["z0_lu_norm"],
    )
    margin, (H, W), step = 4, (206, 212), 0.22
    x = -28.403 + step * np.arange(-margin, W + margin)
    y = -23.403 + step * np.arange(-margin, H + margin)
    points = ccrs.PlateCarree().transform_points(ccrs.RotatedPole(-162, 39.25), *np.meshgrid(x, y))
    lat, lon = points[..., 1].astype("f4"), points[..., 0].astype("f4")
    heights = terrain(lat, lon).astype("f4")
    fields = {"elevation": 2500 * heights, "land_fraction": np.float32(heights > 0.3), "z0_lu": heights}
    plane = {name: (("y", "x"), field) for name, field in {"lat": lat, "lon": lon, **fields}.items()}
    xr.Dataset(plane).to_netcdf(home / "invariants_ext.nc")
    own = slice(margin, -margin)
    axes = np.arange(20, 75.1, 0.5, dtype="f4"), np.arange(-50, 72.1, 0.5, dtype="f4")
    grids = {"lat_input": ("la", axes[0]), "lon_input": ("lo", axes[1])}
    grids |= {"lat_output": (("y", "x"), lat[own, own]), "lon_output": (("y", "x"), lon[own, own])}
    xr.Dataset(grids).to_netcdf(home / "grids.nc")
    given, made = len(inputs) + len(before) + 1 + len(after), len(outputs)
    mean = dit((64, 64), given, made, 2, attention_backend="natten2d_rope")
    write_network(home / "mean.mdlus", "DiT", "physicsnemo.models.dit.dit", mean)
    inner = Nested("DiT", {**mean, "in_channels": given + made}, "physicsnemo.models.dit.dit", "0.2.0")
    joined = Nested("ConcatConditionWrapper", {"model": inner}, "physicsnemo.diffusion.utils.model_wrappers")
    outer = {"model": joined, "sigma_data": 0.05}
    module = "physicsnemo.diffusion.preconditioners.preconditioners"
    write_network(home / "diffusion.mdlus", "EDMPreconditioner", module, outer, made)
    size = {"patch_size": 2, "attn_kernel_size": 5}
    metadata = {
        "era5_variables": inputs,
        "output_variables": outputs,
        "pre_invariant_variables": before,
        "post_invariant_variables": after,
        "modes": {
            "mean": {"stats": "output_mean", "channel_transforms": True},
            "diffusion": {"stats": "output", "channel_transforms": True},
        },
        "channel_transforms": {
            "TOT_PRECIP": {"transform": "log_eps", "eps": 1e-2},
            "ASHFL_S": {"transform": "asinh", "eps": 10.0},
            "CLCT": {"transform": "logit_eps_percent", "eps": 0.01, "scale": 100.0},
        },
        "constraints": {
            "bounds": {"TOT_PRECIP": {"min": 0.0, "max": None}, "CLCT": {"min": 0.0, "max": 100.0}},
            "sza_gate": {"half_width": 0.05, "channels": {"ASWDIR_S": {"threshold": 0.03}}},
        },
        "number_of_samples": 2,
        "sampler": {"num_steps": 6, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "solver": "heun"},
        "checkpoints": {f"rea6_{mode}": f"{mode}.mdlus" for mode in ("mean", "diffusion")},
        "regression": size,
        "diffusion": size,
        "wind_levels": {
            "elevation_invariant": "elevation_norm",
            "levels": [
                {"u": "U_L40", "v": "V_L40", "a": 10.0, "b": -0.5},
                {"u": "U_L38", "v": "V_L38", "a": 120.0, "b": -1.0},
            ],
        },
        "invariants": {
            "file": "invariants_ext.nc",
            "norm_stats_file": "norm.json",
            "native_offset": [margin, margin],
            "native_shape": [H, W],
        },
    }
    norm = {
        "elevation": {"method": "zscore", "mean": 300.0, "std": 500.0},
        "land_fraction": {"method": "identity"},
        "z0_lu": {"method": "zscore", "mean": 0.2, "std": 0.3},
    }
    stats = {"era5": statistics(inputs), "output": units(outputs), "output_mean": units(outputs)}
    dump(home, metadata=metadata, stats=stats, norm={"channels": norm})
    weather(
        folder / "synthetic-weather.nc",
        inputs,
        np.arange(15, 80.1, 0.5),
        np.arange(-60, 80.1, 0.5),
        np.array([TIME]),
    )
    for mode, table in (("diffusion", "output"), ("mean", "output_mean")):
        fit(_options(folder, mode=mode), _source(folder), home / "stats.json", table, outputs)


def cmip6(folder: Path) -> None:
    """The globe at 1 degree, from daily means of a climate model of 2.8 degrees."""
    home = folder / "random-weights"
    home.mkdir(parents=True)
    inputs = ["t2m", "u10m", "v10m", "msl", "tcwv", "siconc", "snc"]
    outputs = ["t2m", "u10m", "v10m", "tcwv", "sp", "z500", "q700"]
    fixed = ["orography", "lsm", "coslat"]
    H, W = 181, 360
    lat, lon = np.linspace(90, -90, H), np.arange(0, 360, 1.0)
    coarse = np.linspace(-87.9, 87.9, 64), np.arange(0, 360, 5.625 / 2)
    for name, (rows, columns) in {"input": coarse, "output": (lat, lon)}.items():
        axes = {"lat": rows.astype("f4"), "lon": columns.astype("f4")}
        xr.Dataset(coords=axes).to_netcdf(home / f"{name}_latlon_grid.nc")
    rows, columns = np.meshgrid(lat, lon, indexing="ij")
    heights = terrain(rows, columns)
    still = {"orography": 3000 * heights, "lsm": heights > 0.3, "coslat": np.cos(np.deg2rad(rows))}
    data = {name: (("lat", "lon"), np.asarray(field, "f4")) for name, field in still.items()}
    xr.Dataset(data, axes).to_netcdf(home / "invariants.nc")
    net = {
        "img_resolution": [H + 47, W + 96],
        "img_in_channels": 3 * len(inputs) + len(fixed) + 2,
        "img_out_channels": len(outputs),
        **{"model_type": "SongUNet", "model_channels": 16, "num_blocks": 1, "channel_mult": [1, 2]},
        "attn_resolutions": [0],
    }
    write_network(home / "regression.mdlus", "UNet", "physicsnemo.models.diffusion_unets.unet", net)
    name, module = "EDMPrecondSuperResolution", "physicsnemo.diffusion.preconditioners.legacy"
    conditioned = {**net, "img_in_channels": net["img_in_channels"] + len(outputs), "sigma_data": 0.05}
    write_network(home / "diffusion.mdlus", name, module, conditioned, seed=1)
    still_stats = {name: {"mean": float(f.mean()), "std": float(f.std())} for name, (_, f) in data.items()}
    features = {"sza": {"mean": 0.0, "std": 0.6}, "hod": {"mean": 11.5, "std": 7.0}}
    metadata = {
        "input_variables": inputs,
        "output_variables": outputs,
        "invariant_variables": fixed,
        "number_of_samples": 2,
        "number_of_steps": 3,
        "solver": "euler",
        "sampler_type": "stochastic",
        "sigma_min": 0.1,
        "sigma_max": 40,
    }
    stats = {"input": statistics(inputs) | features, "output": units(outputs), "invariants": still_stats}
    dump(home, metadata=metadata, stats=stats)
    days = TIME + np.arange(-1, 2) * np.timedelta64(24, "h")
    weather(folder / "synthetic-weather.nc", inputs, *coarse, days)
    fit(_options(folder), _source(folder), home / "stats.json", "output", outputs)


def _options(folder: Path, **more: Any) -> ModelOptions:
    return ModelOptions(str(folder / "random-weights"), "cpu", "fp32", **more)


def _source(folder: Path) -> str:
    return f"file:{folder / 'synthetic-weather.nc'}"


DEMOS = {
    "hrrr": Demo(hrrr, {"hrrr": ()}),
    "cosmo": Demo(
        cosmo,
        {
            "cosmo": ("--mode", "diffusion", "--hub-heights", "100"),
            "cosmo-mean": ("--mode", "mean"),
            "cosmo-region": ("--mode", "diffusion", "--region=46,56,4,17"),
        },
    ),
    "cmip6": Demo(cmip6, {"cmip6": ()}),
}


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="family-demo.py", description="A newer model's commands on random weights: run, store, picture."
    )
    made.add_argument("model", choices=DEMOS, help="the model")
    made.add_argument("--folder", type=Path, default=Path("outputs/family"), help="where to write everything")
    return made


def main(args: Namespace) -> int:
    """Make what is missing, run, and plot; the first status that is not 0."""
    demo, folder = DEMOS[args.model], args.folder / args.model
    if not (folder / "synthetic-weather.nc").exists():
        demo.write(folder)
    for name, options in demo.runs.items():
        store = folder / f"{name}.zarr"
        words = [
            str(TIME),
            "--package",
            str(folder / "random-weights"),
            "--source",
            _source(folder),
            "--seed",
            "1",
        ]
        status = run.main([*words, "--output", str(store), "--overwrite", "--device", "cpu", *options])
        if status:
            return status
        confess(store)
        plot.main([str(store), "--samples", "0", "--output-dir", str(folder / name), "--plot-lowres"])
    return 0


def confess(store: Path) -> None:
    """Let the store, and so its pictures, say what it is."""
    root = zarr.open_group(store, mode="r+")
    root.attrs.update({"package": "random weights", "synthetic": 1, "synthetic_source": 1})
    zarr.consolidate_metadata(store)


if __name__ == "__main__":
    sys.exit(run_command("family-demo.py", main, parser().parse_args()))
