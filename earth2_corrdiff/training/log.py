# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Loss curves: a CSV that continues after a resume, and a picture of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import whole

COLUMNS = ("step", "loss", "validation", "learning_rate", "gradient_norm")
Row = Mapping[str, float | None]


class Log:
    """The losses of a stage, one line per step.

    Parameters
    ----------
    path : Path
        The CSV; rows after ``done`` are dropped: they belong to steps that a resume does again
    done : int
        Steps done
    channels : Sequence[str], optional
        Names of outputs, each with a loss of its own

    Raises
    ------
    InputError
        If the file is not such a CSV
    """

    def __init__(self, path: Path, done: int, channels: Sequence[str] = ()) -> None:
        self.path = path
        self._columns = (*COLUMNS, *(f"loss_{name}" for name in channels))
        rows = read_log(path)[:done] if path.exists() else []
        with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)

    def write(self, row: Row) -> None:
        """Add a step."""
        self._writer.writerow({name: _text(row[name]) for name in self._columns})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV of losses.

    Raises
    ------
    InputError
        If it is not one
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
        raise InputError(f"{path} is not a table of losses; remove it")
    return rows


def draw(paths: Mapping[str, Path], target: Path, title: str) -> None:
    """Draw loss curves over each other.

    Parameters
    ----------
    paths : Mapping[str, Path]
        A CSV for each name in the legend
    target : Path
        The picture, PNG
    title : str
        Above it
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    colors = ("tab:blue", "tab:orange", "tab:green", "tab:red")
    for color, (name, path) in zip(colors, paths.items(), strict=False):
        rows = read_log(path)
        steps = np.array([int(row["step"]) for row in rows])
        losses = np.array([float(row["loss"]) for row in rows])
        window = max(1, len(steps) // 50)
        ax.plot(steps, losses, color=color, alpha=0.2, linewidth=0.7)
        _draw_channels(ax, rows, steps, window)
        if len(steps) >= window > 1:
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            ax.plot(
                steps[window - 1 :], smooth, color=color, label=f"{name}: training, mean of {window} steps"
            )
        else:
            below = color == colors[0] and len(paths) > 1  # so that it is visible where they agree
            width, alpha = (3.5, 0.4) if below else (1.2, 1.0)
            ax.plot(steps, losses, color=color, linewidth=width, alpha=alpha, label=f"{name}: training")
        seen = [(int(row["step"]), float(row["validation"])) for row in rows if row["validation"]]
        if seen:
            ax.plot(*zip(*seen, strict=True), "o--", color=color, markersize=3.5, label=f"{name}: validation")
    ax.set(xlabel="optimiser step", ylabel="loss", title=title, yscale="log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    ax.grid(alpha=0.3, which="both")
    ax.legend(frameon=False)
    figure.savefig(target, dpi=120)


def _draw_channels(ax: Any, rows: Sequence[Mapping[str, str]], steps: Any, window: int) -> None:
    """The smoothed loss of each output, thin, where there are several."""
    import numpy as np

    names = [name for name in rows[0] if name.startswith("loss_")] if rows else []
    for name in names if len(names) > 1 and len(steps) >= window else ():
        losses = np.array([float(row[name] or "nan") for row in rows])
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        ax.plot(steps[window - 1 :], smooth, linewidth=0.7, label=name.removeprefix("loss_"))
