# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Names of packages, checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from earth2_corrdiff.base.errors import InputError

OWN = "default"
"""Name of the package that a class has of its own."""


def check_name(name: str) -> None:
    """Refuse the name of a package folder that is not there; fetches nothing.

    Parameters
    ----------
    name : str
        ``taiwan``, ``demo``, a folder or a URL

    Raises
    ------
    InputError
        If it is none of these
    """
    if name not in ("taiwan", "demo") and "://" not in name and not Path(name).is_dir():
        raise InputError(f"there is no package folder {name}; give taiwan, demo, a folder or a URL")
