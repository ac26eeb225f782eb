# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A domain of the size of the contiguous United States, in patches: random weights, waves for weather.

python examples/conus_sized.py --scale 4     # 264 x 448 points, seconds; 1 is the full 1056 x 1792

The fields mean nothing: nothing was trained. What is real is how a patch-trained package is described, cut,
run and written, and what memory that takes.
"""

import argparse
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from earth2_corrdiff import CorrDiff, downscale, save_package
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling, Statistics
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import create
from earth2_corrdiff.run import Options

INPUTS = Statistics(("t2m", "u10m", "v10m", "z500"), (288.0, 0.0, 0.0, 56000.0), (10.0, 5.0, 5.0, 1500.0))
OUTPUTS = Statistics(("t2m", "u10m", "v10m"), (288.0, 0.0, 0.0), (10.0, 5.0, 5.0))
COARSE = Grid(np.arange(23.0, 51.25, 0.25), np.arange(233.0, 295.25, 0.25))


def waves(time, variable) -> xr.DataArray:
    """A data source as Earth2Studio knows them: a wave per variable, and colder to the north."""
    lat, lon = COARSE.mesh()
    rows = zip(INPUTS.names, INPUTS.center, INPUTS.scale, strict=True)
    wave = {
        name: center + scale * (np.sin(lon / (4 + i) + i) * np.cos(lat / 5) - (lat - 37) / 15)
        for i, (name, center, scale) in enumerate(rows)
    }
    fields = np.stack([wave[str(name)] for name in np.atleast_1d(variable)])[None].astype(np.float32)
    coords = {"time": np.atleast_1d(time), "variable": np.atleast_1d(variable)}
    return xr.DataArray(
        fields, coords | {"lat": COARSE.lat, "lon": COARSE.lon}, list(coords) + ["lat", "lon"]
    )


def make_package(folder: Path, scale: int) -> Path:
    """A package as of a denoiser trained on patches: it sees a patch, the whole resized, and its position."""
    domain, patch = (1056 // scale, 1792 // scale), (448 // scale, 448 // scale)
    spec = CorrDiffSpec(
        inputs=INPUTS,
        outputs=OUTPUTS,
        input_grid=COARSE,
        output_grid=Grid(np.linspace(24.5, 49.5, domain[0]), np.linspace(235.0, 293.0, domain[1])),
        sampling=Sampling("heun", 4, sigma_max=80.0),
        patching=PatchGeometry(domain, patch, overlap=4, boundary=2),
        name="random weights",
    )
    n, out = len(INPUTS.names), len(OUTPUTS.names)
    unet = {"img_resolution": list(domain), "model_channels": 16, "channel_mult": [1, 2, 2], "num_blocks": 1}
    unet |= {"attn_resolutions": [], "img_out_channels": out}
    mean = {"img_in_channels": n, "model_type": "SongUNet", "embedding_type": "zero"}
    residual = {"img_in_channels": n + out + n + 4, "model_type": "SongUNetPosEmbd", "N_grid_channels": 4}
    regression = create(Checkpoint("UNet", unet | mean, {}, "regression"))
    denoiser = create(Checkpoint("EDMPrecondSuperResolution", unet | residual, {}, "diffusion"))
    for net in (regression, denoiser):  # fresh weights would answer zero
        for p in net.parameters():
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.1)
    return save_package(folder, spec, regression, denoiser)


def draw(ds: xr.Dataset, patching: PatchGeometry, path: Path) -> None:
    """The patches over the coarse input; where they overlap they are averaged."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")  # no pyplot: it would keep the figure
    axes = figure.subplots()
    ds.t2m_lowres[0].plot(ax=axes, cmap="turbo")
    lat, lon = ds.lat.values, ds.lon.values
    for patch in patching.patches:
        (rows, _), (columns, _) = (axis.inside(i) for axis, i in zip(patching.axes, patch, strict=True))
        south, north, west, east = lat[rows][0], lat[rows][-1], lon[columns][0], lon[columns][-1]
        axes.add_patch(Rectangle((west, south), east - west, north - south, fc=(0, 0, 0, 0.12), ec="black"))
    axes.set_title("{} x {} patches over the coarse input (waves: no weather)".format(*patching.counts))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Make the package, downscale two members, say what it took, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=int, default=4, help="divides the sides: 1, 2, 4 (default) or 8")
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--window", default="cosine", help="flat or cosine (default)")
    parser.add_argument("--output", type=Path, default=Path("outputs/conus-sized.zarr"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = CorrDiff.load_model(Folder(make_package(Path(folder), args.scale)))
        model.number_of_samples, model.window = args.members, args.window
        print(f"the domain has {model.spec.output_grid.shape} points; patches: {model.downscaler.domain}")
        start = perf_counter()
        downscale("2024-07-24T12:00", model, waves, args.output, options=Options(seed=0, overwrite=True))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{args.members} members in {perf_counter() - start:.0f} s, at most {most:.1f} GiB of memory")
        ds = xr.open_zarr(args.output)
        print(ds, f"\npatches of the store: {ds.attrs['patches']}")
        draw(ds, model.patching, args.output.with_suffix(".png"))
    print(f"wrote {args.output} and {args.output.with_suffix('.png')}; plot-corrdiff draws the members")


if __name__ == "__main__":
    main()
