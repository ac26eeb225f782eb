# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Seams of fields that were made in patches: steps across the edges of patches against steps beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.patch_geometry import PatchGeometry

BESIDE = (-4, -3, -2, 2, 3, 4)
"""Distances from an edge, in points, of the steps that those across it are compared with."""


def seam_ratio(fields: Tensor, geometry: PatchGeometry) -> Tensor:
    """Mean absolute step across the edges of patches over that of two to four points beside them.

    Parameters
    ----------
    fields : Tensor
        ``[..., C, H, W]``: members, or residuals, which have no steps of terrain and coast of their own
    geometry : PatchGeometry
        Of the patches; for fields without patches the edges that these would have

    Returns
    -------
    Tensor
        ``[C]``: 1 without seams, more where patches do not fit each other

    Raises
    ------
    InputError
        If the fields are not of the domain, or no edge lies inside it
    """
    if tuple(fields.shape[-2:]) != geometry.domain:
        raise InputError(f"fields of {list(fields.shape)} do not belong to a domain of {geometry.domain}")
    fields, across, beside = fields.reshape(-1, *fields.shape[-3:]), [], []
    for number, axis in enumerate(geometry.axes):
        parts = [axis.inside(i)[0] for i in range(axis.count)]
        edges = {edge for part in parts for edge in (part.start, part.stop) if 0 < edge < axis.size}
        near = {edge + d for edge in edges for d in BESIDE}
        near -= {edge + d for edge in edges for d in (-1, 0, 1)}
        steps = fields.diff(dim=2 + number).abs().mean(dim=(0, 3 - number))  # of point i - 1 to i: at i - 1
        across += [steps[:, edge - 1] for edge in edges]
        beside += [steps[:, at - 1] for at in near if 0 < at < axis.size]
    if not across or not beside:
        raise InputError("seams need several patches, with points between their edges")
    ratio: Tensor = torch.stack(across).mean(0) / torch.stack(beside).mean(0)
    return ratio
