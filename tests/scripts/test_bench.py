# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark: its statistics on clocks that lie, its counts against other counters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

from bench import cases, counts, operators, roofline, stock, timing  # noqa: E402

from earth2_corrdiff.model.diffusion.noise import MemberNoise, drawn_seeds  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


# timing


class Machine:
    """A clock that moves only where a work says so."""

    def __init__(self) -> None:
        self.time, self.calls = 0.0, ""

    def now(self) -> float:
        return self.time

    def work(self, name: str, *seconds: float) -> timing.Work:
        lasts = iter(seconds)

        def run() -> None:
            self.calls += name
            self.time += next(lasts)

        return run


def test_rounds_are_interleaved() -> None:
    machine = Machine()
    works = {"a": machine.work("a", 3.0, 5.0), "b": machine.work("b", 1.0, 1.0, 2.0, 4.0)}
    found = timing.interleave(works, 2, timing.HostClock(machine.now), {"a": 1, "b": 2})
    assert machine.calls == "abbabb"
    assert found["a"].seconds == (3.0, 5.0) and found["b"].seconds == (1.0, 3.0)


def test_median_spread_and_ratio_per_round() -> None:
    before, after = timing.Timing((1.0, 9.0, 2.0)), timing.Timing((0.5, 3.0, 2.0))
    assert (before.median, before.low, before.high) == (2.0, 1.0, 9.0)
    assert after.ratio(before) == 2.0  # the rounds' ratios are 2, 3, 1; that of the medians would be 1
    with pytest.raises(ValueError, match="shorter"):
        timing.Timing((1.0, 2.0)).ratio(before)


def test_short_works_are_repeated_and_long_ones_not() -> None:
    machine = Machine()
    clock = timing.HostClock(machine.now)
    assert timing.warm_up(machine.work("a", 1.5, 0.03125), clock) == (1.5, 4)  # the first call compiled
    assert timing.warm_up(machine.work("b", 25.0), clock) == (25.0, 1) and machine.calls == "aab"
    assert timing.warm_up(machine.work("c", 75.0, 0.0625), clock, settle=100.0) == (75.0, 2)
    assert timing.repeats_for(0.0) == 1000 and timing.repeats_for(1e3) == 1


# counts


def small(stock_net: bool = True) -> nn.Module:
    _, denoiser = cases.networks(cases.SIZES["tiny"])
    return stock.network(denoiser).model if stock_net else denoiser.model  # type: ignore[return-value]


@pytest.mark.slow
def test_flops_are_those_of_the_flop_counter() -> None:
    """Counted on upstream's modules; PyTorch's counter on ours, which resamples without convolutions."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        small(stock_net=False)(torch.zeros(3, 20, 16, 16), torch.ones(3))
    assert counts.flops(counts.count(small(), (3, 20, 16, 16))) == counter.get_total_flops()


def test_traffic_of_one_block_by_hand() -> None:
    """First block of the tiny network: 8 channels at 16 x 16, 32 of the embedding, two members."""
    net = small()
    block: Any = net.enc["16x16_block0"]  # type: ignore[index]

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: torch.Tensor, labels: torch.Tensor, class_labels: None) -> torch.Tensor:
            y: torch.Tensor = self.block(x, x.new_empty(2, 32))
            return y

    found = counts.by_kind(counts.count(Alone(), (2, 8, 16, 16)))
    n = 2 * 8 * 256
    weights = 8 * 8 * 9
    assert set(found) == {counts.NORM, counts.ELEMENTWISE, counts.LINEAR, "convolution 3x3 at 16"}
    norms, convolutions = found[counts.NORM], found["convolution 3x3 at 16"]
    assert [counts.elements(norms, m) for m in counts.MODELS] == [24 * n, 6 * n, 4 * n, 5 * n]
    assert [counts.elements(found[counts.ELEMENTWISE], m) for m in counts.MODELS] == [7 * n, 3 * n, n, 3 * n]
    for model, passes in (("eager", 4), ("ideal", 2), ("ours", 2)):  # a bias is a pass of its own
        assert counts.elements(convolutions, model) == 2 * (passes * n + weights)
    assert counts.flops(convolutions) == 2 * 2 * n * 8 * 9
    assert counts.flops(found[counts.LINEAR]) == 2 * 2 * 32 * 8


@pytest.mark.slow
def test_the_published_network_has_the_documented_cost() -> None:
    """Denoiser at 448 x 448: FLOPs, and bytes of eager operators in 16 bits, per class."""
    from physicsnemo.models.diffusion_unets import SongUNetPosEmbd

    with torch.device("meta"):
        unet = SongUNetPosEmbd(448, 24, 4, attn_resolutions=[28], model_channels=128, num_blocks=4)
    assert sum(p.numel() for p in unet.parameters()) == cases.SIZES["full"].parameters[1]  # type: ignore[index]
    found = counts.by_kind(counts.count(unet.eval(), (1, 20, 448, 448)))
    sums: dict[str, tuple[float, float]] = {}
    for kind, ops in found.items():
        name = kind.partition(" at ")[0]
        tera, giga = sums.get(name, (0.0, 0.0))
        sums[name] = tera + counts.flops(ops) / 1e12, giga + 2 * counts.elements(ops, "eager") / 1e9
    want = {
        counts.NORM: (0.0, 27.8 + 0.1),  # with the SiLU behind the last norm
        counts.ELEMENTWISE: (0.0, 6.5),
        "convolution 3x3": (3.88, 4.42 + 3.81),  # and the biases
        counts.CAT: (0.0, 1.8),
        "convolution 1x1": (0.20, 1.70 + 1.24),
        counts.RESAMPLE: (0.0, 0.55),
    }
    for name, (tera, giga) in want.items():
        assert sums[name][0] == pytest.approx(tera, abs=0.006), name
        assert sums[name][1] == pytest.approx(giga, abs=0.06), name


@pytest.mark.slow
def test_what_the_engine_for_gpus_moves() -> None:
    """Of 448 x 448 in 16 bits: less than fused operators with a concatenation, and no pass for a bias."""
    _, denoiser = cases.fresh_networks(cases.SIZES["full"])
    found = counts.count(denoiser.model, (1, 20, 448, 448))
    moved = {model: 2 * counts.elements(found, model) / 1e9 for model in counts.MODELS}
    assert moved == pytest.approx({"eager": 47.9, "fused": 18.2, "ideal": 12.3, "ours": 15.3}, abs=0.06)


def test_the_floor_is_the_slower_of_the_two_per_operator() -> None:
    ops = [counts.Operation("a", 100, 8, 4, 2, 3), counts.Operation("b", 0, 30, 30, 10, 20)]
    peaks = roofline.Peaks({"bf16": 10.0, "fp32": 1.0}, copy=2.0)
    assert roofline.floor(ops, "bf16", "fused", peaks) == 10 + 30
    assert roofline.floor(ops, "fp32", "eager", peaks) == 100 + 60


@pytest.mark.slow
def test_peaks_are_positive_and_halves_not_below_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST", 1e-4)
    peaks = roofline.measure(CPU, ["fp32", "bf16"], tries=1)
    assert peaks.matmul["bf16"] >= peaks.matmul["fp32"] > 0 and peaks.copy > 0


# stock


@pytest.fixture
def stock_module(stock: ModuleType) -> ModuleType:
    """The fixture under a name that is not that of the benchmark's module."""
    return stock


