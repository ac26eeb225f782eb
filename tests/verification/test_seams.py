# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The seam statistic: of fields without seams, with steps of a known size, and of patches of one call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_networks, make_spec
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, patched
from earth2_corrdiff.model.diffusion.solvers import sample
from earth2_corrdiff.model.packages.writer import save_package
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.verification.seams import seam_ratio

ROOT = Path(__file__).parents[2]
GEOMETRY = PatchGeometry((48, 72), (24, 24), 4, 2)  # starts at -2, 16, 34, …: edges at 16, 22, 34, 40, …


def test_steps_of_a_known_size() -> None:
    noise = torch.randn(40, 2, 48, 72, generator=torch.Generator().manual_seed(0))
    assert seam_ratio(noise, GEOMETRY).tolist() == pytest.approx([1, 1], abs=0.03)
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(72), indexing="ij")
    plane = (rows + columns).double()
    torn = plane.clone()
    for field, edges in ((torn, (16, 22, 34, 40)), (torn.T, (16, 22, 34, 40, 52, 58, 70))):
        for edge in edges:
            field[edge:] += 2  # a step of 3 instead of 1
    got = seam_ratio(torch.stack([plane, torn])[None], GEOMETRY)
    np.testing.assert_allclose(got, [1, 3], rtol=1e-12)
    with pytest.raises(InputError, match="do not belong to a domain"):
        seam_ratio(noise[..., 1:], GEOMETRY)
    with pytest.raises(InputError, match="seams need several patches"):
        seam_ratio(noise, PatchGeometry((48, 72), (48, 72)))


class OfItsPatch:
    """A denoiser whose field also has an offset of each patch, which no patch knows of the others."""

    def given(self, cond: Tensor, position: Tensor | None = None) -> object:
        return lambda x, sigma: 0.4 * x / (1 + sigma) + x.mean((2, 3), keepdim=True)


def test_overlap_makes_the_seams_of_one_call_smaller() -> None:
    noise = torch.randn(6, 1, 48, 72, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3) / 30
    inputs, ratios = PatchInputs(torch.zeros(1, 1, 48, 72), None, None), []
    for overlap, window in ((0, "flat"), (12, "flat"), (12, "cosine")):
        geometry = PatchGeometry((48, 72), (24, 24), overlap)
        net = patched(OfItsPatch().given, geometry, inputs, window)  # type: ignore[arg-type]
        ratios.append(float(seam_ratio(sample(net, noise, [2.0, 0.0], "few_step"), geometry)[0]))
    assert ratios[0] > 10 and ratios[1] < 0.8 * ratios[0] and ratios[2] < 1.5


@pytest.mark.slow
def test_the_bench_of_seams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tiny package of two calls: a row for the whole domain and each window, for one call and two."""
    spec = importlib.util.spec_from_file_location("bench_seams", ROOT / "scripts" / "bench-seams.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    two = Sampling("few_step", 2, schedule="few_step", levels=(2.0, 0.8))
    own = make_spec((32, 48), sampling=two)
    folder = save_package(tmp_path / "p", own, *make_networks(own))
    argv = ["--package", str(folder), "--patch", "16x16", "--overlap", "4", "--steps", "1", "2"]
    assert bench.main([*argv, "--members", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line[0] in ("1", "2")]  # the log has lines of its own
    assert [row[:3] for row in rows] == [
        [calls, "4", window] for calls in "12" for window in ("whole", "flat", "cosine")
    ]
    assert all(float(number) > 0 for row in rows for number in row[3:])
