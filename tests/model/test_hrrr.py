# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``CorrDiffEra5Hrrr``: against Earth2Studio's class on tiny packages, its reader, and runs into a store."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import xarray as xr
from earth2studio.models.auto import Package
from hrrr_kit import COLS, INPUTS, OUTPUTS, ROWS, SHAPE, TIMES, coarse, make_hrrr, stock_hrrr
from tiny import relerr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.solvers import SOLVERS
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.hrrr import HRRR_X, HRRR_Y

Attack = Callable[[Path], object]


@pytest.fixture(scope="module")
def stock() -> Iterator[Any]:
    with stock_hrrr() as made:
        yield made


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hrrr(tmp_path_factory.mktemp("hrrr"))


def load(folder: Path, **how: Any) -> CorrDiffEra5Hrrr:
    return CorrDiffEra5Hrrr.load_model(Folder(folder), **{"precision": "fp32", "seed": 5, **how})


def demo_downscaler() -> Downscaler:
    spec = tiny.make_spec()
    return Downscaler(spec, *tiny.make_networks(spec))


def coords(model: Any, x: torch.Tensor) -> OrderedDict[str, Any]:
    own = model.input_coords()
    return OrderedDict({**own, "batch": np.arange(len(x)), "time": TIMES[: x.shape[1]]})


