# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The bench of solvers: settings, resuming, the rule of the choice, and one small bench to the end."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_kit
import torch
from bench import solver_advice
from bench.solver_command import main
from bench.solver_study import Log, Setting, reference, settings, stock

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.model.diffusion.solvers import Churn
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.verification.pointwise import crps

DEFAULT = Setting("heun", 12, 0.002, 80.0)
CONDITIONS = {"package_sha256": "a", "members": 4, "times": ["2024-07-24T12:00:00"]}


def record(setting: Setting, crps_excess: float, spread: float, spectrum: float = 0.5) -> dict[str, Any]:
    """A measurement of two quantities, the first of which is half as far off."""
    base, times = {"t2m": 0.2, "mrr": 1.5}, np.linspace(0.5, 1.5, 10)
    values = {"t2m": 0.2 * (1 + crps_excess / 2), "mrr": 1.5 * (1 + crps_excess)}
    return {
        "setting": asdict(setting),
        "calls": setting.calls,
        "seconds": 1.0,
        "scores": {
            n: {"crps": v, "spread_skill": spread, "spectral_error": spectrum} for n, v in values.items()
        },
        "crps_by_time": {name: (times * values[name]).tolist() for name in base},
        "conditions": CONDITIONS,
    }


def test_settings_by_network_calls() -> None:
    found = settings(["euler", "heun"], [2, 8, 36], [(0.002, 80.0), (0.02, 20.0)], DEFAULT)
    assert reference(DEFAULT) in found and stock(DEFAULT) in found
    assert reference(DEFAULT).calls == 35 and stock(DEFAULT) == Setting("euler", 8, 0.002, 80.0)
    assert [setting.calls for setting in found] == sorted(setting.calls for setting in found)
    assert {s.calls for s in found if s.solver == "heun"} == {7, 35}  # 2 N - 1; one call is no Heun step
    assert len(set(found)) == len(found) == 2 * 3 + 2 * 2
    churned = settings(["stochastic", "euler"], [7], [(0.02, 20.0)], DEFAULT, [0.0, 8.0])
    assert [str(s) for s in churned if s.solver == "stochastic"] == [
        "stochastic 4 (0.02–20, churn 0)", "stochastic 4 (0.02–20, churn 8)"
    ]  # fmt: skip
    churned = [s for s in churned if s.solver == "stochastic"]
    assert churned[1].family == "stochastic, sigma 0.02 to 20, churn 8"
    made = [s.sampling(Sampling("heun", 3)) for s in churned]
    assert [s.churn for s in made] == [Churn(0.0), Churn(8.0)] and made[0].sigma_max == 20.0
    for wrong in (["magic"], [2], [(0.002, 80.0)]), (["euler"], [0], [(1, 2)]), (["euler"], [2], [(2, 1)]):
        with pytest.raises(InputError):
            settings(*wrong, DEFAULT)  # type: ignore[arg-type]


def test_finished_settings_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    log = Log(path, CONDITIONS)
    log.append(record(DEFAULT, 0.0, 1.0))
    log.append(record(stock(DEFAULT), 0.1, 0.7))
    again = Log(path, CONDITIONS)
    assert again.has(DEFAULT) and again.has(stock(DEFAULT)) and not again.has(reference(DEFAULT))
    assert again.records == log.records
    with path.open("a") as file:  # killed in the middle of a line
        file.write('{"setting": {"solver": "eu')
    broken = Log(path, CONDITIONS)
    assert len(broken.records) == 2
    broken.append(record(reference(DEFAULT), 0.0, 1.0))
    assert len(Log(path, CONDITIONS).records) == 3
    with pytest.raises(InputError, match="measured with other members, times; give another --json"):
        Log(path, {**CONDITIONS, "members": 8, "times": []})
    with pytest.raises(InputError, match="cannot read"):
        Log(tmp_path, CONDITIONS)


def choice(*records: dict[str, Any]) -> solver_advice.Measured | None:
    return solver_advice.chosen(solver_advice.measured(records, DEFAULT), DEFAULT)


