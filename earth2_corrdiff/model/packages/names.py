# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Names of packages, checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from earth2_corrdiff.base.errors import InputError

PUBLISHED = {
    "taiwan": "gfs",
    "cmip6": "",
    "cosmo-rea6": "arco",
    "cosmo-rea2": "arco",
    "hrrr": "arco",
}
"""Packages of published weights, with the source of coarse weather that each takes where none is given."""
SHIPPED = {path.name: path for path in sorted((Path(__file__).parent / "shipped").glob("[!_]*"))}
"""Packages that come with this project, and their folders."""
KNOWN = (*PUBLISHED, "demo", *SHIPPED)
NAMES = f"{', '.join(KNOWN)}, a folder, or a URL that fsspec opens"
"""What ``--package`` takes, for messages and help."""
OWN = "default"
"""Name of the package that a class has of its own."""
RESOLUTIONS = ("rea6", "rea2")
VARIANTS = (*RESOLUTIONS, "x_pred")
"""Folders in packages of several models."""


def check_name(name: str) -> None:
    """Refuse the name of a package folder that is not there; fetches nothing.

    Parameters
    ----------
    name : str
        One of ``KNOWN``, a folder or a URL

    Raises
    ------
    InputError
        If it is none of these
    """
    if name not in KNOWN and "://" not in name and not Path(name).is_dir():
        raise InputError(f"there is no package folder {name}; give {NAMES}")


def is_remote(name: str) -> bool:
    """True for packages that are downloaded."""
    return name in PUBLISHED or "://" in name


def default_source(name: str) -> str:
    """The source of coarse weather that goes with a package.

    Raises
    ------
    InputError
        If there is none: the user chooses the climate model, or has the files of the agency
    """
    if name == "demo":
        return "demo"
    if name in SHIPPED:
        raise InputError(
            f"the package {name} has no default source; give its agency's files: --source file:PATH"
        )
    source = PUBLISHED.get(name, "gfs")
    if not source:
        raise InputError(
            f"the package {name} has no default source; give a climate model, scenario and member, like "
            "--source cmip6:CanESM5,ssp585,r1i1p2f1, or files of daily means: --source file:PATH"
        )
    return source


def variant(name: str) -> str:
    """The folder that a name chooses in a package of several models; empty where it does not."""
    if name.startswith("cosmo-"):
        return name.removeprefix("cosmo-")
    last = name.rstrip("/").rpartition("/")[2]
    return last if name not in KNOWN and last in VARIANTS else ""
