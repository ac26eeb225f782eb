# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Mathematics of the reverse diffusion, on tensors only: solvers, noise, and denoisers of patches."""
