# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The main job in plain Python on the embedded demo: synthetic weather, no network, no GPU.

python examples/demo_in_python.py
"""

import sys
from pathlib import Path

import torch
import xarray as xr

from earth2_corrdiff import CorrDiff, demo, downscale, plotting
from earth2_corrdiff.run import Options

TIME = "2024-07-24T12:00"


def main(folder: str = "outputs") -> None:
    """Downscale one time into four members, look at them, and compare with the truth."""
    source = demo.DemoWeather()
    model = CorrDiff.load_model(demo.package())
    model.number_of_samples = 4

    # One call does everything, and can be resumed: fetch, check, run, write.
    store = Path(folder) / "demo-in-python.zarr"
    downscale(TIME, model, source, store, options=Options(seed=0, overwrite=True))

    # The store is an ordinary Zarr with coordinates, units and provenance.
    ds = xr.open_zarr(store)
    print(ds[["mrr", "t2m", "u10m", "v10m"]])

    # The demo knows the truth that belongs to its coarse weather.
    truth = source.truth(ds.time.values, "t2m").isel(variable=0).values
    error = abs(ds.t2m.mean("sample").values - truth).mean()
    print(f"mean absolute error of the ensemble mean, 2 m temperature: {error:.2f} K")

    # The same pipeline on bare tensors: [B, C, h, w] in, [B, M, Co, H, W] out, one seed per member.
    coarse = torch.from_numpy(source(ds.time.values, model.input_variables).values)
    members = model.downscaler(coarse, seeds=[1, 2])
    mean = model.downscaler.mean(coarse)
    print(f"members {tuple(members.shape)}, regression alone {tuple(mean.shape)}")

    figure = plotting.plot_member(ds, time=0, sample=0)
    figure.savefig(store.with_suffix(".png"))
    print(f"wrote {store} and {store.with_suffix('.png')}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
