#!/usr/bin/env python
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a store in an object store costs against one on the disk: see --help."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout works uninstalled too

from earth2_corrdiff.cli.common import run_command, share_cores  # noqa: E402

share_cores()

from bench import object_stores  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("bench-object.py", object_stores.run, object_stores.parser().parse_args()))