# against the stock class

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "x0": ("rectified_flow", "x0", {}, {}),
    "flow": ("rectified_flow", "flow", {}, {"number_of_samples": 3}),
    "clipped": ("rectified_flow", "x0", {"shift": 1.0, "x0v_clip": 0.4}, {"number_of_steps": 5}),
    "euler, shift 3": ("rectified_flow", "x0", {"solver": "euler"}, {"shift": 3.0, "number_of_samples": 1}),
    "edm": ("edm", "x0", {}, {}),
    "edm, euler": ("edm", "x0", {"solver": "euler"}, {"number_of_steps": 3, "number_of_samples": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_stock_class(case: str, stock: Any, tmp_path: Path) -> None:
    """Several times, members and batch entries on a grid of H ≠ W."""
    kind, prediction, sampler, how = CASES[case]
    folder = make_hrrr(tmp_path, kind, prediction, **sampler)
    theirs = stock.load_model(Package(str(folder)), seed=5, **how)
    x = coarse(2, batch=2 if case == "x0" else 1)
    want, want_coords = theirs(x, coords(theirs, x))
    ours = load(folder, **how)
    got, got_coords = ours(x, coords(ours, x))
    assert list(got_coords) == list(want_coords) and got.shape == want.shape and got.dtype == want.dtype
    assert all(np.array_equal(got_coords[name], want_coords[name]) for name in want_coords)
    assert relerr(got, want) < (1e-5 if kind == "edm" else 1e-6)  # 2e-6 and 2e-7
    assert (ours.network_kind, ours.prediction_type) == (kind, prediction)


def test_attributes_and_conditioning_are_the_stock_classs(stock: Any, package: Path) -> None:
    theirs, ours = stock.load_model(Package(str(package)), seed=5), load(package)
    sampler = ("number_of_steps", "solver", "shift", "t_max", "x0v_clip", "amp", "seed", "number_of_samples")
    for name in (*sampler, "network_kind", "prediction_type", "time_scale", "day_of_year"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("hrrr_y", "hrrr_x", "era5_variables", "lat_input_numpy", "lon_input_numpy"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("lat_output_grid", "lon_output_grid", "out_center", "out_scale", "invariants"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert str(theirs.output_variables) == str(np.array(ours.output_variables))
    x = coarse(1)[0]
    for time in TIMES:
        want = theirs.preprocess_input(x[0], time.astype("datetime64[s]").item())
        case = ours.downscaler.prepare(x, valid=time)
        assert torch.allclose(case.cond, want["cond_concat"], atol=2e-6)
        assert case.vector is not None and torch.allclose(case.vector, want["cond_vec"], atol=1e-6)
    data = pytest.importorskip("earth2studio.data.hrrr").HRRR
    assert np.array_equal(data.HRRR_Y, HRRR_Y) and np.array_equal(data.HRRR_X, HRRR_X)
    default, want_default = CorrDiffEra5Hrrr.load_default_package(), stock.load_default_package()
    assert default.root == want_default.root


# coordinates and input


def test_longitudes_in_either_convention_and_latitudes_either_way(package: Path) -> None:
    model, x = load(package, number_of_samples=1, number_of_steps=1), coarse(1)
    own = coords(model, x)
    want, _ = model(x, own)
    turned, _ = model(x, OrderedDict({**own, "lon": own["lon"] - 360}))
    flipped, _ = model(x.flip(-2), OrderedDict({**own, "lat": own["lat"][::-1]}))
    assert torch.equal(turned, want) and torch.equal(flipped, want)
    alone, out = model(x[0], OrderedDict(list(own.items())[1:]))
    assert torch.equal(alone, want[0]) and list(out)[:2] == ["sample", "time"]
    labels = {name: own[name] for name in list(own)[1:]}
    array = model(xr.DataArray(x[0].numpy(), labels, list(labels)).isel(variable=slice(None, None, -1)))
    assert array.dims == ("sample", "time", "variable", "hrrr_y", "hrrr_x") and array["lat"].shape == SHAPE
    np.testing.assert_array_equal(array, want[0])


def test_all_solvers_run_on_rectified_flow(package: Path) -> None:
    model, x = load(package, number_of_samples=1, number_of_steps=2), coarse(1)
    fields = []
    for model.solver in SOLVERS:
        fields.append(model(x, coords(model, x))[0])
        assert fields[-1].isfinite().all() and model.downscaler.sampling.schedule == "rectified_flow"
    assert len({float(y.sum()) for y in fields}) == len(SOLVERS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_input_that_is_not_finite(package: Path, value: float) -> None:
    model, x = load(package, number_of_steps=1), coarse(2)
    x[0, 1, 1, 3, 4] = value
    with pytest.raises(InputError, match="not finite everywhere"):
        model(x, coords(model, x))


def test_arguments_that_make_no_sense(package: Path, tmp_path: Path) -> None:
    for how, word in (
        ({"variant": "y_pred"}, "variant"),
        ({"amp": True}, "contradicts"),
        ({"shift": -1.0}, "shift"),
        ({"number_of_steps": 0}, "steps"),
        ({"number_of_samples": 0}, "number_of_samples"),
    ):
        with pytest.raises(InputError, match=word):
            load(package, **how)
    assert load(package, amp=True, precision="auto").amp
    model = load(package)
    with pytest.raises(InputError, match="sigma_max belongs to the schedule karras"):
        model.sigma_max = 80.0
    with pytest.raises(InputError, match="shift belongs to the schedule rectified_flow"):
        load(make_hrrr(tmp_path, "edm"), shift=3.0)
    with pytest.raises(InputError, match="amp cannot be set"):
        model.amp = True  # type: ignore[misc]
    with pytest.raises(InputError, match="_sample_one, which this CorrDiff does not call"):
        type("Mine", (CorrDiffEra5Hrrr,), {"_sample_one": None})
    with pytest.raises(InputError, match="not a package of CorrDiffEra5Hrrr"):
        CorrDiffEra5Hrrr(demo_downscaler())
    x = coarse(1)
    with pytest.raises(InputError, match="time"):
        model(x[:, 0], OrderedDict((k, v) for k, v in coords(model, x).items() if k != "time"))


# the reader


def told(**change: Any) -> Attack:
    """Entries of the metadata, changed; None takes one out."""

    def attack(home: Path) -> None:
        content = {**json.loads((home / "metadata.json").read_text()), **change}
        kept = {name: value for name, value in content.items() if value is not None}
        (home / "metadata.json").write_text(json.dumps(kept))

    return attack


def array(name: str, values: Any) -> Attack:
    return lambda home: np.save(home / f"{name}.npy", values, allow_pickle=True)


def header(text: str, size: int = 100) -> Attack:
    """A NumPy file of zeros with any header."""

    def attack(home: Path) -> None:
        line = text.encode().ljust(117) + b"\n"
        (home / "invariants.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + line + bytes(size))

    return attack


def claims(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


class Bomb:
    """Fails the test where it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code of the file was run",)


NAN = np.full(SHAPE, np.nan, dtype=np.float32)
HOSTILE: dict[str, tuple[Attack, str]] = {
    "no metadata": (lambda home: (home / "metadata.json").unlink(), "no x_pred/metadata.json"),
    "no array": (lambda home: (home / "hrrr_lat.npy").unlink(), "no x_pred/hrrr_lat.npy"),
    "no checkpoint": (told(checkpoint=None), "checkpoint"),
    "a checkpoint elsewhere": (told(checkpoint="../x_pred/dit.mdlus"), "checkpoint must be the name"),
    "a checkpoint of dots": (told(checkpoint=".."), "checkpoint must be the name"),
    "a checkpoint that is no text": (told(checkpoint=7), "checkpoint"),
    "no inputs": (told(era5_variables=[]), "no input or no output"),
    "inputs by number": (told(era5_variables=[3]), "era5_variables must be a list of names"),
    "an input without statistics": (told(era5_variables=["t2m", "q2m"]), "era5 statistics of q2m"),
    "an output more": (told(output_variables=[*OUTPUTS, "t2m"]), "repeats t2m"),
    "an output less": (told(output_variables=OUTPUTS[1:]), "makes 4 channels"),
    "an input less": (told(era5_variables=INPUTS[1:]), "takes 10 channels"),
    "no window": (told(hrrr_window=None), "hrrr_window.rows"),
    "a window elsewhere": (told(hrrr_window={"rows": [1055, 1067], "cols": COLS}), "hrrr_window.rows"),
    "a window of another size": (told(hrrr_window={"rows": ROWS, "cols": [0, 19]}), "hrrr_window.cols"),
    "a window of fractions": (told(hrrr_window={"rows": [0.0, 12.0], "cols": COLS}), "hrrr_window.rows"),
    "another formulation": (told(network={"kind": "ddpm"}), "network.kind must be rectified_flow or edm"),
    "another prediction": (told(network={"kind": "edm", "prediction_type": "score"}), "must be x0 or flow"),
    "no time scale": (told(network={"kind": "rectified_flow", "time_scale": 0}), "time_scale"),
    "no spread": (told(network={"kind": "edm", "sigma_data": -1}), "sigma_data"),
    "another solver": (told(sampler={"solver": "rk4"}), "sampler.solver must be heun or euler"),
    "endless steps": (told(sampler={"num_steps": 10**9}), "10000 or less"),
    "steps of text": (told(sampler={"num_steps": "4"}), "sampler.num_steps must be of the type int"),
    "a time beyond noise": (told(sampler={"t_max": 1.0}), "t_max"),
    "a shift of NaN": (told(sampler={"shift": float("nan")}), "sampler.shift must be a finite number"),
    "amp of text": (told(sampler={"amp": "yes"}), "sampler.amp"),
    "many members": (told(number_of_samples=10**9), "at most 100000"),
    "flags that are none": (told(scalar_conditions={"presence_flags": "tcwv"}), "presence_flags"),
    "a flag more": (told(scalar_conditions={"presence_flags": ["tcwv", "t2m"]}), "makes 4 numbers"),
    "many flags": (told(scalar_conditions={"presence_flags": ["a"] * 5000}), "presence_flags"),
    "a sampler that is a list": (told(sampler=[1]), "sampler must be of the type dict"),
    "objects": (array("hrrr_lat", np.array([[Bomb()]], dtype=object)), "must hold numbers"),
    "complex numbers": (array("hrrr_lat", np.ones(SHAPE, dtype=complex)), "must hold numbers"),
    "another shape": (array("hrrr_lat", np.ones((12, 21))), "one shape"),
    "one dimension": (array("hrrr_lat", np.ones(12)), "must have 2 dimensions"),
    "no latitudes": (array("hrrr_lat", NAN), "finite"),
    "other invariants": (array("invariants", np.ones((2, 20, 12))), "the output grid asks for"),
    "invariants of NaN": (array("invariants", np.stack([NAN, NAN])), "not finite"),
    "invariants less": (array("invariants", np.ones((1, *SHAPE))), "takes 10 channels"),
    "an input grid elsewhere": (array("era5_lat", np.arange(50, 48.4, -0.25)), "does not cover"),
    "a bomb": (header(claims("(1000, 100000, 100000)")), "more than a package may have"),
    "a negative size": (header(claims("(2, -12, -20)")), "3 dimensions"),
    "an incomplete file": (header(claims("(2, 12, 20)")), "claims 1920 bytes, and has 100"),
    "a type of text": (header(claims("(2, 12, 20)", "<U9")), "must hold numbers"),
    "code as header": (header("__import__('os').abort()"), "not a valid NumPy file"),
    "a version to come": (
        lambda home: (home / "invariants.npy").write_bytes(b"\x93NUMPY\x09\x00"),
        "version",
    ),
    "a pickle": (
        lambda home: (home / "invariants.npy").write_bytes(pickle.dumps(Bomb())),
        "not a valid NumPy",
    ),
    "nothing": (lambda home: (home / "invariants.npy").write_bytes(b""), "not a valid NumPy"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_packages_are_refused(name: str, tmp_path: Path, package: Path) -> None:
    import shutil

    attack, word = HOSTILE[name]
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    attack(folder / "x_pred")
    with pytest.raises(InputError, match=word) as raised:
        load(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
