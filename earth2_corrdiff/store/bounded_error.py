# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of a store with a bounded error: checked before they are written, read again, recorded.

The largest errors of each member are written before its seed, as its fields are. So they are there for every
complete member, and the maximum over a complete store does not depend on the order of its processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.store.codecs import check_readable, consolidate
from earth2_corrdiff.store.error_bounds import Kept, largest_error
from earth2_corrdiff.store.layout import ERROR, MAX_ERROR, OUTPUT, Layout


class BoundedFields:
    """The fields of a store that have a bound; there may be none.

    Parameters
    ----------
    root : zarr.Group
        The store, laid out
    layout : Layout
        Its layout
    name : object
        Its name in messages

    Raises
    ------
    InputError
        If the package that decodes them is not installed
    """

    def __init__(self, root: zarr.Group, layout: Layout, name: object) -> None:
        self.root, self.layout, self.name = root, layout, name
        check_readable((self._array(output) for output in layout.bounds), name)

    def check(self, case: int, member: int, fields: Tensor) -> None:
        """Refuse a member ``[Co, H, W]`` that cannot be kept within the bounds, before it is written.

        Raises
        ------
        InputError
            If a field is not finite, or too large for its bound
        """
        for output, field in self._fields(fields):
            self.layout.bounds[output].check(self.layout.text(case, member, output), field)

    def verify(self, case: int, member: int, fields: Tensor) -> None:
        """Read a member again that was just written, and record its largest errors.

        Raises
        ------
        InputError
            If an error is larger than its bound: what was read is not what was written
        """
        where = (*self.layout.cases.index(case), member)
        errors = []
        for output, field in self._fields(fields):
            bound = self.layout.bounds[output].absolute
            error = largest_error(field, self._array(output)[where])
            if not error <= bound:  # nor NaN
                raise InputError(
                    f"{self.layout.text(case, member, output)} was read from {self.name} with an error of "
                    f"{error:g}, beyond its bound of {bound:g}; check the disk, then --resume"
                )
            errors.append(error)
        if errors:
            self._array(ERROR)[where] = np.array(errors)

    def finish(self, complete: Callable[[], bool]) -> dict[str, Kept]:
        """Sizes and errors of each variable; in a complete store its largest error becomes an attribute.

        Any number of processes may do it, at once or again: they write the same bytes.
        """
        errors = written_errors(self.root)
        if complete():
            record(self.root, errors)
        raw = 4 * int(np.prod(self.layout.output_grid.shape))
        return {
            name: Kept(
                self.layout.bounds[name].absolute, max(of), raw * len(of), self._array(name).nbytes_stored()
            )
            for name, of in errors.items()
            if of
        }

    def _fields(self, fields: Tensor) -> list[tuple[str, NDArray[np.float32]]]:
        pairs = zip(self.layout.outputs, fields.cpu().numpy(), strict=True)
        return [(name, field) for name, field in pairs if name in self.layout.bounds]

    def _array(self, name: str) -> Any:
        return self.root[name]


def written_errors(root: zarr.Group) -> dict[str, list[float]]:
    """The largest errors of each output with a bound, of all members that are written."""
    if ERROR not in root:
        return {}
    names = str(root[OUTPUT].attrs["flag_meanings"]).split()
    errors = np.asarray(cast(Any, root[ERROR])[:]).reshape(-1, len(names))
    errors = errors[np.isfinite(errors).all(-1)]
    return {name: column.tolist() for name, column in zip(names, errors.T, strict=True)}


def record(root: zarr.Group, errors: Mapping[str, list[float]]) -> None:
    """Record the largest errors of a complete store as attributes of its outputs."""
    if not errors:
        return
    store, most = root.store, {name: max(each) for name, each in errors.items()}
    with warnings.catch_warnings():  # other readers may not support the codecs
        warnings.simplefilter("ignore")
        there = zarr.open_group(store, mode="r")  # by the consolidated copy, which is written last
        if all(there[name].attrs.get(MAX_ERROR) == error for name, error in most.items()):
            return
        root = zarr.open_group(store, mode="r+", use_consolidated=False)
        for name, error in most.items():
            root[name].attrs.update({MAX_ERROR: error})
        consolidate(store)
