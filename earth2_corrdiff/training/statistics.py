# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Means and standard deviations of all channels, streamed over the training times and cached in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import time_text
from earth2_corrdiff.model.conditioning import transformed
from earth2_corrdiff.model.spec import Statistics
from earth2_corrdiff.model.transforms import Transform
from earth2_corrdiff.training import checkpoints
from earth2_corrdiff.training.pairs import PairFile


class ConstantError(InputError):
    """A channel that never varies."""


class Moments:
    """Mean and variance of each channel of many fields; merged pairwise, so that nothing is lost to rounding.

    Source: Chan, Golub and LeVeque (1983), the update of mean and sum of squares.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = torch.zeros(0), torch.zeros(0), torch.zeros(0)

    def add(self, fields: Tensor) -> None:
        """Add ``[N, C, …]``; values that are not finite are left out."""
        flat = fields.double().transpose(0, 1).flatten(1)
        known = torch.isfinite(flat)
        count = known.sum(1).double()
        flat = torch.where(known, flat, 0)
        mean = flat.sum(1) / count.clamp(min=1)
        squares = torch.where(known, flat - mean[:, None], 0).square().sum(1)
        if not len(self.count):
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, apart = (self.count + count).clamp(min=1), mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = self.count + count

    @property
    def std(self) -> Tensor:
        """``[C]``: with n - 1."""
        return (self.squares / (self.count - 1).clamp(min=1)).sqrt()


@dataclass(frozen=True)
class Normalisation:
    """Statistics of inputs, outputs and invariants."""

    inputs: Statistics
    outputs: Statistics
    invariants: Statistics


def normalisation(
    pairs: PairFile,
    indices: Sequence[int],
    regrid: Callable[[Tensor], Tensor],
    sigma: float,
    kept: Path,
    transforms: Mapping[str, Transform] = MappingProxyType({}),
) -> Normalisation:
    """Statistics of the training times; from the file ``kept`` where it is of the same times.

    An output that is also an input is scaled by its residual from interpolation, so that each counts in the
    loss by what is left to learn; all are scaled to the standard deviation ``sigma``. Variables with a
    transform have the statistics of transformed values; missing values are left out.

    Raises
    ------
    InputError
        If a channel never varies, or has values that its transform does not take: the message names it; if
        ``kept`` has those of other data, and a training of these has begun beside it
    """
    key, when = _key(pairs, indices, sigma, transforms), _period(pairs, indices)
    if (found := _read(kept, key)) is not None:
        return found
    _check_unused(kept, when)
    coarse, fine, rest = Moments(), Moments(), Moments()
    inputs, outputs = pairs.channels.inputs, pairs.channels.outputs
    low, high = ([transforms.get(name, Transform()) for name in names] for names in (inputs, outputs))
    twins = [(o, inputs.index(name)) for o, name in enumerate(outputs) if name in inputs]
    of, to = [c for _, c in twins], [o for o, _ in twins]
    for part in _parts(indices):
        some = pairs.read(part)
        coarse.add(_transformed(some.coarse, low, inputs))
        truth = _transformed(some.fine, high, outputs)
        fine.add(truth)
        left = truth.clone()
        if twins:
            left[:, to] -= transformed(regrid(some.coarse[:, of]).float(), [low[c] for c in of])
        rest.add(left)
    still = Moments()
    if pairs.invariant_fields is not None:
        still.add(torch.from_numpy(pairs.invariant_fields)[None])
    made = Normalisation(
        _named(inputs, coarse.mean, coarse.std),
        _named(outputs, fine.mean, rest.std / sigma),
        _named(pairs.channels.invariants, still.mean, still.std),
    )
    _write(kept, key, when, made)
    return made


def _period(pairs: PairFile, indices: Sequence[int]) -> str:
    times = pairs.times[sorted(indices)]
    return f"{len(times)} times from {time_text(times[0])} to {time_text(times[-1])}"


def _check_unused(kept: Path, when: str) -> None:
    """Refuse to replace the statistics that the networks of a training in progress have learnt with."""
    if not kept.exists() or not (kept.parent / "regression.ckpt").exists():
        return
    before = json.loads(kept.read_text(encoding="utf-8")).get("of", "other data")
    now = when if before != when else "these with other variables, transforms or sigma_data"
    raise InputError(
        f"the training in {kept.parent} has the statistics of {before}, and is now to learn from {now}; set "
        "data.split to the former times, or use another work folder (start_from: PACKAGE keeps statistics)"
    )


def _transformed(x: Tensor, transforms: Sequence[Transform], names: Sequence[str]) -> Tensor:
    """Transformed fields ``[B, C, H, W]``; their missing values are those of ``x``."""
    made = transformed(x, transforms)
    for c, (transform, name) in enumerate(zip(transforms, names, strict=True)):
        if bool((x[:, c].isfinite() & ~made[:, c].isfinite()).any()):
            known = x[:, c][x[:, c].isfinite()]
            raise InputError(
                f"{name} has values from {known.min():.4g} to {known.max():.4g}, and the transform "
                f"{transform.kind} takes {transform.bounds[0]:g} to {transform.bounds[1]:g}; use another one"
            )
    return made


def _parts(indices: Sequence[int], size: int = 32) -> Iterator[Sequence[int]]:
    ordered = sorted(indices)
    return (ordered[i : i + size] for i in range(0, len(ordered), size))


def _named(names: Sequence[str], center: Tensor, scale: Tensor) -> Statistics:
    least = torch.finfo(torch.float32).eps * center.abs()  # what is below it is rounding
    flat = [name for name, varies in zip(names, (scale > least).tolist(), strict=True) if not varies]
    if flat:
        raise ConstantError(f"{', '.join(flat)} never varies in the training times; leave it out")
    return Statistics(tuple(names), tuple(center.tolist()), tuple(scale.tolist()))


def _key(pairs: PairFile, indices: Sequence[int], sigma: float, transforms: Mapping[str, Transform]) -> str:
    text = f"{pairs.channels} {sigma} {pairs.fine_grid.shape} {pairs.coarse_grid.shape}"
    text += f" {dict(sorted(transforms.items()))}" if transforms else ""
    times = pairs.times[sorted(indices)].tobytes()
    return hashlib.sha256(text.encode() + times).hexdigest()


def _read(path: Path, key: str) -> Normalisation | None:
    stored = checkpoints.load_json(path, key)
    if stored is None:
        return None
    try:
        parts = {field.name: Statistics(*map(tuple, stored[field.name])) for field in fields(Normalisation)}
        return Normalisation(**parts)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; remove it") from error


def _write(path: Path, key: str, when: str, made: Normalisation) -> None:
    checkpoints.save_json(
        path, key, {"of": when, **{name: astuple(part) for name, part in vars(made).items()}}
    )
