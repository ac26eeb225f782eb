# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Physical fields from the networks' normalised output, by the rules of ``outputs.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from earth2_corrdiff.model.outputs import HubWinds, OutputRule
from earth2_corrdiff.model.spec import CorrDiffSpec


class PhysicalFields(nn.Module):
    """From normalised output to physical fields.

    Parameters
    ----------
    center, scale : Tensor
        Normalisation of the output, ``[1, Co, 1, 1]``
    rules : Sequence[OutputRule], optional
        One per output channel; none if only the normalisation is to be undone
    winds : HubWinds | None, optional
        To append
    elevation : Tensor | None, optional
        The normalised elevation ``[H, W]`` for them

    Attributes
    ----------
    clamp : bool
        False to leave out bounds and gates
    """

    center: Tensor
    scale: Tensor
    level_heights: Tensor

    def __init__(
        self,
        center: Tensor,
        scale: Tensor,
        rules: Sequence[OutputRule] = (),
        winds: HubWinds | None = None,
        elevation: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.rules = {i: rule for i, rule in enumerate(rules) if rule != OutputRule(name=rule.name)}
        self.winds, self.clamp = winds, True
        buffers = {"center": center, "scale": scale}
        if winds is not None and elevation is not None:
            buffers["level_heights"] = winds.level_heights(elevation)
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def gated(self) -> bool:
        """True if the fields depend on the sun."""
        return self.clamp and any(rule.gate is not None for rule in self.rules.values())

    def forward(self, normalised: Tensor, cos_zenith: Tensor | None = None) -> Tensor:
        """Physical fields ``[m, Co + derived, H, W]`` float32 of ``[m, Co, H, W]``; new memory.

        ``cos_zenith [H, W]`` is that of the valid time, for solar gates.
        """
        fields = (self.scale * normalised + self.center).to(torch.float32)
        for i, rule in self.rules.items():
            fields[:, i] = rule(fields[:, i], cos_zenith, self.clamp)
        if self.winds is None:
            return fields
        return torch.cat([fields, self.winds(fields, self.level_heights)], dim=1)


def fields_of(spec: CorrDiffSpec) -> PhysicalFields:
    """The physical fields of a package.

    Raises
    ------
    InputError
        If the levels of its hub winds cross each other
    """
    center, scale = (
        torch.tensor(part, dtype=torch.float32).view(1, -1, 1, 1)
        for part in (spec.outputs.center, spec.outputs.scale)
    )
    elevation, winds = None, spec.hub_winds
    if winds is not None and spec.invariant_fields is not None:
        stats, field = spec.invariants, spec.inner(spec.invariant_fields[winds.elevation])
        elevation = (torch.tensor(field) - stats.center[winds.elevation]) / stats.scale[winds.elevation]
    return PhysicalFields(center, scale, spec.rules, winds, elevation)
