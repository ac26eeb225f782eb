# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Zarr's codecs of a field: lossless ones of the specification, or integers of whole steps.

No class of this package is among them, so a reader needs zarr alone; for PCodec the package pcodec, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import zarr
from loguru import logger
from zarr.codecs import BloscCodec
from zarr.codecs.numcodecs import FixedScaleOffset, PCodec
from zarr.registry import get_numcodec

from earth2_corrdiff.compression import Bound
from earth2_corrdiff.errors import InputError

LEVEL = 8
INSTALL = "pip install 'earth2-corrdiff[compress]'"
WITH_PCODEC = f"FixedScaleOffset to int32, PCodec level {LEVEL}"
WITH_BLOSC = "FixedScaleOffset to int32, Blosc zstd with bitshuffle"


def lossless() -> dict[str, Any]:
    """Keywords of ``zarr.Group.create_array`` for a field that is kept as it is.

    By bytes, not by bits: with chunks of one field it is as small and faster.
    """
    return {"compressors": BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")}


def bounded(bound: Bound) -> dict[str, Any]:
    """The same for a field that is kept within a bound; with Blosc where there is no PCodec."""
    with warnings.catch_warnings():  # that the specification of Zarr 3 does not have them: readers are told
        warnings.simplefilter("ignore")
        steps = [FixedScaleOffset(offset=0, scale=bound.scale, dtype="float32", astype="int32")]
        if has_pcodec():
            return {"filters": steps, "serializer": PCodec(level=LEVEL), "compressors": None}
    return {"filters": steps, "compressors": BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")}


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
