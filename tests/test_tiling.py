# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Tiles with a halo: exact for a network that only looks nearby, and of a stated error for a U-Net."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import randomise
from torch import Tensor, nn

from earth2_corrdiff import demo
from earth2_corrdiff.downscaler import Downscaler
from earth2_corrdiff.errors import InputError
from earth2_corrdiff.package import Folder, read_package
from earth2_corrdiff.tiling import Tiling, tiled


def near(depth: int = 3) -> nn.Module:
    """Convolutions that together look ``depth`` pixels far."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1), nn.SiLU()]
    return randomise(nn.Sequential(*layers)).double().requires_grad_(False)


def field(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tile", [(8, 8), (16, 8), (24, 40), (32, 16), (100, 100)])
def test_a_halo_of_the_receptive_field_is_exact(tile: tuple[int, int]) -> None:
    x, net = field(2, 3, 24, 44), near()
    want = net(x)
    for halo in (3, 4, 8, 50):
        got = tiled(net, Tiling((24, 44), tile, halo))(x)
        assert got.shape == want.shape and (got - want).abs().max() < 1e-14
    if tile < (24, 44):
        assert (tiled(net, Tiling((24, 44), tile, 1))(x) - want).abs().max() > 1e-3


def test_windows_have_one_size_and_stay_on_the_network_s_grid() -> None:
    seen = []

    def net(x: Tensor, y: Tensor) -> Tensor:
        assert torch.equal(x[:, 0], y[:, 1])  # fields are cut alike
        seen.append((tuple(x.shape[2:]), int(x[0, 0, 0, 0]), int(x[0, 1, 0, 0])))
        return x

    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    x = torch.stack([rows, columns])[None]
    tiling = Tiling((64, 96), (32, 32), 16, 16)
    assert torch.equal(tiled(net, tiling)(x, x.flip(1)), x)
    assert tiling.window == (64, 64) and {shape for shape, _, _ in seen} == {(64, 64)}
    assert [(y, x) for _, y, x in seen] == [(0, 0), (0, 16), (0, 32)] * 2


def test_one_tile_over_all_is_the_network() -> None:
    x, calls = field(1, 3, 16, 24), []

    def net(x: Tensor) -> Tensor:
        calls.append(x)
        return x.sin()

    assert torch.equal(tiled(net, Tiling((16, 24), (64, 64), 16, 8))(x), x.sin()) and len(calls) == 1


# tile, halo, bound of the error of each variable: root mean square over the spread of the field
COSTS = [
    (56, 16, (0.35, 0.12, 0.10, 0.10)),
    (32, 16, (0.6, 0.20, 0.25, 0.25)),
    (32, 0, (0.9, 0.45, 0.4, 0.4)),
]


def test_the_error_of_tiles_on_the_demo() -> None:
    """What the module's table says; without tiles there is none."""
    loaded = read_package(Folder(demo.FOLDER))
    model = Downscaler(loaded.spec, loaded.regression, loaded.denoiser, precision="fp32")
    times = [np.datetime64(t) for t in ("2024-07-24T12", "2023-01-10T06", "2022-09-01T00")]
    weather = demo.DemoWeather()
    states = [weather(time, list(loaded.spec.inputs.names)).values for time in times]
    with torch.inference_mode():
        cond = model.condition(torch.from_numpy(np.concatenate(states)).float())
        want = model.regression(cond)
        errors = []
        for tile, halo, most in COSTS:
            got = tiled(model.regression, Tiling((112, 112), (tile, tile), halo, 8))(cond)
            error = (got - want).square().mean(dim=(0, 2, 3)).sqrt() / want.std(dim=(0, 2, 3))
            assert (error < torch.tensor(most)).all(), (tile, halo, error)
            errors.append(float(error.mean()))
        assert 0.05 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (((60, 96), (32, 32), 16, 16), "multiples of 16, but the domain has 60 .* 48 and 64"),
        (((64, 96), (40, 32), 16, 16), "the tile has 40 .* 32 and 48"),
        (((64, 96), (32, 32), 10, 16), "the halo has 10 .* 0 and 16"),
        (((64, 96), (0, 32)), "positive"),
        (((64, 96), (32, 32), -16), "halo"),
    ],
)
def test_sizes_that_do_not_fit(sizes: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tiling(*sizes)


def test_a_field_of_another_domain() -> None:
    with pytest.raises(InputError, match=r"\[1, 3, 16, 20\].*\(16, 24\)"):
        tiled(near(), Tiling((16, 24), (8, 8)))(field(1, 3, 16, 20))
