# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The output: one Zarr store through Earth2Studio's ``ZarrBackend``, resumable after any interruption.

A member of a state is an address in the store. Its fields are written first and its seed last, so a seed
that is there says that the member is complete: what is done is a property of the store. No two members
share a chunk, so several processes can fill one store.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from earth2studio.io import ZarrBackend
from earth2studio.utils.coords import split_coords
from loguru import logger
from torch import Tensor

from earth2_corrdiff.arrays import UNWRITTEN, lay_out
from earth2_corrdiff.bounded import BoundedFields
from earth2_corrdiff.compression import Kept
from earth2_corrdiff.errors import InputError
from earth2_corrdiff.layout import SEED, Layout
from earth2_corrdiff.place import check_target, replaced, writing


class Store:
    """One store, laid out and ready to be filled.

    Parameters
    ----------
    io : ZarrBackend
        Holding nothing, or, to resume it, what an earlier run of the same layout left
    layout : Layout
        What it shall hold
    resume : bool, optional
        Go on with what is there, by default refuse it
    place : Path | None, optional
        Its path, for messages

    Raises
    ------
    InputError
        If the backend holds something else, or was filled for other times, members, grids or settings: the
        message names them; or its codecs are not installed, or are the backend's own
    """

    def __init__(
        self, io: ZarrBackend, layout: Layout, resume: bool = False, place: Path | None = None
    ) -> None:
        self.io, self.layout, self.place = io, layout, place or io.root.store
        if SEED in io.root and resume:
            kept = tuple(name for name in layout.lowres if f"{name}_lowres" in io.root)
            self.layout = replace(layout, lowres=kept)
            _check_same(io, layout, self.place)
        elif len(io.root):
            raise InputError(f"{self.place} is not empty; give an empty backend, or ask to resume its run")
        elif layout.bounds and io.zarr_codecs is not None:
            raise InputError("the ZarrBackend has zarr_codecs of its own; leave them out, or do not compress")
        else:
            with writing(self.place, kept=False):
                lay_out(io, layout)
        self._bounded = BoundedFields(io.root, self.layout, self.place)

    @classmethod
    def create(cls, path: Path, layout: Layout, overwrite: bool = False) -> Store:
        """Make a store beside its place and move it there, so that there is a whole one or none.

        Raises
        ------
        InputError
            If it exists and may not be overwritten, or the place cannot be written
        """
        check_target(path, overwrite=overwrite, resume=False)
        with replaced(path) as fresh:
            cls(ZarrBackend(str(fresh)), layout, place=path)
        return cls.resume(path, layout)

    @classmethod
    def resume(cls, path: Path, layout: Layout) -> Store:
        """Open the store of an interrupted run.

        Raises
        ------
        InputError
            If it was made for other times, members, grids or settings: the message names them
        """
        try:
            io = ZarrBackend(str(path))
            # not the consolidated copy of the metadata: that one cannot be changed
            io.root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
            return cls(io, layout, resume=True, place=path)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"the store {path} is damaged ({error}); use --overwrite") from error

    def missing(self, state: int) -> list[int]:
        """Members of a state that are not written."""
        return _missing(self.io.root[SEED][self.layout.states.index(state)])

    def all_missing(self) -> list[list[int]]:
        """Members of every state that are not written."""
        return [_missing(seeds) for seeds in self.io.root[SEED][:].reshape(-1, self.layout.members)]

    def write_lowres(self, state: int, x: Tensor) -> None:
        """Write the coarse input ``[C, h, w]`` of a state."""
        names = [f"{name}_lowres" for name in self.layout.lowres]
        leading = (1,) * len(self.layout.states.shape)
        with writing(self.place):
            fields = [field.cpu().reshape(*leading, *field.shape) for field in x]
            self.io.write(fields, self.layout.lowres_coords(state), names)

    def write_members(self, state: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a state: ``[m, Co, H, W]``; their seeds last."""
        coords, where = self.layout.output_coords(state), self.layout.states.index(state)
        with writing(self.place):
            for i, fields in enumerate(block, first):
                coords["sample"] = np.array([i])
                self._bounded.check(state, i, fields)
                self.io.write(*_variables(fields[None], coords, self.layout))
                self._bounded.verify(state, i, fields)
                self.io.root[SEED][*where, i] = self.layout.seeds[*where, i]

    def finish(self) -> dict[str, Kept]:
        """What became of the variables that are not kept without loss; once all is written, recorded.

        Any number of processes may call it, at once or again: they write the same bytes.
        """
        with writing(self.place):
            return self._bounded.finish(complete=not any(self.all_missing()))


class Plain:
    """Any other Earth2Studio backend: the fields alone, without provenance, and not resumable."""

    def __init__(self, io: Any, layout: Layout) -> None:
        if layout.bounds:
            raise InputError("only a Zarr store can be compressed; give a path or a ZarrBackend, or leave it")
        self.io, self.layout = io, layout
        io.add_array(layout.output_coords(), list(layout.outputs))

    def missing(self, state: int) -> list[int]:
        """All members."""
        return list(range(self.layout.members))

    def all_missing(self) -> list[list[int]]:
        """All members of every state."""
        return [self.missing(state) for state in range(len(self.layout.states))]

    def write_lowres(self, state: int, x: Tensor) -> None:
        """Kept by Zarr stores only."""

    def write_members(self, state: int, first: int, block: Tensor) -> None:
        """Write members ``first, first + 1, …`` of a state: ``[m, Co, H, W]``."""
        coords = self.layout.output_coords(state)
        coords["sample"] = np.arange(first, first + len(block))
        self.io.write(*_variables(block, coords, self.layout))

    def finish(self) -> dict[str, Kept]:
        """Nothing is compressed here."""
        return {}


def _missing(seeds: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero(seeds == UNWRITTEN)]


def _variables(block: Tensor, coords: OrderedDict[str, Any], layout: Layout) -> tuple[Any, Any, Any]:
    """Members ``[m, Co, H, W]`` of one state as Earth2Studio's backends take them: a list over variables."""
    leading = (1,) * len(layout.states.shape)
    fields = block.transpose(0, 1).cpu()
    fields = fields.reshape(fields.shape[0], *leading, *fields.shape[1:])
    variable = OrderedDict(variable=np.array(layout.outputs), **coords)
    found: tuple[Any, Any, Any] = split_coords(fields, variable)
    return found


def _check_same(io: ZarrBackend, layout: Layout, place: object) -> None:
    """Compare everything that makes two runs the same before one goes on with the other's store."""
    attributes = dict(io.root.attrs)
    other = layout.differences(attributes, {name: io.root[name] for name in io.root})
    if other:
        raise InputError(
            f"{place} belongs to another run, it has {'; '.join(other)}; use --overwrite or another --output"
        )
    if attributes.get("versions") != layout.attributes.get("versions"):
        logger.warning(
            "{} was begun with other software versions: members may differ in the last bits", place
        )
