# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The seam statistic: of fields without seams, with steps of a known size, and of patches of one call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import make_downscaler, make_spec
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.model.diffusion.patched import PatchInputs, patched
from earth2_corrdiff.model.diffusion.solvers import sample
from earth2_corrdiff.verification.seams import seam_ratio

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
def test_of_members() -> None:
    model = make_downscaler(make_spec((32, 48)))
    model.domain.patching = PatchGeometry((32, 48), (16, 16), 4)
    got = seam_ratio(model(torch.zeros(1, *model.spec.input_shape) + 1, [1, 2])[0], model.domain.patching)
    assert got.shape == (2,) and got.isfinite().all()
