# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms of variables: against SciPy in float64, and against their own inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logit

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.transforms import Transform

RAIN = np.array([0.0, 1e-6, 0.003, 0.7, 12.0, 250.0])
FLUX = np.array([-400.0, -3.0, -1e-4, 0.0, 0.02, 75.0])
CASES = [
    (Transform(), FLUX, FLUX),
    (Transform("log1p", scale=1e-3), RAIN, np.log1p(RAIN / 1e-3)),
    (Transform("log_eps", 0.01), RAIN, np.log1p(RAIN / 0.01)),
    (Transform("asinh", 2.0), FLUX, np.arcsinh(FLUX / 2)),
    (Transform("logit_eps", 0.01, 8.0), np.linspace(0, 8, 7), logit(0.01 + 0.98 * np.linspace(0, 1, 7))),
    (Transform("logit_eps_percent", 0.02), np.linspace(0, 100, 6), logit(0.02 + 0.96 * np.linspace(0, 1, 6))),
]


@pytest.mark.parametrize(("transform", "x", "y"), CASES, ids=lambda v: getattr(v, "kind", ""))
def test_forward_is_the_formula_and_inverse_undoes_it(
    transform: Transform, x: np.ndarray, y: np.ndarray
) -> None:
    at = torch.from_numpy(x)
    np.testing.assert_allclose(transform.forward(at).numpy(), y, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(transform.inverse(torch.from_numpy(y)).numpy(), x, rtol=1e-12, atol=1e-12)
    back = transform.inverse(transform.forward(at.float()))
    assert back.dtype == torch.float32
    np.testing.assert_allclose(back.numpy(), x, rtol=1e-5, atol=1e-5 * np.abs(x).max())


def test_physical_range() -> None:
    assert [t.bounds for t, _, _ in CASES] == [
        (-math.inf, math.inf), (0, math.inf), (0, math.inf), (-math.inf, math.inf), (0, 8), (0, 100),
    ]  # fmt: skip
    assert Transform("logit_eps_percent", 0.02, 50.0).bounds == (0, 50)
    assert Transform("log_eps", 0.5).forward(torch.tensor(-0.6)).isnan()
    assert Transform("logit_eps", 0.0).inverse(torch.tensor([-math.inf, math.inf])).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["log_eps", "asinh", "log1p"])
def test_float32_overflows_where_it_is_said_to(kind: str) -> None:
    value = Transform(kind, 1.0).inverse(torch.tensor([88.0, 91.0]))
    assert value[0].isfinite() and value[1].isposinf()


@pytest.mark.parametrize(
    "wrong",
    [
        ("cube",),
        ("log_eps", 0.0),
        ("log_eps", math.nan),
        ("asinh", -1.0),
        ("logit_eps", 0.5),
        ("log1p", 1.0, 0.0),
    ],
)
def test_what_is_not_valid_is_refused(wrong: tuple) -> None:
    with pytest.raises(InputError, match="transform"):
        Transform(*wrong)
