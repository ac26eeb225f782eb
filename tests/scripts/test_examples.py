# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The examples run; so does the program of AMD's blog post, with one import changed."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny
import torch
import xarray as xr

from earth2_corrdiff import CorrDiff, demo
from earth2_corrdiff.model.earth2studio import CorrDiffTaiwan

ROOT = Path(__file__).resolve().parents[2]
BLOG = sorted(ROOT.parent.glob("shared/seeds/001_*.txt"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The demo in place of the downloads: its weather for GFS, its weights for the published ones."""
    monkeypatch.setattr("earth2studio.data.GFS", demo.DemoWeather)
    monkeypatch.setattr(CorrDiffTaiwan, "load_default_package", classmethod(lambda cls: demo.package()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_demo_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(ROOT / "examples" / "demo_in_python.py"))
    program["main"](str(tmp_path))
    assert "members (1, 2, 4, 112, 112), regression alone (1, 4, 112, 112)" in capsys.readouterr().out
    ds = xr.open_zarr(tmp_path / "demo-in-python.zarr")
    assert ds.sizes["sample"] == 4 and np.isfinite(ds.t2m.values).all()
    assert (tmp_path / "demo-in-python.png").stat().st_size > 10_000


@pytest.mark.slow
def test_taiwan_step_by_step(offline: Path) -> None:
    program = runpy.run_path(str(ROOT / "examples" / "taiwan_step_by_step.py"))
    program["main"]("2024-07-24T12:00", "out/taiwan.zarr", 2)
    written = xr.open_zarr(offline / "out" / "taiwan.zarr", consolidated=False)
    model = CorrDiffTaiwan.load_model(demo.package())
    coarse = demo.DemoWeather()(np.datetime64("2024-07-24T12"), model.input_variables).values
    ours = model.downscaler(torch.from_numpy(coarse), seeds=[0, 1])[0]
    assert np.array_equal(written["u10m"].values[0], ours[:, 2].numpy())


@pytest.mark.slow
def test_forecast_to_corrdiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Persistence in Earth2Studio's loop: each lead time is CorrDiff of the first coarse case."""
    names = {"dxwrapper": "DiagnosticWrapper", "persistence": "Persistence"}
    loop = tiny.earth2studio_module("run")
    px = ModuleType("earth2studio.models.px")  # without the other forecast models, which take long to import
    for file, name in names.items():
        setattr(px, name, getattr(tiny.earth2studio_module(f"models.px.{file}"), name))
    monkeypatch.setitem(sys.modules, px.__name__, px)
    monkeypatch.setattr("earth2studio.run", loop, raising=False)
    program = runpy.run_path(str(ROOT / "examples" / "forecast_to_corrdiff.py"))
    program["main"]("2024-07-24T12:00", str(tmp_path / "forecast.zarr"), 1)
    said = capsys.readouterr().out
    assert [float(k) for k in re.findall(r"([0-9.]+) K", said)] == pytest.approx([0.2, 1.1, 0.7], abs=0.2)
    ds = xr.open_zarr(tmp_path / "forecast.zarr", consolidated=False)
    assert ds.t2m.dims == ("time", "lead_time", "sample", "ilat", "ilon") and ds.sizes["lead_time"] == 3
    model = CorrDiff.load_model(demo.package())
    coarse = demo.DemoWeather()(np.datetime64("2024-07-24T12"), model.input_variables).values
    ours = model.downscaler(torch.from_numpy(coarse), seeds=[0])[0, 0]
    for lead in range(3):
        np.testing.assert_array_equal(ds["v10m"].values[0, lead, 0], ours[3].numpy())


@pytest.mark.slow
def test_conus_sized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An eighth of the sides, one member: as many patches as the full domain has."""
    path, store = ROOT / "examples" / "conus_sized.py", tmp_path / "conus.zarr"
    monkeypatch.setattr(sys, "argv", [str(path), "--scale", "8", "--members", "1", "--output", str(store)])
    runpy.run_path(str(path), run_name="__main__")
    assert "the domain has (132, 224) points; patches: 56 x 56, overlap 4" in capsys.readouterr().out
    ds = xr.open_zarr(store)
    assert ds.t2m.shape == (1, 1, 132, 224) and np.isfinite(ds.t2m.values).all()
    assert ds.attrs["patches"] == "56 x 56, overlap 4, boundary 2, cosine window"
    assert store.with_suffix(".png").stat().st_size > 10_000


def blog_program() -> str:
    """The Python snippets of the post up to the written store, as one program."""
    text = BLOG[0].read_text()
    start = text.index("import os\nimport shutil")
    end = text.index("This will compute a downscaled version of the GFS data")
    blocks = re.split(r"\n[ \t]*\n", text[start:end])
    # prose starts with a capitalised word and a space; none of the code does
    code = [block for block in blocks if not re.match(r"\s*[A-Z][A-Za-z’']* [a-z’' ]", block)]
    code = [block for block in code if block.strip() != "Note"]
    return "\n\n".join(code)


@pytest.mark.slow
@pytest.mark.skipif(not BLOG, reason="the blog post is not beside the checkout (shared/seeds)")
def test_blog_program_with_one_import_changed(offline: Path) -> None:
    program = blog_program()
    stock = "from earth2studio.models.dx import CorrDiffTaiwan"
    assert program.count(stock) == 1 and "io.write(*split_coords(x, coords))" in program
    scope: dict[str, object] = {}
    exec(program.replace(stock, "from earth2_corrdiff import CorrDiffTaiwan"), scope)  # noqa: S102
    ds = xr.open_zarr(offline / "outputs" / "corrdiff-2024-07-24.zarr", consolidated=False)
    assert ds["mrr"].dims == ("time", "sample", "ilat", "ilon")
    assert ds.sizes["sample"] == 4 and ds["time"].values[0] == np.datetime64("2024-07-24T12:00")
    members = ds["t2m"].values[0]
    assert np.isfinite(members).all() and (members[0] != members[1]).any()
