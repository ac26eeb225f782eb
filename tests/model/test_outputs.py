# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Physical fields of a network's output: against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.outputs import (
    HubWinds,
    OutputRule,
    SolarGate,
    WindLevel,
    at_height,
)
from earth2_corrdiff.model.physical import PhysicalFields
from earth2_corrdiff.model.transforms import Transform

SHAPE = (3, 5)
RULES = (
    OutputRule(),
    OutputRule(Transform("log_eps", 0.01), (0.02, 5.0), factor=1e-3),
    OutputRule(Transform("logit_eps_percent", 0.01), factor=0.01),
    OutputRule(gate=SolarGate(0.1, 0.2)),
)
CENTER, SCALE = np.array([3.0, 1.0, 0.5, 100.0]), np.array([2.0, 1.5, 3.0, 150.0])


def column(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def test_rules_are_applied_in_order() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 4, *SHAPE)).astype(np.float32)
    cos_zenith = rng.uniform(-0.3, 0.5, SHAPE).astype(np.float32)
    x = y.astype(np.float64) * SCALE[:, None, None] + CENTER[:, None, None]
    share = 1 / (1 + np.exp(-x[:, 2]))
    want = [
        x[:, 0],
        np.clip(0.01 * np.expm1(x[:, 1]), 0.02, 5) / 1000,
        np.clip((share - 0.01) / 0.98, 0, 1),
        np.maximum(x[:, 3] * np.clip((cos_zenith - 0.1 + 0.2) / 0.4, 0, 1), 0),
    ]
    fields = PhysicalFields(column(CENTER), column(SCALE), RULES)
    got = fields(torch.from_numpy(y), torch.from_numpy(cos_zenith))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.stack(want, axis=1), rtol=3e-6, atol=1e-6)
    fields.clamp = False  # without bounds and gates
    loose = fields(torch.from_numpy(y).double()).numpy()
    np.testing.assert_allclose(loose[:, 3], x[:, 3], rtol=1e-6)
    np.testing.assert_allclose(loose[:, 1], 1e-5 * np.expm1(x[:, 1]), rtol=3e-6)
    assert loose[:, 2].max() > 1


def test_a_gate_without_a_time_is_refused() -> None:
    fields = PhysicalFields(column(CENTER), column(SCALE), RULES)
    with pytest.raises(InputError, match="valid time"):
        fields(torch.zeros(1, 4, *SHAPE))


@pytest.mark.parametrize("interpolation", ["linear", "log"])
def test_hub_winds(interpolation: str) -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(2, 4, *SHAPE)).astype(np.float32)
    elevation = rng.uniform(-1, 2, SHAPE)
    levels = (WindLevel(2, 3, 70.0, -3.0), WindLevel(0, 1, 10.0, -0.5))  # not sorted by height
    winds = HubWinds((40.0, 9.8, 200.0), levels, 0, interpolation)
    assert winds.names == ("u40m", "v40m", "u9.8m", "v9.8m", "u200m", "v200m")
    one = torch.ones(1, 4, 1, 1)
    fields = PhysicalFields(0 * one, one, (), winds, torch.tensor(elevation, dtype=torch.float32))
    got = fields(torch.from_numpy(y))
    assert got.shape == (2, 10, *SHAPE)
    axis = np.log if interpolation == "log" else np.asarray
    for i, (height, component) in enumerate((h, c) for h in winds.heights for c in (0, 1)):
        for row, column_ in np.ndindex(SHAPE):
            knots = axis([a + b * elevation[row, column_] for a, b in ((10, -0.5), (70, -3))])
            for m in range(2):
                want = np.interp(axis(height), knots, y[m, [component, 2 + component], row, column_])
                assert got[m, 4 + i, row, column_] == pytest.approx(want, abs=2e-6)


def test_interpolation_between_many_levels() -> None:
    profile, heights = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([10.0, 10.0, 30.0])
    got = [float(at_height(profile[:, None, None], heights[:, None, None], h)) for h in (5.0, 20.0, 31.0)]
    assert got == [1.0, 3.5, 2.0]


def test_a_height_outside_the_levels_is_logged() -> None:
    lines: list[str] = []
    logger.add(lines.append, format="{message}")
    winds = HubWinds((9.0, 50.0), (WindLevel(0, 1, 10.0, 0.0), WindLevel(2, 3, 70.0, 0.0)), 0)
    winds.level_heights(torch.zeros(SHAPE))
    assert len(lines) == 1
    assert "[9.0]" in lines[0]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: SolarGate(0.1, 0.0), "half_width"),
        (lambda: SolarGate(float("nan"), 0.1), "threshold"),
        (lambda: OutputRule(bounds=(1.0, 0.0)), "bounds"),
        (lambda: HubWinds((), (WindLevel(0, 1, 1, 0),) * 2, 0), "hub_heights"),
        (lambda: HubWinds((-1.0,), (WindLevel(0, 1, 1, 0),) * 2, 0), "hub_heights"),
        (lambda: HubWinds((9.0,), (WindLevel(0, 1, 1, 0),) * 2, 0, "cubic"), "hub_interp"),
        (lambda: HubWinds((9.0,), (WindLevel(0, 1, 1, 0),), 0), "levels"),
        (
            lambda: HubWinds((9.0,), (WindLevel(0, 1, 1, 0), WindLevel(0, 1, 2, -9)), 0).level_heights(
                torch.ones(SHAPE)
            ),
            "monotonic",
        ),
    ],
)
def test_what_is_not_valid_is_refused(wrong: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        wrong()
