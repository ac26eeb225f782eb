# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The two networks of CorrDiff: from a checkpoint (``mdlus``) to callables (``preconditioned``)."""
