# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a model as a command line gives them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earth2_corrdiff.model.options import ModelOptions


def model_options(args: argparse.Namespace) -> ModelOptions:
    """The options that a command has; InputError where one is not valid."""
    from earth2_corrdiff.model.options import ModelOptions

    names = {field.name for field in fields(ModelOptions)}
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return ModelOptions(**given, accelerated=not getattr(args, "no_acceleration", False))
