# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of both layouts: read, written, read again; and each way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto import Package
from tiny import (
    TAIWAN_IN,
    TAIWAN_OUT,
    curved,
    hills,
    make_networks,
    make_package,
    make_spec,
    make_taiwan,
    taiwan_arrays,
    weather,
)

from earth2_corrdiff import save_package
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.loaded import Loaded
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.spec import DEFAULT_SAMPLING, CorrDiffSpec, Sampling, Statistics

FILES = ["metadata.json", "stats.json", "output_latlon_grid.nc", "regression.mdlus", "diffusion.mdlus"]


def load(folder: Path) -> Loaded:
    return read_package(Package(str(folder)))


def downscale(loaded: Loaded) -> torch.Tensor:
    return Downscaler(loaded.spec, loaded.regression, loaded.denoiser)(weather(2), seeds=[3, 4])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("good") / "package")


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Path:
    """A good package to break."""
    return Path(shutil.copytree(good, tmp_path / "broken"))


def edit(path: Path, **change: Any) -> None:
    """Change the entries of a JSON file; None takes one out."""
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def refusal(folder: Path, whole: bool = False) -> str:
    """The one sentence with which a package (or, if ``whole``, a pipeline made of it) is refused."""
    with pytest.raises(InputError) as raised:
        loaded = load(folder)
        if whole:
            Downscaler(loaded.spec, loaded.regression, loaded.denoiser)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# written and read again

