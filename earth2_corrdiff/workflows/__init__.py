# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff as a workflow of Earth2Studio's own server: point ``WORKFLOW_DIR`` at ``DIRECTORY``.

The server imports every Python file of the directory but this one, each under its bare name.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""For the environment variable ``WORKFLOW_DIR``: holds workflows, and nothing else."""
