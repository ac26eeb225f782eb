# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The arrays of a new store: dimensions, chunks, codecs and CF attributes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from torch import from_numpy

from earth2_corrdiff.base.studio import ZarrBackend
from earth2_corrdiff.base.variables import LAT, LON, cf_attributes
from earth2_corrdiff.store.codecs import (
    bounded,
    codec_text,
    consolidate,
    lossless,
    plain,
    small,
    warn_without_pcodec,
)
from earth2_corrdiff.store.error_bounds import Bound
from earth2_corrdiff.store.layout import ERROR, MEAN, OUTPUT, SPREAD, VALID, Layout
from earth2_corrdiff.store.paths import SEED, SEED_NAME, UNWRITTEN


def storage(bound: Bound | None = None, own: Any = None) -> dict[str, Any]:
    """Codecs and fill value of a field as keywords of ``zarr.Group.create_array``.

    Parameters
    ----------
    bound : Bound | None, optional
        Bound of its error, by default it is lossless
    own : Any, optional
        Lossless codecs of a backend that the caller has opened
    """
    codecs = bounded(bound) if bound is not None else lossless() if own is None else {"compressors": own}
    return {"fill_value": np.nan, **codecs}


def lay_out(io: ZarrBackend, layout: Layout) -> None:
    """Add all arrays with their attributes.

    The metadata are complete then and consolidated here: an unfinished store can be opened, too.
    """
    io.chunks.update(dict.fromkeys((*layout.cases.axes, "sample"), 1))
    coords, lowres = layout.output_coords(), layout.lowres_coords()
    for each in (coords, lowres):
        io.add_array(each, [], **plain())
    for name, values in layout.latlon.items():
        how: dict[str, Any] = {"shape": values.shape, "chunks": values.shape, "dtype": values.dtype}
        _add(io.root, name, list(layout.plane), {}, **how)[:] = values
    for name in layout.outputs:
        bound = layout.bounds.get(name)
        attributes = _attributes(name, layout) | _bound_attributes(bound)
        io.add_array(coords, name, attributes=attributes, **storage(bound, io.zarr_codecs))
    for name in layout.lowres:
        attributes = _attributes(name, layout, "_lowres")
        io.add_array(lowres, f"{name}_lowres", attributes=attributes, **storage(own=io.zarr_codecs))
    axes = OrderedDict((k, v) for k, v in layout.cases.axes.items() if k != "ensemble") | layout.plane
    for name in layout.means:
        for end, what in ((MEAN, "mean"), (SPREAD, "standard deviation")):
            attributes = _attributes(name, layout) | {"cell_methods": f"sample: {what.replace(' ', '_')}"}
            attributes["long_name"] += f", {what} of the members"
            io.add_array(axes, name + end, attributes=attributes, **storage(own=io.zarr_codecs))
    for name, values in layout.static.items():
        attributes = _attributes(name)
        io.add_array(
            layout.plane, name, from_numpy(values), attributes=attributes, **storage(own=io.zarr_codecs)
        )
    _add_seeds(io.root, layout)
    if layout.bounds:
        warn_without_pcodec()
        _add_errors(io.root, layout)
    _describe(io.root, layout.attributes)
    if layout.forecasts:
        _add_valid_times(io.root, layout)
    consolidate(io.root.store)


def _add(root: zarr.Group, name: str, dims: Sequence[str], attributes: dict[str, Any], **how: Any) -> Any:
    """Add a small array that is no field."""
    return root.create_array(name, dimension_names=list(dims), attributes=attributes, **small(), **how)


def _add_seeds(root: zarr.Group, layout: Layout) -> None:
    shape = layout.seeds.shape
    attributes = {"long_name": f"{SEED_NAME}; -1 where it is not written", **_auxiliary(layout)}
    how: dict[str, Any] = {"chunks": (1,) * len(shape), "dtype": "int64", "fill_value": UNWRITTEN}
    _add(root, SEED, [*layout.cases.axes, "sample"], attributes, shape=shape, **how)


def _add_errors(root: zarr.Group, layout: Layout) -> None:
    """Add the largest error of each field; a chunk belongs to one member, as those of the fields do."""
    numbers = np.arange(len(layout.bounds))
    flags = {"flag_values": numbers.tolist(), "flag_meanings": " ".join(layout.bounds)}
    attributes: dict[str, Any] = {"long_name": "output that is kept within a bound", **flags}
    array = _add(root, OUTPUT, [OUTPUT], attributes, shape=numbers.shape, dtype=numbers.dtype)
    array[:] = numbers
    shape = layout.seeds.shape
    how: dict[str, Any] = {"chunks": (*(1,) * len(shape), len(numbers)), "fill_value": np.nan}
    attributes = {"long_name": "largest absolute error of the stored field, in its units"}
    dims = [*layout.cases.axes, "sample", OUTPUT]
    attributes |= _auxiliary(layout)
    _add(root, ERROR, dims, attributes, shape=(*shape, len(numbers)), dtype="float64", **how)


def _add_valid_times(root: zarr.Group, layout: Layout) -> None:
    """CF: the valid time as an auxiliary coordinate of forecasts; the axes are reference and lead time."""
    valid = layout.cases.valid_times
    attributes = {"standard_name": "time", "long_name": "valid time (UTC)"}
    how: dict[str, Any] = {"shape": valid.shape, "chunks": valid.shape, "dtype": valid.dtype}
    array = _add(root, VALID, ["time", "lead_time"], attributes, **how)
    array[:] = valid
    reference = {"standard_name": "forecast_reference_time", "long_name": "reference time (UTC)"}
    root["time"].attrs.update(reference)
    root["lead_time"].attrs.update({"standard_name": "forecast_period", "long_name": "lead time"})
    if layout.cases.coarse is not None:
        root["ensemble"].attrs.update({"long_name": "member of the coarse forecast"})


def _auxiliary(layout: Layout) -> dict[str, str]:
    return {"coordinates": VALID} if layout.forecasts else {}


def _attributes(name: str, layout: Layout | None = None, suffix: str = "") -> dict[str, Any]:
    """Attributes of a field; ``coordinates`` makes latitude and longitude coordinates for xarray."""
    attributes = cf_attributes(name)
    attributes["long_name"] += ", coarse input" if suffix else ""
    valid = f" {VALID}" if layout is not None and layout.forecasts else ""
    return attributes | {"coordinates": f"lat{suffix} lon{suffix}{valid}"}


def _bound_attributes(bound: Bound | None) -> dict[str, Any]:
    if bound is None:
        return {}
    return {"compression_abs_bound": bound.absolute, "compression_codec": codec_text()}


def _describe(root: zarr.Group, provenance: dict[str, Any]) -> None:
    """Add the attributes of the coordinates and of the store."""
    for suffix in ("", "_lowres"):
        root[f"lat{suffix}"].attrs.update(LAT)
        root[f"lon{suffix}"].attrs.update(LON)
    for axis in {"y", "x"} & set(root):
        root[axis].attrs.update({"standard_name": f"projection_{axis}_coordinate", "units": "m"})
    root["time"].attrs.update({"standard_name": "time", "long_name": "valid time (UTC)"})
    root["sample"].attrs.update({"standard_name": "realization", "long_name": "ensemble member"})
    root.attrs.update({"Conventions": "CF-1.11", **provenance})
