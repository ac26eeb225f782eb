# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Codecs of Zarr for a field: lossless ones of the specification, or integers of whole steps.

The last codec of every chain is a checksum of the chunk, so a reader refuses bytes that have changed.
No codec is a class of this package: a reader needs zarr alone, and for PCodec the package pcodec.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import zarr
from loguru import logger
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.numcodecs import FixedScaleOffset, PCodec
from zarr.registry import get_numcodec

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.store.error_bounds import Bound

LEVEL = 8
INSTALL = "pip install 'earth2-corrdiff[compress]'"
WITH_PCODEC = f"FixedScaleOffset to int32, PCodec level {LEVEL}"
WITH_BLOSC = "FixedScaleOffset to int32, Blosc zstd with bitshuffle"


def lossless() -> dict[str, Any]:
    """Keywords of ``zarr.Group.create_array`` for a lossless field.

    Bytes are shuffled, not bits: with chunks of one field that is as small and faster.
    """
    return {"compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()]}


def plain() -> dict[str, Any]:
    """The same for coordinates, which are not compressed."""
    return {"compressors": [Crc32cCodec()]}


def small() -> dict[str, Any]:
    """The same for seeds and other numbers of members: Zarr's own default."""
    return {"compressors": [ZstdCodec(level=0), Crc32cCodec()]}


def bounded(bound: Bound) -> dict[str, Any]:
    """The same for a field with a bounded error; with Blosc if PCodec is not installed."""
    with warnings.catch_warnings():  # the specification of Zarr 3 lacks them: the README says so
        warnings.simplefilter("ignore")
        steps = [FixedScaleOffset(offset=0, scale=bound.scale, dtype="float32", astype="int32")]
        if has_pcodec():
            return {"filters": steps, "serializer": PCodec(level=LEVEL), "compressors": [Crc32cCodec()]}
    blosc = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    return {"filters": steps, "compressors": [blosc, Crc32cCodec()]}


def codec_text() -> str:
    """The codecs of ``bounded`` as text."""
    return WITH_PCODEC if has_pcodec() else WITH_BLOSC


def has_pcodec() -> bool:
    """True if PCodec is installed, in a version that works with this zarr."""
    try:
        get_numcodec({"id": "pcodec"})
    except ValueError:  # numcodecs.errors.UnknownCodecError
        return False
    return True


def warn_without_pcodec() -> None:
    """Log a warning, before anything is computed, if PCodec is missing."""
    if not has_pcodec():
        logger.warning("without pcodec the output is kept with Blosc, about a quarter larger; {}", INSTALL)


def check_readable(arrays: Iterable[zarr.Array[Any]], name: object) -> None:
    """Refuse arrays of a store with this name if their codecs are not installed.

    Raises
    ------
    InputError
        If an array needs pcodec and it is not installed
    """
    for array in arrays:
        if isinstance(array.serializer, PCodec) and not has_pcodec():
            raise InputError(f"{name} is compressed with PCodec, which is not installed; {INSTALL}")


def consolidate(store: Any) -> None:
    """Copy the metadata of all arrays into one file; transactional stores like IceChunk have no such copy.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Store of a group whose arrays are all there
    """
    if not getattr(store, "supports_consolidated_metadata", True):
        return
    with warnings.catch_warnings():  # other readers of Zarr 3 may ignore the copy
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
