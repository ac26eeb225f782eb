# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a verification leaves: tables, CSV, Zarr, figures and the report."""

from __future__ import annotations

import csv
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from verification_kit import build

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_file, whole, writing
from earth2_corrdiff.verification import (
    Bootstrap,
    Estimate,
    Result,
    Settings,
    captions,
    figures,
    files,
    report,
    tables,
    verify,
)
from earth2_corrdiff.verification.scores import SCORES


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    store, truth = build(tmp_path_factory.mktemp("store") / "s.zarr", members=5, spread=0.7)
    return verify(store, truth, settings=Settings(bootstrap=Bootstrap(200)))


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One member, two times, no coarse input but of one variable, gaps in the truth."""
    store, truth = build(tmp_path_factory.mktemp("store") / "s.zarr", members=1)
    truth["t2m"].values[:, 2, 2] = np.nan
    return verify(store, truth.isel(time=[0, 1]), settings=Settings(bootstrap=Bootstrap(200)))


# tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (1.0, "1.00"),
        (-0.5, "-0.500"),
        (0.0995, "0.100"),
        (0.02344, "0.023"),
        (12.345, "12.3"),
        (287.31, "287"),
        (56789.4, "56789"),
        (-4.2e-5, "-4.2e-05"),
        (np.nan, "–"),
        (np.inf, "–"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_estimates() -> None:
    def of(*values: float) -> Estimate:
        return Estimate(*map(np.array, values))

    assert tables.shown(of(1.5, 1.25, 2.0)) == "1.50 [1.25, 2.00]"
    assert tables.shown(of(1.5, np.nan, np.nan)) == "1.50"
    assert tables.percent(of(-0.104, -0.2, 0.01)) == "-10 % [-20, +1]"
    assert tables.percent(of(0.25, np.nan, np.nan)) == "+25 %"
    assert tables.percent(of(np.nan, np.nan, np.nan)) == "–"


@pytest.mark.slow
def test_text_for_the_terminal(result: Result) -> None:
    text = tables.report_text(result)
    start = "5 members on 20 x 28 points at 8 times from 2024-07-24T00:00 to 2024-07-25T18:00 (UTC)"
    assert text.startswith(start)
    crps = result.score("crps", "ensemble", result.targets[1])
    row = next(line for line in text.splitlines() if line.startswith("t2m"))
    assert tables.shown(crps) in row and " K " in row and "%" in row
    assert "In brackets the 95 % interval of 200 bootstrap draws of times." in " ".join(text.split())
    assert "mrr ≥ 35 dBZ" in text and "ws10m ≥ 17.2 m/s" in text
    prose = [line for line in text.splitlines() if "  " not in line]
    assert max(map(len, prose)) <= tables.TERMINAL


@pytest.mark.slow
def test_columns_are_aligned(result: Result) -> None:
    lines = tables.ensemble_table(result).text().splitlines()
    start = lines.index("") + 1
    assert len({len(line) for line in lines[start:]}) == 1
    assert len(lines[start:]) == 1 + len(result.targets)


@pytest.mark.slow
def test_intervals_in_words(result: Result) -> None:
    def said(how: Bootstrap) -> str:
        return tables.interval_text(replace(result, bootstrap=how))

    assert said(Bootstrap(0)) == "No intervals were asked for."
    assert said(Bootstrap(9, block=2)) == "No intervals: there are too few times."
    assert "blocks of 3 times" in tables.interval_text(
        replace(result, bootstrap=Bootstrap(9, block=3), times=np.repeat(result.times, 3))
    )


@pytest.mark.slow
def test_tails(result: Result) -> None:
    table = tables.tail_table(result)
    truth = next(row for row in table.rows if row[:2] == ("t2m", "99 %"))
    assert float(truth[2].split()[0]) == pytest.approx(result.truth_values["t2m"].quantile(0.99), rel=1e-3)
    assert not any("99.99" in row[1] for row in table.rows)  # 4480 values say nothing of it


@pytest.mark.slow
def test_what_is_found_in_words(result: Result, lone: Result) -> None:
    said = " ".join(captions.findings(result))
    assert "underdispersive (spread over error below 0.9): mrr, t2m, u10m, v10m, ws10m." in said
    assert "Compared with interpolation, the CRPS of the ensemble is lower for" in said
    assert "With so few times this may be chance." in " ".join(captions.findings(lone))
    assert not any("Spread" in sentence for sentence in captions.findings(lone))


# files


@pytest.mark.slow
def test_csv_has_every_number_once(result: Result, tmp_path: Path) -> None:
    files.save(result, tmp_path / "new" / "scores.csv")
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [tuple(row[name] for name in files.COLUMNS) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["score"] for row in rows} == {*SCORES, "crps_difference", "crps_gain"}
    apart = result.difference("crps", "ensemble", "interpolation", result.targets[1])
    row = next(r for r in rows if (r["variable"], r["score"]) == ("t2m", "crps_difference"))
    assert row["baseline"] == "interpolation"
    assert float(row["high"]) == pytest.approx(float(apart.high), rel=1e-6)
    found = next(r for r in rows if (r["variable"], r["forecast"], r["score"]) == ("t2m", "ensemble", "crps"))
    crps = result.score("crps", "ensemble", result.targets[1])
    assert float(found["value"]) == pytest.approx(float(crps.value), rel=1e-6)
    assert float(found["low"]) == pytest.approx(float(crps.low), rel=1e-6) and found["units"] == "K"
    fss = [row for row in rows if row["score"] == "fss" and row["variable"] == "ws10m"]
    assert {float(row["threshold"]) for row in fss} == {10.8, 17.2, 24.5}
    assert {float(row["scale_km"]) for row in fss} == {float(f"{s:.7g}") for s in result.domain.scales}
    ranks = [row for row in rows if row["score"] == "rank" and row["variable"] == "mrr"]
    assert [float(row["rank"]) for row in ranks] == list(range(6))
    waves = [
        float(row["wavelength_km"]) for row in rows if row["score"] == "power" and row["variable"] == "mrr"
    ]
    np.testing.assert_allclose(waves[: len(waves) // 2], result.domain.rings.wavelength, rtol=1e-6)


@pytest.mark.slow
def test_zarr_keeps_the_times(result: Result, tmp_path: Path) -> None:
    files.save(result, tmp_path / "scores.zarr")
    ds = xr.open_zarr(tmp_path / "scores.zarr")
    crps = result.score("crps", "ensemble", result.targets[1])
    cell = {"forecast": "ensemble", "variable": "t2m"}
    assert float(ds["crps"].sel(cell)) == float(crps.value) and float(ds["crps_low"].sel(cell)) == float(
        crps.low
    )
    column = result.series["ensemble", "t2m"].column("crps")
    np.testing.assert_array_equal(ds["time_crps"].sel(cell), column)
    np.testing.assert_array_equal(ds["time"], result.times)
    weights = ds["time_weight"].sel(cell)
    assert float((ds["time_crps"].sel(cell) * weights).sum() / weights.sum()) == pytest.approx(
        float(crps.value)
    )
    pair = {"baseline": "interpolation", "variable": "t2m"}
    apart = result.difference("crps", "ensemble", "interpolation", result.targets[1])
    assert (
        float(ds["crps_difference"].sel(pair))
        == float(apart.value)
        == pytest.approx(float(crps.value - result.score("crps", "interpolation", result.targets[1]).value))
    )
    assert float(ds["crps_gain_high"].sel(pair)) > 0.9
    assert ds["fss"].dims == ("forecast", "variable", "threshold", "scale")
    assert (
        np.isnan(ds["fss"].sel(variable="t2m")).all() and np.isfinite(ds["fss"].sel(variable="mrr")[0]).all()
    )
    assert np.isnan(ds["spread_skill"].sel(forecast="interpolation")).all()
    assert ds["threshold_value"].sel(variable="mrr").values.tolist() == [20, 35, 45]
    truth = ds["quantile"].sel(forecast_or_truth="truth", variable="t2m", level=0.5)
    assert float(truth) == result.truth_values["t2m"].quantile(0.5)
    assert ds.attrs["bootstrap_replicates"] == 200 and ds.attrs["solver"] == "euler"


@pytest.mark.slow
def test_one_member_with_gaps_is_saved_too(lone: Result, tmp_path: Path) -> None:
    for name in ("scores.csv", "scores.zarr"):
        files.save(lone, tmp_path / name)
    ds = xr.open_zarr(tmp_path / "scores.zarr")
    assert "spread_skill" not in ds and np.isnan(ds["crps_low"]).all()
    assert np.isnan(ds["power_ratio"].sel(variable="t2m")).all()


@pytest.mark.slow
def test_outputs_that_are_refused(result: Result, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.zarr", tmp_path / "other.zarr"
    files.save(result, mine)
    other.mkdir()
    (tmp_path / "file").write_text("in the way")
    for path, overwrite, message in (
        (tmp_path / "scores.txt", False, "takes a file.csv or a store.zarr"),
        (mine, False, "exists; use --overwrite"),
        (other, True, "is not an output of a verification: not replaced"),
        (tmp_path / "file" / "scores.csv", False, "cannot write"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_output(path, overwrite)
    files.check_output(mine, overwrite=True)
    files.save(result, mine)
    with pytest.raises(InputError, match="cannot write .* it is a folder"):
        check_file(other.rename(tmp_path / "folder.html"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("the last one")
    with pytest.raises(InputError, match="No space left on device"), writing(page), whole(page) as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "the last one"


# figures and report


@pytest.mark.slow
def test_figures_show_the_numbers(result: Result) -> None:
    target = result.targets[0]
    panels = figures.portrait(result, target).axes
    assert len(panels) == 6
    heights = [bar.get_height() for bar in panels[0].patches]
    np.testing.assert_allclose(heights, result.score("rank", "ensemble", target).value)
    ratio = next(line for line in panels[4].lines if line.get_color() == figures.FIRST)
    np.testing.assert_allclose(ratio.get_ydata(), result.score("power_ratio", "ensemble", target).value)
    left, right = panels[4].get_xlim()
    assert left > right  # long waves on the left
    three = figures.events(result, target).axes
    assert [ax.get_title(loc="left").split(" (")[0] for ax in three] == [
        f"mrr ≥ {t} dBZ" for t in (20, 35, 45)
    ]
    dots = figures.gains(result).axes[0].lines[0].get_xdata()
    expected = [result.gain("crps", "ensemble", "interpolation", t).value for t in result.targets]
    np.testing.assert_allclose(dots, 100 * np.array(expected))


@pytest.mark.slow
def test_forecasts_keep_their_colours(result: Result) -> None:
    more = replace(
        result, forecasts=["ensemble", "regression", "mine", "yours", "interpolation", "climatology"]
    )
    shades = [figures.color(more, name) for name in more.forecasts]
    assert len(set(shades)) == 6 and shades[0] == figures.FIRST


class Page(HTMLParser):
    """Tags of a page, checked to be closed, with the addresses that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value is not None]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_report_needs_nothing_else(result: Result, lone: Result) -> None:
    result = replace(result, targets=result.targets[:2])
    text = report.html(result, "of <mine> & yours")
    page = Page(text)
    assert page.fetched and all(link.startswith("data:image/svg+xml;base64,") for link in page.fetched)
    assert not {"script", "link", "iframe"} & set(page.tags) and "url(" not in text and "@import" not in text
    assert "<h1>of &lt;mine&gt; &amp; yours</h1>" in text and "CorrDiff &lt;test&gt;" in text
    # gains, two portraits, the events of reflectivity
    assert page.tags.count("img") == 4 == page.tags.count("figcaption")
    assert all(escape(caption) in text for caption in (captions.AS_ABOVE, captions.PORTRAIT, captions.EVENTS))
    alone = replace(lone, targets=lone.targets[1:2])
    page_of_one = report.html(alone, "lone")
    assert Page(page_of_one).tags.count("img") == 2
    assert page_of_one == report.html(alone, "lone")  # the same bytes
