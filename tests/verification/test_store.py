# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Verifying stores: scores, baselines, members that are missing, streaming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import run_kit
import torch
import xarray as xr
from loguru import logger
from plotting_store import write
from verification_kit import NAMES, QUICK, TIMES, build, flat, value

from earth2_corrdiff import demo, downscale
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.store.reader import grid_of
from earth2_corrdiff.verification import open_verification, verify
from earth2_corrdiff.verification.case_statistics import POINTWISE
from earth2_corrdiff.verification.result import Series


@pytest.mark.slow
def test_a_reliable_ensemble(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", members=6)
    result = verify(store, truth, settings=QUICK)
    assert [t.name for t in result.targets] == [*NAMES, "ws10m"]
    assert result.forecasts == ["ensemble", "interpolation"] and result.members == 6
    for name in (*NAMES, "ws10m"):
        assert 0.93 < value(result, "spread_skill", name) < 1.07
        assert 0.9 < value(result, "outliers", name) < 1.1
    target = result.targets[1]
    ratio = result.score("power_ratio", "ensemble", target)
    assert (np.abs(np.log(ratio.value[5:])) < 0.35).all() and (ratio.low < ratio.high).all()
    found = result.score("crps", "ensemble", target)
    assert float(found.low) < float(found.value) < float(found.high)
    assert float(result.gain("crps", "ensemble", "interpolation", target).low) > 0.9  # 295 K against 0


@pytest.mark.slow
def test_ranks_where_there_is_rain(tmp_path: Path) -> None:
    """Flat for a reliable ensemble, whatever is chosen; of a narrow one the dry area hides nothing."""
    for spread, low, high in ((1.0, 0.85, 1.15), (0.5, 1.3, 9.9)):
        store, truth = build(tmp_path / f"{spread}.zarr", members=4, spread=spread)
        result = verify(store, truth, settings=replace(QUICK, variables=["mrr"]))
        ranks = result.score("rank", "ensemble", result.targets[0]).value
        assert result.targets[0].name == "mrr" and ranks.mean() == pytest.approx(1)
        assert low < ranks[-1] < high
    dry = verify(store, truth.assign(mrr=truth["mrr"] * 0), settings=replace(QUICK, variables=["mrr"]))
    assert np.argmax(dry.score("rank", "ensemble", dry.targets[0]).value) == 0


@pytest.mark.slow
def test_a_narrow_ensemble(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", members=6, spread=0.5)
    result = verify(store, truth, settings=replace(QUICK, variables=["mrr", "t2m"]))
    assert value(result, "spread_skill", "t2m") < 0.75 and value(result, "outliers", "t2m") > 1.4
    ranks = result.score("rank", "ensemble", result.targets[1])
    assert ranks.value[0] > 1.3 > ranks.value[3] and ranks.low[0] > 1


@pytest.mark.slow
def test_scores_by_hand(tmp_path: Path) -> None:
    """Against plain NumPy on the whole store."""
    store, truth = build(tmp_path / "s.zarr", flat(), members=3)
    result = verify(store, truth, settings=QUICK)
    ds = xr.open_zarr(store)
    w = result.domain.area.numpy()
    x, y = ds["u10m"].values.astype(float), truth["u10m"].values
    error = x.mean(1) - y
    assert value(result, "rmse", "u10m") == pytest.approx(np.sqrt((error**2 * w).mean()))
    assert value(result, "bias", "u10m") == pytest.approx((error * w).mean())
    spread = np.sqrt((x.var(1, ddof=1) * w).mean())
    assert value(result, "spread", "u10m") == pytest.approx(spread, rel=1e-6)
    ratio = np.sqrt(4 / 3) * spread / np.sqrt((error**2 * w).mean())
    assert value(result, "spread_skill", "u10m") == pytest.approx(ratio, rel=1e-6)
    speed = np.hypot(ds["u10m"], ds["v10m"]).values.astype(float).mean(1)
    mae = np.abs(speed - np.hypot(truth["u10m"], truth["v10m"]).values)
    assert value(result, "mae", "ws10m") == pytest.approx((mae * w).mean(), rel=1e-6)


@pytest.mark.slow
def test_interpolation_is_that_of_the_coarse_input(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr")
    result = verify(store, truth, settings=QUICK)
    ds = xr.open_zarr(store).set_coords(["lat_lowres", "lon_lowres"])
    regrid = Regridder(grid_of(ds, "_lowres"), grid_of(ds))
    field = regrid(torch.from_numpy(ds["refc_lowres"].values.astype(np.float64))).numpy()
    mae = (np.abs(field - truth["mrr"].values) * result.domain.area.numpy()).mean()
    assert value(result, "mae", "mrr", "interpolation") == pytest.approx(mae)
    assert value(result, "crps", "mrr", "interpolation") == pytest.approx(mae)
    assert any("coarse refc" in note for note in result.notes)
    assert not result.has("spread_skill", "interpolation", result.targets[0])
    with pytest.raises(KeyError, match="no rank of interpolation for mrr"):
        result.score("rank", "interpolation", result.targets[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object, xr.Dataset]:
    """A store of a tiny model, the model, and a truth."""
    folder = tmp_path_factory.mktemp("run")
    model = run_kit.load(run_kit.make_package(folder / "package"), number_of_samples=2, number_of_steps=1)
    downscale(run_kit.TIMES, model, demo.DemoWeather(), folder / "s.zarr", options=Options(seed=1))
    ds = xr.open_zarr(folder / "s.zarr")
    truth = ds[list(model.output_variables)].isel(sample=0, drop=True).load()
    return folder / "s.zarr", model, truth + 1.0


@pytest.mark.slow
def test_regression_and_climatology_of_the_package(run: tuple[Path, object, xr.Dataset]) -> None:
    store, model, truth = run
    downscaler = model.downscaler  # type: ignore[attr-defined]
    result = verify(store, truth, downscaler=downscaler, settings=QUICK)
    assert result.forecasts == ["ensemble", "regression", "interpolation", "climatology"]
    assert not any("another package" in note for note in result.notes)
    names = list(downscaler.spec.inputs.names)
    coarse = demo.DemoWeather()(np.array(run_kit.TIMES, dtype="datetime64[ns]"), names)
    mean = downscaler.mean(torch.from_numpy(coarse.values)).double().numpy()
    w = result.domain.area.numpy()
    for i, name in enumerate(downscaler.spec.outputs.names):
        error = np.abs(mean[:, i] - truth[name].values)
        assert value(result, "mae", name, "regression") == pytest.approx((error * w).mean(), rel=1e-5)
        error = np.abs(downscaler.spec.outputs.center[i] - truth[name].values)
        assert value(result, "mae", name, "climatology") == pytest.approx((error * w).mean(), rel=1e-6)


@pytest.mark.slow
def test_another_package_is_said_and_another_grid_refused(run: tuple[Path, object, xr.Dataset]) -> None:
    store, model, truth = run
    downscaler = model.downscaler  # type: ignore[attr-defined]
    spec = downscaler.spec
    try:
        downscaler.spec = replace(spec, sha256="1" * 64)
        verification = open_verification(store, truth, downscaler=downscaler, settings=QUICK)
        assert any("another package" in note for note in verification.notes)
        downscaler.spec = replace(spec, input_grid=run_kit.straight())
        with pytest.raises(InputError, match="other grids than the store"):
            verify(store, truth, downscaler=downscaler)
    finally:
        downscaler.spec = spec


@pytest.mark.slow
def test_the_regression_of_another_store(run: tuple[Path, object, xr.Dataset], tmp_path: Path) -> None:
    """A run in the mode of the regression alone is compared by name; so is any other run."""
    store, model, truth = run
    downscaler = model.downscaler  # type: ignore[attr-defined]
    spec = downscaler.spec
    try:
        downscaler.spec = replace(spec, inference_mode="regression")
        downscale(run_kit.TIMES, model, demo.DemoWeather(), tmp_path / "r.zarr", options=Options(seed=1))
    finally:
        downscaler.spec = spec
    result = verify(
        store, truth, compare={"stored": tmp_path / "r.zarr"}, settings=QUICK, downscaler=downscaler
    )
    for name in truth.data_vars:
        assert value(result, "crps", str(name), "stored") == pytest.approx(
            value(result, "mae", str(name), "regression"), rel=1e-4
        )
    assert value(result, "spread", "t2m", "stored") < 1e-3
    with pytest.raises(InputError, match="names of what is compared must differ"):
        verify(store, truth, compare={"interpolation": tmp_path / "r.zarr"})


@pytest.mark.slow
def test_stores_that_cannot_be_compared(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr")
    build(tmp_path / "grid.zarr", flat())
    build(tmp_path / "times.zarr", times=TIMES[:3])
    for name, message in {"grid": "on another grid", "times": "lacks the time 2024-07-24T18:00"}.items():
        with pytest.raises(InputError, match=message):
            verify(store, truth, compare={"other": tmp_path / f"{name}.zarr"})


# members and times


@pytest.mark.slow
def test_missing_members_are_refused_or_their_times_left_out(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", unwritten=((2, 1), (2, 3), (5, 0)))
    with pytest.raises(
        InputError, match="members 1, 3 of 2024-07-24T12:00 are not written, and more of 1 other"
    ):
        verify(store, truth)
    few = replace(QUICK, variables=["t2m"])
    result = verify(store, truth, settings=replace(few, skip_incomplete=True))
    assert len(result.times) == len(TIMES) - 2 and TIMES[2] not in result.times
    assert "2 of 8 times are left out: members are missing." in result.notes
    whole, same = build(tmp_path / "w.zarr")
    some = verify(whole, same.isel(time=[0, 1, 3, 4, 6, 7]), settings=few)
    assert value(result, "crps", "t2m") == pytest.approx(value(some, "crps", "t2m"))


def test_no_complete_time(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2], unwritten=((0, 1), (1, 1)))
    with pytest.raises(InputError, match="no time is complete: member 1 of 2024-07-24T00:00 is not written"):
        verify(store, truth, settings=replace(QUICK, skip_incomplete=True))


@pytest.mark.slow
def test_broken_members_are_refused_or_their_times_left_out(tmp_path: Path) -> None:
    """Written, by the store's word, and yet not finite at one point of one variable."""
    store, truth = build(tmp_path / "s.zarr")
    ds = xr.open_zarr(store).load()
    ds["v10m"].values[4, 2, 3, 3] = np.nan
    write(ds, tmp_path / "broken.zarr")
    with pytest.raises(InputError, match="member 2 of the ensemble of v10m at 2024-07-25T00:00 is NaN"):
        verify(tmp_path / "broken.zarr", truth)
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    three = replace(QUICK, variables=["mrr", "t2m", "v10m"])
    result = verify(tmp_path / "broken.zarr", truth, settings=replace(three, skip_incomplete=True))
    logger.remove(sink)
    assert TIMES[4] not in result.times and len(result.times) == 7
    assert any("2024-07-25T00:00 is left out: member 2" in line for line in said)
    rest = verify(store, truth.drop_sel(time=TIMES[4]), settings=three)
    for name in ("mrr", "t2m"):  # scored before the broken one was met: nothing of that time stays
        assert value(result, "crps", name) == value(rest, "crps", name)
        for mine, theirs in ((result.truth_values, rest.truth_values),):
            assert mine[name].counts.sum() == pytest.approx(theirs[name].counts.sum())


@pytest.mark.slow
def test_one_member(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", members=1)
    result = verify(store, truth, settings=QUICK)
    assert any("There is one member" in note for note in result.notes)
    assert value(result, "crps", "t2m") == value(result, "mae", "t2m")
    assert not any(result.has(name, "ensemble", result.targets[0]) for name in ("spread_skill", "rank"))


@pytest.mark.slow
def test_one_lead_time_is_valid_when_it_is_valid(tmp_path: Path) -> None:
    """The truth of a forecast is that of its valid time."""
    store, truth = build(tmp_path / "s.zarr")
    ds = xr.open_zarr(store).load()
    lead = np.array([6], dtype="timedelta64[h]").astype("timedelta64[ns]")
    led = ds.assign_coords(time=TIMES - lead[0]).expand_dims(lead_time=lead)
    order = [d for d in ds["t2m"].dims if d != "time"]
    for name in ds.data_vars:
        if "time" in ds[name].dims:
            led[name] = led[name].transpose(
                "time", "lead_time", *[d for d in order if d in led[name].dims], ...
            )
        else:
            led[name] = ds[name]
    write(led, tmp_path / "lead.zarr")
    settings = replace(QUICK, variables=["t2m"])
    with_lead, without = (verify(tmp_path / n, truth, settings=settings) for n in ("lead.zarr", "s.zarr"))
    assert np.array_equal(with_lead.times, without.times)
    assert value(with_lead, "crps", "t2m") == value(without, "crps", "t2m")


# streaming


@pytest.mark.slow
def test_one_time_after_the_other_is_all_at_once(tmp_path: Path) -> None:
    """Of a time stay numbers, not fields; two halves hold the rows of the whole."""
    store, truth = build(tmp_path / "s.zarr")
    whole = open_verification(store, truth, settings=QUICK)
    assert [time for time in whole] == list(TIMES)  # noqa: C416
    halves = [
        open_verification(store, truth.isel(time=half), settings=QUICK)
        for half in ([0, 1, 2], [3, 4, 5, 6, 7])
    ]
    for half in halves:
        list(half)
    for key, series in whole.series.items():
        pair = [half.series[key] for half in halves]
        joined = Series(series.size, pair[0].rows + pair[1].rows)
        joined.histogram.merge(pair[0].histogram)
        joined.histogram.merge(pair[1].histogram)
        for name in (*POINTWISE, "power", "rank"):
            np.testing.assert_array_equal(joined.column(name), series.column(name))
        np.testing.assert_allclose(joined.histogram.counts, series.histogram.counts, rtol=1e-12)
        numbers = sum(np.size(number) for row in series.rows if row for number in row.values())
        assert numbers < len(TIMES) * 200
