# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CRPS and rank of the truth at each point of an ensemble: M members, points of any shape ``[...]``."""

from __future__ import annotations

import torch
from torch import Tensor


def crps(ensemble: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Fair and biased continuous ranked probability score at each point.

    The mean distance of two members comes from the order statistics, so that a point costs O(M log M)
    instead of M² differences: ``sum_ij |x_i - x_j| = 2 sum_k (2k - M - 1) x_(k)``. The fair score divides
    it by M (M - 1), as if the ensemble had infinitely many members (Ferro 2014); the biased one, of the
    empirical distribution, by M². Of a single member both are its absolute error.

    Parameters
    ----------
    ensemble : Tensor
        ``[M, ...]``
    truth : Tensor
        ``[...]``

    Returns
    -------
    tuple[Tensor, Tensor]
        Fair and biased score, ``[...]`` each
    """
    M = len(ensemble)
    away = torch.sort(ensemble - truth, dim=0).values  # offsets of 300 K would cost digits in the sum
    error = away.abs().mean(0)
    if M == 1:
        return error, error
    rank = torch.arange(1, M + 1, dtype=away.dtype, device=away.device)
    apart = torch.tensordot(2 * rank - M - 1, away, dims=1) / M
    return error - apart / (M - 1), error - apart / M


def rank_weights(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Weight of the points at which the truth has each rank among the members, ``[M + 1]``.

    Where k members equal the truth it has k + 1 possible ranks, and each gets its share: the expectation
    of drawing one of them (Hamill 2001), without the draw. Rain, zero almost everywhere, needs it.

    Parameters
    ----------
    ensemble : Tensor
        ``[M, ...]``
    truth, weights : Tensor
        ``[...]``; points of weight 0 do not count
    """
    M = len(ensemble)
    below = (ensemble < truth).sum(0).flatten()
    equal = (ensemble == truth).sum(0).flatten()
    share = weights.flatten() / (equal + 1)
    # each point adds its share to the ranks below ... below + equal: as steps that are summed up
    steps = torch.zeros(M + 2, dtype=weights.dtype, device=weights.device)
    steps.index_add_(0, below, share)
    steps.index_add_(0, below + equal + 1, -share)
    return steps.cumsum(0)[:-1]
