# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Animated GIF over the members of a time, or over the times of a member, written by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.plotting import panels
from earth2_corrdiff.plotting.figures import color_scales, plot_member
from earth2_corrdiff.plotting.panels import Scales
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.reader import Time

FRAME_DPI = 90.0
GREYS = 18
WHITE = GREYS - 1  # its position in the palette


def frames(
    ds: xr.Dataset, time: Time = 0, samples: Sequence[int] | None = None, scales: Scales | None = None
) -> Iterator[Figure]:
    """Yield the figure of each written member; all have one size and one set of scales."""
    index = reader.time_index(ds, time)
    members = reader.require_members(ds, index, None if samples is None else list(samples))
    scales = color_scales(ds, index) if scales is None else scales
    for sample in members:
        yield plot_member(ds, index, sample, scales)


def animate(
    ds: xr.Dataset,
    path: str | Path,
    time: Time = 0,
    samples: Sequence[int] | None = None,
    scales: Scales | None = None,
    seconds: float = 1.0,
) -> None:
    """Write an endless GIF that shows each member for some seconds.

    The parameters are those of `frames`. All frames share one palette of the scales' colours,
    so that none of them flickers or fades.

    Raises
    ------
    InputError
        As `plot_member`.
    OSError
        Where `path` cannot be written.
    """
    index = reader.time_index(ds, time)
    scales = color_scales(ds, index) if scales is None else scales
    _write(path, frames(ds, index, samples, scales), scales, seconds)


def frames_over_times(
    ds: xr.Dataset, sample: int = 0, times: Sequence[Time] | None = None, scales: Scales | None = None
) -> Iterator[Figure]:
    """Yield the figure of one member at each time at which it is written; all have one set of scales.

    `times` are all by default: all lead times of all starts, of a store of forecasts.
    """
    chosen = _written_times(ds, sample, times)
    scales = panels.color_scales(ds, {index: [sample] for index in chosen}) if scales is None else scales
    for index in chosen:
        yield plot_member(ds, index, sample, scales)


def animate_times(
    ds: xr.Dataset,
    path: str | Path,
    sample: int = 0,
    times: Sequence[Time] | None = None,
    scales: Scales | None = None,
    seconds: float = 1.0,
) -> None:
    """Write an endless GIF that shows one member at one time after the other.

    The parameters are those of `frames_over_times`; see `animate`.
    """
    chosen = _written_times(ds, sample, times)
    scales = panels.color_scales(ds, {index: [sample] for index in chosen}) if scales is None else scales
    _write(path, frames_over_times(ds, sample, chosen, scales), scales, seconds)


def _written_times(ds: xr.Dataset, sample: int, times: Sequence[Time] | None) -> list[int]:
    reader.checked_samples(ds, [sample])
    wanted = range(len(reader.cases(ds))) if times is None else [reader.time_index(ds, t) for t in times]
    chosen = [index for index in wanted if reader.is_written(ds, index, sample)]
    if not chosen:
        raise InputError(
            f"sample {sample} is written at none of the times: finish the run with run-corrdiff --resume"
        )
    return chosen


def _write(path: str | Path, figures: Iterable[Figure], scales: Scales, seconds: float) -> None:
    palette = _palette(scales)
    pictures = [_image(figure).quantize(palette=palette, dither=Image.Dither.NONE) for figure in figures]
    first, *rest = _of_one_size(pictures)
    duration = round(1000 * seconds)
    first.save(path, "GIF", save_all=True, append_images=rest, duration=duration, loop=0, optimize=False)


def _of_one_size(pictures: list[Image.Image]) -> list[Image.Image]:
    """Add white above pictures whose headings have fewer lines, so that the maps do not move."""
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in pictures), strict=True))
    same = []
    for picture in pictures:
        page = Image.new("P", (width, height), WHITE)
        page.putpalette(picture.getpalette() or [])
        page.paste(picture, (0, height - picture.height))
        same.append(page)
    return same


def _palette(scales: Scales) -> Image.Image:
    """GIF's 256 colours: greys for text, all of the radar's steps, and equal shares of the other scales."""
    maps = {scale.cmap.name: scale.cmap for scale in scales.values()}
    stepped = [cmap for cmap in maps.values() if cmap.N < 32]
    smooth = [cmap for cmap in maps.values() if cmap.N >= 32]
    colors = [(grey, grey, grey, 1.0) for grey in np.linspace(0.0, 1.0, GREYS)]
    for cmap in stepped:
        colors += cmap(np.arange(-1, cmap.N + 1)).tolist()
    share = (256 - len(colors)) // max(len(smooth), 1)
    for cmap in smooth:
        colors += cmap(np.linspace(0.0, 1.0, share)).tolist()
    holder = Image.new("P", (1, 1))
    holder.putpalette(np.round(255 * np.array(colors)[:, :3]).astype(np.uint8).tobytes())
    return holder


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=FRAME_DPI)
    return Image.open(buffer).convert("RGB")
