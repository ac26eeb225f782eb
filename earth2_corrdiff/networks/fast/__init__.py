# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fast execution of the networks, with the same call signature: begin at ``accelerate``."""
