# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What every other folder builds on: errors, times, grids, variables, cases, files, processes."""
