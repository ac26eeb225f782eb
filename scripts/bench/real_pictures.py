# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of real weather beside its truth: small PNGs for a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bench.real_weather import Part, Study, truth_of
from earth2_corrdiff.plotting.figures import plot_comparison
from earth2_corrdiff.plotting.panels import member_quantities
from earth2_corrdiff.store import reader

SIDE, STRIDE = 256, 32
"""Largest side of a picture in points, and the steps in which its place is looked for."""
DPI, COLORS = 75, 256


def draw(study: Study, stores: Sequence[tuple[Part, Path]], pairs: Path, folder: Path) -> list[Path]:
    """Each quantity of a study when, and in the square where, most of the truth reaches its threshold."""
    paths = []
    for name, threshold in study.pictures:
        part, store, time, window = _most(study, stores, pairs, name, threshold)
        ds = reader.open_store(store)
        ds = ds if part.lead is None else reader.at_lead(ds, 0)
        ds.attrs.setdefault("attribution", study.credit)
        cut = dict(zip(reader.horizontal_dims(ds), window, strict=True))
        truth = truth_of(pairs, part).sel(time=time)
        fields = {
            str(n): np.asarray(truth[n].values, np.float64)[window] for n in reader.output_variables(ds)
        }
        figure = plot_comparison(ds.isel(cut), time, fields, name, threshold)
        paths.append(folder / f"{study.name}-{name}.png")
        _save(figure, paths[-1])
    return paths


def _most(
    study: Study, stores: Sequence[tuple[Part, Path]], pairs: Path, name: str, threshold: float
) -> tuple[Part, Path, np.datetime64, tuple[slice, slice]]:
    """Part, store, time and window with the largest share of values above a threshold."""
    best, found = -1.0, None
    for part, store in stores:
        ds, truth = reader.open_store(store), truth_of(pairs, part)
        quantity = next(q for q in member_quantities(ds) if q.name == name)
        for time in part.valid:
            fields = [truth[v].sel(time=time).to_numpy().astype(np.float64) for v in quantity.variables]
            values = (
                np.hypot(*fields) if quantity.is_vector else quantity.factor * fields[0] + quantity.offset
            )
            share, window = _window(values > threshold)
            if share > best:
                best, found = share, (part, store, time, window)
    assert found is not None
    return found


def _window(events: np.ndarray) -> tuple[float, tuple[slice, slice]]:
    """The square with the most events, and their share."""
    H, W = events.shape
    corners = [
        (j, i) for j in range(0, max(H - SIDE, 0) + 1, STRIDE) for i in range(0, max(W - SIDE, 0) + 1, STRIDE)
    ]
    windows = [(slice(j, j + SIDE), slice(i, i + SIDE)) for j, i in corners]
    shares = [float(events[window].mean()) for window in windows]
    at = int(np.argmax(shares))
    return shares[at], windows[at]


def _save(figure: Figure, path: Path) -> None:
    """A PNG of few colours, those of the scales among them: a page of pictures stays below a megabyte."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    Image.open(buffer).convert("RGB").quantize(
        COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(path, optimize=True)
