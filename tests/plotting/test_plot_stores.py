# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""plot-corrdiff takes every store that run-corrdiff writes, and shows each field under its own time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cartopy
import numpy as np
import pytest
import xarray as xr
from command_stores import KINDS, make_stores
from matplotlib.figure import Figure
from PIL import Image
from plotting_store import cells, map_axes, texts

from earth2_corrdiff import plotting
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.plot import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small pictures without coastlines."""
    monkeypatch.setattr("earth2_corrdiff.plotting.figures._dpi", lambda mesh, plan: 25.0)
    monkeypatch.setattr("earth2_corrdiff.plotting.animation.FRAME_DPI", 25.0)
    for place in ("data_dir", "pre_existing_data_dir"):
        monkeypatch.setitem(cartopy.config, place, tmp_path / "empty")


PICTURES = {
    "analysis": ["2024-07-24T1200"],
    "period": ["2024-07-24T0000", "2024-07-24T0600", "2024-07-24T1200"],
    "forecasts": [
        f"2024-07-24T{start}00+{lead}h" for start in ("00", "06") for lead in ("000", "006", "012")
    ],
    "one lead time": ["2024-07-24T0000+006h"],
    "coarse members": ["2024-07-24T0000+000h", "2024-07-24T0000+006h"],
    "compressed": ["2024-07-24T0000+000h", "2024-07-24T0000+006h"],
    "patches": ["2024-07-24T0000"],
    "unfinished": ["2024-07-24T0000+000h", "2024-07-24T0000+006h"],
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made, and written without being drawn; frames of animations are drawn."""
    draw = Figure.savefig

    def save(self: Figure, target: Any, **how: Any) -> None:
        if isinstance(target, str | Path):
            Path(target).touch()
        else:
            draw(self, target, **how)

    monkeypatch.setattr(Figure, "savefig", save)


