# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The sun's position against PhysicsNeMo's."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import torch
from physicsnemo.utils.zenith_angle import cos_zenith_angle

from earth2_corrdiff.base.solar import cos_zenith


@pytest.mark.parametrize("time", ["1950-03-01T05:17", "2000-01-01T12:00", "2024-07-24T09:00", "2261-01-01"])
def test_zenith_angle_is_that_of_physicsnemo(time: str) -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-90, 90, (7, 5)), rng.uniform(-180, 360, (7, 5))
    want = cos_zenith_angle(datetime.fromisoformat(time), lon, lat)
    got = cos_zenith(np.datetime64(time, "ns"), torch.tensor(lat), torch.tensor(lon))
    assert got.dtype == torch.float32 and np.abs(got.numpy() - want).max() < 1e-6


def test_sun_stands_over_the_tropic_at_midsummer_and_below_the_horizon_at_night() -> None:
    noon, night = np.datetime64("2024-06-20T12:02", "ns"), np.datetime64("2024-06-20T23:59", "ns")
    lat, lon = torch.tensor([23.44, -80.0]), torch.tensor([0.0, 0.0])
    assert cos_zenith(noon, lat, lon.double())[0] > 0.9999
    assert (cos_zenith(night, lat, lon.double()) < 0).all()
