# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of plot and verify: a store of each kind that ``run-corrdiff`` writes, made by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_kit import make_package

from earth2_corrdiff.cli.run import main
from earth2_corrdiff.model.spec import Statistics
from earth2_corrdiff.store.writer import Store

START = "2024-07-24T00"
LEADS = "0/12/6h"
KINDS = {
    "analysis": ["2024-07-24T12", "--source", "demo"],
    "period": ["2024-07-24T00/2024-07-24T12/6h", "--source", "demo"],
    "forecasts": [START, "2024-07-24T06", "--source", "demo_fx", "--lead", LEADS],
    "one lead time": [START, "--source", "demo_fx", "--lead", "6h"],
    "coarse members": [START, "--source", "demo_fx", "--lead", "0/6/6h", "--coarse-members", "0-1"],
    "compressed": [START, "--source", "demo_fx", "--lead", "0/6/6h", "--compress", "bounded"],
    "patches": [START, "--source", "demo", "--patch", "16x16", "--overlap", "4", "--boundary", "2"],
    "unfinished": [START, "--source", "demo_fx", "--lead", LEADS],
}
SETTINGS = ["--samples", "2", "--steps", "1", "--solver", "euler", "--seed", "0", "--precision", "fp32"]
INPUTS = Statistics(("tcwv", "t2m", "u10m", "v10m"), (45.0, 298.0, -2.0, -2.0), (15.0, 5.0, 6.0, 6.0))
STOPPED = 3  # members of the unfinished store that are written


def make_stores(folder: Path) -> dict[str, Path]:
    """A store of each kind, on 24 x 36 points, of a model with random weights."""
    package = make_package(folder / "package", inputs=INPUTS)
    stores = {kind: folder / f"{kind.replace(' ', '-')}.zarr" for kind in KINDS}
    for kind, argv in KINDS.items():
        words = [*argv, "--package", str(package), *SETTINGS, "--output", str(stores[kind])]
        if kind == "unfinished":
            _interrupted(words)
        else:
            assert main(words) == 0
    return stores


def _interrupted(words: list[str]) -> None:
    """The command, ended by Ctrl-C when some members are written."""
    write, calls = Store.write_members, iter(range(99))

    def stop(self: Store, *args: object) -> None:
        if next(calls) == STOPPED:
            raise KeyboardInterrupt
        write(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write_members", stop)
        assert main([*words, "--max-batch", "1"]) == 130
