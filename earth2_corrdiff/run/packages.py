# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages by name: ``taiwan``, ``demo``, a folder or a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from earth2_corrdiff import demo
from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.studio import Package, named_class
from earth2_corrdiff.model.earth2studio import CorrDiff, CorrDiffTaiwan
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.model.packages.names import OWN, check_name
from earth2_corrdiff.sources.failures import interrupted, unreachable


def load_model(options: ModelOptions) -> CorrDiff:
    """The model of ``options.package``, on its device, with its settings.

    With ``options.model`` another class: a subclass of ``CorrDiff``, or a ``Diagnostic`` around any other.

    Raises
    ------
    InputError
        If the package is not there, not usable or cannot be downloaded, or the options do not fit it
    """
    kind: type[Any] = CorrDiff if options.model is None else named_class(options.model)
    with _download_advice(options.package):
        if issubclass(kind, CorrDiff):
            package = kind.load_default_package() if options.package == OWN else open_package(options.package)
            return options.model_of(package, kind)
        own = None if options.package == OWN else open_package(options.package)
        return cast(CorrDiff, options.diagnostic_of(kind, own))


def open_package(name: str) -> Package:
    """Earth2Studio's package of a name.

    Raises
    ------
    InputError
        If there is none, or the URL cannot be opened
    """
    if name == "taiwan":
        return CorrDiffTaiwan.load_default_package()
    if name == "demo":
        return demo.package()
    check_name(name)
    try:
        return Package(name if "://" in name else str(Path(name).absolute()))
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"the package {name} cannot be opened ({error})") from error


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
        if error.__cause__ is None or ("://" not in package and package != "taiwan"):
            raise
        kind = UnavailableError if interrupted(error.__cause__) else InputError
        raise kind(f"{error}; if the download broke off, try again") from error
