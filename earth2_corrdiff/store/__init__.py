# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The Zarr store of a run: layout, arrays, error bounds, writer, and where it is written to."""
