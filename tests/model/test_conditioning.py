# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Conditioning channels: order, features of time and place, hours, filters, padding, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from physicsnemo.utils.zenith_angle import cos_zenith_angle
from tiny import HILLS, INPUTS, make_networks, make_spec, weather

from earth2_corrdiff import Downscaler, InputError, save_package
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.conditioning import Conditioning, framed, sea_ice, unframed
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package

TIMES = np.array(["2024-07-24T09:40", "2023-12-31T18:00"], dtype="datetime64[ns]")
CHANNELS = (
    Channel("feature", "cos_zenith", 0.3, 0.5),
    Channel("input", "z500", hours=0.0),
    Channel("input", "t2m", hours=-6.0),
    Channel("input", "t2m", hours=0.0),
    Channel("invariant", "orography"),
    Channel("feature", "hour", 11.5, 7.0),
    Channel("feature", "cos_zenith_hour"),
    Channel("feature", "sin_hour"),
    Channel("feature", "cos_year"),
    Channel("feature", "cos_lat", 0.5, 2.0),
    Channel("feature", "sin_lon"),
)


def by_hand(spec: Any, x: torch.Tensor) -> np.ndarray:
    """The channels of ``CHANNELS`` in their order, float64."""
    regrid, (lat, lon) = Regridder(spec.input_grid, spec.output_grid), spec.output_grid.mesh()
    fine = regrid(x.double()).numpy()  # [B, L, C, H, W]
    normal = (fine - np.reshape(INPUTS.center, (3, 1, 1))) / np.reshape(INPUTS.scale, (3, 1, 1))
    hills = (spec.invariant_fields[0].astype(float) - HILLS.center[0]) / HILLS.scale[0]
    full, cases = np.ones(lat.shape), []
    for b, time in enumerate(TIMES):
        moment = time.astype("datetime64[s]").item()
        assert isinstance(moment, datetime)
        sun, before = (
            cos_zenith_angle(t.item(), lon.astype(float), lat.astype(float))
            for t in (time.astype("datetime64[s]"), time.astype("datetime64[s]") - 3600)
        )
        hours = moment.hour + moment.minute / 60
        year = (moment - datetime(moment.year, 1, 1)).total_seconds() / (8766 * 3600)
        cases.append([
            (sun - 0.3) / 0.5, normal[b, 1, 2], normal[b, 0, 0], normal[b, 1, 0], hills,
            (moment.hour - 11.5) / 7 * full, np.maximum(sun, before),
            math.sin(2 * math.pi * hours / 24) * full, math.cos(2 * math.pi * year) * full,
            (np.cos(np.radians(lat)) - 0.5) / 2, np.sin(np.radians(lon)),
        ])  # fmt: skip
    return np.array(cases)


def test_channels_are_those_made_by_hand() -> None:
    spec = make_spec(channels=CHANNELS, input_hours=(-6.0, 0.0))
    x = torch.stack([weather(2, 1), weather(2, 2)], dim=1)
    got = Conditioning(spec)(x, TIMES)
    want = by_hand(spec, x)
    assert got.shape == want.shape == (2, len(CHANNELS), 16, 24) and got.dtype == torch.float32
    assert np.abs(got.numpy() - want).max() < 2e-4
    assert spec.condition_channels == len(CHANNELS) and spec.input_shape == (2, 3, *spec.input_grid.shape)
    vector = Conditioning(replace(spec, vector=("sin_year", "one"))).vector(TIMES)
    assert vector is not None and vector.shape == (2, 2) and torch.equal(vector[:, 1], torch.ones(2))
    assert vector[1, 0] == pytest.approx(math.sin(2 * math.pi * (364 * 24 + 18) / 8766), abs=1e-6)


def test_without_channels_they_are_inputs_and_invariants() -> None:
    spec, named = make_spec(), make_spec(channels=make_spec().conditioning)
    assert torch.equal(Conditioning(spec)(weather(2)), Conditioning(named)(weather(2)))
    assert not named.needs_time and spec.beyond_generic == [] == named.beyond_generic


def test_padding_and_flip_are_undone() -> None:
    spec = make_spec(padding=(3, 5, 24, 0), flip=True)
    x = torch.randn(1, 2, 16, 24)
    seen = framed(spec, x)
    assert seen.shape[2:] == spec.domain == (24, 48) and torch.equal(unframed(spec, seen), x)
    north = x.flip(2)  # row 3 is the first that is not reflected
    assert torch.equal(seen[..., 3 : 3 + 16, 24:], north) and torch.equal(seen[..., 3:19, :24], north)
    assert torch.equal(seen[..., 2, 24:], north[..., 1, :])
    assert torch.equal(seen[..., 23, 24:], north[..., -6, :])


def test_sea_ice_is_the_mean_of_a_round_world() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 80, (2, 3, 3, 4, 6)).astype(np.float32)
    x[0, 1, 0, 2, 3], x[0, 1, 2, 0, 0] = np.nan, np.nan
    given = torch.from_numpy(x.copy())
    got = sea_ice(given, ["siconc", "t2m", "snc"]).numpy()
    cover = np.clip(np.nan_to_num(x[:, :, 0].astype(float)) + np.nan_to_num(x[:, :, 2].astype(float)), 0, 100)
    want = np.zeros_like(cover)
    for i in range(4):
        for j in range(6):
            rows, columns = np.clip([i - 1, i, i + 1], 0, 3), np.array([j - 1, j, j + 1]) % 6
            want[:, :, i, j] = cover[:, :, rows][..., columns].mean(axis=(2, 3))
    assert np.abs(got[:, :, 0] - want).max() < 1e-4
    assert np.array_equal(got[:, :, 1:], np.nan_to_num(x[:, :, 1:]))
    assert np.array_equal(given.numpy(), x, equal_nan=True)