def test_the_cheapest_good_setting_is_chosen() -> None:
    best, euler = record(reference(DEFAULT), 0.0, 1.05), record(stock(DEFAULT), 0.005, 0.75)
    cheap = Setting("trigflow", 10, 0.002, 80.0)
    assert choice(best, euler).setting == reference(DEFAULT)  # type: ignore[union-attr]
    for excess, spread, good in (
        (0.013, 0.98, True),  # 0.013 for one quantity, half of it for the other: less than 1 % on average
        (0.014, 0.98, False),
        (0.0, 0.7, False),
        (-0.02, 1.3, True),
    ):
        found = choice(best, euler, record(cheap, excess, spread))
        assert (found is not None and found.setting == cheap) == good, (excess, spread)
    cheaper = Setting("dpmpp_2m", 6, 0.02, 20.0)
    found = choice(best, euler, record(cheap, 0.0, 1.0), record(cheaper, 0.009, 1.0))
    assert found is not None and found.setting == cheaper
    tied = [
        record(replace(cheap, sigma_max=high), excess, 1.0) for high, excess in ((80.0, 0.005), (40.0, 0.001))
    ]
    found = choice(best, euler, *tied)
    assert found is not None and found.setting.sigma_max == 40.0


def test_advice_in_words() -> None:
    records = [record(reference(DEFAULT), 0.0, 1.05), record(stock(DEFAULT), 0.08, 0.7)]
    cheap = Setting("trigflow", 10, 0.002, 80.0)
    found = solver_advice.measured([*records, record(cheap, 0.008, 1.02)], DEFAULT)
    text = solver_advice.advice(found, DEFAULT)
    text = " ".join(text.split())
    assert "trigflow 10 (0.002–80), 10 network calls" in text and "closer to one than euler 8" in text
    assert text.endswith("within 0.9 to 1.1 for every quantity: trigflow 10 (0.002–80), +0.6 %.")
    assert "+0.6 % [+0.6, +0.6]; t2m +0.4 % [+0.4, +0.4], mrr +0.8 % [+0.8, +0.8]" in text  # at all times
    assert "Spread / skill of euler 8 (0.002–80): 0.700 on average." in text
    table = solver_advice.table(found, DEFAULT)
    assert [row[0] for row in table.rows] == [
        "euler 8 (0.002–80)",
        "trigflow 10 (0.002–80)*",
        "heun 18 (0.002–80)",
    ]
    assert table.rows[1][1:4] == ("10", "+0.6 %", "+0.8 %")
    poor = solver_advice.measured([record(reference(DEFAULT), 0.0, 0.5), *records[1:]], DEFAULT)
    assert "No setting keeps the rule" in solver_advice.advice(poor, DEFAULT)
    narrow = solver_advice.measured([*records, record(cheap, 0.008, 0.85)], DEFAULT)
    said = " ".join(solver_advice.advice(narrow, DEFAULT).split())
    assert "trigflow 10 (0.002–80), 10 network" in said and said.endswith("heun 18 (0.002–80), +0.0 %.")
    axes = solver_advice.curves(found, "title").axes
    assert len(axes) == 3 and len(axes[0].get_legend_handles_labels()[1]) == 3


def test_without_the_reference_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(InputError, match=r"the reference, heun 18 \(0.002–80\), has not been measured"):
        solver_advice.measured([record(DEFAULT, 0.0, 1.0)], DEFAULT)
    failed = {**record(DEFAULT, 0.0, 1.0), "scores": {}}
    kept = solver_advice.measured([record(reference(DEFAULT), 0.0, 1.0), failed], DEFAULT)
    assert [m.setting for m in kept] == [reference(DEFAULT)]


# the command


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A tiny package, and the command that benches it against another's output as truth."""
    folder = tmp_path_factory.mktemp("bench")
    model = run_kit.load(run_kit.make_package(folder / "package"), number_of_samples=1)
    weather = run_kit.weather_file(folder / "weather.nc")
    coarse = torch.from_numpy(
        run_kit.demo.DemoWeather()(np.array(run_kit.TIMES, "datetime64[ns]"), run_kit.NAMES).values
    )
    mean = model.downscaler.mean(coarse).numpy()
    grid = model.spec.output_grid
    import xarray as xr

    fields = {name: (("time", "y", "x"), mean[:, i]) for i, name in enumerate(model.output_variables)}
    axes = {"lat": (("y", "x"), grid.lat), "lon": (("y", "x"), grid.lon)}
    truth = xr.Dataset(fields, {"time": np.array(run_kit.TIMES, "datetime64[ns]"), **axes})
    truth.to_netcdf(folder / "truth.nc")
    argv = ["--package", str(folder / "package"), "--source", f"file:{weather}", "--members", "2"]
    argv += ["--truth", str(folder / "truth.nc"), "--times", *run_kit.TIMES, "--device", "cpu"]
    return folder, argv


