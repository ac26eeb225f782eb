# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options from a configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from earth2_corrdiff.cli.run_options import run_parser

CONFIG = """
times: [2024-07-24T12:00, 2024-07-25]
samples: 4
variables: [t2m, mrr]
max_batch: 2
keep-going: true
"""


def test_a_configuration_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys are the names of the options, and the command line wins; what is printed is such a file."""
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    args = run_parser().parse_args(["--config", str(path), "--samples", "8"])
    assert args.times == ["2024-07-24T12:00", "2024-07-25"] and args.variables == "t2m,mrr"
    assert (args.samples, args.max_batch, args.keep_going, args.steps) == (8, 2, True, None)
    assert run_parser().parse_args(["--config", str(path), "2024-01-01"]).times == ["2024-01-01"]
    with pytest.raises(SystemExit) as end:
        run_parser().parse_args(["--config", str(path), "--show-config", "--steps", "3"])
    shown = capsys.readouterr().out
    path.write_text(shown, encoding="utf-8")
    assert end.value.code == 0 and "steps: 3\n" in shown and "# seed:\n" in shown
    again = run_parser().parse_args(["--config", str(path)])
    assert again.times == args.times and again.steps == 3 and again.keep_going


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sample: 4", "unknown key sample; did you mean samples?"),
        ("times: [2024-07-24]\nsamples: four", "invalid int value: 'four'"),
        ("resume: 1", "resume needs true or false, got 1"),
        ("steps: true", "steps needs a value"),
        ("- 1", "must be a mapping"),
        ("samples: 4", "required: TIME"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert (
        "run-corrdiff: error" in (said := refused_by_parser(capsys, tmp_path / "run.yaml")) and says in said
    )


def refused_by_parser(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    with pytest.raises(SystemExit) as end:
        run_parser().parse_args(["--config", str(path)])
    assert end.value.code == 2
    return capsys.readouterr().err
