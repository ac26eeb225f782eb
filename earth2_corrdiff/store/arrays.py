# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The arrays of a store before anything is in them: dimensions, chunks, codecs, CF attributes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import zarr
from earth2studio.io import ZarrBackend
from torch import from_numpy

from earth2_corrdiff.base.variables import LAT, LON, cf_attributes
from earth2_corrdiff.store.codecs import (
    bounded,
    consolidate,
    described,
    lossless,
    plain,
    small,
    warn_without_pcodec,
)
from earth2_corrdiff.store.error_bounds import Bound
from earth2_corrdiff.store.layout import ERROR, OUTPUT, SEED, UNWRITTEN, VALID, Layout
from earth2_corrdiff.store.paths import SEED_NAME


def storage(bound: Bound | None = None, own: Any = None) -> dict[str, Any]:
    """How a field is kept, as keywords of ``zarr.Group.create_array``: NaN until it is written.

    Parameters
    ----------
    bound : Bound | None, optional
        Of its error, by default there is none
    own : Any, optional
        Lossless codecs of a backend that the caller has opened
    """
    codecs = bounded(bound) if bound is not None else lossless() if own is None else {"compressors": own}
    return {"fill_value": np.nan, **codecs}


def lay_out(io: ZarrBackend, layout: Layout) -> None:
    """Add all arrays with their attributes.

    The metadata are complete then, so they are consolidated here: readers open an unfinished store, too.
    """
    io.chunks.update(dict.fromkeys((*layout.cases.axes, "sample"), 1))
    coords, lowres = layout.output_coords(), layout.lowres_coords()
    for each in (coords, lowres):
        io.add_array(each, [], **plain())
    forecast = layout.cases.leads is not None
    for name in layout.outputs:
        bound = layout.bounds.get(name)
        about = _about(name, forecast) | _kept(bound)
        io.add_array(coords, name, attributes=about, **storage(bound, io.zarr_codecs))
    for name in layout.lowres:
        about = _about(name, forecast, "_lowres")
        io.add_array(lowres, f"{name}_lowres", attributes=about, **storage(own=io.zarr_codecs))
    plane = OrderedDict(lat=coords["lat"], lon=coords["lon"])
    for name, values in layout.static.items():
        io.add_array(plane, name, from_numpy(values), attributes=_about(name), **storage(own=io.zarr_codecs))
    _add_seeds(io.root, layout)
    if layout.bounds:
        warn_without_pcodec()
        _add_errors(io.root, layout)
    _describe(io.root, layout.attributes)
    if forecast:
        _add_valid_times(io.root, layout)
    consolidate(io.root.store)


def _add_seeds(root: zarr.Group, layout: Layout) -> None:
    about: dict[str, Any] = {"long_name": f"{SEED_NAME}; -1 where it is not written"}
    root.create_array(
        SEED,
        shape=layout.seeds.shape,
        chunks=(1,) * layout.seeds.ndim,
        dtype="int64",
        dimension_names=[*layout.cases.axes, "sample"],
        fill_value=UNWRITTEN,
        **small(),
        attributes=about | ({"coordinates": VALID} if layout.cases.leads is not None else {}),
    )


def _add_errors(root: zarr.Group, layout: Layout) -> None:
    """The largest error of each field; a chunk belongs to one member, as those of the fields do."""
    names = list(layout.bounds)
    numbers = np.arange(len(names))
    about: dict[str, Any] = {
        "long_name": "output that is kept within a bound",
        "flag_values": numbers.tolist(),
        "flag_meanings": " ".join(names),
    }
    array = root.create_array(
        OUTPUT,
        shape=numbers.shape,
        dtype=numbers.dtype,
        dimension_names=[OUTPUT],
        attributes=about,
        **small(),
    )
    array[:] = numbers
    lead = {"coordinates": VALID} if layout.cases.leads is not None else {}
    root.create_array(
        ERROR,
        shape=(*layout.seeds.shape, len(names)),
        chunks=(*(1,) * layout.seeds.ndim, len(names)),
        dtype="float64",
        dimension_names=[*layout.cases.axes, "sample", OUTPUT],
        fill_value=np.nan,
        **small(),
        attributes={"long_name": "largest absolute error of the stored field, in its units", **lead},
    )


def _add_valid_times(root: zarr.Group, layout: Layout) -> None:
    """CF: the valid time as an auxiliary coordinate of forecasts; the axes are reference and lead time."""
    valid = layout.cases.valid_times
    array = root.create_array(
        VALID,
        shape=valid.shape,
        chunks=valid.shape,
        dtype=valid.dtype,
        dimension_names=["time", "lead_time"],
        **small(),
        attributes={"standard_name": "time", "long_name": "valid time (UTC)"},
    )
    array[:] = valid
    reference = {"standard_name": "forecast_reference_time", "long_name": "reference time (UTC)"}
    root["time"].attrs.update(reference)
    root["lead_time"].attrs.update({"standard_name": "forecast_period", "long_name": "lead time"})
    if layout.cases.coarse is not None:
        root["ensemble"].attrs.update({"long_name": "member of the coarse forecast"})


def _about(name: str, forecast: bool = False, suffix: str = "") -> dict[str, Any]:
    """Attributes of a field; ``coordinates`` makes latitude and longitude coordinates for xarray."""
    about = cf_attributes(name)
    about["long_name"] += ", coarse input" if suffix else ""
    return about | {"coordinates": f"lat{suffix} lon{suffix}" + (f" {VALID}" if forecast else "")}


def _kept(bound: Bound | None) -> dict[str, Any]:
    """Attributes of a field that is kept within a bound."""
    if bound is None:
        return {}
    return {"compression_abs_bound": bound.absolute, "compression_codec": described()}


def _describe(root: zarr.Group, provenance: dict[str, Any]) -> None:
    """Attributes of the coordinates and of the store."""
    for suffix in ("", "_lowres"):
        root[f"lat{suffix}"].attrs.update(LAT)
        root[f"lon{suffix}"].attrs.update(LON)
    root["time"].attrs.update({"standard_name": "time", "long_name": "valid time (UTC)"})
    root["sample"].attrs.update({"standard_name": "realization", "long_name": "ensemble member"})
    root.attrs.update({"Conventions": "CF-1.11", **provenance})