def plotted(store: Path, out: Path, *flags: str) -> list[str]:
    """Names of the pictures that the command makes."""
    assert main([str(store), "--output-dir", str(out), *flags]) == 0
    return sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_is_plotted(
    undrawn: None, stores: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    names = plotted(stores[kind], tmp_path / "out", "--samples", "0", "--plot-lowres", "--ensemble")
    assert {name.removeprefix("corrdiff-").split("-sample")[0] for name in names if "sample-0" in name} == {
        time + coarse
        for time in PICTURES[kind]
        for coarse in (("-coarse-0", "-coarse-1") if kind == "coarse members" else ("",))
    }
    complete = PICTURES[kind][:1] if kind == "unfinished" else PICTURES[kind]
    assert [name for name in names if "ensemble" in name] == [f"corrdiff-{t}-ensemble.png" for t in complete]
    inputs = 2 if kind == "coarse members" else 1
    assert len([name for name in names if "lowres" in name]) == inputs * len(PICTURES[kind])


def fields_of(figure: object) -> list[np.ndarray]:
    return [np.asarray(cells(ax).get_array()) for ax in map_axes(figure)]  # type: ignore[arg-type]


def test_each_forecast_is_shown_under_its_valid_time_start_and_lead(stores: dict[str, Path]) -> None:
    """The fields are those that xarray finds by the coordinates."""
    ds, raw = plotting.open_store(stores["forecasts"]), xr.open_zarr(stores["forecasts"])
    every = plotting.cases(ds)
    assert len(every) == 6
    for index, case in enumerate(every):
        figure = plotting.plot_member(ds, index, 1)
        start, valid = (str(time)[:16].replace("T", " ") for time in (case.time, case.valid))
        lead = int(case.lead / np.timedelta64(1, "h"))
        assert f"valid {valid} UTC, start {start} UTC + {lead} h" in texts(figure).replace("\n", " ")
        there = raw.sel(time=case.time, lead_time=case.lead, sample=1)
        np.testing.assert_allclose(fields_of(figure)[1], there["t2m"].values - 273.15, atol=1e-4)
        seed = int(there["member_seed"])
        assert f"member seed {seed}" in texts(figure)
        coarse = fields_of(plotting.plot_lowres(ds, index))[1]
        assert np.isin(np.float32(coarse), np.float32(there["t2m_lowres"].values.astype("f8") - 273.15)).all()


def test_a_valid_time_stands_for_its_latest_forecast(stores: dict[str, Path]) -> None:
    ds = plotting.open_store(stores["forecasts"])
    figure = plotting.plot_member(ds, "2024-07-24T12")
    assert "start 2024-07-24 06:00 UTC + 6 h" in texts(figure).replace("\n", " ")
    with pytest.raises(InputError, match="no time 2024-07-25: it has 2024-07-24T00:00 \\+ 0 h"):
        plotting.plot_member(ds, "2024-07-25")


def test_members_of_coarse_members(stores: dict[str, Path]) -> None:
    """They are numbered through; the ensemble is all of them."""
    ds, raw = plotting.open_store(stores["coarse members"]), xr.open_zarr(stores["coarse members"])
    figure = plotting.plot_member(ds, 1, 2)
    there = raw.isel(time=0, lead_time=1)
    assert "member 0 of coarse member 1" in texts(figure)
    np.testing.assert_array_equal(fields_of(figure)[0], there["mrr"].isel(ensemble=1, sample=0))
    np.testing.assert_allclose(
        fields_of(plotting.plot_ensemble(ds, 1))[0],
        there["mrr"].values.astype("f8").mean(axis=(0, 1)),
        rtol=1e-5,
    )
    assert "ensemble of 4 members" in texts(plotting.plot_ensemble(ds, 1))
    figure = plotting.plot_lowres(ds, 1, coarse=1)
    assert "Coarse input, member 1" in texts(figure)
    values = there["t2m_lowres"].isel(ensemble=1).values.astype("f8") - 273.15
    assert np.isin(np.float32(fields_of(figure)[1]), np.float32(values)).all()


def test_lead_times_samples_and_coarse_members_are_chosen(
    undrawn: None, stores: dict[str, Path], tmp_path: Path
) -> None:
    names = plotted(stores["forecasts"], tmp_path / "a", "--lead", "6h", "--samples", "1")
    assert names == [f"corrdiff-2024-07-24T{start}00+006h-sample-1.png" for start in ("00", "06")]
    flags = ["--lead", "0", "--samples", "1", "--coarse-members", "1", "--plot-lowres"]
    stem = "corrdiff-2024-07-24T0000+000h-coarse-1"
    assert plotted(stores["coarse members"], tmp_path / "b", *flags) == [
        f"{stem}-lowres.png",
        f"{stem}-sample-1.png",
    ]


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("analysis", ["--lead", "6h"], "the store has no lead times, it is of analyses; leave out --lead"),
        ("forecasts", ["--lead", "9h"], "the store has no lead time 9 h; it has 0 h, 6 h, 12 h"),
        ("forecasts", ["--lead", "soon"], "not a valid duration"),
        ("forecasts", ["--coarse-members", "0"], "no coarse members; leave out --coarse-members"),
        ("coarse members", ["--coarse-members", "7"], "no coarse member 7: it has 0, 1"),
        ("coarse members", ["--samples", "2"], "no sample 2: it has 0, 1"),
        ("unfinished", ["--lead", "12h"], "none of the members to plot has been written"),
    ],
)
def test_choices_that_are_not_there(
    stores: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: list[str],
    message: str,
) -> None:
    assert main([str(stores[kind]), "--output-dir", str(tmp_path / "out"), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unfinished_store_shows_what_is_there(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = plotted(stores["unfinished"], tmp_path / "out")
    stem = "corrdiff-2024-07-24T0000"
    assert names == [f"{stem}+000h-sample-0.png", f"{stem}+000h-sample-1.png", f"{stem}+006h-sample-0.png"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not written" in line]
    assert "3 of 6 members" in line and "sample 1 at 2024-07-24T00:00 + 6 h, sample 0 at 2024-07" in line


def animation(folder: Path) -> tuple[list[str], int]:
    """Names of the GIFs, and how many frames the first has."""
    gifs = sorted(folder.glob("*.gif"))
    with Image.open(gifs[0]) as gif:
        return [path.name for path in gifs], gif.n_frames


def test_an_animation_over_lead_times(undrawn: None, stores: dict[str, Path], tmp_path: Path) -> None:
    plotted(stores["forecasts"], tmp_path, "--samples", "1", "--animate", "times")
    spans = [f"2024-07-24T{s}00+000h-to-2024-07-24T{s}00+012h" for s in ("00", "06")]
    assert animation(tmp_path) == ([f"corrdiff-{span}-sample-1-animation.gif" for span in spans], 3)


def test_animations_over_members_and_over_a_period(
    undrawn: None, stores: dict[str, Path], tmp_path: Path
) -> None:
    argv = ["--animate", str(stores["one lead time"]), "--output-dir", str(tmp_path / "members")]
    assert main(argv) == 0  # the bare option does not take the store for its word
    assert animation(tmp_path / "members") == (["corrdiff-2024-07-24T0000+006h-animation.gif"], 2)
    plotted(stores["period"], tmp_path / "times", "--samples", "0", "--animate")  # of one member: over times
    name = "corrdiff-2024-07-24T0000-to-2024-07-24T1200-sample-0-animation.gif"
    assert animation(tmp_path / "times") == ([name], 3)


def test_frames_over_times_share_their_scales(stores: dict[str, Path]) -> None:
    ds = plotting.open_store(stores["forecasts"])
    figures = list(plotting.frames_over_times(ds, 0))
    assert len(figures) == 6
    limits = {tuple(cells(ax).get_clim() for ax in map_axes(figure)) for figure in figures}
    assert len(limits) == 1


# what is on the pictures


def test_no_folders_on_pictures(stores: dict[str, Path]) -> None:
    ds = plotting.open_store(stores["analysis"])
    folder = str(stores["analysis"].parent)
    assert folder in ds.attrs["package"] + ds.attrs["command"]
    for source, shown in {
        "file:/home/me/in.nc": "source file:in.nc",
        "gfs:/data/mirror": "source gfs:mirror",
        "file:C:\\me\\in.nc": "source file:in.nc",
        "https://host/p": "source https://host/p",
    }.items():
        said = texts(plotting.plot_member(ds.assign_attrs(source=source)))
        assert shown in said and folder not in said and "/home" not in said


def test_the_coarse_input_has_a_scale_of_its_own_where_the_members_wash_it_out(
    stores: dict[str, Path],
) -> None:
    ds = plotting.open_store(stores["analysis"]).load()
    wide = ds.copy(deep=True)
    wide["t2m"].values[..., ::2, :] -= 300.0  # a range ten times that of the coarse input
    scales = plotting.color_scales(wide)
    assert "t2m_lowres" in scales and "radar_lowres" not in scales
    panel = map_axes(plotting.plot_lowres(wide))[1]
    assert panel.get_title(loc="left") == "2 m temperature (°C), own scale"
    low, high = cells(panel).get_clim()
    assert high - low < 60 and cells(map_axes(plotting.plot_member(wide))[1]).get_clim()[0] < -250
    ds["t2m"].values[...] = np.resize(ds["t2m_lowres"].values, ds["t2m"].shape)
    assert "t2m_lowres" not in plotting.color_scales(ds)
    assert map_axes(plotting.plot_lowres(ds))[1].get_title(loc="left") == "2 m temperature (°C)"
