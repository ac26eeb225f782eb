# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages by name: those of published weights, shipped ones, ``demo``, a folder or a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from earth2_corrdiff import demo
from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.object_path import s3_files
from earth2_corrdiff.base.studio import Package, named_class
from earth2_corrdiff.model.earth2studio import CorrDiff, CorrDiffTaiwan
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages.layouts import layout_of
from earth2_corrdiff.model.packages.names import OWN, PUBLISHED, SHIPPED, check_name, is_remote, variant
from earth2_corrdiff.sources.failures import interrupted, unreachable


def load_model(options: ModelOptions) -> CorrDiff:
    """The model of ``options.package``, on its device, with its settings.

    With ``options.model`` another class: a subclass of ``CorrDiff``, or a ``Diagnostic`` around any other.

    Raises
    ------
    InputError
        If the package is not there, not usable or cannot be downloaded, or the options do not fit it
    """
    with _download_advice(options.package):
        if options.model is None:
            return options.model_of(open_package(options.package))
        kind = named_class(options.model)
        own = options.package == OWN
        package = _own_package(kind, options.model) if own else open_package(options.package)
        if issubclass(kind, CorrDiff):
            return options.model_of(package, kind)
        return cast(CorrDiff, options.diagnostic_of(kind, package))


def _own_package(kind: type[Any], name: str) -> Package:
    """The default package of a class; InputError where it has none."""
    try:
        return kind.load_default_package()
    except (NotImplementedError, AttributeError) as error:
        raise InputError(f"{name} has no default package; give --package") from error


def open_package(name: str) -> Package:
    """Earth2Studio's package of a name.

    Raises
    ------
    InputError
        If there is none, or the URL cannot be opened
    """
    if name in PUBLISHED:
        return published(name).load_default_package()
    if name == "demo":
        return demo.package()
    if name in SHIPPED:
        return Package(str(SHIPPED[name]))
    check_name(name)
    if folder := variant(name):  # of a package with several
        name = name.rstrip("/").removesuffix(folder) or "."
    try:
        if "://" not in name:
            return Package(str(Path(name).absolute()))
        return Package(name, fs=s3_files() if name.startswith("s3:") else None)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"the package {name} cannot be opened ({error})") from error


def has_modes(name: str) -> bool:
    """True if a package has a network for the mean, and another one for samples."""
    with _download_advice(name):
        return layout_of(name, open_package(name)) == "cosmo"


def published(name: str) -> type[CorrDiff]:
    """The class of a published package."""
    if name == "cmip6":
        from earth2_corrdiff.model.cmip6 import CorrDiffCMIP6

        return CorrDiffCMIP6
    if name.startswith("cosmo-"):
        from earth2_corrdiff.model.cosmo import CorrDiffCosmoEra5

        return CorrDiffCosmoEra5
    if name == "hrrr":
        from earth2_corrdiff.model.hrrr import CorrDiffEra5Hrrr

        return CorrDiffEra5Hrrr
    return CorrDiffTaiwan


@contextmanager
def _download_advice(package: str) -> Iterator[None]:
    """Add advice to the errors of a package that cannot be downloaded, for want of a network or otherwise."""
    try:
        yield
    except InputError as error:
        reason = unreachable(error.__cause__)
        if reason is not None:
            raise UnavailableError(
                f"the package {package} cannot be downloaded ({reason}); without network use --demo, "
                "or --package with a folder"
            ) from error
        if error.__cause__ is None or not is_remote(package):
            raise
        kind = UnavailableError if interrupted(error.__cause__) else InputError
        raise kind(f"{error}; if the download broke off, try again") from error
