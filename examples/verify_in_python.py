# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Is the ensemble any good? Downscale a few hours of synthetic weather, and compare them with their truth.

python examples/verify_in_python.py
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from earth2studio.statistics import crps

from earth2_corrdiff import CorrDiff, demo, downscale
from earth2_corrdiff.run import Options
from earth2_corrdiff.verification import verify
from earth2_corrdiff.verification.report import write_report

TIMES = ("2024-07-24T12:00", "2024-07-24T18:00")


def main(folder: str = "outputs") -> None:
    """Run, verify, and do one score by hand."""
    model = CorrDiff.load_model(demo.package())
    model.number_of_samples, model.solver, model.number_of_steps = 2, "trigflow", 8
    store = Path(folder) / "verify-in-python.zarr"
    downscale(TIMES, model, demo.DemoWeather(), store, options=Options(seed=0, overwrite=True))

    # A store against a truth: the name of one, a file, an open Dataset or an Earth2Studio data source.
    # With the model its regression alone is compared, too; the interpolated input always is.
    result = verify(store, truth="demo", downscaler=model.downscaler)
    for target in result.targets:
        scores = {name: result.score("crps", name, target) for name in result.forecasts}
        shown = ", ".join(f"{name} {float(score.value):.3f}" for name, score in scores.items())
        print(f"CRPS of {target.label} ({target.units}): {shown}")
    write_report(result, store.with_suffix(".html"), "Two hours of a typhoon that never was")

    # A score by hand: Earth2Studio's own metrics take the members as they are in the store.
    members = torch.from_numpy(xr.open_zarr(store).t2m.values)
    truth = torch.from_numpy(demo.DemoWeather().truth(np.array(TIMES, "datetime64[ns]"), "t2m").values[:, 0])
    time, sample, y, x = (np.arange(n) for n in members.shape)
    score, _ = crps("sample", ["time", "y", "x"], fair=True)(
        members, OrderedDict(time=time, sample=sample, y=y, x=x), truth, OrderedDict(time=time, y=y, x=x)
    )
    print(f"CRPS of 2 m temperature without areas: {score.item():.3f} K; wrote {store.with_suffix('.html')}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