def test_the_stock_class_on_another_grid(stock_module: ModuleType) -> None:
    changed = stock.taiwan_class(stock_module, 16)
    assert issubclass(changed, stock_module.CorrDiffTaiwan)
    assert stock.taiwan_class(stock_module, 448) is stock_module.CorrDiffTaiwan

    class Other:
        class CorrDiffTaiwan:
            def _forward(self) -> int:
                return 449

    with pytest.raises(RuntimeError, match="has no 448"):
        stock.taiwan_class(Other, 16)  # type: ignore[arg-type]


def test_stock_draws_the_noise_of_this_package_where_it_shall() -> None:
    from physicsnemo.diffusion.generate import legacy_generate

    upstream = legacy_generate.StackedRandomGenerator
    seeds = stock.member_seeds(3, CPU, seed=5)
    assert seeds == drawn_seeds(5, 3)
    with stock.noise_of_the_host():
        draws = legacy_generate.StackedRandomGenerator(torch.device("meta"), seeds)
        assert torch.equal(draws.randn((3, 2, 4, 5), device=CPU), MemberNoise(seeds, (2, 4, 5), CPU)())
    assert legacy_generate.StackedRandomGenerator is upstream


def test_a_weight_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    regression, _ = cases.networks(cases.SIZES["tiny"])
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *a, **k: None)
    with pytest.raises(RuntimeError, match="did not take the weight"):
        stock.network(regression)


def test_parameters_are_those_of_the_published_networks() -> None:
    wrong = dataclasses.replace(cases.SIZES["tiny"], parameters=(1, 2))
    with pytest.raises(RuntimeError, match="the published ones"):
        cases.networks(wrong)


# operators


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mkldnn_convolution", [[1, 8, 16, 24], [4, 8, 3, 3]], "convolution 3x3 at 16"),
        ("aten::cudnn_convolution", [[1, 8, 16, 24], [4, 8, 1, 1]], "convolution 1x1"),
        ("aten::convolution", [[1, 8, 16, 24], [8, 1, 2, 2]], counts.RESAMPLE),
        ("aten::convolution", [[1, 1, 16, 24], [8, 1, 3, 3]], "convolution 3x3 at 16"),
        ("aten::addmm", [[8], [4, 32], [32, 8]], counts.LINEAR),
        ("aten::mm", [[1024, 32], [32, 8]], "convolution 1x1"),
        ("aten::native_group_norm", [[1, 8, 4, 4]], counts.NORM),
        ("aten::avg_pool2d", [[1, 8, 4, 4]], counts.RESAMPLE),
        ("aten::_scaled_dot_product_flash_attention", [[1, 1, 4, 4]], counts.ATTENTION),
        ("aten::cat", [], counts.CAT),
        ("aten::add_", [[1, 8, 4, 4]], counts.ELEMENTWISE),
        ("aten::copy_", [[1]], operators.COPIES),
        ("aten::sort", [[1]], None),
    ],
)
def test_operators_are_told_by_name_and_shape(name: str, shapes: list[list[int]], kind: str | None) -> None:
    assert operators.classify(name, shapes) == kind


@pytest.mark.slow
def test_breakdown_of_a_stock_network() -> None:
    net = small()
    x, labels = torch.zeros(1, 20, 16, 16), torch.ones(1)
    found = operators.breakdown(net, lambda: net(x, labels, class_labels=None), on_gpu=False)
    kinds = {f"convolution 3x3 at {n}" for n in (16, 8)} | {"convolution 1x1"}
    kinds |= {counts.NORM, counts.ATTENTION, counts.RESAMPLE, counts.CAT, counts.LINEAR, counts.ELEMENTWISE}
    assert kinds <= set(found) and min(found.values()) >= 0
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert operators.median_of([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}
