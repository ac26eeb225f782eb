# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""States of a run: all members of a time, or of a start and lead time, scored or summarised in the store.

Scores are attributes of a group of the store's group ``scores``, one for each state: writing them again
changes nothing, and whoever completes a state may write them. Members that are not kept are held in memory
until their state is complete; their seeds are written last and all together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import xarray as xr
import zarr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import writing
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import AnyPath, as_path
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.error_bounds import Kept
from earth2_corrdiff.store.layout import MEAN, SPREAD, finite_members
from earth2_corrdiff.store.objects import zarr_store
from earth2_corrdiff.store.paths import KEPT, SEED
from earth2_corrdiff.store.sizes import FLOAT, size_text

if TYPE_CHECKING:
    from earth2_corrdiff.store.writer import Store

SCORES, SUMS = "scores", "sums"
KEEP = ("all", "mean", "none")


class Scorer(Protocol):
    """Scores of states, which this layer does not look into."""

    def check(self, grid: Grid, variables: Any) -> None:
        """Refuse a grid or variables that cannot be scored."""

    def __call__(self, ds: xr.Dataset) -> str:
        """Sums of the one state of a dataset that is laid out as a store."""


class States:
    """A store by states.

    Parameters
    ----------
    store : Store
        Without arrays of members unless ``keep`` is "all"
    outputs : tuple[str, ...]
        Variables of the members
    keep : {"all", "mean", "none"}
        Whether members are written, or their mean and standard deviation, or neither
    scorer : Scorer | None
        Scores each state

    Raises
    ------
    InputError
        If the members of a state do not fit the memory
    """

    def __init__(self, store: Store, outputs: tuple[str, ...], keep: str, scorer: Scorer | None) -> None:
        self.store, self.keep, self.scorer = store, keep, scorer
        self.layout = replace(store.layout, outputs=outputs)
        self.coarse = len(self.layout.cases.coarse or (None,))  # cases of a state
        self.io = store.io
        self._held: dict[int, dict[int, Tensor]] = {}
        need = self.coarse * self.layout.members * len(outputs) * self.layout.output_grid.shape[0]
        need *= FLOAT * self.layout.output_grid.shape[1]
        if keep != "all" and need > (free := free_bytes(torch.device("cpu"))):
            raise InputError(
                f"the members of one state need {size_text(need)} of memory, and {size_text(free)} are free; "
                "use --keep all, or fewer members"
            )

    def cases(self, state: int) -> range:
        """Numbers of the cases of a state."""
        return range(state * self.coarse, (state + 1) * self.coarse)

    def missing(self, case: int) -> list[int]:
        """Members of a case to compute: without its members all of a state, if any lacks its seed."""
        if self.keep == "all":
            return self.store.missing(case)
        cases = self.cases(case // self.coarse)
        return list(range(self.layout.members)) if any(map(self.store.missing, cases)) else []

    def all_missing(self) -> list[list[int]]:
        """The same of every case."""
        found = self.store.all_missing()
        if self.keep == "all":
            return found
        every = list(range(self.layout.members))
        lacks = [any(found[i] for i in self.cases(case // self.coarse)) for case in range(len(found))]
        return [every if lacking else [] for lacking in lacks]

    def write_lowres(self, case: int, x: Tensor) -> None:
        """Write the coarse input ``[C, h, w]`` of a case."""
        self.store.write_lowres(case, x)

    def write_members(self, case: int, first: int, block: Tensor, missing: Tensor | None = None) -> None:
        """Take members ``first, first + 1, …`` of a case, ``[m, Co, H, W]``; with the last, end their state.

        Raises
        ------
        MemberError
            If some are not finite but where they are missing: the others are taken
        InputError
            If they cannot be written or scored
        """
        state = case // self.coarse
        if self.keep == "all":
            self.store.write_members(case, first, block, missing)
        else:
            self._hold(state, case, first, block, missing)
        self._end(state)

    def _hold(self, state: int, case: int, first: int, block: Tensor, missing: Tensor | None) -> None:
        held = self._held.setdefault(state, {})
        self._held = {state: held}  # what is left of another state has failed
        for i, fields in finite_members(self.layout, case, first, block, missing):
            held[case % self.coarse * self.layout.members + i] = fields.clone()

    def _end(self, state: int) -> None:
        """Score and summarise a state that is complete."""
        if self.keep == "all":
            if self.scorer is not None and not any(map(self.store.missing, self.cases(state))):
                self._score(state, self._part(state))
            return
        held = self._held.get(state, {})
        if len(held) < self.coarse * self.layout.members:
            return
        fields = torch.stack([held[i] for i in sorted(held)])
        self._score(state, self._part(state), fields)
        with writing(self.store.name, KEPT):
            if self.keep == "mean":
                self._write_mean(state, fields)
            for case in self.cases(state):
                where = self.layout.cases.index(case)
                self.io.root[SEED][where] = self.layout.case_seeds(case)
        self._held = {}

    def _write_mean(self, state: int, fields: Tensor) -> None:
        """Mean and unbiased standard deviation of members ``[M, Co, H, W]``."""
        where = self.layout.cases.index(self.cases(state)[0])[: 1 + self.layout.forecasts]
        for end, values in ((MEAN, fields.mean(0)), (SPREAD, fields.std(0))):
            for name, field in zip(self.layout.outputs, values, strict=True):
                self.io.root[name + end][where] = field.numpy()

    def _score(self, state: int, ds: xr.Dataset, fields: Tensor | None = None) -> None:
        """Score a state, unless that has been done."""
        if self.scorer is None or str(state) in self._scores:
            return
        if fields is not None:
            M, (H, W) = self.layout.members, self.layout.output_grid.shape
            shape = (1,) * (1 + self.layout.forecasts)
            shape += (M,) if self.layout.cases.coarse is None else (self.coarse, M)
            dims = (*self.layout.cases.axes, "sample", *reader.horizontal_dims(ds))
            for name, values in zip(self.layout.outputs, fields.unbind(1), strict=True):
                ds = ds.assign({name: (dims, values.reshape(*shape, H, W).numpy())})
        sums = self.scorer(ds)
        with writing(self.store.name, KEPT):
            self._scores.create_group(str(state), attributes={SUMS: sums}, overwrite=True)

    @cached_property
    def _scores(self) -> zarr.Group:
        how: Any = {"path": SCORES, "mode": "a", "use_consolidated": False}
        return zarr.open_group(self.io.root.store, **how)

    @cached_property
    def _template(self) -> xr.Dataset:
        store = self.io.root.store
        return reader.with_coordinates(xr.open_zarr(store, chunks=None)).drop_vars(SEED)

    def _part(self, state: int) -> xr.Dataset:
        """The part of the store that belongs to a state, its axes of length 1."""
        where = self.layout.cases.index(self.cases(state)[0])
        axes = [name for name in self.layout.cases.axes if name != "ensemble"]
        return self._template.isel({name: [i] for name, i in zip(axes, where, strict=False)})

    def finish(self) -> dict[str, Kept]:
        """End the store; states that are complete and not scored are scored."""
        if self.keep == "all" and self.scorer is not None:
            for state in range(len(self.layout.cases) // self.coarse):
                if str(state) not in self._scores:
                    self._end(state)
        return self.store.finish()


def read_sums(path: str | AnyPath) -> dict[int, str]:
    """Sums by state of a store; empty where it has none."""
    root = zarr.open_group(zarr_store(as_path(path)), mode="r", use_consolidated=False)
    group = root.get(SCORES)
    states = group.groups() if isinstance(group, zarr.Group) else ()
    return {int(name): str(state.attrs[SUMS]) for name, state in states}


def check_keep(keep: str) -> None:
    """Raise InputError if members cannot be kept so."""
    if keep not in KEEP:
        raise InputError(f"{keep!r} is not valid for --keep; use {', '.join(KEEP)}")
