# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of a GPU: what a step needs, what is free, and how many members go together; with a made-up GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import SHARED, FakeCuda, FakeGraph
from fast_kit import fields, make_denoiser, with_gpu
from meter import Meter
from tiny import make_networks, make_spec
from torch import Tensor

from earth2_corrdiff.base.free_memory import free_bytes, shared_bytes
from earth2_corrdiff.base.graph_pool import GraphPool, pool_of
from earth2_corrdiff.model.batching import MAX_BATCH, Batching
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry
from earth2_corrdiff.networks.fast import gpu as torch_unet
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.networks.fast.executors import Level, TorchExecutor
from earth2_corrdiff.networks.fast.memory_plan import plan_memory
from earth2_corrdiff.networks.kernels.feature_maps import FeatureMap
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.memory_model import memory_of
from earth2_corrdiff.networks.preconditioned import Denoiser, create, set_precision
from earth2_corrdiff.networks.unet import SongUNet

GPU = torch.device("cuda", 0)
GB = 10**9
SIDE = 448
ARGS = {  # CorrDiff-Taiwan's denoiser
    "img_resolution": SIDE,
    "img_in_channels": 20,
    "img_out_channels": 4,
    "img_channels": 4,
    "model_type": "SongUNetPosEmbd",
    "N_grid_channels": 4,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [28],
}


@pytest.fixture
def full() -> Denoiser:
    """The published denoiser's shapes, without numbers."""
    with torch.device("meta"):
        net = create(Checkpoint("EDMPrecondSR", ARGS, {}, "diffusion"))
    assert isinstance(net, Denoiser)
    return net.to("meta").eval().requires_grad_(False)


def gpu(monkeypatch: pytest.MonkeyPatch, total: int, others: int = 0) -> FakeCuda:
    fake = FakeCuda(total, others)
    fake.install(monkeypatch)
    return fake


# what a step needs


def test_a_member_in_half_precision(full: Denoiser) -> None:
    """The memory table's number: 0.75 GB, in float32 nearly twice that."""
    half, single = (accelerate(full, p).member_bytes((SIDE, SIDE)) for p in ("bf16", "fp32"))
    assert half == memory_of(full.model, (SIDE, SIDE), torch.bfloat16).whole  # type: ignore[list-item, arg-type]
    assert half == pytest.approx(0.75 * GB, rel=0.01) and 1.9 * half < single < 2 * half
    assert accelerate(full, "bf16").member_bytes((SIDE, 2 * SIDE)) == 2 * half


def join(x: Tensor, side: Tensor | None, bias: Tensor, scale: float) -> FeatureMap:
    return FeatureMap(torch.empty_like(x))


def measured(x: Tensor) -> FeatureMap:
    return FeatureMap(x)


