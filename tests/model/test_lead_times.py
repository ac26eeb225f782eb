# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that were trained with lead times: from the metadata and the forecast to the label."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_kit
import torch
import xarray as xr
from lead_kit import HOURS, SEEDS, SHAPE, arguments, specification
from patch_layouts import eager
from tiny import make_networks, relerr, upstream_save, upstream_wrapper, weather

from earth2_corrdiff import CorrDiff
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.metadata import lead_times
from earth2_corrdiff.model.packages.reader import read_package
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.mdlus import read_mdlus
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, build, create

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*legacy implementation", "ignore:gridtype", "ignore::DeprecationWarning", "ignore:Loading"
)


@pytest.fixture(scope="module", params=["whole", "patches"])
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A package with two networks of upstream's, and these networks."""
    patching = PatchGeometry(SHAPE, (16, 24), 4, 2) if request.param == "patches" else None
    folder, spec = tmp_path_factory.mktemp("late"), specification(patching=patching)
    theirs = [upstream_wrapper(name, args, 5 + i) for i, (name, args) in enumerate(arguments(spec))]
    paths = [folder / f"{stage}.mdlus" for stage in ("regression", "diffusion")]
    ours = [build(read_mdlus(upstream_save(net, path))) for net, path in zip(theirs, paths, strict=True)]
    assert isinstance(ours[0], Regression) and isinstance(ours[1], Denoiser)
    return save_package(folder, spec, ours[0], ours[1]), theirs, patching


@pytest.mark.slow
@pytest.mark.parametrize("accelerated", [False, True])
def test_equals_upstream(stock: Any, accelerated: bool) -> None:
    """Both networks see the label of the case's lead time."""
    from patch_layouts import theirs_of
    from physicsnemo.diffusion.samplers.legacy_stochastic_sampler import stochastic_sampler
    from physicsnemo.diffusion.utils import StackedRandomGenerator

    folder, (regression, denoiser), patching = stock
    loaded = read_package(Folder(folder))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32", accelerated)
    got = model(weather(2), SEEDS, lead_hours=[12, 6])
    how = {} if patching is None else {"patching": theirs_of((SHAPE, patching.patch, 4, 2))}
    for b, label in enumerate((2, 1)):
        with torch.no_grad(), eager():
            cond, lead = model.condition(weather(2)[b : b + 1]), torch.tensor([label])
            mean = regression(torch.zeros(1, 2, *SHAPE), cond, lead_time_label=lead)
            noise = StackedRandomGenerator("cpu", SEEDS).randn([2, 2, *SHAPE])
            residual = stochastic_sampler(
                denoiser,
                noise,
                cond.expand(2, -1, -1, -1),
                mean_hr=mean,
                num_steps=3,
                sigma_max=80.0,
                lead_time_label=lead.expand(2),
                **how,
            )
            want, center = model.physical(mean + residual), model.center_out
        assert relerr(got[b] - center, want - center) < 1e-5
        assert (
            relerr(model.mean(weather(2), [12, 6])[b] - center[0], model.physical(mean)[0] - center[0]) < 1e-5
        )
    assert relerr(model(weather(), SEEDS, lead_hours=[0])[0], got[0]) > 1e-3


