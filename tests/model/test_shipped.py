# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Shipped packages of real weather: no data of others, small, better than interpolation on unseen weather."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import SHARED

from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages.names import SHIPPED
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.training.block_means import make_own_pairs
from earth2_corrdiff.training.pairs import Channels, PairFile

REAL = SHARED / "data" / "real"
FILES = {"metadata.json", "stats.json", "regression.mdlus", "diffusion.mdlus"}
GRIDS = {"input_latlon_grid.nc", "output_latlon_grid.nc"}
MOST = {"taiwan-3km": 3.0, "conus-3km": 4.0}
WINDS = {"u10m": "u10m=u10", "v10m": "v10m=v10", "tp06": "tp06=tp6h", "r2m": "r2m=rh2m"}
OPENED = {
    "taiwan-3km": ("cwa_wrf3km_taiwan.nc", "2026-02-14T06", WINDS, np.timedelta64(6, "h")),
    "conus-3km": ("mrms_qpe1h_conus.nc", "2016-09-22T06", {"tp": "tp=qpe1h"}, None),
}


@pytest.mark.parametrize("name", MOST)
def test_what_is_in_them(name: str) -> None:
    """Networks, statistics and grids; who made the data; megabytes as promised."""
    folder: Path = SHIPPED[name]
    assert {path.name for path in folder.iterdir()} == FILES | GRIDS  # no terrain, no weather
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST[name] * 1e6
    spec = load_model(ModelOptions(name, "cpu")).spec
    assert spec.attribution and not spec.synthetic and spec.name == name
    assert spec.blocks is not None and spec.invariant_fields is None
    H, W = spec.output_grid.shape
    assert spec.input_grid.shape == (H // spec.blocks.coarse, W // spec.blocks.coarse)


def part_of(model: Downscaler, row: int, column: int, h: int, w: int) -> tuple[Downscaler, slice, slice]:
    """A model without a place of its own on some coarse cells, and these."""
    spec, rows, columns = model.spec, slice(row, row + h), slice(column, column + w)
    fine = (slice(8 * s.start, 8 * s.stop) for s in (rows, columns))
    spec = replace(
        spec,
        input_grid=spec.input_grid.part(rows, columns),
        output_grid=spec.output_grid.part(*fine),
        patching=None,
    )
    return Downscaler(spec, model.regression, model.denoiser, "fp32"), rows, columns


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_unseen_weather(name: str, tmp_path: Path) -> None:
    """The regression beats interpolation in each variable, of held-out fields of the agency's own file."""
    model = load_model(ModelOptions(name, "cpu", "fp32")).downscaler
    spec = model.spec
    file, time, own, lead = OPENED[name]
    if not (REAL / file).exists():
        pytest.skip(f"no {file}")
    inputs, outputs = (
        tuple(own.get(n, n) for n in names) for names in (spec.inputs.names, spec.outputs.names)
    )
    assert spec.blocks is not None
    made = make_own_pairs(
        REAL / file, [time], Channels(inputs, outputs), tmp_path / "pairs.zarr", spec.blocks, least_lead=lead
    )
    assert list(made) is not None and not made.failed
    pairs = PairFile(tmp_path / "pairs.zarr", spec.inputs.names, spec.outputs.names, gaps=True)
    assert pairs.fine_grid.matches(spec.output_grid) and pairs.coarse_grid.matches(spec.input_grid)
    some = pairs.read([0])
    coarse, fine = some.coarse, some.fine
    if name == "conus-3km":  # a part of the rain of that hour, instead of 1.7 million points
        model, rows, columns = part_of(model, 4, 32, 40, 52)
        coarse = coarse[..., rows, columns]
        fine = fine[..., 8 * rows.start : 8 * rows.stop, 8 * columns.start : 8 * columns.stop]
    mean = model.mean(coarse, valid_times=pairs.times[:1])
    plain = model.regrid(coarse)[:, [spec.inputs.names.index(n) for n in spec.outputs.names]]
    for k, output in enumerate(spec.outputs.names):
        known = fine[0, k].isfinite() & plain[0, k].isfinite()
        error, interpolated = ((x[0, k] - fine[0, k])[known].abs().mean() for x in (mean, plain))
        assert known.float().mean() > 0.8 and error < interpolated, output
