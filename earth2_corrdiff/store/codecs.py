# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Zarr's codecs of a field: lossless ones of the specification, or integers of whole steps.

The last codec of every chain is a checksum of the chunk, so a reader refuses bytes that have changed.
No class of this package is among them, so a reader needs zarr alone; for PCodec the package pcodec, too.
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
    """Keywords of ``zarr.Group.create_array`` for a field that is kept as it is.

    By bytes, not by bits: with chunks of one field it is as small and faster.
    """
    return {"compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()]}


def plain() -> dict[str, Any]:
    """The same for coordinates and other small arrays: as they are."""
    return {"compressors": [Crc32cCodec()]}


def small() -> dict[str, Any]:
    """The same for numbers of members: Zarr's own default."""
    return {"compressors": [ZstdCodec(level=0), Crc32cCodec()]}


def bounded(bound: Bound) -> dict[str, Any]:
    """The same for a field that is kept within a bound; with Blosc where there is no PCodec."""
    with warnings.catch_warnings():  # that the specification of Zarr 3 does not have them: readers are told
        warnings.simplefilter("ignore")
        steps = [FixedScaleOffset(offset=0, scale=bound.scale, dtype="float32", astype="int32")]
        if has_pcodec():
            return {"filters": steps, "serializer": PCodec(level=LEVEL), "compressors": [Crc32cCodec()]}
    blosc = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    return {"filters": steps, "compressors": [blosc, Crc32cCodec()]}


def described() -> str:
    """The codecs of ``bounded``, in words."""
    return WITH_PCODEC if has_pcodec() else WITH_BLOSC


def has_pcodec() -> bool:
    """Whether PCodec is there, in a version that works with this zarr."""
    try:
        get_numcodec({"id": "pcodec"})
    except ValueError:  # numcodecs.errors.UnknownCodecError
        return False
    return True


def warn_without_pcodec() -> None:
    """Say it once, before anything is computed."""
    if not has_pcodec():
        logger.warning("without pcodec the output is kept with Blosc, about a quarter larger; {}", INSTALL)


def check_readable(arrays: Iterable[zarr.Array[Any]], place: object) -> None:
    """Refuse arrays whose codecs are not installed; otherwise the first write or read would fail.

    Raises
    ------
    InputError
        If an array needs pcodec and it is not there
    """
    for array in arrays:
        if isinstance(array.serializer, PCodec) and not has_pcodec():
            raise InputError(f"{place} is compressed with PCodec, which is not installed; {INSTALL}")


def consolidate(store: Any) -> None:
    """Copy the metadata of all arrays into one file; transactional stores, as IceChunk, have no such copy.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Of a group whose arrays are all there
    """
    if not getattr(store, "supports_consolidated_metadata", True):
        return
    with warnings.catch_warnings():  # that other readers of Zarr 3 may ignore the copy
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
