# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration, read strictly; and the command: what it refuses in one line, and what its bars say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_kit import UNET, config, settings, write_config, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.train import Bars, main
from earth2_corrdiff.training.config import Config, Patches, StageConfig, read_config
from earth2_corrdiff.training.strict import build
from earth2_corrdiff.training.trainer import Progress

ROOT = Path(__file__).parents[2]
NONE = Path("pairs.zarr")


def told(text: str) -> Any:
    return yaml.safe_load(text)


def test_a_file_and_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {pairs: p.zarr, inputs: [t2m, z500], split: {train: [2012-01-01/2020-12-31T23]}, window: 4}\n"
        "regression: {steps: 9, network: {channel_mult: [1, 2]}}\n"
        "diffusion: {steps: 7, lr: 1e-4, patches: {shape: [8, 16], per_time: 3}, P_mean: 1}\n"
        "work: w\noutput: o\n"
    )
    got = read_config(path)
    assert got.data.inputs == ("t2m", "z500") and got.data.invariants is None and got.data.window == 4
    assert got.data.split.train == ("2012-01-01/2020-12-31T23",)
    assert got.regression == StageConfig(steps=9, network={"channel_mult": [1, 2]})
    assert got.diffusion.patches == Patches((8, 16), 3) and got.diffusion.lr == 1e-4
    assert got.diffusion.P_mean == 1.0 and isinstance(got.diffusion.P_mean, float)
    assert (got.seed, got.precision, got.fused, got.compiled, got.half) == (0, "bf16", True, False, False)


def test_the_demos_configuration() -> None:
    got = read_config(ROOT / "examples" / "train-demo.yaml")
    assert got.data.demo is not None and got.diffusion.cache_means and got.half
    few = read_config(ROOT / "examples" / "train-few-step.yaml").few_step
    assert few is not None and few.phase(1999).finest == 2.0 and few.phase(2000) == few.phase(None)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "mistyped": (
        {"regression__batchsize": 3},
        "unknown key regression.batchsize; did you mean regression.batch?",
    ),
    "at the top": ({"outptu": "x"}, "unknown key outptu; did you mean output?"),
    "deep": (
        {"diffusion__patches": {"shape": [8, 8], "pertime": 2}},
        "unknown key diffusion.patches.pertime; did you mean diffusion.patches.per_time?",
    ),
    "nothing like it": ({"zzz": 1}, "unknown key zzz; the top-level keys are data, regression,"),
    "of the other stage": ({"regression__sigma_data": 1.0}, "unknown key regression.sigma_data"),
    "no number": ({"regression__lr": "fast"}, "the key regression.lr needs a number, got 'fast'"),
    "half a step": ({"regression__steps": 1.5}, "the key regression.steps needs a whole number, got 1.5"),
    "true is no number": ({"regression__steps": True}, "needs a whole number, got True"),
    "yes is no text": ({"output": True}, "the key output needs text, got True"),
    "text is not true": ({"half": "yes"}, "the key half needs true or false, got 'yes'"),
    "no list": ({"data__inputs": "t2m"}, "the key data.inputs needs a list, got 't2m'"),
    "three sides": ({"diffusion__patches": {"shape": [8, 8, 8]}}, "needs a list of 2, got"),
    "no mapping": ({"regression": 5}, "the key regression needs a mapping"),
    "no network": ({"regression__network": [1]}, "the key regression.network needs a mapping"),
    "nothing": ({"data": {}}, "the key data needs either pairs or demo"),
    "both": ({"data": {"pairs": "p", "demo": {"train": 3}}}, "the key data needs either pairs or demo"),
    "no batch": ({"regression__batch": 0}, "batch must be a whole number of 1 or more"),
    "standing still": ({"regression__lr": 0}, "lr and clip positive"),
    "a precision": ({"precision": "fp16"}, "precision must be bf16 or fp32 for a training, got 'fp16'"),
    "a solver": ({"sampling": {"solver": "trigflow"}}, "sampling.solver must be euler or heun"),
    "never trained": ({"diffusion__steps": 0}, "diffusion.steps of 0 keep the network of a package"),
}


