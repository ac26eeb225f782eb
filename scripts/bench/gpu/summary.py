# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The results as short tables in Markdown, bad news first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..report import markdown
from . import verdict
from .candidates import SHIPPED
from .ceilings import WAYS
from .correctness import NO_WAIT
from .tiles import BASELINES

Found = Mapping[str, Any]
FIRST_SECONDS, PEAK = "first call s", "peak GB"


def text(results: Found) -> str:
    """All that there is to say about ``results``, the content of results.json."""
    sections: Found = results.get("sections", {})
    parts: Iterable[Callable[[Found], str]] = (
        *(_ceilings, _kernels, _correctness, _demo, _tests, _steps, _compiled, _ensembles, _profiles),
        *(_domain, _training, _tiles),
    )
    blocks = [_head(results), _wrong(sections), *(part(sections) for part in parts)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def number(value: Any, form: str = ".2f") -> str:
    """A number in a table; empty where there is none, and text as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(value, form)
    return "" if value is None else str(value)


def _block(title: str, *parts: str) -> str:
    """A heading and what is not empty; empty where all is."""
    kept = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *kept]) if kept else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _head(results: Found) -> str:
    about = results.get("sections", {}).get("A", {}).get("environment", {})
    card = about.get("card", {})
    power = [f"driver {card.get('driver_version')}, power limit {card.get('power.limit')}"] if card else []
    clocks = [f"clocks {card.get('clocks.sm')} of {card.get('clocks.max.sm')}"] if card else []
    versions = [f"{name} {v}" for name, v in about.get("versions", {}).items() if v]
    stand_ins = about.get("stand-ins")
    lines = [
        f"# Check of {about.get('device', 'a device that section A did not see')}",
        f"commit {results.get('commit') or 'unknown'}; `{results.get('command', '')}`",
        ", ".join([*power, *clocks, *versions]),
        f"tuned: {about['tuned']}" if "tuned" in about else "",
        f"stand-ins for packages: {', '.join(stand_ins)}" if stand_ins else "",
        f"**imports failed: {results['imports failed']}**" if "imports failed" in results else "",
    ]
    return "\n\n".join(line for line in lines if line)


def _wrong(sections: Found) -> str:
    faults, left_out = verdict.faults(sections), verdict.left_out(sections)
    return "\n\n".join(
        [
            "## What is wrong\n\n" + (_list(faults) or "Nothing."),
            *(["## What was left out\n\n" + _list(left_out)] if left_out else []),
        ]
    )


def _ceilings(sections: Found) -> str:
    a: Found = sections.get("A", {})
    products = ", ".join(
        f"{name} {number(rate, '.0f')}" for name, rate in a.get("products TFLOP/s", {}).items()
    )
    first = f"copy {number(a['copy GB/s'], '.0f')} GB/s; products, TFLOP/s: {products}" if products else ""
    rows = []
    for batch, ms in a.get("convolutions of a step, ms", {}).items():
        best = max(row["TFLOP/s"] for row in a["convolutions"][batch].values())
        rows.append([batch, *(number(ms.get(way)) for way in WAYS), number(best, ".0f")])
    header = ["convolutions of one step alone, bf16", *(f"ms, {way}" for way in WAYS), "best TFLOP/s"]
    return _block("A. Ceilings", first, markdown(header, rows) if rows else "")


def _kernels(sections: Found) -> str:
    lines = []
    for name, found in sections.items():
        rows = found.get("rows", {}) if name.startswith("Bk") else {}
        if rows:
            worst = max(error for row in rows.values() for error in _errors_of(row))
            good = sum(row["good"] for row in rows.values())
            version = found.get("version", "on a CPU")
            lines.append(f"{name[3:]}, {version}: {good} of {len(rows)} good, worst error {worst:.1e}")
    return _block("B. Kernels against float64", _list(lines))


def _errors_of(row: Found) -> list[float]:
    """Errors of kernels and gradients; that of a shift's gradient, which nearly vanishes, is left out."""
    gradients = [error for name, error in row.get("gradients", {}).items() if name != "shift"]
    forward = [part["error"] for part in row.values() if isinstance(part, dict) and "error" in part]
    return gradients + forward


def _correctness(sections: Found) -> str:
    b: Found = sections.get("B", {})
    lines = [f"graph {name}: {_words(row)}" for name, row in b.get("graph", {}).items()]
    lines += [f"DiT {name}: {_words(row)}" for name, row in b.get("DiT", {}).items()]
    if "batches" in b:
        lines.append(f"members in batches: {_words(b['batches'])}")
    if "host waits" in b:
        waits = [where for where, said in b["host waits"].items() if said != NO_WAIT]
        lines.append(f"host waits: {', '.join(waits) or 'none'}")
    if "default batch" in b:
        lines.append(f"default batch before a run, after one, after two: {b['default batch']}")
    return _block("B. Graphs, waits, batches", _list(lines))


def _words(row: Found) -> str:
    forms = {name: "d" if isinstance(value, int) else ".2g" for name, value in row.items()}
    return ", ".join(f"{name} {number(value, forms[name])}" for name, value in row.items())


def _demo(sections: Found) -> str:
    rows = []
    for way, row in sections.get("B", {}).get("demo", {}).items():
        powers = row["power per octave from the domain's length down, ratio"].values()
        ratios = [ratio for octaves in powers for ratio in octaves]
        errors = [number(row[name], ".1e") for name in ("error", "largest difference")]
        around = f"{min(ratios):.4f} to {max(ratios):.4f}"
        rows.append([way, *errors, number(row["spread, ratio"], ".4f"), around])
    header = ["demo against the CPU's fp32", "relative L2", "largest", "spread x", "power x"]
    return _block("B. Demo package", markdown(header, rows) if rows else "")


def _tests(sections: Found) -> str:
    c: Found = sections.get("C", {})
    said = f"{c['last line']} (status {c['status']})" if "status" in c else ""
    return _block("C. Tests marked gpu", said, _list(line[:250] for line in c.get("not passed", ())))


STEP_COLUMNS: Mapping[str, tuple[str, str]] = {
    "ms": ("ms", ".2f"),
    "x first": ("times faster than first", ".2f"),
    "TFLOP/s": ("TFLOP/s", ".0f"),
    "of fused roofline": ("of roofline, fused", ".0%"),
    "of ideal": ("of roofline, ideal", ".0%"),
    "convolutions' share": ("convolutions alone, share", ".0%"),
    PEAK: (PEAK, ".2f"),
    FIRST_SECONDS: (FIRST_SECONDS, ".1f"),
}


def _steps(sections: Found) -> str:
    d: Found = sections.get("D", {})
    parts = []
    for batch, found in d.get("steps", {}).items():
        rows = []
        for name, row in found.items():
            if "ms" in row:
                errors = d.get("errors", {}).get(name, {}).values()
                cells = [number(row.get(key), form) for key, form in STEP_COLUMNS.values()]
                rows.append([name, *cells, number(max(errors, default=None), ".1e")])
        header = [f"one denoising step, {batch}", *STEP_COLUMNS, "relative L2"]
        parts.append(markdown(header, rows) if rows else "")
    same = d.get("graph equals eager", {})
    parts.append(f"graph equals eager, bit for bit: {all(same.values())}" if same else "")
    return _block("D. Steps", *parts)


def _compiled(sections: Found) -> str:
    k: Found = sections.get("K", {})
    rows = [
        [name, number(row["ms"]), number(row["times faster than first"])]
        for name, row in k.get("steps", {}).items()
    ]
    first = [
        f"{mode}: first call {number(row[FIRST_SECONDS], '.0f')} s"
        for mode, row in k.get("compile", {}).items()
    ]
    table = markdown(["one denoising step, batch 1", "ms", "x first"], rows) if rows else ""
    return _block("K. Stock with torch.compile", table, _list(first))


def _ensembles(sections: Found) -> str:
    d: Found = sections.get("D", {})
    rows = []
    for case, found in d.get("ensembles", {}).items():
        base, note = found.get(SHIPPED), ""
        if base is None:  # stock has no such solver: its own run of 8 steps
            members = case.partition(",")[0]
            base = d["ensembles"].get(f"{members}, euler 8", {}).get(SHIPPED)
            note = " (stock: its own 8)" if base else ""
        for name, row in found.items():
            ratio = number(base["ms"] / row["ms"] if base else None)
            rows.append([case + note, name, number(row["ms"], ".1f"), ratio])
    table = markdown(["coarse tensor to fields", "variant", "ms", "x stock as shipped"], rows) if rows else ""
    whole = [f"{name} {error:.1e}" for name, error in d.get("errors of a whole run", {}).items()]
    parts = [f"{name} {number(ms)}" for name, ms in d.get("parts of an ensemble, ms", {}).items()]
    return _block(
        "D. Ensembles",
        table,
        f"relative L2 of a whole run to stock fp32, same noise: {', '.join(whole)}" if whole else "",
        f"parts, ms: {', '.join(parts)}" if parts else "",
        f"memory: {_words(d['memory'])}" if "memory" in d else "",
    )


def _profiles(sections: Found) -> str:
    parts = []
    for name, found in sections.get("D", {}).get("profiles", {}).items():
        rows = []
        for row in found["costliest"][:10]:
            kernel = row["kernel"][:90].replace("|", "/")
            rows.append([kernel, str(row["calls"]), number(row["ms"]), number(row["share"], ".0%")])
        classes = ", ".join(f"{kind} {number(ms)}" for kind, ms in found["by class, ms"].items())
        head = f"{name}: {number(found['ms'])} ms in {found['kernels']} kernels: {classes}"
        parts.append(f"{head}\n\n{markdown(['kernel', 'calls', 'ms', 'share'], rows)}")
    return _block("D. Costliest kernels of one step", *parts)


def _domain(sections: Found) -> str:
    e: Found = sections.get("E", {})
    rows = []
    for name, row in e.get("patches", {}).get("ways", {}).items():
        if "ms" in row:
            times = [number(row["ms"], ".1f"), number(row["times faster than first"])]
            rows.append([f"step, {name}", *times, number(row[PEAK]), ""])
    for name, row in e.get("regression", {}).items():
        peak = row.get(PEAK, row["peak GB, first call"])
        rows.append([f"regression, {name}", number(row["ms"], ".1f"), "", number(peak), row["placement"]])
    table = markdown(["bf16", "ms", "x first", PEAK, "placement"], rows) if rows else ""
    cuts = e.get("patches", {}).get("stock cuts patches, ms")
    return _block(f"E. {e.get('domain', 'domain')}", table, f"stock cuts patches, ms: {cuts}" if cuts else "")


def _training(sections: Found) -> str:
    f: Found = sections.get("F", {})
    columns = ("regression", "forward", "backward")
    rows = []
    for name, row in f.get("recipes", {}).items():
        if "ms per patch" in row:
            parts = [number(row["parts, ms per patch"][column]) for column in columns]
            total, ratio = number(row["ms per patch"]), number(row["times faster than first"])
            rows.append([name, *parts, total, ratio, number(row.get(PEAK))])
    header = ["recipe, cumulative", *columns, "ms per patch", "x first", PEAK]
    return _block("F. Training", f.get("size", "") if rows else "", markdown(header, rows) if rows else "")


def _tiles(sections: Found) -> str:
    g: Found = sections.get("G", {})
    rows = []
    for shape, found in g.get("GB/s", {}).items():
        best = max((name for name in found if name not in BASELINES), key=lambda n: found[n], default=None)
        known = (found.get(name) for name in BASELINES)
        cells = [number(rate, ".0f") for rate in (*known, found.get(best))]
        rows.append([shape, *cells, best or ""])
    header = ["GB/s", *BASELINES, "best norm of a map", "its tiles"]
    defaults = f"defaults: {_words(g['defaults'])}" if "defaults" in g else ""
    return _block("G. Tiles", defaults, markdown(header, rows) if rows else "")