SPECS = {
    "curvilinear": {},
    "rectilinear": {"bent": False},
    "no invariants": {"invariants": False},
    "no mean": {"hr_mean_conditioning": False, "sampling": Sampling("euler", 3)},
    "heun without mean": {"hr_mean_conditioning": False, "sampling": Sampling("heun", 3)},
    "regression alone": {"inference_mode": "regression"},
    "many settings": {"number_of_samples": 5, "seed": None, "grid_bounds_margin": 0.1, "synthetic": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SPECS.values(), ids=SPECS.keys())
def test_round_trip(tmp_path: Path, what: dict[str, Any]) -> None:
    spec = make_spec(**{"sampling": Sampling("heun", 3, 0.004, 70.0, double=False), **what})
    networks = make_networks(spec)
    loaded = load(save_package(tmp_path / "package", spec, *networks))
    got = loaded.spec
    for name in ("inputs", "outputs", "invariants", "sampling", "number_of_samples", "seed", "synthetic"):
        assert getattr(got, name) == getattr(spec, name), name
    for name in ("hr_mean_conditioning", "inference_mode", "grid_bounds_margin", "name", "regression_grid"):
        assert getattr(got, name) == getattr(spec, name), name
    for ours, theirs in ((got.input_grid, spec.input_grid), (got.output_grid, spec.output_grid)):
        assert np.array_equal(ours.lat, theirs.lat) and np.array_equal(ours.lon, theirs.lon)
        assert ours.lat.dtype == theirs.lat.dtype
    if spec.invariant_fields is not None:
        assert np.array_equal(got.invariant_fields, spec.invariant_fields)
    assert got.root == str(tmp_path / "package")
    want = Downscaler(spec, *networks)(weather(2), seeds=[3, 4])
    assert want.std() > 1 and torch.equal(downscale(loaded), want)


def test_half_size_weights(tmp_path: Path) -> None:
    spec = make_spec(sampling=Sampling("heun", 3))
    networks = make_networks(spec)
    folders = [save_package(tmp_path / str(half), spec, *networks, half=half) for half in (False, True)]
    full, half = ((folder / "diffusion.mdlus").stat().st_size for folder in folders)
    assert half < 0.65 * full
    for name, value in load(folders[1]).denoiser.state_dict().items():
        assert torch.equal(value, networks[1].state_dict()[name].half().float()), name


def test_writing_again_leaves_nothing_of_the_old_package(tmp_path: Path) -> None:
    make_package(tmp_path, make_spec())
    bare = make_spec(invariants=False)
    make_package(tmp_path, bare)
    assert load(tmp_path).spec.invariants.names == ()


@pytest.mark.parametrize(
    ("what", "word"),
    [({"regression_grid": True}, "grid channels"), ({"sampling": Sampling("trigflow", 3)}, "'trigflow'")],
)
def test_what_the_generic_layout_cannot_say(tmp_path: Path, what: dict[str, Any], word: str) -> None:
    spec = make_spec(**what)
    with pytest.raises(InputError, match=word):
        save_package(tmp_path / "package", spec, *make_networks(spec))
    assert not (tmp_path / "package").exists()


# the checksum


@pytest.mark.slow
def test_checksum_is_of_the_content_alone(good: Path, broken: Path) -> None:
    first = load(good).spec.sha256
    assert len(first) == 64 and first == load(broken).spec.sha256
    assert first == read_package(Folder(broken)).spec.sha256
    for name in ("metadata.json", "stats.json"):
        path = broken / name
        before = path.read_text()
        path.write_text(before + " ")
        assert load(broken).spec.sha256 != first
        path.write_text(before)
    (broken / "README.md").write_text("not part of it")
    assert load(broken).spec.sha256 == first
    save_package(broken, replace(load(good).spec, name="tiny"), *make_networks(make_spec(), seed=9))
    assert load(broken).spec.sha256 != first


# what the metadata mean


def test_defaults_where_the_metadata_say_nothing(broken: Path) -> None:
    meta = json.loads((broken / "metadata.json").read_text())
    keep = ("input_variables", "output_variables", "invariant_variables")
    (broken / "metadata.json").write_text(json.dumps({name: meta[name] for name in keep}))
    spec = load(broken).spec
    assert spec.sampling == DEFAULT_SAMPLING  # of this package; all else is upstream's
    assert (spec.number_of_samples, spec.seed, spec.inference_mode) == (1, None, "both")
    assert spec.hr_mean_conditioning and spec.grid_bounds_margin == 0 and not spec.synthetic


@pytest.mark.parametrize(
    ("meta", "want"),
    [
        ({"sampler_type": "stochastic", "solver": "euler"}, Sampling("heun", 18, 0.002, 800.0, double=False)),
        ({"sampler_type": "deterministic"}, Sampling("euler", 18, 0.002, 80.0)),
        ({"sampler_type": "deterministic", "solver": "heun"}, Sampling("heun", 18, 0.002, 80.0)),
        ({"sampler_type": "deterministic", "sigma_max": 800}, Sampling("euler", 18, 0.002, 800.0)),
        ({"sigma_max": 120, "sigma_min": 0.01}, replace(DEFAULT_SAMPLING, sigma_min=0.01, sigma_max=120.0)),
        ({"number_of_steps": 7}, Sampling("heun", 7, 0.002, 800.0, double=False)),
    ],
)
def test_sampling_follows_the_path_that_the_metadata_name(
    broken: Path, meta: dict[str, Any], want: Sampling
) -> None:
    none = dict.fromkeys(("sampler_type", "solver", "number_of_steps", "sigma_min", "sigma_max"))
    edit(broken / "metadata.json", **{**none, **meta})
    assert load(broken).spec.sampling == want


@pytest.mark.slow
def test_order_and_choice_of_invariants(broken: Path) -> None:
    """All of the file where the metadata name none; those named, in their order, where they do."""
    fields = hills(curved(16, 24))[0]
    names = ("landmask", "orography")
    xr.Dataset({n: (("y", "x"), fields + i) for i, n in enumerate(names)}).to_netcdf(broken / "invariants.nc")
    stats = {n: {"mean": 5.0 + i, "std": 2.0} for i, n in enumerate(names)}
    edit(broken / "stats.json", invariants=stats)
    for given, want in ((None, names), (["orography"], ("orography",)), (names[::-1], names[::-1])):
        edit(broken / "metadata.json", invariant_variables=given)
        spec = load(broken).spec
        assert spec.invariants.names == want
        assert spec.invariants.center == tuple(5.0 + names.index(n) for n in want)
        assert spec.invariant_fields is not None
        assert np.array_equal(spec.invariant_fields, np.stack([fields + names.index(n) for n in want]))


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0, 0.1])
@pytest.mark.filterwarnings("ignore")
def test_inferred_input_grid_is_the_stock_classes(broken: Path, stock: Any, step: float) -> None:
    (broken / "input_latlon_grid.nc").unlink()
    edit(broken / "metadata.json", latlon_res=step)
    got, fine = load(broken).spec.input_grid, curved(16, 24)
    lat, lon = stock.CorrDiff._infer_input_latlon_grid(
        torch.from_numpy(fine.lat), torch.from_numpy(fine.lon), step
    )
    for ours, theirs in ((got.lat, lat.numpy()), (got.lon, lon.numpy())):
        # rounding lets torch.arange go one cell too far for some steps
        assert 0 <= theirs.size - ours.size <= 1
        assert np.abs(ours - theirs[: ours.size]).max() < 1e-4
    assert downscale_shape(broken) == (1, 1, 2, 16, 24)


