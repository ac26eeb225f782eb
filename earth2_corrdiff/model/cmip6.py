# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CorrDiff from CMIP6 daily means to hourly fields of the globe, as an Earth2Studio diagnostic model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Self

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.studio import Package
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.model.coordinates import CoordSystem, folded, match_coords
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.cmip6 import check_mode
from earth2_corrdiff.model.packages.files import Files
from earth2_corrdiff.model.timed import TimedCorrDiff

_HOUR = np.timedelta64(1, "h")
_FIRST, _LAST = -12, 11  # hours around noon of the day whose mean is given
_MIDNIGHT = np.array([np.timedelta64(_FIRST, "h")])


def _with_leads(coords: CoordSystem, leads: NDArray[np.timedelta64]) -> CoordSystem:
    """Coordinates with lead times after the times."""
    items = list(coords.items())
    after = list(coords).index("time") + 1
    return OrderedDict([*items[:after], ("lead_time", leads), *items[after:]])


class CorrDiffCMIP6(TimedCorrDiff):
    """CorrDiff with the published CorrDiff-CMIP6 weights as its default package.

    Parameters
    ----------
    downscaler, number_of_samples, seed
        As for :class:`CorrDiff`

    Attributes
    ----------
    output_lead_times : np.ndarray
        timedelta64 ``[L]`` from -12 to 11 h: times of the output, relative to noon (UTC) of the input's day
    stream_samples_to_cpu : bool
        True for results on the CPU: a GPU then holds one block of members at a time

    Raises
    ------
    InputError
        If the package is another's, or an attribute is set to a value that is not valid

    Source: ``earth2studio.models.dx.CorrDiffCMIP6``.
    """

    def __init__(
        self, downscaler: Downscaler, number_of_samples: int | None = None, seed: int | None = None
    ) -> None:
        if downscaler.spec.daily_hour is None:
            raise InputError("this is not a package of CorrDiffCMIP6; load it with CorrDiff")
        super().__init__(downscaler, number_of_samples, seed)
        self.output_lead_times = _MIDNIGHT
        self.stream_samples_to_cpu = False

    @property
    def output_lead_times(self) -> NDArray[np.timedelta64]:
        """Times of the output, relative to the input's."""
        return self._output_lead_times

    @output_lead_times.setter
    def output_lead_times(self, value: Any) -> None:
        leads = np.asarray(value)
        if leads.ndim != 1 or not leads.size or leads.dtype.kind != "m":
            raise InputError(f"output_lead_times must be an array of timedelta64, got {value!r:.80}")
        hours = leads / _HOUR
        if not ((hours >= _FIRST) & (hours <= _LAST)).all():
            raise InputError(
                f"output_lead_times must be within {_FIRST} and {_LAST} h, got {', '.join(map(str, leads))}; "
                "for another day give its time: 2026-12-23T00:00 is -12 h from 2026-12-23T12:00"
            )
        self._output_lead_times = leads

    @property
    def inference_mode(self) -> str:
        """Which stages make the output: ``both`` or ``regression``."""
        return self.spec.inference_mode

    @inference_mode.setter
    def inference_mode(self, value: str) -> None:
        check_mode(value)
        self.downscaler.inference_mode = value

    def input_coords(self) -> CoordSystem:
        """Coordinates of the input: ``batch, time, lead_time, variable, lat, lon``; three daily means."""
        days = np.array([np.timedelta64(int(hours), "h") for hours in self.spec.input_hours])
        return _with_leads(super().input_coords(), days)

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """Coordinates of the output: ``batch, sample, time, lead_time, variable, lat, lon``.

        Leading dimensions of any name stand in the place of ``batch``.

        Raises
        ------
        InputError
            If the input coordinates are not the model's
        """
        coords, days = super().output_coords(input_coords), self.input_coords()["lead_time"]
        if not np.array_equal(input_coords["lead_time"], days):
            raise InputError(f"the model takes the lead times {', '.join(map(str, days))} of daily means")
        return _with_leads(coords, self.output_lead_times)

    @folded
    def __call__(self, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Downscale ``x [batch, time, lead_time, variable, lat, lon]``, or a labelled array.

        As in the stock class, all cases of a call share their members' noise (without a seed, those of one
        valid time), and sea ice is smoothed once more for each further lead time; but ``x`` stays as it is.

        Returns
        -------
        tuple[Tensor, CoordSystem]
            ``[batch, sample, time, lead_time, variable, H, W]`` float32, and its coordinates
        """
        output_coords = self.output_coords(coords)
        self.check_times(x, coords)
        self._check_label(output_coords["time"])
        if match_coords(coords, self.input_coords()):
            x = x.flip(-2)
        home = "cpu" if self.stream_samples_to_cpu else x.device
        shape = [len(values) for values in output_coords.values()]
        out = torch.empty(shape, dtype=torch.float32, device=home)
        for t, time in enumerate(output_coords["time"]):
            days = x[:, t].float()
            for lead, after in enumerate(output_coords["lead_time"]):
                days = self.downscaler.conditioning.filtered(days) if lead else days
                times = np.full(len(days), time + after)
                made = self.downscaler.members(days, self.member_seeds(), self.max_batch, valid_times=times)
                for b, first, block in made:
                    out[b, first : first + len(block), t, lead] = block
        return out, output_coords

    def _check_label(self, times: NDArray[np.datetime64]) -> None:
        """Warn of times that are not those that daily means are labelled with."""
        wrong = times[times != self.spec.input_time(times)]
        if wrong.size:
            logger.warning("daily means have the time 12:00 UTC of their day; got {}", time_text(wrong[0]))

    # loading

    @classmethod
    def load_default_package(cls) -> Package:
        """The published package, cached by Earth2Studio."""
        return Package(
            "hf://nvidia/corrdiff-cmip6-era5@f756fad5b85efec64df4868aead14dda698b8aea",
            cache_options={"cache_storage": Package.default_cache("corrdiff_cmip6"), "same_names": True},
        )

    @classmethod
    def load_model(  # type: ignore[override]
        cls,
        package: Files,
        output_lead_times: Any = _MIDNIGHT,
        device: str | torch.device | None = None,
        precision: str = "auto",
        accelerated: bool = True,
    ) -> Self:
        """Load a package.

        Parameters
        ----------
        package : Package
            Earth2Studio's package
        output_lead_times : np.ndarray, optional
            As the attribute, by default midnight
        device, precision, accelerated
            As for :meth:`CorrDiff.load_model`

        Raises
        ------
        InputError
            If the package is missing, damaged, inconsistent or another's, or the device is not there
        """
        model = super().load_model(package, device, precision, accelerated)
        model.output_lead_times = output_lead_times
        return model
