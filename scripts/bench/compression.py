# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The command bench-compression.py: what --compress saves, and what it changes in scores and spectra."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
import zarr
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from bench.codecs import codec_table
from bench.provenance import command, machine, versions
from bench.report import columns
from earth2_corrdiff import demo
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import ArgumentParser
from earth2_corrdiff.model.spec import check_count
from earth2_corrdiff.sources import make_source
from earth2_corrdiff.store.error_bounds import BOUNDED, LOSSLESS, Bound, Compression, as_text
from earth2_corrdiff.verification import Bootstrap, Result, Settings, open_verification
from earth2_corrdiff.verification.scores import resolved

if TYPE_CHECKING:
    from earth2_corrdiff.model.earth2studio import CorrDiff

SETTINGS = (
    BOUNDED,
    "mrr=0.05,t2m=0.01,u10m=0.02,v10m=0.02",
    "mrr=0.25,t2m=0.05,u10m=0.05,v10m=0.05",
    "mrr=0.5,t2m=0.1,u10m=0.1,v10m=0.1",
)
TIMES = (
    *("2024-07-27T09", "2023-08-30T23", "2023-02-02T05"),
    *("2023-11-20T04", "2025-10-30T18", "2023-01-29T14"),
)
"""Random hours that the demo's model has not learned from."""
ROUNDS = 5
Fields = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """What a setting gives.

    Attributes
    ----------
    setting : str
        As ``--compress`` takes it
    raw, fields, store : int
        Bytes of the output variables as float32, of their arrays, and of the whole store with coordinates and
        coarse input
    error : float
        Largest error over its bound, of all variables
    crps : dict[str, float]
        Relative change of the fair CRPS of each quantity to the lossless store
    fss : float
        Largest change of a fractions skill score
    spectrum, resolved : float
        Largest relative change of the power in a ring, over all wavelengths, and over those of four cells and
        more
    encode : float
        Seconds to encode a member
    """

    setting: str
    raw: int
    fields: int
    store: int
    error: float
    crps: dict[str, float]
    fss: float
    spectrum: float
    resolved: float
    encode: float


def parser() -> ArgumentParser:
    """The options; the defaults end within minutes on two cores."""
    p = ArgumentParser(prog="bench-compression.py", description=__doc__)
    add = p.add_argument
    add("--settings", nargs="+", default=SETTINGS, metavar="HOW", help=f"default: {' '.join(SETTINGS)}")
    add("--times", nargs="+", default=TIMES, metavar="TIME", help="of the demo (default: six held-out hours)")
    add("--members", type=int, default=4, metavar="N", help="at each time (default: 4)")
    add("--json", type=Path, metavar="PATH", help="also write all numbers")
    return p