def downscale_shape(folder: Path) -> tuple[int, ...]:
    loaded = load(folder)
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser)
    return tuple(model(weather(1, grid=loaded.spec.input_grid), seeds=[0]).shape)


# what can be wrong with it


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_missing_file(broken: Path, name: str) -> None:
    (broken / name).unlink()
    text = refusal(broken)
    assert name in text and str(broken) in text


def test_missing_input_grid(broken: Path) -> None:
    (broken / "input_latlon_grid.nc").unlink()
    text = refusal(broken)
    assert "input_latlon_grid.nc" in text and "latlon_res" in text


def test_missing_invariants(broken: Path) -> None:
    (broken / "invariants.nc").unlink()
    assert "invariants.nc" in refusal(broken)


@pytest.mark.parametrize("name", [*FILES, "input_latlon_grid.nc", "invariants.nc"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_file(broken: Path, name: str, keep: float) -> None:
    data = (broken / name).read_bytes()
    (broken / name).write_bytes(data[: int(keep * len(data))])
    assert str(broken) in refusal(broken)


STATS = {"t2m": {"mean": 290, "std": 8}, "u10m": {"mean": 1, "std": 5}}
META: dict[str, tuple[dict[str, Any], str]] = {
    "duplicate": ({"input_variables": ["t2m", "u10m", "t2m"]}, "repeats t2m"),
    "unknown input": ({"input_variables": ["t2m", "u10m", "q700"]}, "no input statistics of q700"),
    "unknown output": ({"output_variables": ["mrr", "snow"]}, "no output statistics of snow"),
    "no inputs": ({"input_variables": None}, "names no input_variables"),
    "no outputs": ({"output_variables": []}, "names no output_variables"),
    "inputs of text": ({"input_variables": "t2m"}, "no input statistics"),
    "inputs of numbers": ({"input_variables": [1, 2, 3]}, "no input statistics of 1"),
    "sampler": ({"sampler_type": "ancestral"}, "sampler_type 'ancestral'"),
    "solver": ({"sampler_type": "deterministic", "solver": "rk4"}, "solver 'rk4'"),
    "no steps": ({"number_of_steps": 0}, "steps"),
    "steps of text": ({"number_of_steps": "8"}, "steps"),
    "no samples": ({"number_of_samples": 0}, "number_of_samples"),
    "mode": ({"inference_mode": "all"}, "inference_mode 'all'"),
    "seed": ({"seed": "lucky"}, "'lucky'"),
    "sigma": ({"sigma_max": 0.001}, "sigma_max"),
    "sigma of text": ({"sigma_max": "big"}, "'big'"),
    "margin": ({"grid_bounds_margin": -1}, "grid_bounds_margin"),
    "margin of text": ({"grid_bounds_margin": "some"}, "'some'"),
    "invariant": ({"invariant_variables": ["albedo"]}, "invariants.nc has no albedo"),
}


@pytest.mark.parametrize(("change", "word"), META.values(), ids=META.keys())
def test_bad_metadata(broken: Path, change: dict[str, Any], word: str) -> None:
    edit(broken / "metadata.json", **change)
    assert word in refusal(broken)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"input": STATS}, "no input statistics of z500"),
        ({"input": None}, "no input statistics of t2m"),
        ({"output": {"mrr": {"mean": 3}, "t2m": STATS["t2m"]}}, "std"),
        ({"input": {**STATS, "z500": {"mean": 5e4, "std": 0}}}, "not positive"),
        ({"input": {**STATS, "z500": {"mean": "high", "std": 1}}}, "'high'"),
        ({"invariants": {}}, "no invariant statistics of orography"),
        ({"input": 3}, "stats"),
    ],
)
def test_bad_statistics(broken: Path, change: dict[str, Any], word: str) -> None:
    edit(broken / "stats.json", **change)
    assert word in refusal(broken)


