# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Entries of ``metadata.json`` beyond Earth2Studio's generic layout; its class ignores them.

A package with one of them does not give the right fields there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.model.channels import Channel
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.model.transforms import Transform


def write_extensions(spec: CorrDiffSpec) -> dict[str, Any]:
    """The entries of a package.

    Raises
    ------
    InputError
        If it has something that the layout has no entry for
    """
    if spec.beyond_generic:
        raise InputError(f"the generic layout has no entry for {listed(spec.beyond_generic)} of this package")
    rules = _rules_of(spec)
    transforms = {channel.name: channel.transform for channel in spec.channels if channel.kind == "input"}
    transforms |= {name: rule.transform for name, rule in zip(spec.outputs.names, rules, strict=True)}
    entries = {
        "features": [channel.name for channel in spec.channels if channel.kind == "feature"],
        "transforms": {n: vars(t) for n, t in transforms.items() if t != Transform()},
        "regridding": spec.regridding,
        "missing_inputs": spec.missing_inputs,
    }
    names = {"input_variables": list(spec.inputs.names), "output_variables": list(spec.outputs.names)}
    plain = replace(spec, channels=(), rules=())
    again = replace(plain, **read_extensions(entries | names, spec.invariants.names))
    if again.conditioning != spec.conditioning or _rules_of(again) != rules:
        raise InputError(
            "the generic layout has features after the inputs and invariants, and transforms alone"
        )
    return {name: entry for name, entry in entries.items() if entry and entry != "bilinear"}


def _rules_of(spec: CorrDiffSpec) -> tuple[OutputRule, ...]:
    return spec.rules or (OutputRule(),) * len(spec.outputs.names)


def read_extensions(meta: Mapping[str, Any], invariants: tuple[str, ...]) -> dict[str, Any]:
    """Fields of ``CorrDiffSpec`` from these entries.

    Raises
    ------
    InputError
        If an entry is not valid
    """
    transforms = _transforms(meta.get("transforms", {}))
    features = meta.get("features", [])
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise InputError(f"metadata.json: features must be a list of names, got {repr(features)[:80]}")
    inputs, outputs = meta["input_variables"], meta["output_variables"]
    if unknown := [name for name in transforms if name not in (*inputs, *outputs)]:
        raise InputError(f"metadata.json: transforms names {unknown[0]!r:.80}, which is no variable")
    missing, regridding = meta.get("missing_inputs", False), meta.get("regridding", "bilinear")
    if not isinstance(missing, bool) or not isinstance(regridding, str):
        raise InputError("metadata.json: missing_inputs must be true or false, and regridding a text")
    made: dict[str, Any] = {"missing_inputs": missing, "regridding": regridding}
    if features or set(transforms) & set(inputs):
        own = [Channel("input", name, transform=transforms.get(name, Transform())) for name in inputs]
        still = [Channel("invariant", name) for name in invariants]
        made["channels"] = (*own, *still, *(Channel("feature", name) for name in features))
    if set(transforms) & set(outputs):
        made["rules"] = tuple(OutputRule(transforms.get(name, Transform())) for name in outputs)
    return made


def _transforms(entry: Any) -> dict[str, Transform]:
    try:
        return {str(name): Transform(**own) for name, own in dict(entry).items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            'metadata.json: transforms must be a mapping like {"tp": {"kind": "log_eps", "eps": 0.001}}'
        ) from error