@pytest.mark.parametrize(("more", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        config(tmp_path, NONE, **more)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    content = settings(tmp_path, NONE)
    del content["output"], content["diffusion"], content["regression"]["steps"]
    with pytest.raises(InputError, match="lacks diffusion, output$"):
        build(Config, content)
    with pytest.raises(InputError, match="lacks regression.steps$"):
        build(Config, {**content, "diffusion": {"steps": 1}, "output": "o"})


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("2", 2.0), ("-1e+2", -100.0), (".5", 0.5)]
)
def test_numbers_as_yaml_reads_them(text: str, value: float) -> None:
    """YAML 1.1 takes 1e-3 for text."""
    got = build(StageConfig, told(f"{{steps: 1, lr: {text}}}")) if value > 0 else None
    assert got is None or got.lr == value


# the command


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Status 2 and one line on stderr, which is returned."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("train-corrdiff: error: ") and err.count("\n") == 1, err
    return err


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    assert "cannot read the configuration" in refused([str(path)], capsys)
    for text, message in (
        ("a: [1, 2", "is not valid YAML"),
        ("- 1", "must be a mapping of keys to values, got list"),
        ("", "must be a mapping of keys to values, got NoneType"),
        ("data: {pairs: p}\nregresion: {steps: 1}", "unknown key regresion; did you mean regression?"),
    ):
        path.write_text(text)
        assert message in refused([str(path)], capsys)
    path.write_bytes(b"\xff\xfe\x00")
    assert "c.yaml" in refused([str(path)], capsys)


RUNNING: dict[str, tuple[dict[str, Any], str]] = {
    "no pairs": ({"data": {"pairs": "nowhere.zarr"}}, "there is no file of pairs nowhere.zarr"),
    "no device": ({"device": "cuda:9"}, "no device cuda:9"),
    "no such device": ({"device": "toaster"}, "no kind of device 'toaster'"),
    "mistyped network": (
        {"diffusion__network": {**UNET, "model_chanels": 8}},
        "unknown key diffusion.network.model_chanels; did you mean diffusion.network.model_channels?",
    ),
    "network of another size": (
        {"regression__network": {"channel_mult": [1] * 6}},
        "asks for multiples of 32",
    ),
    "no such network": ({"regression__network": {**UNET, "model_type": "Transformer"}}, "Transformer"),
    "channels": ({"regression__network": {**UNET, "model_channels": 0}}, "regression.network"),
    "variables": ({"data__outputs": ["t2m", "snow"]}, "no fine variable snow"),
    "a file for a folder": ({"work": __file__}, "cannot write"),
    "a file for the package": ({"output": f"{__file__}/package"}, "cannot write"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("more", "message"), RUNNING.values(), ids=RUNNING.keys())
def test_what_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], message: str
) -> None:
    pairs = write_pairs(tmp_path / "pairs.zarr", 4)
    assert message in refused([str(write_config(tmp_path, pairs, **more))], capsys)


def test_threads_are_a_positive_number(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("0", "-1", "two"):
        with pytest.raises(SystemExit) as ended:
            main(["c.yaml", "--threads", text])
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_bar_counts_samples_and_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    bars.stage("diffusion", StageConfig(steps=6, batch=4, patches=Patches((8, 8), 2)))
    for progress in (Progress(4, 32, float("nan"), None), Progress(5, 8, 0.51234, None)):
        bars.step(progress)
    bars.step(Progress(6, 8, 0.5, 0.25))
    bars.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "diffusion: 100%" in last and "48/48" in last and "sample" in last
    assert "step=6, loss=0.5, validation=0.25" in last
    quiet = Bars(False)
    quiet.stage("regression", StageConfig(steps=1))
    quiet.step(Progress(1, 8, 0.5, None))
    quiet.close()
    assert capsys.readouterr().err == ""


@pytest.mark.process
def test_help_answers_at_once() -> None:
    """Without the heavy libraries."""
    code = (
        "import sys; from earth2_corrdiff.cli import train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False False" and "CONFIG.yaml" in done.stdout


def test_a_configuration_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys with their meanings, which give the same configuration when they are read."""
    path = write_config(tmp_path, tmp_path / "pairs.zarr", diffusion__patches={"shape": [8, 8], "overlap": 2})
    assert main([str(path), "--show-config"]) == 0
    text = capsys.readouterr().out
    assert build(Config, yaml.safe_load(text)) == read_config(path)
    assert main(["--show-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  missing: refuse")
    assert (
        lines[at - 2].startswith("  # Missing values of the pairs") and "    train: null  # needed" in lines
    )
    assert main([]) == 2 and "--show-config" in capsys.readouterr().err
