# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Where noise is drawn, as a setting: of the model, on the command line, and in a store's provenance."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from run_kit import TIMES, command, load, make_package, refused, straight
from tiny import make_networks, make_spec

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.noise import drawn_seeds
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.provenance import provenance
from earth2_corrdiff.store.layout import IDENTITY

DOMAIN = (24, 36)
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), straight(DOMAIN))


def test_a_setting_of_the_model(package: Path) -> None:
    model = load(package)
    assert model.noise == "host" == Sampling("euler", 2).noise
    model.noise = "device"
    assert model.downscaler.sampling.noise == "device"
    for wrong in ("gpu", None, True):
        with pytest.raises(InputError, match="is not a place to draw noise; use host or device"):
            model.noise = wrong  # type: ignore[assignment]
    assert model.noise == "device"


def test_seeds_that_upstream_draws_on_the_device(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Taiwan class draws them where the input is; noise from the host keeps those of the CPU."""
    model, seen = load(package), []

    def seeds(seed: int, members: int, device: torch.device | None = None) -> list[int]:
        seen.append(device)
        return drawn_seeds(seed, members)

    monkeypatch.setattr("earth2_corrdiff.model.earth2studio.drawn_seeds", seeds)
    monkeypatch.setattr(type(model), "spec", SimpleNamespace(drawn_seeds=True))
    monkeypatch.setattr(type(model.downscaler), "device", GPU)
    for model.noise in ("host", "device"):
        model.member_seeds()
    assert seen == [None, GPU]


@pytest.mark.slow
def test_on_the_command_line(package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a CPU both are the same, and the store does not tell them apart."""
    common = ("--package", package, "--samples", 2, "--seed", 3, "--source", "demo", "--device", "cpu")
    stores = []
    for where in ("host", "device"):
        how = ("--noise", where, "--output", tmp_path / where)
        status, _, err = command(capfd, TIMES[0], *common, *how)
        assert status == 0, err
        stores.append(xr.open_zarr(tmp_path / where))
    np.testing.assert_array_equal(stores[0].t2m.values, stores[1].t2m.values)
    assert all("noise" not in ds.attrs for ds in stores)
    words = refused(capfd, TIMES[0], *common, "--noise", "gpu", "--output", tmp_path / "no")
    assert "'gpu' is not a place to draw noise; use host or device" in words


def test_a_store_with_noise_of_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another set of members: no run with noise of the host resumes it."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(Downscaler, "device", GPU)
    monkeypatch.setattr(Downscaler, "precision", "bf16")
    for where in ("host", "device"):
        spec = make_spec(sampling=Sampling("euler", 2, noise=where))
        found.append(
            provenance(Downscaler(spec, *make_networks(spec)), spec.sampling, "demo", True, 3, "command")
        )
    assert "noise" not in found[0] and found[1]["noise"] == "drawn on cuda" and "noise" in IDENTITY
