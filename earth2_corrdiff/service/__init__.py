# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The model as an HTTP service: serve-corrdiff. Needs the extra ``serve``."""
