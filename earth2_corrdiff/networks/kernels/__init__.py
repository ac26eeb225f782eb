# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fused operators of the U-Net: Triton on GPUs, C on CPUs, and the readable reference beside them."""

from __future__ import annotations

from earth2_corrdiff.networks.kernels.ops import group_norm_silu, residual_scale

__all__ = ["group_norm_silu", "residual_scale"]
