# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Entries of ``metadata.json`` for transforms, block means and missing inputs; Earth2Studio has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from earth2_corrdiff.base.block_means import Blocks
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.packages.metadata import read_channels, table, write_channels
from earth2_corrdiff.model.spec import CorrDiffSpec, Statistics
from earth2_corrdiff.model.transforms import Transform

BLOCKS = "block_means"


def write_extensions(spec: CorrDiffSpec) -> dict[str, Any]:
    """The entries of a package, as far as they are not their defaults.

    Raises
    ------
    InputError
        If an output has a rule other than a transform
    """
    if any(rule != OutputRule(rule.transform) for rule in spec.rules):
        raise InputError("the generic layout has transforms of outputs, and no other rules")
    transforms = {channel.name: channel.transform for channel in spec.channels if channel.kind == "input"}
    transforms |= {
        n: rule.transform for n, rule in zip(spec.outputs.names, spec.rules, strict=bool(spec.rules))
    }
    entries = {
        "channels": write_channels(spec.channels),
        "transforms": {name: vars(own) for name, own in transforms.items() if own != Transform()},
        "regridding": "" if spec.regridding == "bilinear" else spec.regridding,
        "missing_inputs": spec.missing_inputs,
        "differences": spec.differences,
        BLOCKS: None if spec.blocks is None else vars(spec.blocks),
    }
    return {name: entry for name, entry in entries.items() if entry}


def statistics_name(meta: Mapping[str, Any], name: str) -> str:
    """Name of a variable in ``stats.json``: ``log_eps(tp)`` where its values are transformed.

    So Earth2Studio's class, which would not undo the transform, refuses the package.
    """
    own = meta.get("transforms", {}).get(name) if isinstance(name, str) else None
    text = name if own is None else f"{own['kind']}({name})"
    return f"difference to {text}" if meta.get("differences") else text


def read_statistics(meta: Mapping[str, Any], stats: dict[str, Any], kind: str) -> Statistics:
    """Statistics of the ``input`` or the ``output`` variables, under their own names.

    Raises
    ------
    InputError
        If ``stats.json`` lacks one
    """
    names = meta[f"{kind}_variables"]
    made = table([statistics_name(meta, name) for name in names], stats.get(kind, {}), kind)
    return replace(made, names=tuple(names))


def read_extensions(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``CorrDiffSpec`` from these entries.

    Raises
    ------
    InputError
        If an entry is not valid
    """
    transforms = _transforms(meta.get("transforms", {}))
    inputs, outputs = meta["input_variables"], meta["output_variables"]
    if unknown := [name for name in transforms if name not in (*inputs, *outputs)]:
        raise InputError(f"metadata.json: transforms names {unknown[0]!r:.80}, which is no variable")
    regridding, flags = meta.get("regridding", "bilinear"), ("missing_inputs", "differences")
    if not isinstance(regridding, str) or any(type(meta.get(name, False)) is not bool for name in flags):
        raise InputError(f"metadata.json: {' and '.join(flags)} must be true or false, and regridding a text")
    channels = read_channels(meta.get("channels"))
    if any(name in inputs for name in transforms) and not channels:
        raise InputError("metadata.json: transforms of inputs need the entry channels, too")
    rules = [OutputRule(transforms.get(str(name), Transform())) for name in outputs]
    return {
        "channels": tuple(_with_transform(channel, transforms) for channel in channels),
        "rules": tuple(rules) if any(name in outputs for name in transforms) else (),
        **{name: meta.get(name, False) for name in flags},
        "regridding": regridding,
        "blocks": _blocks(meta.get(BLOCKS)),
    }


def _blocks(entry: Any) -> Blocks | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.keys() != {"coarse", "fine"}:
        raise InputError(
            f'metadata.json: {BLOCKS} must be like {{"coarse": 8, "fine": 1}}, got {entry!r:.80}'
        )
    return Blocks(**entry)


def _with_transform(channel: Channel, transforms: Mapping[str, Transform]) -> Channel:
    own = transforms.get(channel.name, Transform()) if channel.kind == "input" else Transform()
    return replace(channel, transform=own)


def _transforms(entry: Any) -> dict[str, Transform]:
    try:
        return {str(name): Transform(**own) for name, own in dict(entry).items()}
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            'metadata.json: transforms must be a mapping like {"tp": {"kind": "log_eps", "eps": 0.001}}'
        ) from error
