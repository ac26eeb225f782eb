# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``--model MODULE:CLASS``: other classes run, store and resume as this package's."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import run_kit
import torch
import xarray as xr
import zarr

from earth2_corrdiff import CorrDiff, InputError
from earth2_corrdiff.model.diagnostic import Diagnostic

TIMES = ("2024-07-24T12:00", "2024-07-24T18:00")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a square domain: the stock class takes no other in two dimensions."""
    fine = run_kit.bent(shape=(16, 16))
    return run_kit.make_package(tmp_path_factory.mktemp("square") / "package", fine)


class Shifted(CorrDiff):
    """A subclass in a package of somebody else."""

    def postprocess_output(self, x: torch.Tensor) -> torch.Tensor:
        return super().postprocess_output(x) + 1


class Points:
    """A diagnostic model without members."""

    def __init__(self, dims: str = "variable lat lon") -> None:
        self.dims, self.number_of_samples, self.seed = dims.split(), 1, None

    @classmethod
    def load_default_package(cls) -> Any:
        raise NotImplementedError

    @classmethod
    def load_model(cls, package: Any) -> Any:
        return cls()

    def to(self, device: Any) -> Any:
        return self

    def input_coords(self) -> Any:
        grid = run_kit.COARSE
        return OrderedDict(batch=np.empty(0), variable=np.array(run_kit.NAMES), lat=grid.lat, lon=grid.lon)

    def output_coords(self, coords: Any) -> Any:
        sizes = {
            "sample": np.arange(1),
            "variable": np.array(["t2m"]),
            "lat": np.arange(4),
            "lon": np.arange(5),
        }
        return OrderedDict(batch=coords["batch"], **{dim: sizes.get(dim, np.arange(3)) for dim in self.dims})

    def __call__(self, x: torch.Tensor, coords: Any) -> Any:
        out = self.output_coords(coords)
        return torch.randn([len(values) for values in out.values()]) + np.random.rand(), out


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch, stock: Any) -> None:
    module = ModuleType("classes")
    module.Stock, module.Shifted, module.Points = stock.CorrDiff, Shifted, Points  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "classes", module)


@pytest.mark.usefixtures("classes")
@pytest.mark.slow
def test_the_stock_class_runs_is_stored_and_resumed(
    package: Path, stock: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from earth2studio.models.auto import Package

    store = tmp_path / "run.zarr"
    argv = (*TIMES, "--package", package, "--source", "demo", "--samples", 2, "--seed", 5, "--output", store)
    named = ("--model", "classes:Stock")
    status, out, err = run_kit.command(capfd, *argv, *named)
    assert status == 0 and "2 times x 2 members" in out, err
    assert "classes:Stock, as Earth2Studio runs it, without acceleration" in err
    ds = xr.open_zarr(store).load()
    assert (ds.attrs["model"], ds.attrs["acceleration"]) == ("classes:Stock", "none")
    assert ds.attrs["title"].startswith("Stock downscaling") and len(ds.attrs["package_sha256"]) == 64
    assert not {"solver", "number_of_steps", "precision"} & ds.attrs.keys()
    theirs = stock.CorrDiff.load_model(Package(str(package)))
    for i in range(2):
        fields = [ds[f"{name}_lowres"].values[i] for name in theirs.input_variables]
        x, coords = (
            torch.from_numpy(np.stack(fields)[None]),
            OrderedDict(theirs.input_coords(), batch=np.arange(1)),
        )
        for m, seed in enumerate(ds.member_seed.values[i]):
            theirs.seed = int(seed)
            want, _ = theirs(x, coords)
            got = np.stack([ds[name].values[i, m] for name in theirs.output_variables])
            np.testing.assert_array_equal(got, want[0, 0].numpy())
    before = run_kit.contents(store)
    root = zarr.open_group(store)
    root["member_seed"][1, 0] = -1
    root["t2m"][1, 0] = np.nan
    assert "belongs to another run" in run_kit.refused(capfd, *argv, "--resume")
    status, out, err = run_kit.command(capfd, *argv, *named, "--resume")
    assert status == 0 and "1 of 4 members were missing" in out, err
    assert run_kit.contents(store).keys() == before.keys()
    xr.testing.assert_identical(xr.open_zarr(store).load().drop_attrs(), ds.drop_attrs())


@pytest.mark.usefixtures("classes")
@pytest.mark.slow
def test_a_subclass_runs_in_the_pipeline(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = (TIMES[0], "--package", package, "--source", "demo", "--samples", 1, "--seed", 5)
    for name, more in (("plain", ()), ("shifted", ("--model", "classes:Shifted"))):
        status, _, err = run_kit.command(capfd, *argv, *more, "--output", tmp_path / name)
        assert status == 0, err
    plain, shifted = (xr.open_zarr(tmp_path / name).load() for name in ("plain", "shifted"))
    np.testing.assert_allclose(shifted.t2m.values, plain.t2m.values + 1, rtol=1e-6)
    assert shifted.attrs["model"].endswith(":Shifted") and "model" not in plain.attrs
    assert shifted.attrs["solver"] == plain.attrs["solver"]


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--model", "classes:Stock", "--steps", 4, "--precision", "fp32"), "leave out --precision, --steps"),
        (("--model", "classes:Stock", "--shard-patches"), "leave out --shard-patches"),
        (("--model", "classes:Teapot"), "there is no class classes:Teapot .*; give MODULE:CLASS"),
        (("--model", "no.module:Teapot"), "there is no class no.module:Teapot"),
        (("--model", "classes"), "there is no class classes"),
        (("--model", "pathlib:Path"), "pathlib:Path is not a diagnostic model .*: it has no load_model"),
        (("--model", "classes:Points"), "classes:Points gives batch, variable, lat, lon: a run needs sample"),
        (
            ("--model", "classes:Points", "--package", "default"),
            "classes:Points has no default package; give",
        ),
        (("--model", "classes:Shifted", "--package", "default"), "classes:Shifted has no default package"),
    ],
)
def test_refusals(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: tuple[Any, ...], word: str
) -> None:
    argv = (TIMES[0], "--source", "demo", "--output", tmp_path / "run.zarr", "--package", package, *more)
    line = run_kit.refused(capfd, *argv)
    assert re.search(word, line), line
    assert not (tmp_path / "run.zarr").exists()


def test_members_of_a_model_without_generators_of_its_own() -> None:
    model = Diagnostic(Points("sample variable lat lon"), "classes:Points", "nowhere", torch.device("cpu"))
    x = torch.zeros(1, len(run_kit.NAMES), *run_kit.COARSE.shape)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    made = [y for _, _, y in model.members(x, [3, 4, 3])]
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
    assert torch.equal(torch.random.get_rng_state(), before) and made[0].shape == (1, 1, 4, 5)
    with pytest.raises(InputError, match="gives batch, sample, variable, level: a run needs"):
        Diagnostic(Points("sample variable level"), "classes:Points", "nowhere", torch.device("cpu"))
