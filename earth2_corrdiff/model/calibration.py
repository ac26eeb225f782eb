# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Calibrations: files of corrections by variable, and the runs that they are for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.documents import parse_json
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import as_path
from earth2_corrdiff.model.calibration_network import NetworkCorrection, place_of
from earth2_corrdiff.model.correction import Correction

FORMAT = 1
SETTINGS = (
    *("package_sha256", "model", "stages"),
    *("solver", "number_of_steps", "sigma_min", "sigma_max", "schedule", "churn"),
)
"""Attributes of a store that must be the same where a calibration is fitted and where it is applied."""


@dataclass(frozen=True)
class Calibration:
    """Corrections by variable, with what they were fitted on.

    Attributes
    ----------
    corrections : Mapping[str, Correction]
        By variable
    settings : Mapping[str, Any]
        ``SETTINGS`` of the runs, as far as they have them
    about : Mapping[str, Any]
        What else is recorded: ``source``, ``shape`` of the grid, ``truth``, times, scores
    name, sha256 : str
        Name and digest of its file
    """

    corrections: Mapping[str, Correction]
    settings: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    sha256: str = ""

    @classmethod
    def read(cls, path: str) -> Calibration:
        """The calibration of a file that ``calibrate-corrdiff`` wrote.

        Raises
        ------
        InputError
            If it cannot be read or is no such file
        """
        try:
            data = as_path(path).read_bytes()
            found = parse_json(data)
            if found["calibration"] != FORMAT:
                raise ValueError(f"its format is {found['calibration']!r:.40}, not {FORMAT}")
            corrections = {name: _correction(entry) for name, entry in found["variables"].items()}
            settings, about = dict(found["settings"]), dict(found["about"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(
                f"{path} cannot be read as a calibration ({error}); use a file of calibrate-corrdiff"
            ) from error
        return cls(corrections, settings, about, as_path(path).name, hashlib.sha256(data).hexdigest())

    def text(self) -> str:
        """The content of its file."""
        variables = {
            name: {
                key: value for key, value in asdict(correction).items() if value not in (-math.inf, math.inf)
            }
            for name, correction in self.corrections.items()
        }
        content = {"calibration": FORMAT, "settings": self.settings, "about": self.about}
        return json.dumps(content | {"variables": variables}, indent=1) + "\n"

    @property
    def attributes(self) -> dict[str, str]:
        """What a store records of it."""
        return {"calibration": self.name, "calibration_sha256": self.sha256}

    def check(self, attributes: Mapping[str, Any], variables: Sequence[str], shape: Sequence[int]) -> None:
        """Refuse a run, or a store, that it does not fit; warn where that is not certain.

        Parameters
        ----------
        attributes : Mapping[str, Any]
            Of the store
        variables : Sequence[str]
            Of the members
        shape : Sequence[int]
            Of the output grid

        Raises
        ------
        InputError
            If the package or the solver's settings are others, or it has none of the variables
        """
        if other := differences(self.settings, attributes):
            raise InputError(f"the calibration {self.name} was fitted on runs with {other}; fit another one")
        lacking = [name for name in variables if name not in self.corrections]
        if len(lacking) == len(variables):
            raise InputError(f"the calibration {self.name} has none of {', '.join(variables)}")
        if lacking:
            logger.warning("the calibration {} leaves {} as it is", self.name, ", ".join(lacking))
        have = {"source": attributes.get("source"), "shape": list(shape)}
        for key, value in have.items():
            if (fitted := self.about.get(key)) != value:
                logger.warning(
                    "the calibration {} was fitted on the {} {}, not {}", self.name, key, fitted, value
                )

    def place(self, grid: Grid, times: Any) -> Tensor | None:
        """What networks see of points and times, ``[4, T, H, W]``; None where there is no network."""
        located = any(isinstance(one, NetworkCorrection) for one in self.corrections.values())
        return place_of(grid, times) if located else None

    def __call__(
        self, members: Tensor, mean: Tensor, variables: Sequence[str], place: Tensor | None = None
    ) -> Tensor:
        """Corrected members ``[m, Co, H, W]`` about the regression, ``[1, …]`` or ``[m, …]``."""
        fields = zip(variables, members.unbind(1), mean.unbind(1), strict=True)
        return torch.stack([self.corrections.get(n, Correction())(x, r, place) for n, x, r in fields], dim=1)


def differences(settings: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """``NAME THIS instead of THAT`` of each of ``SETTINGS`` that differs; empty if none does."""
    pairs = {key: (settings.get(key), attributes.get(key)) for key in SETTINGS}
    other = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return ", ".join(f"{key} {one!s:.12} instead of {two!s:.12}" for key, (one, two) in other.items())


def check_uncalibrated(attributes: Mapping[str, Any], store: object) -> None:
    """Refuse a store whose members are corrected already."""
    if "calibration" in attributes:
        raise InputError(f"{store} is calibrated already, with {attributes['calibration']}; give another run")


def _correction(entry: Mapping[str, Any]) -> Correction:
    lists = ("center", "width", "layers")
    given: dict[str, Any] = {key: v if key in lists else float(v) for key, v in entry.items()}
    return NetworkCorrection(**given) if "layers" in given else Correction(**given)
