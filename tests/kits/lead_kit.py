# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of networks that were trained with lead times: what a package of theirs says and holds."""

from __future__ import annotations

from typing import Any

from tiny import make_networks, make_spec

from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling

HOURS, SHAPE, SEEDS = (0.0, 6.0, 12.0), (40, 56), [3, 4]
LATE = {"model_type": "SongUNetPosLtEmbd", "lead_time_channels": 2, "lead_time_steps": len(HOURS)}


def arguments(spec: CorrDiffSpec) -> list[tuple[str, dict[str, Any]]]:
    """Classes and arguments of a regression and a denoiser that take lead times."""
    found, whole = [], spec.condition_channels if spec.patching else 0  # as upstream's patched sampler has it
    for net, more in zip(make_networks(spec), (4 + 2, 2 + whole), strict=True):
        args = {**net.origin.args, **LATE, "gridtype": "sinusoidal", "N_grid_channels": 4}
        args["img_in_channels"] += more
        found.append((net.origin.name, args))
    return found


def specification(**what: Any) -> CorrDiffSpec:
    sampling = Sampling("heun", 3, sigma_max=80.0, double=False)
    return make_spec(SHAPE, bent=False, **{"sampling": sampling, "lead_time_hours": HOURS, **what})