@pytest.fixture(scope="module")
def measured(kit: tuple[Path, list[str]]) -> tuple[Path, list[str]]:
    """The log of a bench, and the command that goes on with it."""
    folder, argv = kit
    log = folder / "measured.jsonl"
    argv = [*argv, "--json", str(log)]
    assert main([*argv, "--solvers", "euler", "--calls", "2"]) == 0
    return log, argv


@pytest.mark.slow
def test_a_bench_to_the_end_and_again(
    kit: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path
    argv = [*kit[1], "--json", str(folder / "log.jsonl")]
    more = [
        "--solvers",
        "euler",
        "--calls",
        "2",
        "--csv",
        str(folder / "b.csv"),
        "--plot",
        str(folder / "b.png"),
    ]
    assert main([*argv, *more]) == 0
    out = capsys.readouterr().out
    assert "euler 2 (0.002–80)" in out and "heun 18 (0.002–80)" in out and "network calls" in out
    few = Path(shutil.copytree(kit[0] / "package", folder / "few"))
    meta = json.loads((few / "metadata.json").read_text()) | {
        "number_of_steps": 2,
        "sampler_type": "few_step",
    }
    meta["sampling"] = {"solver": "few_step", "sigmas": [2.0, 0.5]}
    (few / "metadata.json").write_text(json.dumps(meta))
    assert main([*argv, *more, "--few-step", str(few)]) == 0
    out = capsys.readouterr().out
    assert "few_step 1 (2–2, " in out and "few_step 2 (0.5–2, " in out
    assert main([*argv, *more, "--few-step", str(kit[0] / "package")]) == 2
    assert "is not a package of few_step" in capsys.readouterr().err
    (folder / "log.jsonl").write_text("".join((folder / "log.jsonl").read_text().splitlines(True)[:3]))
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3  # with the reference and stock's Euler
    assert (folder / "b.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "b.csv").read_text().splitlines()) == 1 + 5 * 5
    assert main([*argv, "--solvers", "euler", "--calls", "2", "3"]) == 0
    again = (folder / "log.jsonl").read_text().splitlines()
    assert again[:3] == lines and len(again) == 4
    other = ["--reference", "0.01:20", "--sigma", "0.002:80", "--json", str(folder / "other.jsonl")]
    assert main([*argv, "--solvers", "euler", "--calls", "2", *other]) == 0
    out = capsys.readouterr().out
    assert "heun 18 (0.01–20)" in out and "euler 8 (0.01–20)" in out and "euler 2 (0.002–80)" in out


@pytest.mark.slow
def test_the_bench_scores_what_the_model_makes(
    kit: tuple[Path, list[str]], measured: tuple[Path, list[str]]
) -> None:
    """CRPS of one setting against the members by hand."""
    folder, log = kit[0], measured[0]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    found = next(r for r in records if r["setting"] == asdict(Setting("euler", 2, 0.002, 80.0)))
    model = run_kit.load(folder / "package", solver="euler", number_of_steps=2)
    for t, time in enumerate(np.array(run_kit.TIMES, "datetime64[ns]")):
        coarse = torch.from_numpy(run_kit.demo.DemoWeather()(time, run_kit.NAMES).values)
        members = model.downscaler(coarse, [member_seed(0, time, i) for i in range(2)])[0].double()
        fair, _ = crps(members[:, 1], model.downscaler.mean(coarse)[0, 1].double())
        assert found["crps_by_time"]["t2m"][t] == pytest.approx(fair.mean().item(), rel=0.05)  # areas differ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--solvers", "magic"], "unknown solver 'magic'"),
        (["--sigma", "1-2"], "--sigma takes MIN:MAX"),
        (["--sigma", "80:0.002"], "MIN:MAX with 0 < MIN < MAX"),
        (["--calls", "0"], "network calls must be a whole number of 1 or more"),
        (["--members", "1"], "--members must be 2 or more"),
        (["--members", "3"], "measured with other members"),
        (["--json", "FOLDER"], "it is a folder"),
    ],
)
def test_bad_flags(
    measured: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    log, argv = measured
    flags = [flag.replace("FOLDER", str(log.parent)) for flag in flags]
    capsys.readouterr()
    assert main([*argv, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_times_are_needed_where_the_truth_is_not_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--truth", "truth.nc"]) == 2
    assert "give --times that were not trained on" in capsys.readouterr().err
