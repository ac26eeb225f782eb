# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a store: members, coarse input, ensemble statistics, animation.

========================  ===============================================================
`style`                   a quantity's label, unit, colours, threshold
`panels`                  values in displayed units and the scales that they share
`grid_projection`         the projection that a curvilinear grid is made in
`maps`                    projection, coastlines, grid lines, wind directions; no network
`layout`, `figures`       the arrangement of maps and text, and the figures
`animation`               the members, or the times, as a GIF
`pictures`                which members, and the names of their files
========================  ===============================================================
"""

from earth2_corrdiff.plotting.animation import animate, animate_times, frames, frames_over_times
from earth2_corrdiff.plotting.figures import color_scales, plot_ensemble, plot_lowres, plot_member
from earth2_corrdiff.store.reader import case_label, cases, open_store, time_label, written_members

__all__ = [
    "animate",
    "animate_times",
    "color_scales",
    "frames",
    "frames_over_times",
    "open_store",
    "plot_ensemble",
    "plot_lowres",
    "plot_member",
    "case_label",
    "cases",
    "time_label",
    "written_members",
]
