# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff over Taiwan with Earth2Studio's own building blocks.

Follows AMD's post "Diffusion-based Atmospheric Downscaling on AMD Instinct GPUs" (2026): every step is
visible, and only the model's import differs from a program for the stock class. It downloads the published
weights and one GFS analysis; ``demo_in_python.py`` beside it needs no network.

    python examples/taiwan_step_by_step.py 2024-07-24T12:00
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from earth2studio.data import GFS, prep_data_array
from earth2studio.io import ZarrBackend
from earth2studio.utils.coords import map_coords, split_coords

from earth2_corrdiff import CorrDiffTaiwan  # stock: from earth2studio.models.dx import CorrDiffTaiwan


def load(members: int) -> CorrDiffTaiwan:
    """The published model on the best device of this machine."""
    model = CorrDiffTaiwan.load_model(CorrDiffTaiwan.load_default_package())
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    model.number_of_samples = members
    model.seed = 0
    return model


def fetch(source: GFS, model: CorrDiffTaiwan, when: pd.Timestamp) -> tuple[torch.Tensor, OrderedDict]:
    """The model's input variables at one time, cut out to the model's input grid."""
    wanted = model.input_coords()
    array = source([when.to_pydatetime()], wanted["variable"])
    device = next(model.parameters()).device
    x, coords = prep_data_array(array, device=device)
    return map_coords(x, coords, wanted)


def open_output(path: Path, model: CorrDiffTaiwan, times: np.ndarray) -> ZarrBackend:
    """A Zarr store with one array per output variable."""
    io = ZarrBackend(str(path), backend_kwargs={"overwrite": True})
    coords = model.output_coords(model.input_coords())
    names = coords["variable"]
    axes = OrderedDict(time=times, sample=coords["sample"], lat=coords["lat"], lon=coords["lon"])
    io.add_array(axes, list(names))
    return io


def main(time: str = "2024-07-24T12:00", output: str = "outputs/taiwan.zarr", members: int = 4) -> None:
    """Fetch, downscale, write."""
    model = load(members)
    x, coords = fetch(GFS(), model, pd.Timestamp(time))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    io = open_output(Path(output), model, coords["time"])
    y, coords = model(x, coords)
    io.write(*split_coords(y, coords))
    print(f"wrote {output}: {members} members of {', '.join(model.output_variables)}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