@pytest.mark.parametrize("name", ["metadata.json", "stats.json"])
@pytest.mark.parametrize("text", ["{", "", "[1, 2]", '"text"', "\ufeff{}"])
def test_bad_json(broken: Path, name: str, text: str) -> None:
    (broken / name).write_text(text)
    message = refusal(broken)
    assert name in message and "JSON" in message


def grid_file(path: Path, lat: Any, lon: Any) -> None:
    dims = (("lat",), ("lon",)) if np.ndim(lat) == 1 else (("y", "x"), ("y", "x"))
    xr.Dataset({"lat": (dims[0], lat), "lon": (dims[1], lon)}).to_netcdf(path)


def test_bad_grids(broken: Path) -> None:
    path = broken / "output_latlon_grid.nc"
    xr.Dataset({"lat": (("y", "x"), curved(16, 24).lat)}).to_netcdf(path)
    assert "has no lon" in refusal(broken)
    grid_file(path, np.array([20.0, 22.0, 21.0]), np.linspace(119, 124, 5))
    assert "lat must rise or fall" in refusal(broken)
    grid_file(path, np.full((16, 24), np.nan), np.zeros((16, 24)))
    assert "finite" in refusal(broken)


def test_domain_outside_the_input(broken: Path) -> None:
    grid = curved(16, 24)
    grid_file(broken / "output_latlon_grid.nc", grid.lat, grid.lon + 20)
    assert "does not cover" in refusal(broken, whole=True)


def test_shape_of_the_invariants(broken: Path) -> None:
    grid = curved(32, 24)
    grid_file(broken / "output_latlon_grid.nc", grid.lat, grid.lon)
    text = refusal(broken)
    assert "invariants" in text and "(1, 16, 24)" in text and "(1, 32, 24)" in text


def test_exchanged_checkpoints(broken: Path) -> None:
    (broken / "regression.mdlus").rename(broken / "x")
    (broken / "diffusion.mdlus").rename(broken / "regression.mdlus")
    (broken / "x").rename(broken / "diffusion.mdlus")
    text = refusal(broken)
    assert "regression.mdlus holds a EDMPrecondSuperResolution" in text and "exchanged" in text


CHANNELS: dict[str, tuple[Callable[[CorrDiffSpec], CorrDiffSpec], str]] = {
    "an input less": (
        lambda s: replace(s, inputs=Statistics(s.inputs.names[:2], (0, 0), (1, 1))),
        "regression",
    ),
    "an output more": (
        lambda s: replace(s, outputs=Statistics(("a", "b", "c"), (0, 0, 0), (1, 1, 1))),
        "regression",
    ),
    "no mean": (lambda s: replace(s, hr_mean_conditioning=False), "diffusion"),
    "no invariants": (
        lambda s: replace(s, invariants=Statistics((), (), ()), invariant_fields=None),
        "regression",
    ),
}


@pytest.mark.parametrize(("change", "stage"), CHANNELS.values(), ids=CHANNELS.keys())
def test_channels_of_the_networks(change: Callable[[CorrDiffSpec], CorrDiffSpec], stage: str) -> None:
    spec = make_spec()
    with pytest.raises(InputError, match=f"{stage} network.*channels.*belong together"):
        Downscaler(change(spec), *make_networks(spec))


def test_resolution_of_the_networks() -> None:
    """Position features are made for one domain; a U-Net of two levels halves the resolution once."""
    spec = make_spec()
    for shape in ((24, 16), (32, 48)):
        with pytest.raises(InputError, match=rf"16 x 24.*{shape[0]} x {shape[1]}"):
            Downscaler(spec, *make_networks(spec, img_resolution=list(shape)))
    odd = make_spec((15, 24))
    with pytest.raises(InputError, match="15 x 24.*multiples of 2"):
        Downscaler(odd, *make_networks(odd))


# the Taiwan layout


@pytest.fixture(scope="module")
def taiwan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_taiwan(tmp_path_factory.mktemp("taiwan") / "package")


