# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The names of Earth2Studio that this package uses, imported when they are first used.

No other module imports Earth2Studio: another version of it is a change of this file.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from earth2_corrdiff.base.errors import InputError, first_line

# Module of Earth2Studio → its names
_NAMES = {
    "models.auto": ("AutoModelMixin", "Package"),
    "io": ("IOBackend", "KVBackend", "XarrayBackend", "ZarrBackend"),
    "data": (
        *("ARCO_ERA5", "CDS_ERA5", "NCAR_ERA5", "WB2ERA5"),
        *("CMIP6", "CMIP6MultiRealm"),
        *("GFS", "GFS_FX", "GEFS_FX", "IFS_FX", "IFS_ENS_FX", "HRRR", "MRMS"),
        *("ISD", "GHCNHourly"),
    ),
    "lexicon": (
        *("ARCO_ERA5Lexicon", "CDS_ERA5Lexicon", "CMIP6Lexicon", "NCAR_ERA5Lexicon", "WB2Lexicon"),
        *("GEFSLexicon", "GFSLexicon", "HRRRLexicon", "IFSLexicon", "MRMSLexicon"),
        *("ISDLexicon", "GHCNHourlyLexicon"),
    ),
    "serve.server": ("Earth2Workflow",),
    "serve.server.workflow": ("WorkflowParameters", "WorkflowProgress", "WorkflowRegistry"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def load(*modules: str) -> None:
    """Import modules of Earth2Studio, like ``io`` and ``data``, which takes seconds: it has every archive."""
    for module in modules:
        import_module(f"earth2studio.{module}")


def named_class(text: str) -> type[Any]:
    """The class of an installed package that ``MODULE:CLASS`` names.

    Raises
    ------
    InputError
        If there is none
    """
    module, _, name = text.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"there is no class {text} ({first_line(error)}); give MODULE:CLASS") from error
    if not isinstance(found, type):
        raise InputError(f"{text} is not a class; give MODULE:CLASS")
    return found


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"earth2studio.{_HOME[name]}"), name)
