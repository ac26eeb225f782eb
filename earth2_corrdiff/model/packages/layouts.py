# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of packages, recognised by their names or their files."""

from __future__ import annotations

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.packages.files import Files, describe, find
from earth2_corrdiff.model.packages.names import PUBLISHED, RESOLUTIONS, VARIANTS


def layout_of(name: str, files: Files) -> str:
    """``cosmo``, ``hrrr`` or ``generic``: that of a published package, or by the folders that there are."""
    if name in PUBLISHED:
        kind = name.partition("-")[0]
        return kind if kind in ("cosmo", "hrrr") else "generic"
    found = variants(files)
    return "generic" if not found else "cosmo" if found[0] in RESOLUTIONS else "hrrr"


def variants(files: Files) -> list[str]:
    """Folders of a package that hold a model each; none where the package is one model."""
    if find(files, "metadata.json") is not None:
        return []
    return [folder for folder in VARIANTS if find(files, f"{folder}/metadata.json") is not None]


def only_variant(files: Files) -> str:
    """The only model of a package of several.

    Raises
    ------
    InputError
        If it has two, or none
    """
    found = variants(files)
    if not found:
        raise InputError(f"the package {describe(files)} has no folder of a model: {', '.join(VARIANTS)}")
    if len(found) > 1:
        raise InputError(
            f"the package {describe(files)} has the models {' and '.join(found)}; give the folder of one"
        )
    return found[0]