def test_a_day_belongs_to_its_noon() -> None:
    spec = make_spec(daily_hour=12.0, input_hours=(-24.0, 0.0, 24.0), channels=(Channel("input", "t2m"),))
    first, last = (np.datetime64(f"2024-02-29T{clock}", "ns") for clock in ("00:00", "23:59"))
    days = ["2024-02-28T12", "2024-02-29T12", "2024-03-01T12"]
    for time in (first, last):
        assert spec.input_times(time).tolist() == [int(np.datetime64(day, "ns").astype(int)) for day in days]
    assert spec.input_times(np.array([first, last])).shape == (2, 3)
    assert make_spec().input_times(last) == [last]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"channels": (Channel("input", "q700"),)}, "q700 is no input"),
        ({"channels": (Channel("input", "t2m", hours=3.0),)}, "not in"),
        ({"channels": (Channel("invariant", "lsm"),)}, "lsm is no invariant"),
        ({"input_hours": (0.0, 6.0)}, "must name its channels"),
        ({"input_hours": (0.0, 0.0)}, "hours that differ"),
        ({"daily_hour": 24.0}, "an hour of the day"),
        ({"vector": ("sun",)}, "not a valid scalar condition"),
        ({"regridding": "nearest"}, "is none of bilinear, index"),
        ({"filters": ("sea_ice",)}, "do not fit the inputs"),
        ({"padding": (16, 0, 0, 0)}, "too small for a padding"),
        ({"padding": (0, -1, 0, 0)}, "too small for a padding"),
    ],
)
def test_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make_spec(**change)


@pytest.mark.parametrize(
    "wrong",
    [("sun", "t2m"), ("feature", "wind"), ("input", "t2m", 1.0), ("feature", "hour", 0.0, 0.0),
     ("feature", "hour", math.nan), ("feature", "hour", 0.0, 1.0, 6.0)],
)  # fmt: skip
def test_a_channel_that_is_none(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        Channel(*wrong)


def test_a_model_that_needs_the_time_asks_for_it(tmp_path: Path) -> None:
    spec = make_spec(channels=(*make_spec().conditioning, Channel("feature", "sin_hour")))
    model = Downscaler(spec, *make_networks(spec), "fp32", accelerated=False)
    assert spec.needs_time
    for valid in (None, [None, TIMES[0]]):
        with pytest.raises(InputError, match="needs the valid time of every case"):
            model(weather(2), [1], valid_times=valid)
    with pytest.raises(InputError, match="2 cases need as many valid times, got 1"):
        model(weather(2), [1], valid_times=TIMES[:1])
    both = model(weather(2), [1], valid_times=TIMES)
    alone = [model(weather(2)[b : b + 1], [1], valid_times=[str(TIMES[b])])[0] for b in range(2)]
    assert torch.equal(both, torch.stack(alone))
    rows = [(model.prepare(weather(2)[b : b + 1], valid=TIMES[b]), 1) for b in range(2)]
    assert torch.equal(model.sample(rows), both[:, 0])
    assert not torch.equal(model.mean(weather(), None, TIMES[:1]), model.mean(weather(), None, TIMES[1:]))
    loaded = read_package(Folder(save_package(tmp_path, spec, *make_networks(spec))))
    assert loaded.spec.channels == spec.channels
    again = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32", accelerated=False)
    assert torch.equal(again(weather(2), [1], valid_times=TIMES, sampling=spec.sampling), both)
    meta = json.loads((tmp_path / "metadata.json").read_text())
    for wrong in ({}, [1], [{"kind": "input"}], [{**meta["channels"][0], "hours": 0}],
                  [{**meta["channels"][-1], "scale": "1"}]):  # fmt: skip
        (tmp_path / "metadata.json").write_text(json.dumps({**meta, "channels": wrong}))
        with pytest.raises(InputError, match="channels is a list of objects like"):
            read_package(Folder(tmp_path))
    with pytest.raises(InputError, match="no entry for vector, padding"):
        save_package(tmp_path, replace(spec, vector=("one",), padding=(8, 8, 8, 8)), *make_networks(spec))


def test_one_network_may_be_absent() -> None:
    spec = make_spec(inference_mode="regression")
    regression, denoiser = make_networks(spec)
    whole = Downscaler(spec, regression, denoiser, "fp32", accelerated=False)
    alone = Downscaler(spec, regression, None, "fp32", accelerated=False)
    assert torch.equal(alone(weather(), [1, 2]), whole(weather(), [1, 2])) and alone.precision == "fp32"
    assert torch.equal(alone.mean(weather()), whole.mean(weather()))
    for use in (lambda: alone.denoiser, lambda: setattr(alone, "inference_mode", "both")):
        with pytest.raises(InputError, match="no diffusion network"):
            use()
    spec = make_spec(inference_mode="diffusion", hr_mean_conditioning=False)
    regression, denoiser = make_networks(spec)
    whole = Downscaler(spec, regression, denoiser, "fp32", accelerated=False)
    field = Downscaler(spec, None, denoiser, "fp32", accelerated=False)
    assert torch.equal(field(weather(), [1, 2]), whole(weather(), [1, 2]))
    with pytest.raises(InputError, match="no regression network"):
        field.mean(weather())
    with pytest.raises(InputError, match="no regression network"):
        Downscaler(replace(spec, hr_mean_conditioning=True), None, denoiser)