@pytest.mark.slow
def test_earth2studios_protocol(stock: Any) -> None:
    """Lead times are a dimension of the coordinates, before or after others."""
    model = CorrDiff.load_model(Folder(stock[0]), precision="fp32", accelerated=False)
    model.number_of_samples, model.seed = 1, 7
    leads = np.array([6, 0], dtype="timedelta64[h]")
    own = model.input_coords()
    del own["batch"]
    coords = OrderedDict(
        ensemble=np.arange(2), lead_time=leads, time=np.array(["2024-07-24"], "M8[ns]"), **own
    )
    y, made = model(weather(4).reshape(2, 2, 1, *weather().shape[1:]), coords)
    assert list(made)[:4] == ["ensemble", "lead_time", "time", "sample"]
    want = model.downscaler(weather(4), [7], lead_hours=[6, 0, 6, 0])
    assert torch.equal(y.reshape(want.shape), want)
    with pytest.raises(InputError, match="lead times of 0, 6, 12 h, not of 3 h"):
        model(weather()[None], OrderedDict(time=coords["time"], lead_time=leads[:1] // 2, **own))
    with pytest.raises(InputError, match="trained for forecasts with lead times of 0, 6, 12 h"):
        model(weather(), OrderedDict(time=coords["time"], **own))


@pytest.mark.slow
def test_what_cannot_be(stock: Any) -> None:
    loaded = read_package(Folder(stock[0]))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, "fp32")
    for run in (model, lambda x, _, lead_hours=None: model.mean(x, lead_hours)):
        for leads, words in ((None, "give --lead"), ([7], "not of 7 h"), ([6, 6], "1 cases need as many")):
            with pytest.raises(InputError, match=words):
                run(weather(), SEEDS, lead_hours=leads)
    with pytest.raises(InputError, match="needs one: run it on a forecast"):
        model.normalised_mean(model.condition(weather()))
    for hours, words in (((0.0, 6.0), "3 lead times.* got 2"), ((), "3 lead times.* got 0")):
        with pytest.raises(InputError, match=words):
            Downscaler(replace(loaded.spec, lead_time_hours=hours), loaded.regression, loaded.denoiser)
    with pytest.raises(InputError, match="neither network was trained with lead times"):
        Downscaler(specification(), *make_networks(specification()))


@pytest.mark.slow
def test_the_metadata_come_back(stock: Any) -> None:
    assert json.loads((stock[0] / "metadata.json").read_text())["lead_time_hours"] == [0, 6, 12]
    assert read_package(Folder(stock[0])).spec.lead_time_hours == HOURS
    assert lead_times(None) == () and lead_times([0, 1.5]) == (0, 1.5)
    for wrong in (6, [6, 0], [0, 0], [-1, 0], ["0"], [True], [0, float("inf")], {"0": 0}):
        with pytest.raises(InputError, match="lead_time_hours is a list of rising hours"):
            lead_times(wrong)


# the run


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    spec = run_kit.make_spec(run_kit.straight(), lead_time_hours=HOURS)
    nets = [create(replace(net.origin, args=args)) for net, (_, args) in _late(spec)]
    for net in nets:
        torch.nn.init.normal_(net.model.lt_embd)
    folder = save_package(tmp_path_factory.mktemp("package"), spec, *nets)
    how = ("--samples", 1, "--seed", 3, "--device", "cpu", "--precision", "fp32", "--no-acceleration")
    return ("2024-07-24T12:00", "--package", folder, *how)


def _late(spec: CorrDiffSpec) -> Any:
    return zip(make_networks(spec), arguments(spec), strict=True)


@pytest.mark.slow
def test_a_run_over_forecasts(
    argv: tuple[object, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "run.zarr"
    status, _, err = run_kit.command(
        capfd, *argv, "--source", "demo_fx", "--lead", "0/12/6h", "--output", store
    )
    assert status == 0, err
    ds = xr.open_zarr(store)
    model = run_kit.load(Path(str(argv[2]))).downscaler
    for i, hours in enumerate(HOURS):
        names = [f"{name}_lowres" for name in model.spec.inputs.names]
        coarse = torch.from_numpy(np.stack([ds[name].values[0, i] for name in names])[None])
        seed = int(ds.member_seed.values[0, i, 0])
        np.testing.assert_array_equal(
            ds.t2m.values[0, i, 0], model(coarse, [seed], lead_hours=[hours])[0, 0, 1]
        )


@pytest.mark.slow
def test_refused_at_the_door(
    argv: tuple[object, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to = ("--output", tmp_path / "run.zarr")
    other = run_kit.refused(capfd, *argv, "--source", "demo_fx", "--lead", "0/6/3h", *to)
    assert other == "the model was trained for lead times of 0, 6, 12 h, not of 3 h"
    assert "give --lead" in run_kit.refused(capfd, *argv, "--source", "demo", *to)
    assert not (tmp_path / "run.zarr").exists()
