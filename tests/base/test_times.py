# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Periods of times, and lead times: ``2024-07-20T00/2024-07-25T18/6h`` and ``0/48/6h``."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from properties import quick
from run_kit import Weather, command, load, make_package, refused

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.times import MOST, lead_text, parse_period, to_leads, to_times


@pytest.mark.slow
@quick
@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.integers(-23, 23),
    st.integers(1, 90),
    st.sampled_from(("min", "h", "d")),
    st.integers(0, 400),
)
def test_periods_are_those_of_pandas(start: datetime, offset: int, step: int, unit: str, steps: int) -> None:
    """With any offset from UTC at either end, and a space or not."""
    first = pd.Timestamp(start).floor("min")
    want = pd.date_range(first, periods=steps + 1, freq=pd.Timedelta(step, unit.replace("d", "D")))
    zone = f"{offset:+03d}:00"
    begins = (first + pd.Timedelta(offset, "h")).isoformat(timespec="minutes") + zone
    times = parse_period(f"{begins} / {want[-1].isoformat(timespec='minutes')}/{step}{unit}")
    assert times.dtype == "datetime64[ns]"
    np.testing.assert_array_equal(times, want.values)


def test_periods_and_times_mix() -> None:
    mixed = ["2024-07-25T12", "2024-07-20T00/2024-07-20T12/6h", datetime(2024, 8, 1)]
    expected = ["2024-07-25T12", "2024-07-20T00", "2024-07-20T06", "2024-07-20T12", "2024-08-01"]
    np.testing.assert_array_equal(to_times(mixed), np.array(expected, dtype="datetime64[ns]"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "2024-07-20/2024-07-21",
            "is not a valid period; use a format like 2024-07-20T00/2024-07-25T18/6h (first, last, step)",
        ),
        ("2024-07-20/2024-07-21/6h/1", "is not a valid period"),
        ("2024-07-20/2024-07-21/5h", "the steps of '2024-07-20/2024-07-21/5h' end 4 h before its last value"),
        ("2024-07-21/2024-07-20/6h", "'2024-07-21/2024-07-20/6h' ends before it begins"),
        ("2024-07-20/2024-07-21/0h", "must be positive"),
        ("2024-07-20/2024-07-21/-6h", "must be positive"),
        ("2024-07-20/2024-07-21/6 weeks", "is not a valid duration like 6h, 30min or 1d"),
        ("2024-07-20/2024-07-21/1.5h", "is not a valid duration like 6h, 30min or 1d"),
        ("2024-07-20/tomorrow/6h", "'tomorrow' is not a valid time"),
        ("1700-01-01/2200-01-01/1min", f"has 262974241 steps; use at most {MOST}"),
    ],
)
def test_what_is_no_period(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        to_times(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("leads", "hours"),
    [
        ("0/48/6h", range(0, 49, 6)),
        ("24", [24]),
        ("24h", [24]),
        ("2d", [48]),
        ("6, 12,36/48/6", [6, 12, 36, 42, 48]),
        ("0/2h/30min", [0, 0.5, 1, 1.5, 2]),
        (6, [6]),
        ([0, timedelta(minutes=90), "3h", np.timedelta64(4, "h")], [0, 1.5, 3, 4]),
        (np.arange(3) * np.timedelta64(6, "h"), [0, 6, 12]),
    ],
)
def test_lead_times(leads: Any, hours: list[float]) -> None:
    found = to_leads(leads)
    assert found.dtype == "timedelta64[ns]" and (found / np.timedelta64(1, "h")).tolist() == list(hours)


@pytest.mark.parametrize(
    ("leads", "says"),
    [
        ("", "'' is not a valid duration like 6h, 30min or 1d; use 48h or 0/48/6h (first, last, step)"),
        ([], "no lead time was given"),
        ("0/48", "is not a valid range of lead times"),
        ("48/0/6h", "ends before it begins"),
        ("0/5/2h", "end 1 h before its last value"),
        ("-6h", "must not be negative, got -6 h"),
        ("6,6h", "the lead time 6 h is given twice"),
        ("soon", "'soon' is not a valid duration"),
        (1.5, "is not a valid lead time"),
        (np.timedelta64("NaT"), "is not a valid lead time"),
        (10**6, "is not a valid duration"),
    ],
)
def test_what_is_no_lead_time(leads: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        to_leads([leads] if isinstance(leads, float) else leads)
    assert says in str(caught.value)


def test_lead_times_as_text() -> None:
    assert [lead_text(lead) for lead in to_leads("0,6,90min,2d")] == ["0 h", "6 h", "90 min", "48 h"]


@pytest.mark.slow
def test_a_run_over_a_period(tmp_path: Path) -> None:
    """The same as over its times, one by one; one that is in it twice is refused."""
    model = load(tiny.make_package(tmp_path / "package"))
    downscale("2024-07-24T12/2024-07-25T00/6h", model, Weather(), tmp_path / "run.zarr")
    ds = xr.open_zarr(tmp_path / "run.zarr")
    np.testing.assert_array_equal(ds.time, pd.date_range("2024-07-24T12", periods=3, freq="6h"))
    assert ds.t2m.notnull().all() and "lead_time" not in ds and "valid_time" not in ds
    with pytest.raises(InputError, match="the time 2024-07-24T18:00 is given twice"):
        times = ["2024-07-24T12/2024-07-25T00/6h", "2024-07-24T18"]
        downscale(times, model, Weather(), tmp_path / "other.zarr")


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = make_package(tmp_path / "package", number_of_samples=1)
    argv = ("--package", package, "--source", "demo", "--steps", 1)
    status, out, _ = command(capfd, "2024-07-24T12/2024-07-24T18/6h", "2024-08-01", *argv)
    assert status == 0
    assert out.startswith(
        "wrote outputs/corrdiff-2024-07-24T1200-to-2024-08-01T0000.zarr: 3 times x 1 member "
    )
    assert "ends before it begins" in refused(capfd, "2024-07-25/2024-07-24/6h", *argv)
    assert "end 1 h before" in refused(capfd, "2024-07-24T00/2024-07-24T07/6h", *argv)
