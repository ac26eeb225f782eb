# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Mirrors of a run's input: the same fields as from the source, each fetched once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forecast_kit import LEADS, TIMES, Forecasts
from run_kit import NAMES, Weather, make_spec

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.sources import Inputs, as_source, make_forecast, make_source
from earth2_corrdiff.sources.mirror import Mirror

pytestmark = pytest.mark.slow
HOURS = {
    "input_hours": (-6.0, 0.0),
    "channels": tuple(Channel("input", name, hours=hour) for hour in (-6.0, 0.0) for name in NAMES),
}


def inputs(source: Any, leads: Any = None, **what: Any) -> Inputs:
    return Inputs.of(source, source.cases(TIMES, leads), make_spec(**what))


def agree(one: Inputs, other: Inputs) -> bool:
    names = one.spec.inputs.names if one.spec else ()
    return all(torch.equal(one.fetch(i, names), other.fetch(i, names)) for i in range(len(one.cases)))


def test_analyses_of_several_hours(tmp_path: Path) -> None:
    """The file that is removed is fetched again, the others are not; NaN of refc stay."""
    weather = Weather()
    made = inputs(as_source(weather), **HOURS)
    assert list(Mirror(made, tmp_path / "mirror")) == [
        f"2024-07-{day}" for day in ("23T1800", "24T0000", "24T0600")
    ]
    assert agree(made, inputs(make_source(f"file:{tmp_path / 'mirror'}"), **HOURS))
    (tmp_path / "mirror/2024-07-24T0000.nc").unlink()
    again = Mirror(made, tmp_path / "mirror")
    assert again.found == 2 and list(again) == ["2024-07-24T0000"]
    with pytest.raises(InputError, match="T1800.nc is of another source, or for another package"):
        Mirror(inputs(make_source(f"file:{tmp_path / 'mirror'}"), **HOURS), tmp_path / "mirror")
    with pytest.raises(InputError, match="computed"):
        Mirror(inputs(make_source("demo")), tmp_path)


def test_forecasts_of_members(tmp_path: Path) -> None:
    made = inputs(as_source([Forecasts(0), Forecasts(1)]), "6h")
    assert len(list(Mirror(made, tmp_path / "mirror"))) == 4
    name = f"file:{tmp_path / 'mirror'}"
    assert agree(made, inputs(make_forecast(name, "0,1"), "6h"))


def test_what_fails_is_reported(tmp_path: Path) -> None:
    def spoil(array: Any, start: str, hours: int) -> None:
        if hours == 6:
            array[:] = np.nan

    made = inputs(as_source(Forecasts(0, spoil)), LEADS)
    mirror = Mirror(made, tmp_path, keep_going=True)
    assert len(list(mirror)) == 6 and list(mirror.failed) == ["2024-07-24T0000+6h", "2024-07-24T0600+6h"]
    with pytest.raises(InputError, match="no values at all"):
        list(Mirror(made, tmp_path))
