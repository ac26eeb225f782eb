# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a model as a command line gives them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.common import stored

if TYPE_CHECKING:
    from earth2_corrdiff.model.downscaler import Downscaler
    from earth2_corrdiff.model.options import ModelOptions
    from earth2_corrdiff.sources import Forecast, Source


def make_input(args: argparse.Namespace) -> Source | Forecast:
    """The source of --source, --lead, --coarse-members and --rename; fetches nothing."""
    from earth2_corrdiff.sources import make_forecast, make_source, parse_rename

    if args.coarse_members is not None and args.lead is None:
        raise InputError("--coarse-members goes with --lead: only forecasts have them")
    rename = parse_rename(args.rename or ())
    with stored(args):  # also where a worker makes it
        if args.lead is None:
            return make_source(args.source, rename=rename)
        return make_forecast(args.source, args.coarse_members, rename=rename)


def model_options(args: argparse.Namespace) -> ModelOptions:
    """The options that a command has; InputError where one is not valid."""
    from earth2_corrdiff.model.options import ModelOptions

    names = {field.name for field in fields(ModelOptions)}
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return ModelOptions(**given, accelerated=not getattr(args, "no_acceleration", False))


def regression_model(package: str, device: str) -> Downscaler:
    """The model of a package for its regression, in fp32."""
    from earth2_corrdiff.model.options import ModelOptions
    from earth2_corrdiff.run.packages import has_modes, load_model

    mode = "mean" if has_modes(package) else None
    return load_model(ModelOptions(package, device, "fp32", mode=mode)).downscaler