def normalised(
    maps: Sequence[FeatureMap], *weights: Any, shift: Any = None, mode: str = "same", keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What the kernels write: at another resolution, and the input beside it."""
    B, _, H, W = maps[0].values.shape
    C = sum(m.channels for m in maps)
    size = {"same": (H, W), "up": (2 * H, 2 * W), "down": (H // 2, W // 2)}[mode]

    def empty(h: int, w: int) -> Tensor:
        return maps[0].values.new_empty(B, C, h, w)

    return empty(*size), empty(*(size if mode == "down" else (H, W))) if keep else None


def test_a_step_needs_what_was_computed(full: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a call counted, norms as on a GPU: one map in, one map out."""
    for stands_in in (join, measured, normalised):
        monkeypatch.setattr(torch_unet, stands_in.__name__, stands_in)
    unet = torch_unet.TorchUNet(full.model, torch.bfloat16)  # type: ignore[arg-type]
    with torch.device("meta"):
        row, slab = unet.row(0.1, 1, 1, 1, 1), unet.slab(torch.empty(1, 16, SIDE, SIDE))
        for batch in (1, 3):
            x = torch.empty(batch, 4, SIDE, SIDE)
            with Meter(full) as meter:
                unet(x, slab, row)
            want = batch * accelerate(full, "bf16").member_bytes((SIDE, SIDE))
            assert 0.8 * want < meter.peak < want


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plain_call_needs_what_was_computed(full: Denoiser, precision: str) -> None:
    """Upstream's arithmetic keeps several float32 maps at a norm."""
    set_precision(full, precision)
    with torch.device("meta"), Meter(full) as meter:
        full(torch.empty(1, 4, SIDE, SIDE), 0.7, torch.empty(1, 16, SIDE, SIDE))
    want = full.member_bytes((SIDE, SIDE))
    assert 0.95 * want < meter.peak <= want


# what is free


def test_what_pytorch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = gpu(monkeypatch, 80 * GB, others=4 * GB)
    assert free_bytes(GPU) == 76 * GB
    weights = fake.alloc(GB)
    fake.step(20 * GB)
    assert fake.mem_get_info()[0] == 55 * GB and free_bytes(GPU) == 75 * GB
    fake.free(weights)
    assert free_bytes(GPU) == 76 * GB


def test_the_rest_of_a_segment_that_is_in_use_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be given back, nor joined with anything: 12 GB in one piece do not fit."""
    fake = gpu(monkeypatch, 20 * GB)
    fake.free(fake.alloc(12 * GB))
    small = fake.alloc(GB)
    assert fake.reserved == 12 * GB and free_bytes(GPU) == 8 * GB
    with pytest.raises(torch.OutOfMemoryError):
        fake.alloc(12 * GB)
    fake.free(fake.alloc(8 * GB))
    fake.free(small)
    assert free_bytes(GPU) == 20 * GB


def test_before_the_first_allocation_and_without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earth2_corrdiff.base.graph_pool._POOLS", {})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    assert torch.cuda.memory_stats(GPU) == {} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {})  # or cudaMallocAsync
    assert free_bytes(GPU) == 5


# the pool of captured steps


def captured(fake: FakeCuda, pool: GraphPool, size: int) -> FakeGraph:
    """Warm up and capture a step that needs so much, as engines do."""
    graph = FakeGraph()
    fake.step(size)
    with pool.capture(graph):  # type: ignore[arg-type]
        fake.step(size)
    return graph


def test_a_captured_step_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its warm-up is given back before: 30 of 40 GB would not fit twice."""
    fake, pool = gpu(monkeypatch, 40 * GB), pool_of(GPU)
    graph = captured(fake, pool, 30 * GB)
    assert fake.reserved == fake.peak == 30 * GB
    assert pool.held == shared_bytes(GPU) == 30 * GB and free_bytes(GPU) == 10 * GB
    del graph
    assert pool.held == 0 and free_bytes(GPU) == 40 * GB


def test_steps_of_all_networks_share_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they hold what the largest needs."""
    fake, pool = gpu(monkeypatch, 80 * GB), pool_of(GPU)
    graphs = [captured(fake, pool, size * GB) for size in (12, 4, 12, 8)]
    assert fake.handles == 1 and fake.reserved == pool.held == 12 * GB
    assert pool_of(torch.device("cuda", 1)) is not pool
    graphs.pop()
    assert pool.held == 12 * GB and fake.reserved == 12 * GB


def test_a_pool_ends_with_its_last_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes no capture into a pool that no graph holds any longer."""
    fake, pool = gpu(monkeypatch, 80 * GB), pool_of(GPU)
    out, graph = [], FakeGraph()
    with pool.capture(graph):  # type: ignore[arg-type]
        out.append(fake.alloc(GB))  # its result outlives it
    del graph
    graph = captured(fake, pool, 2 * GB)
    assert fake.handles == 2 and pool.held == 2 * GB and graph is not None


def test_a_capture_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, pool = gpu(monkeypatch, 8 * GB), pool_of(GPU)
    with pytest.raises(torch.OutOfMemoryError), pool.capture(FakeGraph()):  # type: ignore[arg-type]
        fake.step(10 * GB)
    graph = captured(fake, pool, 4 * GB)
    assert pool.held == 4 * GB == fake.reserved and graph is not None


def test_streams_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU finishes a replay in one stream before one in another begins: both write into the pool."""
    waits: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            waits.append((self.name, other.name))

    pool, streams = GraphPool(), {name: Stream(name) for name in "ab"}
    for name in "aabba":
        monkeypatch.setattr(torch.cuda, "current_stream", lambda n=name: streams[n])
        pool.take_turn()
    assert waits == [("b", "a"), ("a", "b")]


def test_engines_capture_into_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression and denoiser, and engines of other weights; what a warm-up took is given back before."""
    fake, order = gpu(monkeypatch, 80 * GB), []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": FakeGraph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    step = torch_unet.TorchUNet.__call__

    def counted(*what: Any) -> Tensor:
        order.append((fake.pool, fake.emptied))
        fake.step(GB)
        return step(*what)

    monkeypatch.setattr(torch_unet.TorchUNet, "__call__", counted)
    x, cond = fields()
    nets = [make_denoiser(seed=seed).model for seed in (1, 2)]
    engines = [TorchExecutor(net, torch.float32, True) for net in nets]  # type: ignore[arg-type]
    for engine in (*engines, *engines):
        engine(x, engine.prepare(cond), Level(0.1))
    warm, captured = (SHARED, 0), ((0, 1), 2)  # once by the pool, once by PyTorch
    assert order[:3] == [warm, warm, captured] and [pool for pool, _ in order[3:]] == [SHARED, SHARED, (0, 1)]
    assert fake.reserved == GB == pool_of(torch.device("cpu")).held and fake.peak == 2 * GB
    engines.clear()
    del engine
    assert pool_of(torch.device("cpu")).held == 0


# members that go together


DOMAIN = (SIDE, SIDE)


@pytest.mark.parametrize(
    ("precision", "accelerated", "total", "want"),
    [
        ("bf16", True, 85_029_158_912, MAX_BATCH),  # an H100 as its driver counts it
        ("fp32", True, 85_029_158_912, MAX_BATCH),
        ("fp32", False, 85_029_158_912, MAX_BATCH),
        ("bf16", True, 16 * GB, 10),
        ("fp32", True, 16 * GB, 5),
        ("bf16", True, GB, 1),
    ],
)
def test_members_that_go_together(
    full: Denoiser, monkeypatch: pytest.MonkeyPatch, precision: str, accelerated: bool, total: int, want: int
) -> None:
    gpu(monkeypatch, total, others=GB // 2)
    net = accelerate(full, precision) if accelerated else full
    assert Batching(net).members(GPU, DOMAIN) == want


def test_patches_that_go_together(full: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 16 * GB)
    patching = PatchGeometry(DOMAIN, (SIDE // 2, SIDE // 2), 0, 0, 16)
    batching, patches = Batching(accelerate(full, "fp32")), len(patching.patches)
    assert batching.images(GPU, patching.shape) == 16
    assert batching.members(GPU, patching.shape, patches) == 4


@pytest.mark.parametrize("total", [85 * GB, 24 * GB, 12 * GB, 6 * GB])
def test_the_batch_stays_from_state_to_state(
    full: Denoiser, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    """A run of five states: regression and denoiser captured at the first, replayed at the others."""
    fake, graphs = gpu(monkeypatch, total, others=GB // 2), {}
    net = accelerate(full, "bf16")
    batching, need, pool = Batching(net), net.member_bytes(DOMAIN), pool_of(GPU)
    weights, batches = fake.alloc(GB // 2), []
    for _ in range(5):
        inputs = fake.alloc(16 * 4 * SIDE**2)
        batches.append(batching.members(GPU, DOMAIN))
        fresh = Batching(net).members(GPU, DOMAIN)  # even one that remembers nothing
        assert abs(fresh - batches[0]) <= 1
        for what in ("regression", batches[-1]):
            if what not in graphs:
                graphs[what] = captured(fake, pool, need * (1 if what == "regression" else batches[-1]))
        fake.step(GB // 8)  # the sampler
        fake.free(inputs)
    assert len(set(batches)) == 1 and len(graphs) == 2
    # maps of one image are too small for a batch: they stay beside
    assert need * batches[0] <= 1.001 * pool.held <= 1.001 * need * (batches[0] + 1) and weights.used


def test_fewer_after_memory_has_run_out(full: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 85 * GB)
    batching = Batching(accelerate(full, "bf16"))
    assert batching.members(GPU, DOMAIN) == 16 and batching.members(GPU, DOMAIN, most=40) == 40
    batching.shrink(16, None, torch.OutOfMemoryError("CUDA out of memory"))
    assert batching.members(GPU, DOMAIN) == 8 == batching.members(GPU, DOMAIN, most=40)


@pytest.mark.slow
def test_a_captured_regression_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where it fits the free memory, once: its warm-up is gone when it is captured."""
    net = make_networks(make_spec((1056, 1792), bent=False))[0].model
    assert isinstance(net, SongUNet)
    row = memory_of(net, (1056, 1792), torch.bfloat16)
    fake, pool = gpu(monkeypatch, int(1.3 * row.whole)), pool_of(GPU)
    way = plan_memory(net, (1056, 1792), "bf16", GPU)
    assert way.how == "at once" and way.device == row.whole
    graph = captured(fake, pool, row.whole)
    assert plan_memory(net, (1056, 1792), "bf16", GPU, "device").how == "at once" and graph is not None
    assert free_bytes(GPU) < row.strips  # the pool serves nothing else


def test_a_second_shape_is_warmed_up_beside_the_pool(full: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what captured steps share it takes a half, but no more than what is free beside it."""
    fake, pool, net = gpu(monkeypatch, 20 * GB), pool_of(GPU), accelerate(full, "fp32")
    need = net.member_bytes((SIDE, SIDE))
    graph = captured(fake, pool, 14 * GB)
    assert Batching(net).images(GPU, DOMAIN) == 6 * GB // need
    graph = captured(fake, pool, 6 * GB)
    assert fake.peak <= 20 * GB and graph is not None


def test_the_denoisers_of_the_tests_are_counted() -> None:
    """Networks of any size: never nothing, and in proportion to the domain."""
    net = make_denoiser()
    assert 0 < 2 * net.member_bytes((16, 24)) == net.member_bytes((32, 24))


@pytest.mark.gpu
@with_gpu
def test_memory_on_a_gpu() -> None:
    """A captured step of the published denoiser takes what was computed, once; what it gave back is free."""
    net = create(Checkpoint("EDMPrecondSR", ARGS, {}, "diffusion"))
    assert isinstance(net, Denoiser)
    net = accelerate(net.eval().requires_grad_(False).to(GPU), "bf16")
    given = net.given(torch.randn(1, 16, SIDE, SIDE, device=GPU))
    before, batch = free_bytes(GPU), 4
    given(torch.randn(batch, 4, SIDE, SIDE, device=GPU), 0.7)
    held, need = shared_bytes(GPU), batch * net.member_bytes((SIDE, SIDE))
    assert 0.7 * need < held < 1.4 * need
    assert 0 <= before - free_bytes(GPU) - held < GB // 2  # inputs and results of the graph, work space
    assert torch.cuda.memory_reserved(GPU) < held + 3 * GB // 2  # weights twice, and the same
