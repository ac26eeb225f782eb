# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The codecs that could keep a field, and how small each makes the same fields: what the choice rests on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.codecs.numcodecs import Delta, FixedScaleOffset, PCodec

from bench.report import columns
from earth2_corrdiff.store.error_bounds import Bound

Codecs = Callable[[Bound], dict[str, Any]]


def _steps(bound: Bound) -> list[Any]:
    return [FixedScaleOffset(offset=0, scale=bound.scale, dtype="float32", astype="int32")]


def _blosc(shuffle: str) -> BloscCodec:
    return BloscCodec(cname="zstd", clevel=5, shuffle=shuffle)  # type: ignore[arg-type]


def _pcodec(level: int) -> dict[str, Any]:
    return {"serializer": PCodec(level=level), "compressors": None}


LOSSLESS: dict[str, Codecs] = {
    "Zarr's default (zstd)": lambda bound: {},
    "Blosc zstd, shuffle": lambda bound: {"compressors": _blosc("shuffle")},
    "Blosc zstd, bitshuffle": lambda bound: {"compressors": _blosc("bitshuffle")},
    "PCodec 8": lambda bound: _pcodec(8),
}
DELTA = {"dtype": "int32", "astype": "int32"}
BOUNDED: dict[str, Codecs] = {
    "steps, Blosc zstd, bitshuffle": lambda bound: {
        "filters": _steps(bound),
        "compressors": _blosc("bitshuffle"),
    },
    "steps, Delta, Blosc zstd, bitshuffle": lambda bound: {
        "filters": [*_steps(bound), Delta(**DELTA)],
        "compressors": _blosc("bitshuffle"),
    },
    "steps, PCodec 8": lambda bound: {"filters": _steps(bound), **_pcodec(8)},
    "steps, PCodec 12": lambda bound: {"filters": _steps(bound), **_pcodec(12)},
}


def codec_table(fields: Mapping[str, NDArray[np.float32]], bounds: Mapping[str, Bound]) -> str:
    """How many times smaller than float32 each codec makes the chunks, ``[T, M, H, W]`` of each variable."""
    lines = []
    for kind, group in (("lossless", LOSSLESS), ("bounded", BOUNDED)):
        for name, codecs in group.items():
            sizes, seconds = {}, 0.0
            for variable, field in fields.items():
                sizes[variable], spent = _size(field, codecs(bounds[variable]))
                seconds += spent
            raw = {variable: field.nbytes for variable, field in fields.items()}
            ratios = [f"{raw[variable] / size:.2f}" for variable, size in sizes.items()]
            total = f"{sum(raw.values()) / sum(sizes.values()):.2f}"
            lines.append((f"{kind}: {name}", total, *ratios, f"{sum(raw.values()) / 1e6 / seconds:.0f} MB/s"))
    return columns(("codecs, chunks alone", "all", *fields, "encoded"), lines)


def _size(field: NDArray[np.float32], codecs: dict[str, Any]) -> tuple[int, float]:
    """Bytes of all chunks, and seconds to encode them."""
    store = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(
            store, shape=field.shape, chunks=(1, 1, *field.shape[2:]), dtype="float32", **codecs
        )
    start = perf_counter()
    array[...] = field
    seconds = perf_counter() - start
    chunks = [value for key, value in store._store_dict.items() if key.startswith("c/")]
    return sum(len(value) for value in chunks), seconds
