# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the chosen members of a store, with their file names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xarray as xr
from loguru import logger
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import chosen_leads
from earth2_corrdiff.plotting import figures, panels, style
from earth2_corrdiff.plotting.animation import animate, animate_times
from earth2_corrdiff.plotting.panels import Scales
from earth2_corrdiff.store import reader

LISTED = 3
"""Members that are not written and are named."""


@dataclass(frozen=True)
class Pictures:
    """Figures and animations of members of a store.

    Attributes
    ----------
    ds : xr.Dataset
        From ``open_store``
    members : dict[int, list[int]]
        Numbers of the members by case (a position); cases without any are left out
    coarse : list[int]
        Positions of the coarse members; [0] where there is one coarse input
    colormap : Colormap or None
        Colours of all quantities, by default each has its own
    """

    ds: xr.Dataset
    members: dict[int, list[int]]
    coarse: list[int]
    colormap: Colormap | None = None

    def figures(
        self, index: int, lowres: bool = False, thresholds: Mapping[str, float] | None = None
    ) -> Iterator[tuple[str, Figure]]:
        """Name (without its ending) and figure of each member of a case.

        Then, with ``lowres``, of each coarse input, and, with ``thresholds`` (which may be empty), of the
        ensemble, if it has two members.
        """
        ds, stem, scales = self.ds, self._stem(index), self._scales(index)
        for sample in self.members[index]:
            yield f"{stem}-{self._label(sample)}", figures.plot_member(ds, index, sample, scales)
        numbers = reader.coarse_numbers(ds)
        for position in self.coarse if lowres else ():
            own = "" if numbers is None else f"-coarse-{numbers[position]}"
            yield f"{stem}{own}-lowres", figures.plot_lowres(ds, index, scales, position)
        if thresholds is not None and len(reader.written_members(ds, index)) > 1:
            yield f"{stem}-ensemble", figures.plot_ensemble(ds, index, thresholds, scales=scales)
        elif thresholds is not None:
            logger.warning("only one member is written at {}: no ensemble picture", reader.cases(ds)[index])

    def over_members(self, index: int) -> tuple[str, Callable[[Path], None]]:
        """Name of the animation over the members of a case, and what writes it."""
        scales = self._scales(index)
        name = f"{self._stem(index)}-animation"
        return name, lambda path: animate(self.ds, path, index, self.members[index], scales)

    def over_times(self) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """The same of each animation over the times, or over the lead times of a start, of a member."""
        every = reader.cases(self.ds)
        groups: dict[object, list[int]] = {}
        for index in self.members:
            groups.setdefault(None if every.leads is None else every[index].time, []).append(index)
        for times in groups.values():
            members = {index: self.members[index] for index in times}
            scales = self._recolored(panels.color_scales(self.ds, members))
            span = self._stem(times[0])
            span += f"-to-{reader.case_label(every[times[-1]])}" if len(times) > 1 else ""
            for sample in sorted(set().union(*members.values())):
                at = [index for index in times if sample in members[index]]
                write = partial(self._animate_times, sample, at, scales)
                yield f"{span}-{self._label(sample)}-animation", write

    def _animate_times(self, sample: int, times: list[int], scales: Scales, path: Path) -> None:
        animate_times(self.ds, path, sample, times, scales)

    def _scales(self, index: int) -> Scales:
        return self._recolored(figures.color_scales(self.ds, index))

    def _recolored(self, scales: Scales) -> Scales:
        return scales if self.colormap is None else style.recolored(scales, self.colormap)

    def _stem(self, index: int) -> str:
        return f"corrdiff-{reader.case_label(reader.cases(self.ds)[index])}"

    def _label(self, sample: int) -> str:
        """``sample-2``, or ``coarse-1-sample-2``."""
        coarse, own = reader.member_names(self.ds, sample)
        return f"sample-{own}" if coarse is None else f"coarse-{coarse}-sample-{own}"


def choose(
    ds: xr.Dataset,
    lead: str | None = None,
    samples: Sequence[int] | None = None,
    coarse: Sequence[int] | None = None,
    ensemble: bool = False,
    colormap: Colormap | None = None,
) -> Pictures:
    """Pictures of the written ones of some members; one warning names those that are not.

    Parameters
    ----------
    ds : xr.Dataset
        From ``open_store``
    lead : str, optional
        Lead times of forecasts, like ``24h`` or ``0/48/6h``; by default all
    samples, coarse : sequence of int, optional
        Numbers of members, and of the coarse members whose members are plotted; by default all
    ensemble : bool, optional
        True if ensemble statistics will be plotted: two members must be written
    colormap : Colormap, optional
        Colours of all quantities, by default each has its own

    Raises
    ------
    InputError
        If the store has none of a lead time, member or coarse member, or too few are written
    """
    every, asked = reader.cases(ds), _members(ds, samples, coarse)
    leads = None if lead is None else chosen_leads(lead, every.leads)
    indices = [index for index, case in enumerate(every) if leads is None or case.lead in leads]
    written = {index: reader.written_members(ds, index) for index in indices}
    if ensemble and max(map(len, written.values()), default=0) < 2:
        raise InputError("--ensemble needs two written members, and the store has fewer: run more samples")
    found = {index: [sample for sample in asked if sample in there] for index, there in written.items()}
    if not any(found.values()):
        raise InputError(
            "none of the members to plot has been written: finish the run with run-corrdiff --resume"
        )
    missing = [(i, sample) for i, there in found.items() for sample in asked if sample not in there]
    _warn(ds, missing, len(asked) * len(indices))
    numbers = reader.coarse_numbers(ds) or [0]
    positions = [i for i, number in enumerate(numbers) if coarse is None or number in coarse]
    return Pictures(ds, {index: members for index, members in found.items() if members}, positions, colormap)


def _warn(ds: xr.Dataset, missing: list[tuple[int, int]], members: int) -> None:
    """One line about all members that are not written."""
    if not missing:
        return
    every = reader.cases(ds)
    texts = [
        f"{reader.member_text(ds, sample).replace('member', 'sample', 1)} at {every[index]}"
        for index, sample in missing[:LISTED]
    ]
    more = ", …" if len(missing) > LISTED else ""
    logger.warning(
        "{} of {} members are not written and are left out: {}{}",
        *(len(missing), members, ", ".join(texts), more),
    )


def _members(ds: xr.Dataset, samples: Sequence[int] | None, coarse: Sequence[int] | None) -> list[int]:
    """Numbers of the members to plot; InputError if the store has no room for one of them."""
    numbers = reader.coarse_numbers(ds)
    if numbers is None:
        if coarse is not None:
            raise InputError("the store has no coarse members; leave out --coarse-members")
        return reader.checked_samples(ds, samples)
    _check_listed("coarse member", coarse or (), numbers)
    _check_listed("sample", samples or (), ds["sample"].values.tolist())
    named = {number: reader.member_names(ds, number) for number in reader.sample_numbers(ds)}
    return [
        number
        for number, (own, sample) in named.items()
        if (coarse is None or own in coarse) and (samples is None or sample in samples)
    ]


def _check_listed(what: str, wanted: Iterable[int], there: Sequence[int]) -> None:
    for number in wanted:
        if number not in there:
            raise InputError(f"the store has no {what} {number}: it has {', '.join(map(str, there))}")
