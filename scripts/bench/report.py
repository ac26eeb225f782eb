# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Results as tables on the terminal, as JSON, and as Markdown for ``README.md`` beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from earth2_corrdiff.base.errors import InputError, first_line

from .rows import Row

FORMAT = 1
BEGIN, END = "<!-- benchmark -->", "<!-- end of benchmark -->"
_NAMES = {
    "regression": "regression",
    "step": "denoising step",
    "loop": "sampler's loop",
    "sampler": "sampler",
    "ensemble": "ensemble, coarse tensor to fields",
}
OPERATORS = (
    "One denoising step by operator class. On a CPU, a convolution of ours has the norm before it and the "
    "residual behind it inside."
)


def seconds(value: float) -> str:
    """A duration with three digits: ``24.1 s``, ``953 ms``, ``31.0 µs``."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= 0.9995 * factor:  # 999.6 ms rounds to 1 s
            return f"{_digits(value / factor)} {unit}"
    return f"{_digits(value / 1e-6)} µs"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in columns; the first is aligned left, the others right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is aligned left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))


def title(what: str, members: int, steps: int) -> str:
    """A case in words."""
    parts = [_NAMES[what]]
    if what != "regression":
        parts.append(f"{members} member" + ("s" if members > 1 else ""))
    if what not in ("regression", "step"):
        parts.append(f"{steps} steps")
    return ", ".join(parts)


# the terminal


def _per(value: float | None, unit: float, digits: int = 0) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _error(row: Row) -> str:
    verdict = {None: "", True: "", False: " too large"}[row.accepted]
    return ("bit-equal" if row.equal else f"{row.error:.1e}") + verdict


def case_table(rows: Sequence[Row]) -> str:
    """All variants of one case."""
    header = ["variant", "median", "min … max", "x stock fp32", "x same type", "error"]
    header += ["GFLOP/s", "GB/s", "of roofline", "ideal", "memory GB", "first call"]
    lines = [
        [
            row.variant,
            seconds(row.median),
            f"{seconds(row.low)} … {seconds(row.high)}",
            f"{row.ratio:.2f}",
            _per(row.ratio_same_type, 1, 2),
            _error(row),
            _per(row.flop_rate, 1e9),
            _per(row.byte_rate, 1e9, 1),
            _per(row.roofline, 0.01) + ("" if row.roofline is None else " %"),
            _per(row.roofline_ideal, 0.01) + ("" if row.roofline_ideal is None else " %"),
            _per(row.peak_memory, 1e9, 2),
            seconds(row.first_call),
        ]
        for row in rows
    ]
    used = [i for i in range(len(header)) if any(line[i] for line in lines)]
    return columns([header[i] for i in used], ([line[i] for i in used] for line in lines))


def operator_table(
    profiles: Mapping[str, Mapping[str, float]], least: Mapping[str, float], flops: Mapping[str, int]
) -> tuple[list[str], list[list[str]]]:
    """The ten operator classes that cost the first variant or the last one most; then the rest, and the sum.

    Parameters
    ----------
    profiles : Mapping[str, Mapping[str, float]]
        Seconds per class, per variant; the first is "before", the last "after"
    least : Mapping[str, float]
        Least seconds per class in the last variant's type
    flops : Mapping[str, int]
        FLOPs per class

    Returns
    -------
    tuple[list[str], list[list[str]]]
        Header and rows, for ``columns`` or ``markdown``
    """
    before, after = list(profiles.values())[0], list(profiles.values())[-1]
    kinds = sorted({*before, *after}, key=lambda kind: -max(before.get(kind, 0.0), after.get(kind, 0.0)))
    groups = [(kind, [kind]) for kind in kinds[:10]]
    groups += [("all others", kinds[10:])] if kinds[10:] else []
    header = ["operators", "GFLOP", *profiles, "roofline", "of roofline"]
    rows = []
    for name, members in [*groups, ("sum", kinds)]:
        floor = sum(least.get(kind, 0.0) for kind in members)
        spent = [sum(profile.get(kind, 0.0) for kind in members) for profile in profiles.values()]
        work = sum(flops.get(kind, 0) for kind in members)
        rows.append(
            [
                name,
                f"{work / 1e9:.1f}" if work else "",
                *(seconds(s) if s else "" for s in spent),
                seconds(floor) if floor else "",
                f"{100 * floor / spent[-1]:.0f} %" if floor and spent[-1] else "",
            ]
        )
    return header, rows


# files


def write(path: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write a run: what it ran on, and all rows with every sample."""
    content = {"format": FORMAT, **header, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read what ``write`` wrote; its rows are ``Row``.

    Raises
    ------
    InputError
        If the file is missing, or no result of this benchmark
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, not {FORMAT}")
        rows = [Row(**{**row, "seconds": tuple(row["seconds"])}) for row in content["rows"]]
        return {**content, "rows": rows}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no result of bench-corrdiff.py ({first_line(error)})") from error


# the README


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.accepted is False:
        return f"error {row.error:.0e}: not accepted"
    text = seconds(row.median)
    if row.variant != "stock fp32":
        text += f", **{row.ratio:.2f}** ×" if row.variant.startswith("ours") else f", {row.ratio:.2f} ×"
        text += ", bit-equal" if row.equal else f", {row.error:.0e}"
    if row.variant.startswith("ours") and row.roofline is not None:
        text += f", {100 * row.roofline:.0f} %"
    return text


def readme_table(results: Iterable[Mapping[str, Any]]) -> str:
    """A row per case with times, ratios to stock fp32 and errors; a caption per file."""
    parts = []
    for content in results:
        rows: list[Row] = content["rows"]
        variants = list(dict.fromkeys(row.variant for row in rows))
        cases = dict.fromkeys((row.what, row.members, row.steps) for row in rows)
        found = {(row.what, row.members, row.steps, row.variant): row for row in rows}
        lines = [[title(*case), *(_cell(found.get((*case, v))) for v in variants)] for case in cases]
        parts += [markdown([content["size"], *variants], lines), caption(content)]
        for table in content.get("operators", []):
            parts += [markdown(*operator_table(**table)), f"*{OPERATORS}*"]
    return "\n\n".join(parts) + "\n"


def caption(content: Mapping[str, Any]) -> str:
    """What a table's numbers were measured on and with."""
    machine, versions = content["machine"], content["versions"]
    load = " to ".join(f"{value:.1f}" for value in machine["load"])
    rounds = len(content["rows"][0].seconds)
    return (
        f"*Median of {rounds} interleaved rounds in one process; times faster than stock fp32 (median of the "
        f"ratios per round); relative L2 error to {content['reference']}; share of the roofline of fused "
        f"operators. {machine['device']}, {machine['threads']} threads, load average {load}; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items() if version)}. "
        f"Measured peaks: {peaks_text(content['peaks'])}. `{content['command']}`*"
    )


def peaks_text(peaks: Mapping[str, Any]) -> str:
    """Measured peaks in words."""
    matmul = ", ".join(f"{p} {rate / 1e9:.0f} GFLOP/s" for p, rate in peaks["matmul"].items())
    return f"matrix product {matmul}; copy {peaks['copy'] / 1e9:.0f} GB/s"


def insert(path: Path, table: str) -> None:
    """Replace what is between the markers in a file.

    Raises
    ------
    InputError
        If the file cannot be read, or has not both markers, once each and in order
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in after:
        raise InputError(f"{path} needs the markers {BEGIN} and {END}, once each and in this order")
    path.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")
