# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff as a workflow of Earth2Studio's server: set ``WORKFLOW_DIR`` to ``DIRECTORY``.

The server imports every other Python file of the directory as a top-level module.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""Value of the environment variable ``WORKFLOW_DIR``: a folder of workflows alone."""
