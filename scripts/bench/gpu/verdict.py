# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in the results of the check, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .correctness import NO_WAIT

Found = Mapping[str, Any]
PASSED = (0, 5)  # exit status of pytest: all passed, or none was there for this machine


def faults(sections: Mapping[str, Found]) -> list[str]:
    """A line for each thing that is wrong; empty where nothing is."""
    return [f"{name}: {line}" for name, found in sections.items() for line in _of(found)]


def left_out(sections: Mapping[str, Found]) -> list[str]:
    """A line for each thing that was not measured, and why."""
    lines = []
    for name, found in sections.items():
        if "skipped" in found:
            lines.append(f"{name}: skipped, {found['skipped']}")
        lines += [f"{name}: {what}: {why}" for what, why in found.get("left out", {}).items()]
    return lines


def _of(found: Found) -> Iterator[str]:
    if "killed" in found:
        yield f"killed, {found['killed']}"
    elif found.get("exit status", 0) != 0:
        yield f"ended with status {found['exit status']}"
    if "poisoned" in found:
        yield f"the device took no more work after {found['poisoned']}"
    yield from (f"{what}: {str(why)[:300]}" for what, why in found.get("failed", {}).items())
    yield from (f"a kernel is wrong: {bad}" for bad in found.get("bad", ()))
    yield from _unequal(found)
    waits = {k: v for k, v in found.get("host waits", {}).items() if v != NO_WAIT}
    yield from (f"the host waits in {where}: {why}" for where, why in waits.items())
    if found.get("status", 0) not in PASSED:
        yield f"tests: {found['last line'] or found['status']}"


def _unequal(found: Found) -> Iterator[str]:
    """What should have had the same bits, and values that are not finite."""
    for precision, row in found.get("graph", {}).items():
        if row.get("equal") is False:
            yield f"the captured graph in {precision} differs from eager steps by {row['error to eager']:.1e}"
    for where, equal in found.get("graph equals eager", {}).items():
        if not equal:
            yield f"the captured graph differs from eager steps in {where}"
    if found.get("batches", {}).get("same run again, same bits") is False:
        yield "the same run has other bits again"
    for precision, row in found.get("DiT", {}).items():
        error = row["error to the CPU"]
        if not error <= (1e-4 if precision == "fp32" else 3e-2):
            yield f"a DiT in {precision} has an error of {error:.1e}"
    for way, row in found.get("demo", {}).items():
        if not row["error"] <= row["bound"]:  # nan, too
            yield f"the demo in {way} has an error of {row['error']:.1e}, more than {row['bound']:.0e}"
