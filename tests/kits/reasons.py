# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Why a test does not run."""

NO_BROWSER = "there is no Chromium with its driver, or no selenium"
