# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of scaling: its arithmetic by hand, and one small round of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

from bench import extrapolation as ex  # noqa: E402
from bench import scaling, scheduling  # noqa: E402


def test_the_fit_finds_what_the_times_are_made_of() -> None:
    sizes = [(0.02, 1, 8), (0.02, 4, 8), (0.1, 4, 8), (0.1, 1, 15)]
    runs = [ex.Run(p, m, c, 0.3 + 1.7 * p * (1 + m * c)) for p, m, c in sizes]
    cost = ex.fit(runs)
    assert cost.fixed == pytest.approx(0.3) and cost.step == pytest.approx(1.7)
    assert cost.error < 1e-9
    slow = [*runs[:3], ex.Run(0.1, 1, 15, 2 * runs[3].seconds)]
    assert ex.fit(slow).error > 0.1
    with pytest.raises(ValueError, match="at least two sizes"):
        ex.fit(runs[:1] * 3)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_the_exponent_of_the_area(power: float) -> None:
    runs = [ex.Run(p, 4, 8, 3 * p**power) for p in (0.01, 0.04, 0.2)]
    assert ex.exponent(runs) == pytest.approx(power)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [(1056, 1792), (448, 448), (900, 3000)])
def test_patches_are_counted_as_physicsnemo_counts_them(domain: tuple[int, int]) -> None:
    from physicsnemo.diffusion.multi_diffusion import GridPatching2D

    patching = GridPatching2D(domain, (448, 448), overlap_pix=4, boundary_pix=2)
    expected = patching.patch_num * 448**2 / (domain[0] * domain[1])
    assert ex.overlap(domain, 448, 6) == pytest.approx(expected)


def test_targets_by_hand() -> None:
    conus, hour, year = ex.targets(64)
    assert conus.megapixels == 1.892352 and conus.cases == 8760
    # 1.89 million points, 8760 hours, 64 members, 4 variables of 4 bytes
    assert (
        conus.terabytes(4)
        == pytest.approx(1.892352e6 * 8760 * 64 * 16 / 1e12)
        == pytest.approx(16.97, abs=0.01)
    )
    assert hour.megapixels == pytest.approx(56.67, abs=0.01) and year.cases == 8760 * hour.cases
    calls = 1 + 64 * 12
    expected = 8760 * 1.892352 * (15 * 448**2 / (1056 * 1792)) * 0.5 * calls / 3600
    assert conus.hours(0.5, 12) == pytest.approx(expected)


def test_what_nvidia_published() -> None:
    """One step of one member over 1056 x 1792 points, from requests with 8 and with 18 steps."""
    found = {each.device: each.step for each in ex.PUBLISHED}
    assert found["H100"] == pytest.approx((10.31 - 4.88) / 10 / 1.892352)
    assert found["B200"] < found["H100"] < found["A100"] < found["H100, baseline"]


@pytest.mark.slow
def test_a_small_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs in this process, and one by Dask's workers in it; the table."""

    def ran(words: list[str], **_: Any) -> SimpleNamespace:
        capsys.readouterr()
        scaling.child(json.loads(words[-1]))
        return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out)

    @contextmanager
    def connected(workers: int, *_: Any) -> Iterator[Client]:
        with scheduling._cluster(workers, 2) as client:
            yield client

    monkeypatch.setattr("bench.scaling_run.connected", connected)
    monkeypatch.setattr(scaling, "subprocess", SimpleNamespace(run=ran, PIPE=subprocess.PIPE))
    options = (
        "--domains 16x32 32x48 --members 2 --workers 0 2 --steps 1 --device cpu --precision fp32".split()
    )
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "bench-scaling.py")])
    scaling.run(scaling.parser().parse_args([*options, "--json", str(tmp_path / "rows.json")]))
    shown = capsys.readouterr().out
    for said in (
        "against members",
        "against area",
        "against workers",
        "fit: ",
        "a year of hours",
        "Assumed: ",
    ):
        assert said in shown
    content = json.loads((tmp_path / "rows.json").read_text())
    assert set(content["rows"]) == {"members", "area", "workers"}
    (first, second), area = content["rows"]["workers"], content["rows"]["area"]
    assert (first["workers"], second["workers"]) == (0, 2) and [row["shape"] for row in area] == [
        [16, 32],
        [32, 48],
    ]
    for row in (first, second, *area):
        assert row["wall"] > 0 and row["peak"] > 1e8 and row["stored"] > 0 and row["calls"] == 1
    assert first["stored"] == second["stored"]  # the same bytes, however many processes wrote them


@pytest.mark.slow
def test_the_scheduler_keeps_workers_busy() -> None:
    found = scheduling.simulate(200, 4, 0.02)
    assert 0 < found.efficiency <= 1 and found.wall >= 200 * 0.02 / 4 and len(found.memory) == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--domains", "64"], "a domain is given as HxW, at least 16x16"),
        (["--simulate", "3", "1", "1"], "--simulate takes 20 tasks or more"),
        (["--members", "0"], "--members and --steps take whole numbers of 1 or more"),
    ],
)
def test_what_is_refused(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from earth2_corrdiff.cli.common import run_command

    assert run_command("bench-scaling.py", scaling.run, scaling.parser().parse_args(options)) == 2
    assert says in capsys.readouterr().err
