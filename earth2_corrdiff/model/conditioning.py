# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The conditioning of the networks: coarse fields and a valid time in, normalised channels out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.regrid import IndexRegridder, Regridder
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.channels import Channel, feature, vector
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.model.transforms import Transform

_TIMES = (datetime, np.datetime64, str, type(None))


class Conditioning(nn.Module):
    """Filter, regrid, append invariants and features, normalise, frame; needs no networks.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of the package

    Attributes
    ----------
    center, scale : Tensor
        Normalisation of the channels, ``[1, Cc, 1, 1]``
    invariants : Tensor
        ``[1, Ci, H, W]``, physical units

    Raises
    ------
    InputError
        If the input grid does not cover the output grid
    """

    center: Tensor
    scale: Tensor
    invariants: Tensor
    lat: Tensor
    lon: Tensor

    def __init__(self, spec: CorrDiffSpec) -> None:
        super().__init__()
        self.spec = spec
        self.regrid: Regridder | IndexRegridder
        if spec.regridding == "index":
            self.regrid = IndexRegridder(spec.run_grid.shape)
        else:
            self.regrid = Regridder(spec.input_grid, spec.run_grid, spec.grid_bounds_margin)
        center, scale = np.array([spec.normalisation(c) for c in spec.conditioning], dtype=np.float32).T
        fields, shape = spec.invariant_fields, (0, *spec.run_grid.shape)
        invariants = torch.empty(shape) if fields is None else torch.as_tensor(fields, dtype=torch.float32)
        features = spec.gated or any(channel.kind == "feature" for channel in spec.conditioning)
        grid = [np.array(axis, dtype=np.float64) for axis in spec.run_grid.mesh()] if features else []
        lat, lon = map(torch.from_numpy, grid or [np.empty((0, 0))] * 2)
        buffers = {
            "center": torch.from_numpy(center.copy()).view(1, -1, 1, 1),
            "scale": torch.from_numpy(scale.copy()).view(1, -1, 1, 1),
            "invariants": invariants[None],
            "lat": lat,
            "lon": lon,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, coarse: Tensor, valid: Times | None = None) -> Tensor:
        """The channels of cases.

        Parameters
        ----------
        coarse : Tensor
            ``[B, C, h, w]``, or ``[B, L, C, h, w]`` where the package has several ``input_hours``;
            physical units
        valid : Times | None, optional
            Valid times ``[B]``, UTC; for packages with features of time

        Returns
        -------
        Tensor
            ``[B, Cc, H', W']`` float32, normalised, on the domain that the networks see

        Raises
        ------
        InputError
            If valid times are needed and missing, or the channels must be complete and are not finite
        """
        times = self.times(valid, len(coarse))
        coarse, steps = self.filtered(coarse), len(self.spec.input_hours)
        flat = coarse.flatten(1, 2) if steps > 1 else coarse
        runs = groupby(self.spec.conditioning, key=lambda channel: channel.kind)
        parts = [self._part(kind, list(channels), flat, times) for kind, channels in runs]
        fine = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        cond = ((fine - self.center) / self.scale).to(torch.float32)
        if self.spec.missing_inputs:
            cond = cond.nan_to_num(0, torch.inf, -torch.inf)
        if self.spec.complete and not bool(cond.isfinite().all()):
            raise InputError("the input is not finite everywhere over the output grid; fill missing values")
        return framed(self.spec, cond).contiguous(memory_format=torch.channels_last)

    def missing(self, coarse: Tensor) -> Tensor | None:
        """Output cells without a value, ``[B, Co, H, W]``: those whose own coarse cell is missing (NaN).

        The own cell of an output cell is the one that it lies in (regridding by index), or the nearest. It is
        that of the input of the same name, and of outputs that are no input it is missing where every
        input is. None for packages that refuse missing inputs.
        """
        if not self.spec.missing_inputs:
            return None
        gaps, names = coarse.isnan(), self.spec.inputs.names
        outputs = self.spec.outputs.names
        own = [gaps[:, names.index(name)] if name in names else gaps.all(1) for name in outputs]
        fine: Tensor = self.regrid.nearest(torch.stack(own, 1).float())
        return self.spec.inner(fine > 0)  # type: ignore[no-any-return]

    def times(self, valid: Times | None, cases: int) -> Times:
        """Valid times ``[B]``, not a time where there is none.

        Raises
        ------
        InputError
            If they are needed and missing, are not as many as the cases, or are no times, like numbers
        """
        given = np.full(cases, "NaT", "datetime64[ns]") if valid is None else np.asarray(valid)
        if given.dtype.kind not in "MU" and not all(isinstance(time, _TIMES) for time in given.ravel()):
            raise InputError(f"valid times must be datetimes of UTC, got {given.ravel()[0]}")
        times: Times = given.astype("datetime64[ns]").reshape(-1)
        if len(times) != cases:
            raise InputError(f"{cases} cases need as many valid times, got {len(times)}")
        if self.spec.needs_time and np.isnat(times).any():
            raise InputError("the model needs the valid time of every case; give valid_times, or coordinates")
        return times

    def vector(self, valid: Times) -> Tensor | None:
        """Scalar conditions ``[B, K]`` of valid times; None for networks without."""
        return vector(self.spec.vector, valid, self.center.device) if self.spec.vector else None

    def sun(self, valid: Times) -> Tensor:
        """Largest cosine of the zenith angle in the hour before valid times, ``[B, H, W]`` with the halo."""
        return feature("cos_zenith_hour", valid, self.lat, self.lon)[:, 0]

    def filtered(self, coarse: Tensor) -> Tensor:
        """Coarse fields after the package's filters; what is given stays as it is."""
        for name in self.spec.filters:
            coarse = FILTERS[name](coarse, self.spec.inputs.names)
        return coarse

    def _part(self, kind: str, channels: Sequence[Channel], coarse: Tensor, times: Times) -> Tensor:
        """Neighbouring channels of one kind, ``[B, n, H, W]`` in physical units."""
        if kind == "input":
            hours, names = self.spec.input_hours, self.spec.inputs.names
            chosen = [hours.index(c.hours) * len(names) + names.index(c.name) for c in channels]
            fine: Tensor = self.regrid(_take(coarse, chosen))
            return transformed(fine, [channel.transform for channel in channels])
        if kind == "invariant":
            chosen = [self.spec.invariants.names.index(c.name) for c in channels]
            return _take(self.invariants, chosen).expand(len(coarse), -1, -1, -1)
        return torch.cat([feature(c.name, times, self.lat, self.lon) for c in channels], dim=1)


