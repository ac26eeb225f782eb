# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a run: seed, members, sampling, and what to do with an output that exists."""

from __future__ import annotations

from dataclasses import dataclass

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.tasks import Part
from earth2_corrdiff.store.error_bounds import Compression
from earth2_corrdiff.store.states import Scorer, check_keep


@dataclass(frozen=True)
class Options:
    """Options of a run; the model's settings hold where nothing else is given.

    Attributes
    ----------
    seed : int | None
        Of the run, by default the model's, else one that is drawn; recorded in the store
    max_batch : int | None
        Most members in one network call, by default the model's
    overwrite, resume : bool
        What to do with an output that exists; by default refuse. A store is replaced when its new run
        is complete; one to resume must be of the same run, and without a seed its own is taken
    command : str
        For the provenance in the store
    keep_going : bool
        Go on without cases whose input cannot be used: see ``Downscaling.failed``
    part : Part
        Part of the plan to compute: others fill the same store. With several, the store of the run is gone on
        with if it is there
    compress : Compression | None
        Largest errors of the outputs in a Zarr store; by default there are none
    check : bool
        Read every byte of a store that is resumed, in search of damage; by default the newest members, and
        of all others look at the size of the files
    number_of_samples : int | None
        Members of each case, by default the model's number
    sampling : Sampling | None
        Solver, steps and noise range, by default the model's
    keep : {"all", "mean", "none"}
        What a Zarr store keeps of the members: all, their mean and standard deviation, or nothing
    scorer : Scorer | None
        Scores each time (each start and lead time) as soon as its members are there, into the store
    """

    seed: int | None = None
    max_batch: int | None = None
    overwrite: bool = False
    resume: bool = False
    command: str = "earth2_corrdiff.downscale"
    keep_going: bool = False
    part: Part = Part()
    compress: Compression | None = None
    check: bool = False
    number_of_samples: int | None = None
    sampling: Sampling | None = None
    keep: str = "all"
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.keep == "none" and self.scorer is None:
            raise InputError("--keep none leaves nothing but scores; give the truth with --score")
        if self.keep != "all" and self.compress is not None:
            raise InputError("--compress is for members; leave it out, or use --keep all")

    @property
    def by_state(self) -> bool:
        """True if the members of a time belong together."""
        return self.keep != "all" or self.scorer is not None