@pytest.mark.slow
def test_taiwan_layout(taiwan: Path) -> None:
    loaded, arrays = load(taiwan), taiwan_arrays((16, 24))
    spec = loaded.spec
    assert spec.output_grid.shape == (16, 24) and spec.input_grid.shape == (36, 40)
    assert np.array_equal(spec.output_grid.lat, arrays["XLAT"][1:-1, 1:-1])
    assert np.array_equal(spec.output_grid.lon, arrays["XLONG"][1:-1, 1:-1])
    assert np.allclose(spec.input_grid.lat, np.arange(19.25, 28.1, 0.25))
    assert np.allclose(spec.input_grid.lon, np.arange(116, 126, 0.25))
    for stats, rows, source in ((spec.inputs, TAIWAN_IN, "era5"), (spec.outputs, TAIWAN_OUT, "cwb")):
        assert stats.names == tuple(rows)
        for part, values in (("center", stats.center), ("scale", stats.scale)):
            assert list(values) == [float(arrays[f"{source}_{part}"][row]) for row in rows.values()]
    assert spec.sampling == Sampling("euler", 8) and spec.drawn_seeds and spec.regression_grid
    assert not spec.invariants.names and len(spec.sha256) == 64 and spec.number_of_samples == 1
    weights = [*loaded.regression.parameters(), *loaded.denoiser.parameters()]
    assert all(torch.equal(p, p.half().float()) for p in weights)
    state = weather(1, grid=spec.input_grid).repeat(1, 4, 1, 1)
    out = Downscaler(spec, loaded.regression, loaded.denoiser)(state, [1, 2])
    assert out.shape == (1, 2, 4, 16, 24) and torch.isfinite(out).all()
    # nothing was unpacked beside the zip
    assert [p.name for p in taiwan.iterdir()] == ["corrdiff_inference_package.zip"]


def test_taiwan_checksum(taiwan: Path, tmp_path: Path) -> None:
    shutil.copytree(taiwan, tmp_path / "other")
    assert load(taiwan).spec.sha256 == load(tmp_path / "other").spec.sha256


def rezip(source: Path, target: Path, leave_out: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    target.mkdir()
    name = "corrdiff_inference_package.zip"
    with zipfile.ZipFile(source / name) as old, zipfile.ZipFile(target / name, "w", compression) as new:
        for member in old.namelist():
            if not leave_out or leave_out not in member:
                new.writestr(member, old.read(member))
    return target


@pytest.mark.parametrize("part", ["diffusion.mdlus", "regression.mdlus", "XLAT", "cwb_scale", "zarr"])
def test_taiwan_zip_without_a_part(taiwan: Path, tmp_path: Path, part: str) -> None:
    text = refusal(rezip(taiwan, tmp_path / "broken", leave_out=part))
    assert "corrdiff_inference_package" in text


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_taiwan_zip(taiwan: Path, tmp_path: Path, keep: float) -> None:
    path = rezip(taiwan, tmp_path / "broken") / "corrdiff_inference_package.zip"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    text = refusal(tmp_path / "broken")
    assert str(path) in text and "download" in text


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_taiwan_zip(taiwan: Path, tmp_path: Path, compression: int) -> None:
    path = rezip(taiwan, tmp_path / "broken", compression=compression) / "corrdiff_inference_package.zip"
    with zipfile.ZipFile(path) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("diffusion.mdlus"))
    data = bytearray(path.read_bytes())
    start = member.header_offset + member.compress_size // 2
    data[start : start + 200] = bytes(255 - b for b in data[start : start + 200])
    path.write_bytes(bytes(data))
    assert str(path) in refusal(tmp_path / "broken")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"era5_center": np.zeros(12, np.float32)}, "era5"),
        ({"XLAT": np.linspace(20, 27, 18, dtype=np.float32)}, "XLAT"),
        ({"cwb_scale": np.zeros(20, np.float32)}, "mrr"),
    ],
)
def test_bad_taiwan_arrays(tmp_path: Path, change: dict[str, np.ndarray], word: str) -> None:
    folder = make_taiwan(tmp_path / "broken", arrays={**taiwan_arrays((16, 24)), **change})
    assert word in refusal(folder, whole=True)


def test_generic_files_beside_the_zip_win(taiwan: Path, broken: Path) -> None:
    shutil.copy(taiwan / "corrdiff_inference_package.zip", broken)
    assert load(broken).spec.inputs.names == ("t2m", "u10m", "z500")