def _take(x: Tensor, channels: list[int]) -> Tensor:
    """Some channels; all of them, in order, without a copy."""
    return x if channels == list(range(x.shape[1])) else x[:, channels]


def transformed(fields: Tensor, transforms: Sequence[Transform]) -> Tensor:
    """Fields ``[B, C, H, W]`` with a transform of each channel; the same tensor where none does anything."""
    if all(transform == Transform() for transform in transforms):
        return fields
    return torch.stack([t.forward(x) for t, x in zip(transforms, fields.unbind(1), strict=True)], dim=1)


def interpolated(spec: CorrDiffSpec, cond: Tensor) -> Tensor:
    """The input of the same name as each output, normalised as this one; 0 where there is none.

    ``cond`` is the conditioning ``[B, Cc, H, W]``; the result is ``[B, Co, H, W]``.
    """
    names = {c.name: i for i, c in reversed([*enumerate(spec.conditioning)]) if c.kind == "input"}
    parts = []
    for name, center, scale in zip(spec.outputs.names, spec.outputs.center, spec.outputs.scale, strict=True):
        if name not in names:
            parts.append(torch.zeros_like(cond[:, 0]))
            continue
        own_center, own_scale = spec.normalisation(spec.conditioning[names[name]])
        parts.append(cond[:, names[name]] * (own_scale / scale) + (own_center - center) / scale)
    return torch.stack(parts, dim=1)


def framed(spec: CorrDiffSpec, fields: Tensor) -> Tensor:
    """Fields of the output grid as networks see them: ``[B, C, H, W] → [B, C, H', W']``."""
    if spec.flip:
        fields = fields.flip(-2)
    if spec.padding is not None:
        top, bottom, left, right = spec.padding
        fields = F.pad(fields, (0, 0, top, bottom), mode="reflect")
        fields = F.pad(fields, (left, right, 0, 0), mode="circular")
    return fields


def unframed(spec: CorrDiffSpec, fields: Tensor) -> Tensor:
    """Undo :func:`framed` and cut off the halo: ``[B, C, H', W'] → [B, C, H, W]``."""
    if spec.padding is not None:
        (top, _, left, _), (H, W) = spec.padding, spec.run_grid.shape
        fields = fields[..., top : top + H, left : left + W]
    inner: Tensor = spec.inner(fields.flip(-2) if spec.flip else fields)
    return inner


def sea_ice(coarse: Tensor, names: Sequence[str]) -> Tensor:
    """Sea ice plus snow cover, percent, averaged over 3 x 3 cells, in the place of ``siconc``.

    Missing values are zero, in ``snc`` too, which archives have on land only; columns go all the way round,
    border rows are repeated.

    Source: ``earth2studio.models.dx.CorrDiffCMIP6``, which does so in the tensor that it is given, and leaves
    missing values in ``snc``: every field of its output is missing then.
    """
    ice, snow = (coarse.select(-3, names.index(name)).nan_to_num(0) for name in ("siconc", "snc"))
    cover = (ice + snow).clip(0, 100)
    flat = cover.reshape(-1, 1, *cover.shape[-2:])
    padded = F.pad(F.pad(flat, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
    coarse = coarse.clone()
    coarse.select(-3, names.index("snc")).copy_(snow)
    coarse.select(-3, names.index("siconc")).copy_(F.avg_pool2d(padded, 3, 1).view(cover.shape))
    return coarse


FILTERS: dict[str, Callable[[Tensor, Sequence[str]], Tensor]] = {"sea_ice": sea_ice}