def run(args: argparse.Namespace) -> None:
    """Make the stores, verify them together, and print the tables."""
    if check_count("--members", args.members) < 2:
        raise InputError("--members must be 2 or more: one member has no spread")
    if len(set(args.settings)) < len(args.settings) or LOSSLESS in args.settings:
        raise InputError("give each of --settings once; lossless is always among them")
    from earth2_corrdiff.model.earth2studio import CorrDiff

    logger.remove()
    model = CorrDiff.load_model(demo.folder())
    model.number_of_samples = args.members
    outputs = model.spec.outputs
    asked = {text: Compression.parse(text) for text in (LOSSLESS, *args.settings)}
    bounds = {
        text: {} if asking is None else asking.of(outputs.names, outputs.center, outputs.scale)
        for text, asking in asked.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        stores, compute = _make(model, args.times, asked, Path(folder))
        result = _verify(stores)
        fields = _fields(stores[LOSSLESS], outputs.names)
        rows = [_row(text, bounds[text], stores[text], fields, result) for text in asked]
    defaults = Compression(defaults=True).of(outputs.names, outputs.center, outputs.scale)
    about: dict[str, Any] = {"machine": machine(torch.device("cpu")), "versions": versions()}
    about["command"] = command()
    if args.json is not None:
        content = {**about, "compute": compute, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"{size_table(rows, compute)}\n\n{score_table(rows)}\n\n{codec_table(fields, defaults)}\n")
    used = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    print(f"{BOUNDED}: {as_text(defaults)}; changes are those against the lossless store.")
    print(f"{len(args.times)} times x {args.members} members of the demo, {compute:.2f} s each.")
    print(f"{about['machine']['device']}; {used}\n{about['command']}")


def _make(
    model: CorrDiff, times: Sequence[str], asked: dict[str, Compression | None], folder: Path
) -> tuple[dict[str, Path], float]:
    """A store for each setting, by the run itself; seconds to compute a member."""
    from earth2_corrdiff.run.downscaling import Downscaling, Options

    stores, seconds = {}, 0.0
    _remember(model)
    for number, (text, compress) in enumerate(asked.items()):
        stores[text] = folder / f"{number}.zarr"
        options = Options(seed=0, compress=compress)
        each = Downscaling(times, model, make_source("demo"), stores[text], options)
        for _ in each:
            pass
        seconds = seconds or each.seconds["compute"] / each.members  # the first run computes
    return stores, seconds


def _remember(model: CorrDiff) -> None:
    """Let the model compute each member once: its seed says which one it is, whatever is kept of it."""
    compute, known = model.downscaler.members, dict[int, Tensor]()

    def members(
        coarse: Tensor, seeds: Sequence[int], *how: Any, **more: Any
    ) -> Iterator[tuple[int, int, Tensor]]:
        if not all(seed in known for seed in seeds):
            for _, first, block in compute(coarse, seeds, *how, **more):
                known.update(zip(seeds[first : first + len(block)], block.clone(), strict=True))
        yield from ((0, i, known[seed][None]) for i, seed in enumerate(seeds))

    model.downscaler.members = members  # type: ignore[method-assign]


def _verify(stores: dict[str, Path]) -> Result:
    """All settings against the demo's truth; the first one is the lossless store."""
    others = {text: path for text, path in stores.items() if text != LOSSLESS}
    settings = Settings(bootstrap=Bootstrap(replicates=0))
    verification = open_verification(stores[LOSSLESS], "demo", settings=settings, compare=others)
    for _ in verification:
        pass
    return verification.result()


def _fields(store: Path, names: Sequence[str]) -> Fields:
    with xr.open_zarr(store) as ds:
        return {name: ds[name].to_numpy() for name in names}


def _row(text: str, bounds: dict[str, Bound], store: Path, fields: Fields, result: Result) -> Row:
    kept = _fields(store, list(bounds))
    errors = [
        float(np.abs(kept[name].astype(float) - fields[name]).max()) / bounds[name].absolute
        for name in bounds
    ]
    name, first = text if text != LOSSLESS else result.forecasts[0], result.forecasts[0]
    power = [_change(result, "power", name, target) for target in result.targets]
    fss = [
        np.nanmax(np.abs(result.score("fss", name, t).value - result.score("fss", first, t).value))
        for t in result.targets
        if t.thresholds
    ]
    return Row(
        setting=text,
        raw=sum(field.nbytes for field in fields.values()),
        fields=sum(_size(store / variable) for variable in fields),
        store=_size(store),
        error=max(errors, default=0.0),
        crps={target.name: float(_change(result, "crps", name, target)) for target in result.targets},
        fss=float(max(fss)),
        spectrum=max(float(np.abs(change).max()) for change in power),
        resolved=max(float(np.abs(change[: resolved(len(change))]).max()) for change in power),
        encode=_encode(fields, bounds),
    )


def _change(result: Result, score: str, name: str, target: Any) -> NDArray[np.float64]:
    """Relative change of a score to that of the lossless store."""
    own, reference = (result.score(score, each, target).value for each in (name, result.forecasts[0]))
    return np.asarray(own / reference - 1)


def _encode(fields: Fields, bounds: dict[str, Bound]) -> float:
    """Seconds to encode a member, all variables, as a run does it: the fastest of some rounds."""
    from earth2_corrdiff.store.arrays import storage

    seconds = []
    for _ in range(ROUNDS):
        spent = 0.0
        for name, field in fields.items():
            one = field[:1, :1]
            how = {"shape": one.shape, "chunks": one.shape, "dtype": one.dtype, **storage(bounds.get(name))}
            array = zarr.create_array(zarr.storage.MemoryStore(), **how)
            start = perf_counter()
            array[...] = one
            spent += perf_counter() - start
        seconds.append(spent)
    return min(seconds)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size_table(rows: list[Row], compute: float) -> str:
    """Bytes and time, a setting a line; the first one is the lossless store."""
    header = ("setting", "x float32", "x lossless", "MiB store", "error / bound", "encode", "of compute")
    lines = [
        (
            *(row.setting, f"{row.raw / row.fields:.2f}", f"{rows[0].fields / row.fields:.2f}"),
            *(f"{row.store / 2**20:.2f}", f"{row.error:.3f}", f"{1e3 * row.encode:.1f} ms"),
            f"{100 * row.encode / compute:.1f} %",
        )
        for row in rows
    ]
    return columns(header, lines)


def score_table(rows: list[Row]) -> str:
    """Changes of scores and spectra, a setting a line."""
    names = list(rows[0].crps)
    header = ("fair CRPS and others", *names, "FSS, largest", "spectrum, worst", "of 4 cells and more")
    lines = [
        (
            *(row.setting, *(f"{100 * row.crps[name]:+.3f} %" for name in names), f"{row.fss:.4f}"),
            *(f"{100 * row.spectrum:.2f} %", f"{100 * row.resolved:.3f} %"),
        )
        for row in rows[1:]
    ]
    return columns(header, lines)
